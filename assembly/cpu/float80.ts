// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the x87 on 80-bit values in integers. SDM volume 1, chapters 4.8, 4.9 and 8.
//
// A value is two integers: a head (sign << 15 | biased exponent) and a mantissa with the integer bit. A function leaves its
// result in `head` and `mantissa`, what it has met in `flags`, and C1 in `isUp`. When an exception that is not masked forbids
// the result (`isForbidden`), head and mantissa mean nothing.
import {
  divide,
  high,
  leadingZeros,
  low,
  multiply,
  rest,
  shiftLeft,
  shiftRightSticky,
} from "./u128.ts";

// Exceptions, as in the status word and, but for SF, in the control word.
export const IE: u32 = 1;
export const DE: u32 = 2;
export const ZE: u32 = 4;
export const OE: u32 = 8;
export const UE: u32 = 0x10;
export const PE: u32 = 0x20;
export const SF: u32 = 0x40;

// Rounding control.
const NEAREST: u32 = 0;
const DOWN: u32 = 1;
const UP: u32 = 2;
const TRUNCATE: u32 = 3;

export const MAX_EXPONENT: i32 = 0x7fff;
export const BIAS: i32 = 0x3fff;
export const INTEGER_BIT: u64 = 0x8000_0000_0000_0000;
const QUIET_BIT: u64 = 0x4000_0000_0000_0000;
/** What the exponent of a result that is out of range is off by when the exception is not masked. */
const BIAS_ADJUSTMENT: i32 = 0x6000;

export let head: u32 = 0;
export let mantissa: u64 = 0;
export let flags: u32 = 0;
/** The result was rounded up in magnitude. */
export let isUp: bool = false;

/** Exceptions that are masked. */
let masks: u32 = 0;
let rounding: u32 = NEAREST;
/** Bits that precision control leaves to the mantissa of a sum, difference, product, quotient or square root. */
let precision: u32 = 64;
/** An operand that came from a shorter format was denormal there. */
let wasDenormal: bool = false;

/** Before each instruction: its control word. */
export function begin(control: u32): void {
  masks = control & 0x3f;
  rounding = (control >> 10) & 3;
  const field = (control >> 8) & 3;
  precision = field == 0 ? 24 : field == 2 ? 53 : 64;
  flags = 0;
  isUp = false;
  wasDenormal = false;
}

export function report(exceptions: u32): void {
  flags |= exceptions;
}

export function setUp(value: bool): void {
  isUp = value;
}

export function setResult(newHead: u32, newMantissa: u64): void {
  head = newHead;
  mantissa = newMantissa;
}

/** An exception that is not masked, and that is found before there is a result, has happened. */
export function isForbidden(): bool {
  return (flags & ~masks & (IE | DE | ZE)) != 0;
}

/** A denormal that is loaded from a shorter format is only reported. */
export function isLoadForbidden(): bool {
  return (flags & ~masks & IE) != 0;
}

/** To memory nothing is written when the result is out of range either. */
export function isStoreForbidden(): bool {
  return (flags & ~masks & (IE | DE | ZE | OE | UE)) != 0;
}

/** The QNaN that an invalid operation has as its result. */
export function setIndefinite(): void {
  setResult(0xffff, INTEGER_BIT | QUIET_BIT);
}

export function invalid(): void {
  flags |= IE;
  isUp = false;
  setIndefinite();
}

// ── Kinds of values ──

@inline
export function exponentOf(aHead: u32): i32 {
  return <i32>(aHead & 0x7fff);
}

@inline
export function signOf(aHead: u32): u32 {
  return aHead >> 15;
}

/** Formats that the 80287 had and no later one: their integer bit is 0 where it should be 1. */
@inline
export function isUnsupported(aHead: u32, a: u64): bool {
  return exponentOf(aHead) != 0 && a < INTEGER_BIT;
}

@inline
export function isNaN80(aHead: u32, a: u64): bool {
  return exponentOf(aHead) == MAX_EXPONENT && a << 1 != 0;
}

