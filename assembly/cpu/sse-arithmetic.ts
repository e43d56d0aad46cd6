// SPDX-License-Identifier: Apache-2.0
// Floating point of one element as SSE has it: IEEE 754 with MXCSR's rounding, DAZ and FTZ, its six exceptions, and x86's NaNs.
// SDM volume 1, 4.8, 4.9, 11.5 and appendix E.
//
// Numbers are the bits of a float or a double in a u64; `fraction` is the length of their fraction, 23 or 52, and says which.
// Wasm rounds to nearest only, does not tell about exceptions, and any NaN will do for it. So it is asked for normal numbers
// under MXCSR's usual rounding, when the only thing that may be left to find out, whether the result is exact, is easy or in
// MXCSR already, which is sticky. All else is done with integers.
import { CR4_OSXMMEXCPT } from "./control-bits.ts";
import { CPU_CR4, CPU_MXCSR } from "./layout.ts";
import { cpu, raise, UD, XM } from "./vcpu.ts";

/** Exceptions, in MXCSR's order; a mask is 7 bits above each. */
const IE: u32 = 1;
const DE: u32 = 2;
const ZE: u32 = 4;
const OE: u32 = 8;
const UE: u32 = 16;
const PE: u32 = 32;
const DAZ: u32 = 0x40;
const OM: u32 = OE << 7;
const UM: u32 = UE << 7;
const PM: u32 = PE << 7;
const ROUNDING: u32 = 0x6000;
const FTZ: u32 = 0x8000;

/** How to round, in MXCSR's and in ROUNDPS's order. */
const TO_NEAREST: u32 = 0;
const TO_DOWN: u32 = 1;
const TO_UP: u32 = 2;
export const TO_ZERO: u32 = 3;

/** Operations, by the second byte of their opcodes. */
export const SQRT: u32 = 0x51;
export const ADD: u32 = 0x58;
export const MUL: u32 = 0x59;
export const SUB: u32 = 0x5c;
export const MIN: u32 = 0x5d;
export const DIV: u32 = 0x5e;
export const MAX: u32 = 0x5f;

export const SINGLE: u32 = 23;
export const DOUBLE: u32 = 52;

// Of the instruction at hand.
let control: u32 = 0;
let raised: u32 = 0;

/** Before the first element of an instruction. */
export function beginFloat(): void {
  control = load<u32>(cpu, CPU_MXCSR);
  raised = 0;
}

/**
 * After the last, or after a step that has to be done with before the next: true when there are results, else an unmasked exception
 * was raised.
 */
export function endFloat(): bool {
  if (raised == 0) return true;
  const unmasked = raised & ~(control >> 7);
  // What is found before the operation keeps it from being done, for all elements.
  if (unmasked & (IE | DE | ZE)) raised &= IE | DE | ZE;
  control |= raised;
  raised = 0;
  store<u32>(cpu, control, CPU_MXCSR);
  return unmasked == 0 || raise(load<u64>(cpu, CPU_CR4) & CR4_OSXMMEXCPT ? XM : UD);
}

@inline
export function rounding(): u32 {
  return (control & ROUNDING) >> 13;
}

/** Whether rounding is usual, and an inexact result is nothing new. */
@inline
export function isRelaxed(): bool {
  return (control & (PE | PM | ROUNDING)) == (PE | PM);
}

// ── Forms ──

@inline
function bias(fraction: u32): i32 {
  return fraction == DOUBLE ? 1023 : 127;
}

@inline
function maxExponent(fraction: u32): i32 {
  return fraction == DOUBLE ? 0x7ff : 0xff;
}

@inline
function signBit(fraction: u32): u64 {
  return fraction == DOUBLE ? 0x8000_0000_0000_0000 : 0x8000_0000;
}

@inline
function exponentOf(bits: u64, fraction: u32): i32 {
  return <i32>(bits >> fraction) & maxExponent(fraction);
}

@inline
function fractionOf(bits: u64, fraction: u32): u64 {
  return bits & ((<u64>1 << fraction) - 1);
}

@inline
function infinity(fraction: u32): u64 {
  return <u64>maxExponent(fraction) << fraction;
}

/** Without its sign. */
@inline
function magnitude(bits: u64, fraction: u32): u64 {
  return bits & (signBit(fraction) - 1);
}

@inline
export function isNan(bits: u64, fraction: u32): bool {
  return magnitude(bits, fraction) > infinity(fraction);
}

@inline
function quietBit(fraction: u32): u64 {
  return <u64>1 << (fraction - 1);
}

