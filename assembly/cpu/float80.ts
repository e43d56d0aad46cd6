// SPDX-License-Identifier: Apache-2.0
// Values of the x87 as integers, their kinds, exceptions, and rounding. SDM volume 1, chapters 4.8, 4.9 and 8.
//
// A value is two integers: a head (sign << 15 | biased exponent) and a mantissa with the integer bit. A function leaves its
// result in `head` and `mantissa`, what it has met in `flags`, and C1 in `isUp`. When an exception that is not masked forbids
// the result (`isForbidden`), head and mantissa mean nothing.
import { high, leadingZeros, low, shiftLeft, shiftRightSticky } from "./u128.ts";

// Exceptions, as in the status word and, but for SF, in the control word.
export const IE: u32 = 1;
export const DE: u32 = 2;
export const ZE: u32 = 4;
export const OE: u32 = 8;
export const UE: u32 = 0x10;
export const PE: u32 = 0x20;
export const SF: u32 = 0x40;

// Rounding control; 3 truncates.
const NEAREST: u32 = 0;
export const DOWN: u32 = 1;
const UP: u32 = 2;

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
export let rounding: u32 = NEAREST;
/** Bits that precision control leaves to the mantissa of a sum, difference, product, quotient or square root. */
export let precision: u32 = 64;
/** An operand that came from a shorter format was denormal there. */
export let wasDenormal: bool = false;

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

export function noteDenormal(): void {
  wasDenormal = true;
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
export function isSignaling(aHead: u32, a: u64): bool {
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
export let isInexact: bool = false;
export function isRoundedUp(sign: u32, upper: u64, lower: u64, bits: u32): bool {
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
export function realExponent(aHead: u32): i32 {
  return max<i32>(exponentOf(aHead), 1);
}

/** Mantissa with its highest bit set, and in `normalExponent` the exponent that belongs to it. Not of zero. */
export let normalExponent: i32 = 0;
export function normalize(aHead: u32, a: u64): u64 {
  const shift = <i32>clz<u64>(a);
  normalExponent = realExponent(aHead) - shift;
  return a << shift;
}