@inline
function isSignaling(aHead: u32, a: u64): bool {
  return isNaN80(aHead, a) && !(a & QUIET_BIT);
}

@inline
export function isInfinite(aHead: u32, a: u64): bool {
  return exponentOf(aHead) == MAX_EXPONENT && a == INTEGER_BIT;
}

/** Pseudo-denormals, with the integer bit, too. */
@inline
export function isDenormal(aHead: u32, a: u64): bool {
  return exponentOf(aHead) == 0 && a != 0;
}

/** DE for one or two operands. True: and it is not masked. */
export function meetsDenormal(aHead: u32, a: u64, bHead: u32, b: u64): bool {
  if (!wasDenormal && !isDenormal(aHead, a) && !isDenormal(bHead, b)) return false;
  flags |= DE;
  return !(masks & DE);
}

/** The result is that of unsupported operands or NaNs: SDM volume 1, table 4-7. */
export function isSettled(aHead: u32, a: u64, bHead: u32, b: u64): bool {
  if (isUnsupported(aHead, a) || isUnsupported(bHead, b)) {
    invalid();
    return true;
  }
  const aIsNaN = isNaN80(aHead, a);
  const bIsNaN = isNaN80(bHead, b);
  if (!aIsNaN && !bIsNaN) return false;
  const aIsSignaling = isSignaling(aHead, a);
  const bIsSignaling = isSignaling(bHead, b);
  if (aIsSignaling || bIsSignaling) flags |= IE;
  let isFirst: bool;
  if (aIsNaN && bIsNaN && aIsSignaling == bIsSignaling) isFirst = a != b ? a > b : aHead < bHead;
  else if (aIsNaN && bIsNaN) isFirst = bIsSignaling;
  else isFirst = aIsNaN;
  if (isFirst) setResult(aHead, a | QUIET_BIT);
  else setResult(bHead, b | QUIET_BIT);
  return true;
}

/** The same of one operand. */
export function isSettledAlone(aHead: u32, a: u64): bool {
  return isSettled(aHead, a, aHead, a);
}

// ── Rounding ──

/** Whether sign, upper.lower is rounded up in magnitude to `bits` bits; `isInexact` is whether it is rounded at all. */
let isInexact: bool = false;
function isRoundedUp(sign: u32, upper: u64, lower: u64, bits: u32): bool {
  const remainder = bits == 64 ? lower : (upper << bits) | u64(lower != 0);
  isInexact = remainder != 0;
  switch (rounding) {
    case NEAREST: {
      if (remainder != INTEGER_BIT) return remainder > INTEGER_BIT;
      return ((upper >> (64 - bits)) & 1) != 0;
    }
    case DOWN:
      return isInexact && sign != 0;
    case UP:
      return isInexact && sign == 0;
    default:
      return false;
  }
}

/**
 * Result upper.lower · 2^(exponent - BIAS), whose highest bit is set, in a format of `bits` bits and exponents from 1 to
 * `limit` - 1. The last bit of `lower` may stand for all that follow.
 */
export function round(sign: u32, exponent: i32, upper: u64, lower: u64, bits: u32, limit: i32): void {
  const unit: u64 = 1 << (64 - bits);
  let isTiny = false;
  if (exponent < 1) {
    // Tiny is what is so after rounding to an exponent without bounds.
    const isCarried = isRoundedUp(sign, upper, lower, bits) && (upper | (unit - 1)) == u64.MAX_VALUE;
    isTiny = exponent < 0 || !isCarried;
    if (isTiny && !(masks & UE)) {
      flags |= UE;
      if (limit != MAX_EXPONENT) return;
      exponent += BIAS_ADJUSTMENT;
      if (exponent < 1) return setOutOfRange(sign << 15, 0, false);
    } else {
      shiftRightSticky(upper, lower, <u32>min<i32>(1 - exponent, 200));
      upper = high;
      lower = low;
      exponent = 0;
    }
  }
  const isIncremented = isRoundedUp(sign, upper, lower, bits);
  upper &= ~(unit - 1);
  if (isIncremented) {
    upper += unit;
    if (upper == 0) {
      upper = INTEGER_BIT;
      exponent++;
    }
  }
  if (exponent == 0 && upper >= INTEGER_BIT) exponent = 1;
  if (isTiny && isInexact) flags |= UE;
  isUp = isIncremented;
  if (exponent >= limit) {
    flags |= OE;
    if (!(masks & OE)) {
      if (limit != MAX_EXPONENT) {
        isUp = false;
        return;
      }
      exponent -= BIAS_ADJUSTMENT;
      if (exponent >= limit) return setOutOfRange((sign << 15) | MAX_EXPONENT, INTEGER_BIT, true);
    } else {
      isInexact = true;
      isUp = rounding == NEAREST || rounding == (sign ? DOWN : UP);
      exponent = isUp ? limit : limit - 1;
      upper = isUp ? INTEGER_BIT : ~(unit - 1);
    }
  }
  if (isInexact) flags |= PE;
  setResult((sign << 15) | <u32>exponent, upper);
}