@inline
function isSignalling(bits: u64, fraction: u32): bool {
  return isNan(bits, fraction) && !(bits & quietBit(fraction));
}

@inline
function isDenormal(bits: u64, fraction: u32): bool {
  return exponentOf(bits, fraction) == 0 && fractionOf(bits, fraction) != 0;
}

/** Its value as a double, exactly; not for NaNs. */
@inline
function valueOf(bits: u64, fraction: u32): f64 {
  return fraction == DOUBLE ? reinterpret<f64>(bits) : <f64>reinterpret<f32>(<u32>bits);
}

/** The NaN that invalid operations make. */
function indefinite(fraction: u32): u64 {
  raised |= IE;
  return signBit(fraction) | infinity(fraction) | quietBit(fraction);
}

/** A denormal operand is 0 with DAZ. */
@inline
function withoutDenormal(bits: u64, fraction: u32): u64 {
  return control & DAZ && exponentOf(bits, fraction) == 0 ? bits & signBit(fraction) : bits;
}

function noteDenormal(bits: u64, fraction: u32): void {
  if (isDenormal(bits, fraction)) raised |= DE;
}

/** What an operation makes of two operands of which at least one is a NaN: the first such. */
function propagate(a: u64, b: u64, fraction: u32): u64 {
  if (isSignalling(a, fraction) || isSignalling(b, fraction)) raised |= IE;
  return (isNan(a, fraction) ? a : b) | quietBit(fraction);
}

/** The NaN made quiet. */
function quieted(bits: u64, fraction: u32): u64 {
  return propagate(bits, bits, fraction);
}

// ── Arithmetic ──

/** ADD, SUB, MUL, DIV, or SQRT, which is of the second operand. */
export function arithmetic(operation: u32, a: u64, b: u64, fraction: u32): u64 {
  if ((control & ROUNDING) == 0) {
    if (fraction == DOUBLE) {
      const result = quick<f64, u64>(operation, a, b);
      if (result != u64.MAX_VALUE) return result;
    } else {
      const result = quick<f32, u32>(operation, <u32>a, <u32>b);
      if (result != u32.MAX_VALUE) return result;
    }
  }
  a = withoutDenormal(a, fraction);
  b = withoutDenormal(b, fraction);
  if (operation == SQRT) return isNan(b, fraction) ? quieted(b, fraction) : squareRoot(b, fraction);
  if (isNan(a, fraction) || isNan(b, fraction)) return propagate(a, b, fraction);
  switch (operation) {
    case MUL:
      return multiply(a, b, fraction);
    case DIV:
      return divide(a, b, fraction);
    case SUB:
      return add(a, b ^ signBit(fraction), fraction);
    default:
      return add(a, b, fraction);
  }
}

/** By Wasm, where that is exact or known to be all that there is to it; else all ones, a NaN that no operation makes. */
@inline
function quick<F, U>(operation: u32, a: U, b: U): U {
  const x = reinterpret<F>(a);
  let y = reinterpret<F>(b);
  let result: F;
  if (!isOrdinary<U>(b)) return <U>-1;
  if (operation == SQRT) {
    if (!isRelaxed() || y < 0) return <U>-1;
    return reinterpret<U>(sqrt<F>(y));
  }
  if (!isOrdinary<U>(a)) return <U>-1;
  switch (operation) {
    case MUL: {
      if (!isRelaxed() && !isShort<U>(a, b)) return <U>-1;
      result = <F>(x * y);
      // The least normal number may be a tiny one that was rounded.
      return isLarge<U>(reinterpret<U>(result)) || x == 0 || y == 0 ? reinterpret<U>(result) : <U>-1;
    }
    case DIV: {
      if (!isRelaxed()) return <U>-1;
      result = <F>(x / y);
      return isLarge<U>(reinterpret<U>(result)) ? reinterpret<U>(result) : <U>-1;
    }
    case SUB:
      y = <F>-y;
  }
  result = <F>(x + y);
  if (!isOrdinary<U>(reinterpret<U>(result))) return <U>-1;
  if (!isRelaxed()) {
    // Knuth's sum of two numbers: exactly what the result is wrong by.
    const rest = <F>(result - x);
    if ((x - (result - rest)) + (y - rest) != 0) return <U>-1;
  }
  return reinterpret<U>(result);
}

/** 0 or a normal number. */
@inline
function isOrdinary<U>(bits: U): bool {
  const exponent = <U>(bits << 1) >> ((sizeof<U>() == 8 ? 53 : 24) as U);
  return <u32>exponent - 1 < (sizeof<U>() == 8 ? 0x7fe : 0xfe) || <U>(bits << 1) == 0;
}

