// SPDX-License-Identifier: Apache-2.0
// From the x87's format to others and back: integers, singles and doubles, constants of the hardware. SDM volume 1, 4.2 and 8.2.
import {
  BIAS,
  DE,
  exponentOf,
  head,
  IE,
  INTEGER_BIT,
  isInexact,
  isInfinite,
  isRoundedUp,
  isSettledAlone,
  isUnsupported,
  mantissa,
  MAX_EXPONENT,
  normalExponent,
  normalize,
  noteDenormal,
  PE,
  report,
  round,
  setResult,
  setUp,
  signOf,
  wasDenormal,
} from "./float80.ts";
import { high, low, shiftRightSticky } from "./u128.ts";

export function fromInteger(value: i64): void {
  const magnitude = <u64>(value < 0 ? 0 - value : value);
  if (magnitude == 0) return setResult(0, 0);
  const shift = <i32>clz<u64>(magnitude);
  setResult((value < 0 ? 0x8000 : 0) | <u32>(BIAS + 63 - shift), magnitude << shift);
}

/** A value as an integer whose magnitude is at most `greatest`, or one more when negative and `hasLowest`. IE if it is none. */
export function toInteger(aHead: u32, a: u64, greatest: u64, hasLowest: bool, truncates: bool): i64 {
  const sign = signOf(aHead);
  const power = exponentOf(aHead) - BIAS;
  if (isUnsupported(aHead, a) || power >= 64) {
    report(IE);
    return 0;
  }
  shiftRightSticky(a, 0, <u32>min<i32>(63 - power, 200));
  let integer = high;
  const isIncremented = isRoundedUp(sign, integer, low, 64) && !truncates;
  if (isIncremented) integer++;
  if ((isIncremented && integer == 0) || integer > greatest + u64(hasLowest && sign != 0)) {
    report(IE);
    return 0;
  }
  setUp(isIncremented);
  if (isInexact) report(PE);
  return sign ? 0 - <i64>integer : <i64>integer;
}

/** Of a shorter format. An SNaN stays one: whoever uses it finds that. */
function fromShort(sign: u32, exponent: i32, fraction: u64, limit: i32, bias: i32): void {
  if (exponent == limit) return setResult((sign << 15) | MAX_EXPONENT, fraction | INTEGER_BIT);
  if (exponent != 0) return setResult((sign << 15) | <u32>(exponent - bias + BIAS), fraction | INTEGER_BIT);
  if (fraction == 0) return setResult(sign << 15, 0);
  noteDenormal();
  const shift = <i32>clz<u64>(fraction);
  setResult((sign << 15) | <u32>(1 - shift - bias + BIAS), fraction << shift);
}

export function fromFloat32(bits: u32): void {
  fromShort(bits >> 31, (bits >> 23) & 0xff, <u64>(bits & 0x7f_ffff) << 40, 0xff, 0x7f);
}

export function fromFloat64(bits: u64): void {
  fromShort(<u32>(bits >> 63), <i32>(bits >> 52) & 0x7ff, (bits & 0xf_ffff_ffff_ffff) << 11, 0x7ff, 0x3ff);
}

/** What FLD does with a value of a shorter format: SNaN and denormals are exceptions. */
export function settleLoad(): void {
  if (isSettledAlone(head, mantissa)) return;
  if (wasDenormal) report(DE);
}

/** To a format of `bits` bits; its exponent and sign are in `head`, its fraction is at the top of `mantissa`. */
function toShort(aHead: u32, a: u64, bits: u32, limit: i32, bias: i32): void {
  const sign = signOf(aHead) << 15;
  if (isSettledAlone(aHead, a)) return setResult((head & 0x8000) | <u32>limit, mantissa);
  if (isInfinite(aHead, a)) return setResult(sign | <u32>limit, a);
  if (a == 0) return setResult(sign, 0);
  const normal = normalize(aHead, a);
  round(sign >> 15, normalExponent - BIAS + bias, normal, 0, bits, limit);
}

export function toFloat32(aHead: u32, a: u64): u32 {
  toShort(aHead, a, 24, 0xff, 0x7f);
  return ((head & 0x8000) << 16) | ((head & 0xff) << 23) | <u32>((mantissa << 1) >> 41);
}

export function toFloat64(aHead: u32, a: u64): u64 {
  toShort(aHead, a, 53, 0x7ff, 0x3ff);
  return (<u64>(head & 0x8000) << 48) | (<u64>(head & 0x7ff) << 52) | ((mantissa << 1) >> 12);
}

/** One of the constants, of which `lower` is what follows. */
export function roundConstant(exponent: i32, upper: u64, lower: u64): void {
  setResult(<u32>exponent, upper + u64(isRoundedUp(0, upper, lower, 64)));
}