/** What only FSCALE comes to: beyond what can be adjusted. */
function setOutOfRange(newHead: u32, newMantissa: u64, up: bool): void {
  flags |= PE;
  isUp = up;
  setResult(newHead, newMantissa);
}

/** The same of a value that may have zeros in front, for an 80-bit result. Zero is exact. */
export function normalizeAndRound(sign: u32, exponent: i32, upper: u64, lower: u64, bits: u32): void {
  if ((upper | lower) == 0) {
    setResult(sign << 15, 0);
    return;
  }
  const shift = leadingZeros(upper, lower);
  shiftLeft(upper, lower, shift);
  round(sign, exponent - <i32>shift, high, low, bits, MAX_EXPONENT);
}

/** Exponent of a finite value as its mantissa has it: denormals have that of the smallest normal one. */
@inline
function realExponent(aHead: u32): i32 {
  return max<i32>(exponentOf(aHead), 1);
}

/** Mantissa with its highest bit set, and in `normalExponent` the exponent that belongs to it. Not of zero. */
export let normalExponent: i32 = 0;
export function normalize(aHead: u32, a: u64): u64 {
  const shift = <i32>clz<u64>(a);
  normalExponent = realExponent(aHead) - shift;
  return a << shift;
}

// ── Arithmetic ──

export function add(aHead: u32, a: u64, bHead: u32, b: u64): void {
  if (isSettled(aHead, a, bHead, b)) return;
  const aIsInfinite = isInfinite(aHead, a);
  const bIsInfinite = isInfinite(bHead, b);
  if (aIsInfinite && bIsInfinite && aHead != bHead) return invalid();
  if (meetsDenormal(aHead, a, bHead, b)) return;
  if (aIsInfinite) return setResult(aHead, a);
  if (bIsInfinite) return setResult(bHead, b);
  // The first is that of the greater magnitude.
  if (realExponent(aHead) < realExponent(bHead) || (realExponent(aHead) == realExponent(bHead) && a < b)) {
    addMagnitudes(bHead, b, aHead, a);
  } else {
    addMagnitudes(aHead, a, bHead, b);
  }
}

function addMagnitudes(aHead: u32, a: u64, bHead: u32, b: u64): void {
  const sign = signOf(aHead);
  const exponent = realExponent(aHead);
  shiftRightSticky(b, 0, <u32>(exponent - realExponent(bHead)));
  if (sign == signOf(bHead)) {
    const sum = a + high;
    if (sum >= a) return normalizeAndRound(sign, exponent, sum, low, precision);
    return round(sign, exponent + 1, (sum >> 1) | INTEGER_BIT, (sum << 63) | (low >> 1) | (low & 1), precision, MAX_EXPONENT);
  }
  const upper = a - high - u64(low != 0);
  const lower = 0 - low;
  normalizeAndRound((upper | lower) != 0 ? sign : u32(rounding == DOWN), exponent, upper, lower, precision);
}

/** a - b */
export function subtract(aHead: u32, a: u64, bHead: u32, b: u64): void {
  // A NaN keeps its sign.
  if (isSettled(aHead, a, bHead, b)) return;
  add(aHead, a, bHead ^ 0x8000, b);
}