/** Neither small, nor infinite, nor a NaN. */
@inline
function isLarge<U>(bits: U): bool {
  const exponent = <U>(bits << 1) >> ((sizeof<U>() == 8 ? 53 : 24) as U);
  return <u32>exponent - 2 < (sizeof<U>() == 8 ? 0x7fd : 0xfd);
}

/** Whether the significands are so short that their product has room in another. */
@inline
function isShort<U>(a: U, b: U): bool {
  const fraction: u32 = sizeof<U>() == 8 ? 52 : 23;
  const end = <U>1 << (fraction as U);
  return <u32>ctz<U>(a | end) + <u32>ctz<U>(b | end) > fraction;
}

function add(a: u64, b: u64, fraction: u32): u64 {
  noteDenormal(a, fraction);
  noteDenormal(b, fraction);
  const sign = a & signBit(fraction);
  const isDifference = ((a ^ b) & signBit(fraction)) != 0;
  if (magnitude(a, fraction) < magnitude(b, fraction)) return addOrdered(b, a, fraction, b & signBit(fraction), isDifference);
  return addOrdered(a, b, fraction, sign, isDifference);
}

/** The first is not less than the second, by their magnitudes. */
function addOrdered(a: u64, b: u64, fraction: u32, sign: u64, isDifference: bool): u64 {
  const exponent = exponentOf(a, fraction);
  if (exponent == maxExponent(fraction)) {
    return isDifference && exponentOf(b, fraction) == exponent ? indefinite(fraction) : a;
  }
  const first = significand(a, fraction) << (61 - fraction);
  const distance = max<i32>(exponent, 1) - max<i32>(exponentOf(b, fraction), 1);
  const second = shiftRightSticky(significand(b, fraction) << (61 - fraction), distance);
  const sum = isDifference ? first - second : first + second;
  if (sum == 0) {
    if (!isDifference) return sign;
    return rounding() == TO_DOWN ? signBit(fraction) : 0;
  }
  return roundAndPack(sign, max<i32>(exponent, 1) + 1, sum, fraction);
}

function multiply(a: u64, b: u64, fraction: u32): u64 {
  const sign = (a ^ b) & signBit(fraction);
  const isZero = magnitude(a, fraction) == 0 || magnitude(b, fraction) == 0;
  if (exponentOf(a, fraction) == maxExponent(fraction) || exponentOf(b, fraction) == maxExponent(fraction)) {
    if (isZero) return indefinite(fraction);
    noteDenormal(a, fraction);
    noteDenormal(b, fraction);
    return sign | infinity(fraction);
  }
  noteDenormal(a, fraction);
  noteDenormal(b, fraction);
  if (isZero) return sign;
  const first = significand(a, fraction);
  const second = significand(b, fraction);
  const firstShift = clz<u64>(first);
  const secondShift = clz<u64>(second);
  const product = multiplyHighSticky(first << firstShift, second << secondShift);
  const exponent =
    max<i32>(exponentOf(a, fraction), 1) + max<i32>(exponentOf(b, fraction), 1) - bias(fraction) -
    <i32>(firstShift + secondShift) + 2 * (63 - <i32>fraction);
  return roundAndPack(sign, exponent + 1, shiftRightSticky(product, 1), fraction);
}

function divide(a: u64, b: u64, fraction: u32): u64 {
  const sign = (a ^ b) & signBit(fraction);
  const isInfinite = exponentOf(a, fraction) == maxExponent(fraction);
  if (exponentOf(b, fraction) == maxExponent(fraction)) {
    if (isInfinite) return indefinite(fraction);
    noteDenormal(a, fraction);
    return sign;
  }
  if (magnitude(b, fraction) == 0) {
    if (magnitude(a, fraction) == 0) return indefinite(fraction);
    if (!isInfinite) raised |= ZE;
    return sign | infinity(fraction);
  }
  noteDenormal(a, fraction);
  noteDenormal(b, fraction);
  if (isInfinite) return sign | infinity(fraction);
  if (magnitude(a, fraction) == 0) return sign;
  // 53 bits each, so that 11 bits of the quotient fit into a step.
  const first = significand(a, fraction);
  const second = significand(b, fraction);
  const firstShift = clz<u64>(first) - 11;
  const secondShift = clz<u64>(second) - 11;
  const divisor = second << secondShift;
  let rest = first << firstShift;
  let quotient = rest / divisor;
  rest %= divisor;
  for (let step = 0; step < 5; step++) {
    rest <<= 11;
    quotient = (quotient << 11) | (rest / divisor);
    rest %= divisor;
  }
  const exponent =
    max<i32>(exponentOf(a, fraction), 1) - <i32>firstShift - max<i32>(exponentOf(b, fraction), 1) + <i32>secondShift +
    bias(fraction);
  return roundAndPack(sign, exponent, (quotient << 7) | u64(rest != 0), fraction);
}

