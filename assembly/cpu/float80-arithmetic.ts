// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the x87: sums, products, quotients, square roots, remainders, comparisons. SDM volume 1, 4.8 and 8.3. Where results are
// left: float80.ts.
import { fromInteger } from "./float80-formats.ts";
import {
  BIAS,
  DOWN,
  exponentOf,
  IE,
  INTEGER_BIT,
  invalid,
  isInexact,
  isInfinite,
  isNaN80,
  isRoundedUp,
  isSettled,
  isSettledAlone,
  isSignaling,
  isUnsupported,
  MAX_EXPONENT,
  meetsDenormal,
  normalExponent,
  normalize,
  normalizeAndRound,
  PE,
  precision,
  realExponent,
  report,
  round,
  rounding,
  setResult,
  setUp,
  signOf,
  ZE,
} from "./float80.ts";
import { divide, high, low, multiply, rest, shiftRightSticky } from "./u128.ts";

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
    report(ZE);
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
    report(IE);
    return ORDER_NONE;
  }
  if (isNaN80(aHead, a) || isNaN80(bHead, b)) {
    if (!isQuiet || isSignaling(aHead, a) || isSignaling(bHead, b)) report(IE);
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

/** The exponent of a as a value; its significand is left to `extractSignificand`. */
export function extractExponent(aHead: u32, a: u64): void {
  if (isSettledAlone(aHead, a)) return;
  if (a == 0) {
    report(ZE);
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
  const isIncremented = isRoundedUp(sign, high, low, 64);
  setUp(isIncremented);
  if (isIncremented) integer++;
  if (isInexact) report(PE);
  if (integer == 0) return setResult(sign << 15, 0);
  const shift = <i32>clz<u64>(integer);
  setResult((sign << 15) | <u32>(BIAS + 63 - shift), integer << shift);
}