export function multiply80(aHead: u32, a: u64, bHead: u32, b: u64): void {
  if (isSettled(aHead, a, bHead, b)) return;
  const sign = signOf(aHead ^ bHead);
  const isToInfinity = isInfinite(aHead, a) || isInfinite(bHead, b);
  if (isToInfinity && (a == 0 || b == 0)) return invalid();
  if (meetsDenormal(aHead, a, bHead, b)) return;
  if (isToInfinity) return setResult((sign << 15) | MAX_EXPONENT, INTEGER_BIT);
  if (a == 0 || b == 0) return setResult(sign << 15, 0);
  const aNormal = normalize(aHead, a);
  const exponent = normalExponent - BIAS + 1;
  multiply(aNormal, normalize(bHead, b));
  normalizeAndRound(sign, exponent + normalExponent, high, low, precision);
}

/** a / b */
export function divide80(aHead: u32, a: u64, bHead: u32, b: u64): void {
  if (isSettled(aHead, a, bHead, b)) return;
  const sign = signOf(aHead ^ bHead);
  const aIsInfinite = isInfinite(aHead, a);
  const bIsInfinite = isInfinite(bHead, b);
  if ((aIsInfinite && bIsInfinite) || (a == 0 && b == 0)) return invalid();
  if (b == 0 && !aIsInfinite) {
    flags |= ZE;
    return setResult((sign << 15) | MAX_EXPONENT, INTEGER_BIT);
  }
  if (meetsDenormal(aHead, a, bHead, b)) return;
  if (aIsInfinite) return setResult((sign << 15) | MAX_EXPONENT, INTEGER_BIT);
  if (bIsInfinite || a == 0) return setResult(sign << 15, 0);
  const aNormal = normalize(aHead, a);
  const exponent = normalExponent + BIAS;
  const bNormal = normalize(bHead, b);
  // Halved, so that the quotient is below 1.
  const upper = divide(aNormal >> 1, aNormal << 63, bNormal);
  const lower = divide(rest, 0, bNormal) | u64(rest != 0);
  normalizeAndRound(sign, exponent - normalExponent, upper, lower, precision);
}

export function squareRoot(aHead: u32, a: u64): void {
  if (isSettledAlone(aHead, a)) return;
  if (signOf(aHead) && a != 0) return invalid();
  if (meetsDenormal(aHead, a, aHead, a)) return;
  if (a == 0 || isInfinite(aHead, a)) return setResult(aHead, a);
  const normal = normalize(aHead, a);
  const power = normalExponent - BIAS;
  // A radicand between 1/4 and 1, whose root's highest bit is the first after the point; two of its bits for each one of the root.
  const isOdd = (power & 1) != 0;
  let upper = isOdd ? normal : normal >> 1;
  let lower: u64 = isOdd ? 0 : normal << 63;
  let root: u64 = 0;
  // What is left of the radicand, of up to 66 bits.
  let left: u64 = 0;
  let leftTop: u64 = 0;
  for (let bit = 0; bit < 64; bit++) {
    leftTop = left >> 62;
    left = (left << 2) | (upper >> 62);
    upper = (upper << 2) | (lower >> 62);
    lower <<= 2;
    const trialTop = root >> 62;
    const trial = (root << 2) | 1;
    root <<= 1;
    if (leftTop > trialTop || (leftTop == trialTop && left >= trial)) {
      leftTop -= trialTop + u64(left < trial);
      left -= trial;
      root |= 1;
    }
  }
  // The root of 128 bits has no tie: what is left says on which side of the middle it is.
  const isAboveHalf = leftTop != 0 || left > root;
  const isExact = leftTop == 0 && left == 0;
  const fraction: u64 = isExact ? 0 : isAboveHalf ? INTEGER_BIT | 1 : 1;
  round(0, BIAS + (power >> 1), root, fraction, precision, MAX_EXPONENT);
}

/** The order of two values, as C3, C2 and C0 have it: bits 2, 1 and 0. */
export const ORDER_GREATER: u32 = 0;
export const ORDER_LESS: u32 = 1;
export const ORDER_EQUAL: u32 = 4;
export const ORDER_NONE: u32 = 7;