function squareRoot(a: u64, fraction: u32): u64 {
  if (magnitude(a, fraction) == 0) return a;
  if (a & signBit(fraction)) return indefinite(fraction);
  noteDenormal(a, fraction);
  if (exponentOf(a, fraction) == maxExponent(fraction)) return a;
  const shift = clz<u64>(significand(a, fraction)) - 11;
  // With the point after bit 52 the significand is in [1, 4), the exponent even.
  let exponent = max<i32>(exponentOf(a, fraction), 1) - bias(fraction) - <i32>shift + 52 - <i32>fraction;
  let rest = significand(a, fraction) << (shift + (exponent & 1));
  exponent >>= 1;
  // A bit of the root in each step: it belongs to the root when the rest has room for what the square grows by.
  let root: u64 = 0;
  let doubled: u64 = 0;
  rest <<= 1;
  for (let bit: u64 = 1 << 53; bit != 0; bit >>= 1) {
    const growth = doubled + bit;
    if (growth <= rest) {
      rest -= growth;
      doubled = growth + bit;
      root += bit;
    }
    rest <<= 1;
  }
  return roundAndPack(0, exponent + bias(fraction), (root << 9) | u64(rest != 0), fraction);
}

/** With its leading one, which a denormal has not. */
@inline
function significand(bits: u64, fraction: u32): u64 {
  return fractionOf(bits, fraction) | (exponentOf(bits, fraction) != 0 ? <u64>1 << fraction : 0);
}

/** Bits that fall out leave a trace in the last one. */
function shiftRightSticky(value: u64, count: i32): u64 {
  if (count == 0) return value;
  if (count > 63) return u64(value != 0);
  return (value >> count) | u64(value << (64 - count) != 0);
}

/** Upper half of a product, with a trace of the lower. */
function multiplyHighSticky(a: u64, b: u64): u64 {
  const aLow = a & 0xffff_ffff;
  const aHigh = a >> 32;
  const bLow = b & 0xffff_ffff;
  const bHigh = b >> 32;
  const low = aLow * bLow;
  const middle = aHigh * bLow + (low >> 32);
  const other = aLow * bHigh + (middle & 0xffff_ffff);
  const rest = (low & 0xffff_ffff) | (other << 32);
  return (aHigh * bHigh + (middle >> 32) + (other >> 32)) | u64(rest != 0);
}

/** The number `value` / 2^62 * 2^(exponent - bias), which is not 0, rounded. */
function roundAndPack(sign: u64, exponent: i32, value: u64, fraction: u32): u64 {
  const shift = <i32>clz<u64>(value) - 1;
  exponent -= shift;
  value <<= shift;
  const spare = 62 - fraction;
  const spareMask = (<u64>1 << spare) - 1;
  const half = <u64>1 << (spare - 1);
  const mode = rounding();
  const isAway = mode == (sign ? TO_DOWN : TO_UP);
  const increment: u64 = mode == TO_NEAREST ? half : isAway ? spareMask : 0;
  // Tiny and huge is what is so after rounding, as if exponents had no end; that is also the result that is inexact or not where
  // such numbers are exceptions that are not masked.
  const rounded = exponent + <i32>((value + increment) >> 63);
  const isTiny = rounded < 1;
  const isHuge = rounded >= maxExponent(fraction);
  if ((isTiny && !(control & UM)) || (isHuge && !(control & OM))) {
    raised |= (isTiny ? UE : OE) | (value & spareMask ? PE : 0);
    return sign;
  }
  if (isHuge) {
    raised |= OE | PE;
    return sign | (infinity(fraction) - u64(increment == 0));
  }
  if (isTiny && control & FTZ) {
    raised |= UE | PE;
    return sign;
  }
  if (exponent < 1) {
    value = shiftRightSticky(value, 1 - exponent);
    exponent = 0;
  }
  const rest = value & spareMask;
  if (rest != 0) raised |= isTiny ? UE | PE : PE;
  let result = (value + increment) >> spare;
  if (mode == TO_NEAREST && rest == half) result &= ~(<u64>1);
  // The leading one of a normal number adds one to the exponent.
  return sign | ((<u64>max<i32>(exponent - 1, 0) << fraction) + result);
}

