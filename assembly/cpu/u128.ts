// SPDX-License-Identifier: Apache-2.0
// Integers of 128 bits, as two of 64. A result is in `high` and `low`, which are globals since a function has one result.

export let high: u64 = 0;
export let low: u64 = 0;
/** Of a division. */
export let rest: u64 = 0;

export function setWide(upper: u64, lower: u64): void {
  high = upper;
  low = lower;
}

/** The upper half of a product. */
export function multiplyHigh(a: u64, b: u64): u64 {
  const aLow = a & 0xffff_ffff;
  const bLow = b & 0xffff_ffff;
  const aHigh = a >> 32;
  const bHigh = b >> 32;
  const middle = aHigh * bLow + ((aLow * bLow) >> 32);
  const other = aLow * bHigh + (middle & 0xffff_ffff);
  return aHigh * bHigh + (middle >> 32) + (other >> 32);
}

export function multiply(a: u64, b: u64): void {
  high = multiplyHigh(a, b);
  low = a * b;
}

/** The upper half of a product of two fractions of 128 bits, less by up to three units in its last place. */
export function multiplyFractions(aHigh: u64, aLow: u64, bHigh: u64, bLow: u64): void {
  const middle = multiplyHigh(aHigh, bLow);
  const sum = middle + multiplyHigh(aLow, bHigh);
  const top = multiplyHigh(aHigh, bHigh);
  const bottom = aHigh * bHigh;
  low = bottom + sum;
  high = top + u64(sum < middle) + u64(low < bottom);
}

/**
 * Quotient of `upper`:`lower` and a divisor that has its highest bit set and is greater than `upper`. What is left is in
 * `rest`.
 */
export function divide(upper: u64, lower: u64, divisor: u64): u64 {
  const first = divideStep(upper, lower >> 32, divisor);
  const second = divideStep(rest, lower & 0xffff_ffff, divisor);
  return (first << 32) | second;
}

/** 32 bits of a quotient: that of (`upper` << 32 | `digit`), and `rest`. */
function divideStep(upper: u64, digit: u64, divisor: u64): u64 {
  const divisorHigh = divisor >> 32;
  const divisorLow = divisor & 0xffff_ffff;
  // Too great by 2 at most, as the divisor's highest bit is set.
  let quotient = min<u64>(upper / divisorHigh, 0xffff_ffff);
  let left = upper - quotient * divisorHigh;
  while (left <= 0xffff_ffff && quotient * divisorLow > ((left << 32) | digit)) {
    quotient--;
    left += divisorHigh;
  }
  rest = ((upper << 32) | digit) - quotient * divisor;
  return quotient;
}

/** `upper`:`lower` / `divisor`, which is small. */
export function divideBySmall(upper: u64, lower: u64, divisor: u32): void {
  const wide = <u64>divisor;
  high = upper / wide;
  const middle = ((upper % wide) << 32) | (lower >> 32);
  const bottom = ((middle % wide) << 32) | (lower & 0xffff_ffff);
  low = ((middle / wide) << 32) | (bottom / wide);
}

/** The fraction numerator / divisor, below 1, in 128 bits, rounded down. */
export function divideFractions(numeratorHigh: u64, numeratorLow: u64, divisorHigh: u64, divisorLow: u64): void {
  let upper = numeratorHigh;
  let lower = numeratorLow;
  let quotientHigh: u64 = 0;
  let quotientLow: u64 = 0;
  for (let bit = 0; bit < 128; bit++) {
    const carry = upper >> 63;
    upper = (upper << 1) | (lower >> 63);
    lower <<= 1;
    quotientHigh = (quotientHigh << 1) | (quotientLow >> 63);
    quotientLow <<= 1;
    if (carry || upper > divisorHigh || (upper == divisorHigh && lower >= divisorLow)) {
      upper -= divisorHigh + u64(lower < divisorLow);
      lower -= divisorLow;
      quotientLow |= 1;
    }
  }
  high = quotientHigh;
  low = quotientLow;
}

export function addWide(aHigh: u64, aLow: u64, bHigh: u64, bLow: u64): void {
  low = aLow + bLow;
  high = aHigh + bHigh + u64(low < bLow);
}

export function subtractWide(aHigh: u64, aLow: u64, bHigh: u64, bLow: u64): void {
  low = aLow - bLow;
  high = aHigh - bHigh - u64(aLow < bLow);
}

export function isWideBelow(aHigh: u64, aLow: u64, bHigh: u64, bLow: u64): bool {
  return aHigh < bHigh || (aHigh == bHigh && aLow < bLow);
}

export function shiftLeft(upper: u64, lower: u64, count: u32): void {
  if (count == 0) {
    high = upper;
    low = lower;
  } else if (count < 64) {
    high = (upper << count) | (lower >> (64 - count));
    low = lower << count;
  } else {
    high = count < 128 ? lower << (count - 64) : 0;
    low = 0;
  }
}

/** Bits that are lost leave a 1 in the last place. */
export function shiftRightSticky(upper: u64, lower: u64, count: u32): void {
  if (count == 0) {
    high = upper;
    low = lower;
  } else if (count < 64) {
    high = upper >> count;
    low = (upper << (64 - count)) | (lower >> count) | u64(lower << (64 - count) != 0);
  } else if (count == 64) {
    high = 0;
    low = upper | u64(lower != 0);
  } else if (count < 128) {
    high = 0;
    low = (upper >> (count - 64)) | u64(((upper << (128 - count)) | lower) != 0);
  } else {
    high = 0;
    low = u64((upper | lower) != 0);
  }
}

/** Zeros before the highest bit that is set. */
export function leadingZeros(upper: u64, lower: u64): u32 {
  return <u32>(upper != 0 ? clz<u64>(upper) : 64 + clz<u64>(lower));
}