/** Order of a and b. `isQuiet`: a QNaN is no invalid operand. */
export function compare(aHead: u32, a: u64, bHead: u32, b: u64, isQuiet: bool): u32 {
  if (isUnsupported(aHead, a) || isUnsupported(bHead, b)) {
    flags |= IE;
    return ORDER_NONE;
  }
  if (isNaN80(aHead, a) || isNaN80(bHead, b)) {
    if (!isQuiet || isSignaling(aHead, a) || isSignaling(bHead, b)) flags |= IE;
    return ORDER_NONE;
  }
  meetsDenormal(aHead, a, bHead, b);
  if ((a | b) == 0) return ORDER_EQUAL;
  if (signOf(aHead) != signOf(bHead)) return signOf(aHead) ? ORDER_LESS : ORDER_GREATER;
  const aExponent = realExponent(aHead);
  const bExponent = realExponent(bHead);
  if (aExponent == bExponent && a == b) return ORDER_EQUAL;
  const isGreater = aExponent != bExponent && a != 0 && b != 0 ? aExponent > bExponent : a > b;
  return isGreater != (signOf(aHead) != 0) ? ORDER_GREATER : ORDER_LESS;
}

/** Low three bits of the quotient of the last remainder, if there is one; and whether that was only the beginning (C2). */
export let hasQuotient: bool = false;
export let quotient: u32 = 0;
export let isPartial: bool = false;

/** a modulo b: of the quotient rounded towards zero, or to nearest. Exact. */
export function remainder(aHead: u32, a: u64, bHead: u32, b: u64, toNearest: bool): void {
  hasQuotient = false;
  quotient = 0;
  isPartial = false;
  if (isSettled(aHead, a, bHead, b)) return;
  if (isInfinite(aHead, a) || b == 0) return invalid();
  if (meetsDenormal(aHead, a, bHead, b)) return;
  hasQuotient = true;
  if (isInfinite(bHead, b) || a == 0) return setExact(aHead, a);
  let sign = signOf(aHead);
  let left = normalize(aHead, a);
  const aExponent = normalExponent;
  const divisor = normalize(bHead, b);
  const bExponent = normalExponent;
  const difference = aExponent - bExponent;
  // Below half of b.
  if (difference < -1 || (difference < 0 && !toNearest)) return setExact(aHead, a);
  if (difference >= 64) {
    // The highest part of the quotient only.
    isPartial = true;
    const step = (difference & 31) | 32;
    if (left >= divisor) left -= divisor;
    divide(left >> (64 - step), left << step, divisor);
    return normalizeAndRound(sign, aExponent - step, rest, 0, 64);
  }
  let carry: u64 = 0;
  let exponent = bExponent;
  if (difference >= 0) {
    let count: u64 = 0;
    if (left >= divisor) {
      left -= divisor;
      count = 1;
    }
    if (difference > 0) {
      count = (count << difference) | divide(left >> (64 - difference), left << difference, divisor);
      left = rest;
    }
    quotient = <u32>count & 7;
  } else {
    exponent = aExponent;
    carry = 1;
  }
  if (toNearest) {
    // Against half of b: which is, when a is below b, in units of half of those of b.
    const isAbove = carry != 0 ? left > divisor : left > divisor - left;
    const isHalf = left == (carry != 0 ? divisor : divisor - left);
    if (isAbove || (isHalf && (quotient & 1) != 0)) {
      // b - left
      multiply(divisor, carry + 1);
      left = low - left;
      quotient = (quotient + 1) & 7;
      sign ^= 1;
    }
  }
  normalizeAndRound(sign, exponent, left, 0, 64);
}

/** A result that is an operand as it is, but for denormals when underflow is not masked. */
function setExact(aHead: u32, a: u64): void {
  if (a == 0 || exponentOf(aHead) == MAX_EXPONENT) setResult(aHead, a);
  else normalizeAndRound(signOf(aHead), realExponent(aHead), a, 0, 64);
}