// ── Comparisons ──

/** x86's minimum and maximum: the second operand where it is not clear which one it is. */
export function extremum(operation: u32, a: u64, b: u64, fraction: u32): u64 {
  a = withoutDenormal(a, fraction);
  b = withoutDenormal(b, fraction);
  if (isNan(a, fraction) || isNan(b, fraction)) {
    raised |= IE;
    return b;
  }
  noteDenormal(a, fraction);
  noteDenormal(b, fraction);
  const x = valueOf(a, fraction);
  const y = valueOf(b, fraction);
  return (operation == MIN ? x < y : x > y) ? a : b;
}

export const LESS: u32 = 1;
export const EQUAL: u32 = 2;
const GREATER: u32 = 4;
export const UNORDERED: u32 = 8;

/** `isQuiet`: only signalling NaNs are invalid. */
export function compare(a: u64, b: u64, fraction: u32, isQuiet: bool): u32 {
  a = withoutDenormal(a, fraction);
  b = withoutDenormal(b, fraction);
  if (isNan(a, fraction) || isNan(b, fraction)) {
    if (!isQuiet || isSignalling(a, fraction) || isSignalling(b, fraction)) raised |= IE;
    return UNORDERED;
  }
  noteDenormal(a, fraction);
  noteDenormal(b, fraction);
  const x = valueOf(a, fraction);
  const y = valueOf(b, fraction);
  return x < y ? LESS : x > y ? GREATER : EQUAL;
}

// ── Conversions ──

/** From an integer, rounded. */
export function fromInteger(value: i64, fraction: u32): u64 {
  // So small that a double has room for it.
  if (fraction == DOUBLE && (value << 11) >> 11 == value) return reinterpret<u64>(<f64>value);
  if (value == 0) return 0;
  const sign = value < 0 ? signBit(fraction) : 0;
  const size = <u64>(value < 0 ? -value : value);
  const isLong = <i32>(size >> 63);
  return roundAndPack(sign, bias(fraction) + 62 + isLong, shiftRightSticky(size, isLong), fraction);
}

/** Indefinite, the least integer, for what is none of `sizeBytes`. */
export function toInteger(bits: u64, fraction: u32, sizeBytes: u32, mode: u32): i64 {
  bits = withoutDenormal(bits, fraction);
  const limit: f64 = sizeBytes == 8 ? 9223372036854775808.0 : 2147483648.0;
  const value = valueOf(bits, fraction);
  const rounded = isNan(bits, fraction) ? limit : roundTo(value, mode);
  if (!(rounded >= -limit && rounded < limit)) {
    raised |= IE;
    return sizeBytes == 8 ? i64.MIN_VALUE : <i64>i32.MIN_VALUE;
  }
  if (rounded != value) raised |= PE;
  return <i64>rounded;
}

/** ROUNDSS and its kin. */
export function roundToIntegral(bits: u64, fraction: u32, mode: u32, isExactnessIgnored: bool): u64 {
  bits = withoutDenormal(bits, fraction);
  if (isNan(bits, fraction)) return quieted(bits, fraction);
  const value = valueOf(bits, fraction);
  const rounded = roundTo(value, mode);
  if (rounded != value && !isExactnessIgnored) raised |= PE;
  return fraction == DOUBLE ? reinterpret<u64>(rounded) : <u64>reinterpret<u32>(<f32>rounded);
}

function roundTo(value: f64, mode: u32): f64 {
  switch (mode) {
    case TO_NEAREST:
      return nearest<f64>(value);
    case TO_DOWN:
      return floor<f64>(value);
    case TO_UP:
      return ceil<f64>(value);
    default:
      return trunc<f64>(value);
  }
}

/** A float from a double or the other way round. */
export function convert(bits: u64, from: u32, to: u32): u64 {
  bits = withoutDenormal(bits, from);
  const sign = bits & signBit(from) ? signBit(to) : 0;
  if (exponentOf(bits, from) == maxExponent(from)) {
    if (isNan(bits, from)) bits = quieted(bits, from);
    const rest = fractionOf(bits, from);
    return sign | infinity(to) | (from > to ? rest >> (from - to) : rest << (to - from));
  }
  if (magnitude(bits, from) == 0) return sign;
  noteDenormal(bits, from);
  const exponent = max<i32>(exponentOf(bits, from), 1) - bias(from) + bias(to);
  return roundAndPack(sign, exponent, significand(bits, from) << (62 - from), to);
}