/** a · 2^(integer part of b) */
export function scale(aHead: u32, a: u64, bHead: u32, b: u64): void {
  if (isSettled(aHead, a, bHead, b)) return;
  const sign = signOf(aHead);
  if (isInfinite(bHead, b)) {
    const isDown = signOf(bHead) != 0;
    if (isDown ? isInfinite(aHead, a) : a == 0) return invalid();
    if (meetsDenormal(aHead, a, aHead, a)) return;
    if (isDown) return setResult(sign << 15, 0);
    return setResult((sign << 15) | MAX_EXPONENT, INTEGER_BIT);
  }
  if (meetsDenormal(aHead, a, bHead, b)) return;
  if (a == 0 || isInfinite(aHead, a)) return setResult(aHead, a);
  // Beyond 2^16 all is out of range.
  const power = exponentOf(bHead) - BIAS;
  let count: i32 = 0;
  if (power >= 16) count = 0x1_0000;
  else if (power >= 0) count = <i32>(b >> (63 - power));
  if (signOf(bHead)) count = -count;
  normalizeAndRound(sign, realExponent(aHead) + count, a, 0, 64);
}

/** The exponent of a as a value; its significand is left to `significandOf`. */
export function extractExponent(aHead: u32, a: u64): void {
  if (isSettledAlone(aHead, a)) return;
  if (a == 0) {
    flags |= ZE;
    return setResult(0x8000 | MAX_EXPONENT, INTEGER_BIT);
  }
  if (meetsDenormal(aHead, a, aHead, a)) return;
  if (isInfinite(aHead, a)) return setResult(MAX_EXPONENT, INTEGER_BIT);
  normalize(aHead, a);
  fromInteger(normalExponent - BIAS);
}

export function extractSignificand(aHead: u32, a: u64): void {
  if (isSettledAlone(aHead, a)) return;
  if (a == 0 || isInfinite(aHead, a)) return setResult(aHead, a);
  setResult((aHead & 0x8000) | BIAS, normalize(aHead, a));
}

export function roundToInteger(aHead: u32, a: u64): void {
  if (isSettledAlone(aHead, a)) return;
  if (meetsDenormal(aHead, a, aHead, a)) return;
  const power = exponentOf(aHead) - BIAS;
  if (a == 0 || power >= 63) return setResult(aHead, a);
  const sign = signOf(aHead);
  shiftRightSticky(a, 0, <u32>min<i32>(63 - power, 200));
  let integer = high;
  isUp = isRoundedUp(sign, high, low, 64);
  if (isUp) integer++;
  if (isInexact) flags |= PE;
  if (integer == 0) return setResult(sign << 15, 0);
  const shift = <i32>clz<u64>(integer);
  setResult((sign << 15) | <u32>(BIAS + 63 - shift), integer << shift);
}

// ── Other formats ──

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
    flags |= IE;
    return 0;
  }
  shiftRightSticky(a, 0, <u32>min<i32>(63 - power, 200));
  let integer = high;
  const control = rounding;
  if (truncates) rounding = TRUNCATE;
  const isIncremented = isRoundedUp(sign, integer, low, 64);
  rounding = control;
  if (isIncremented) integer++;
  if ((isIncremented && integer == 0) || integer > greatest + u64(hasLowest && sign != 0)) {
    flags |= IE;
    return 0;
  }
  isUp = isIncremented;
  if (isInexact) flags |= PE;
  return sign ? 0 - <i64>integer : <i64>integer;
}

/** Of a shorter format. An SNaN stays one: whoever uses it finds that. */
function fromShort(sign: u32, exponent: i32, fraction: u64, limit: i32, bias: i32): void {
  if (exponent == limit) return setResult((sign << 15) | MAX_EXPONENT, fraction | INTEGER_BIT);
  if (exponent != 0) return setResult((sign << 15) | <u32>(exponent - bias + BIAS), fraction | INTEGER_BIT);
  if (fraction == 0) return setResult(sign << 15, 0);
  wasDenormal = true;
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
  if (wasDenormal) flags |= DE;
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
