// SPDX-License-Identifier: Apache-2.0
// The x87's transcendental functions. SDM volume 1, 8.3.7 to 8.3.10, and the tables of volume 2 for operands that are special.
//
// They are computed in fractions of 128 bits, good to some 110, and rounded once: the result is the 80-bit value next to the
// true one unless that is within 2^-45 units of the middle between two. A series is summed from its smallest term on, and
// divides by small integers instead of having a table of coefficients. Angles are reduced by the 66 bits of pi that the
// hardware has. PE is reported for all results that are not exact; hardware reports it for exact ones, too.
//
// A number is a fraction from 1/2 to 1 in two integers, and `power`, of 2, that it is to be multiplied with.
import {
  BIAS,
  exponentOf,
  INTEGER_BIT,
  invalid,
  isInfinite,
  isSettled,
  isSettledAlone,
  isUnsupported,
  MAX_EXPONENT,
  meetsDenormal,
  normalExponent,
  normalize,
  normalizeAndRound,
  PE,
  report,
  round,
  setResult,
  signOf,
  ZE,
} from "./float80.ts";
import {
  addWide,
  divideBySmall,
  divideFractions,
  high,
  isWideBelow,
  leadingZeros,
  low,
  multiply,
  multiplyFractions,
  setWide,
  shiftLeft,
  shiftRightSticky,
  subtractWide,
} from "./u128.ts";

/** 1, where a fraction has one bit before the point. */
const ONE: u64 = INTEGER_BIT;
const RESULT_BITS: u32 = 64;

let power: i32 = 0;

/** Makes the highest bit of high:low · 2^power 1. */
function normalizeWide(): void {
  const shift = leadingZeros(high, low);
  power -= <i32>shift;
  shiftLeft(high, low, shift);
}

/** Rounds high:low · 2^power to the result. It is never exact. */
function deliver(sign: u32): void {
  normalizeWide();
  round(sign, power - 1 + BIAS, high, low | 1, RESULT_BITS, MAX_EXPONENT);
}

/** A number with another power becomes high:low with power 0. */
function toFixed(upper: u64, lower: u64, fromPower: i32): void {
  shiftRightSticky(upper, lower, <u32>min<i32>(-fromPower, 200));
}

/** Makes high:low · 2^power of a quotient, the dividend being any, with `power`, and the divisor at least 1/4. */
function divideNumbers(aHigh: u64, aLow: u64, bHigh: u64, bLow: u64): void {
  let upper = aHigh;
  let lower = aLow;
  while (!isWideBelow(upper, lower, bHigh, bLow)) {
    shiftRightSticky(upper, lower, 1);
    upper = high;
    lower = low;
    power++;
  }
  divideFractions(upper, lower, bHigh, bLow);
  normalizeWide();
}

function setInfinity(sign: u32): void {
  setResult((sign << 15) | MAX_EXPONENT, INTEGER_BIT);
}

function setZero(sign: u32): void {
  setResult(sign << 15, 0);
}

// ── 2^x - 1 ──

const LN2_HIGH: u64 = 0xb172_17f7_d1cf_79ab;
const LN2_LOW: u64 = 0xc9e3_b398_03f2_f6af;
const EXPONENTIAL_TERMS: u32 = 28;

/** F2XM1, for operands from -1 to 1. Those beyond stay what they are, which is as good as anything. */
export function exponential(aHead: u32, a: u64): void {
  if (isSettledAlone(aHead, a)) return;
  const sign = signOf(aHead);
  if (isInfinite(aHead, a)) {
    if (sign) setResult(0x8000 | BIAS, INTEGER_BIT);
    else setResult(aHead, a);
    return;
  }
  if (meetsDenormal(aHead, a, aHead, a)) return;
  if (a == 0) return setResult(aHead, a);
  if (exponentOf(aHead) >= BIAS) {
    report(PE);
    return setResult(aHead == (0x8000 | BIAS) && a == INTEGER_BIT ? 0x8000 | (BIAS - 1) : aHead, a);
  }
  // y = x ln 2, and y (1 ± y/2 (1 ± y/3 (…)))
  multiplyFractions(normalize(aHead, a), 0, LN2_HIGH, LN2_LOW);
  power = normalExponent - BIAS + 1;
  normalizeWide();
  const yHigh = high;
  const yLow = low;
  toFixed(yHigh, yLow, power);
  const fixedHigh = high;
  const fixedLow = low;
  setWide(ONE, 0);
  for (let term = EXPONENTIAL_TERMS; term >= 2; term--) {
    multiplyFractions(fixedHigh, fixedLow, high, low);
    divideBySmall(high, low, term);
    if (sign) subtractWide(ONE, 0, high, low);
    else addWide(ONE, 0, high, low);
  }
  multiplyFractions(yHigh, yLow, high, low);
  power++;
  deliver(sign);
}

// ── y · log2(x) ──

/** 1 / ln 2, halved. */
const LOG2E_HIGH: u64 = 0xb8aa_3b29_5c17_f0bb;
const LOG2E_LOW: u64 = 0xbe87_fed0_691d_3e88;
const SQRT2: u64 = 0xb504_f333_f9de_6484;
/** Of the series of atanh. */
const LAST_POWER: i32 = 47;

/** FYL2X: y · log2(x). */
export function logarithm(yHead: u32, y: u64, xHead: u32, x: u64): void {
  if (isSettled(yHead, y, xHead, x)) return;
  const ySign = signOf(yHead);
  const yIsInfinite = isInfinite(yHead, y);
  if (x == 0) {
    if (y == 0) return invalid();
    if (!yIsInfinite) report(ZE);
    return setInfinity(ySign ^ 1);
  }
  if (signOf(xHead)) return invalid();
  const isOne = exponentOf(xHead) == BIAS && x == INTEGER_BIT;
  const xIsInfinite = isInfinite(xHead, x);
  if ((xIsInfinite && y == 0) || (yIsInfinite && isOne)) return invalid();
  if (meetsDenormal(yHead, y, xHead, x)) return;
  const sign = ySign ^ u32(exponentOf(xHead) < BIAS);
  if (xIsInfinite || yIsInfinite) return setInfinity(sign);
  if (y == 0 || isOne) return setZero(sign);
  setWide(normalize(xHead, x), 0);
  power = normalExponent - BIAS;
  timesLogarithm(yHead, y);
}

/** FYL2XP1: y · log2(x + 1). Of use between the root of 1/2 and that of 2, less 1; defined here from -1 on. */
export function logarithmOfOnePlus(yHead: u32, y: u64, xHead: u32, x: u64): void {
  if (isSettled(yHead, y, xHead, x)) return;
  const xSign = signOf(xHead);
  const sign = signOf(yHead) ^ xSign;
  const yIsInfinite = isInfinite(yHead, y);
  const xIsInfinite = isInfinite(xHead, x);
  if ((yIsInfinite && x == 0) || (xIsInfinite && (y == 0 || xSign != 0))) return invalid();
  if (meetsDenormal(yHead, y, xHead, x)) return;
  if (yIsInfinite || xIsInfinite) return setInfinity(sign);
  if (x == 0 || y == 0) return setZero(sign);
  if (xSign && exponentOf(xHead) >= BIAS) {
    report(PE);
    return setResult(xHead, x);
  }
  const normal = normalize(xHead, x);
  const exponent = normalExponent - BIAS;
  if (exponent >= -2) {
    addOne(xSign, normal, exponent);
    return timesLogarithm(yHead, y);
  }
  // A quarter of x / (2 + x)
  toFixed(normal, 0, exponent - 1);
  if (xSign) subtractWide(ONE, 0, high, low);
  else addWide(ONE, 0, high, low);
  power = exponent - 1;
  divideNumbers(normal, 0, high, low);
  logarithmOfRatio();
  multiplyByOperand(yHead, y);
  deliver(sign);
}

/** 1 ± normal · 2^exponent as high:low, with one bit before the point, and `power`. */
function addOne(sign: u32, normal: u64, exponent: i32): void {
  if (exponent < 0) {
    power = 0;
    shiftRightSticky(normal, 0, <u32>-exponent);
    if (!sign) return addWide(ONE, 0, high, low);
    subtractWide(ONE, 0, high, low);
    return normalizeWide();
  }
  power = exponent;
  shiftRightSticky(ONE, 0, <u32>exponent);
  addWide(normal, 0, high, low);
  if (high >= normal) return;
  shiftRightSticky(high, low, 1);
  setWide(high | INTEGER_BIT, low);
  power++;
}

/** y · log2(high:low · 2^power), of which one bit is before the point. */
function timesLogarithm(yHead: u32, y: u64): void {
  const ySign = signOf(yHead);
  let exponent = power;
  if (high == ONE && low == 0) {
    // The logarithm is an integer, and the product exact.
    multiply(normalize(yHead, y), <u64>abs<i32>(exponent));
    return normalizeAndRound(ySign ^ u32(exponent < 0), normalExponent + 64, high, low, RESULT_BITS);
  }
  // With m between the roots of 1/2 and 2: log2(m) = 2 atanh(s) / ln 2, and s = (m - 1) / (m + 1).
  const isNegative = high > SQRT2;
  shiftRightSticky(high, low, 1);
  const halfHigh = high;
  const halfLow = low;
  if (isNegative) {
    // m is half of what there is: (1 - m) and (1 + m), halved.
    exponent++;
    addWide(halfHigh, halfLow, ONE, 0);
    const sumHigh = high;
    const sumLow = low;
    subtractWide(ONE, 0, halfHigh, halfLow);
    power = 0;
    divideNumbers(high, low, sumHigh, sumLow);
  } else {
    // (m - 1) and (m + 1), of which the sum is a quarter.
    addWide(halfHigh, halfLow, ONE >> 1, 0);
    const sumHigh = high;
    const sumLow = low;
    subtractWide(halfHigh, halfLow, ONE >> 1, 0);
    power = 0;
    divideNumbers(high, low, sumHigh, sumLow);
  }
  logarithmOfRatio();
  let sign = u32(isNegative);
  if (exponent != 0) {
    // Sixteen bits before the point are enough for all exponents.
    toFixed(high, low, power - 16);
    power = 16;
    const integer = <u64>abs<i32>(exponent) << 48;
    if (isNegative == exponent < 0) addWide(integer, 0, high, low);
    else subtractWide(integer, 0, high, low);
    sign = u32(exponent < 0);
    normalizeWide();
  }
  multiplyByOperand(yHead, y);
  deliver(ySign ^ sign);
}

/** 2 atanh(s) / ln 2, of the number s that there is, up to 0.18. */
function logarithmOfRatio(): void {
  const sHigh = high;
  const sLow = low;
  setSquare();
  const squareHigh = high;
  const squareLow = low;
  let sumHigh: u64 = 0;
  let sumLow: u64 = 0;
  for (let odd = LAST_POWER; odd >= 1; odd -= 2) {
    multiplyFractions(squareHigh, squareLow, sumHigh, sumLow);
    sumHigh = high;
    sumLow = low;
    divideBySmall(ONE, 0, odd);
    addWide(high, low, sumHigh, sumLow);
    sumHigh = high;
    sumLow = low;
  }
  multiplyFractions(sHigh, sLow, sumHigh, sumLow);
  multiplyFractions(high, low, LOG2E_HIGH, LOG2E_LOW);
  power += 3;
  normalizeWide();
}

function multiplyByOperand(aHead: u32, a: u64): void {
  multiplyFractions(high, low, normalize(aHead, a), 0);
  power += normalExponent - BIAS + 1;
}

/** The square of a number, up to 1, as a fraction. */
function setSquare(): void {
  multiplyFractions(high, low, high, low);
  toFixed(high, low, 2 * power);
}

// ── Arc tangent ──

/** With two bits before the point. */
const PI_HIGH: u64 = 0xc90f_daa2_2168_c234;
const PI_LOW: u64 = 0xc4c6_628b_80dc_1cd1;
const ARC_LAST_POWER: i32 = 31;

/** FPATAN: the angle of the point (x, y). */
export function arcTangent(yHead: u32, y: u64, xHead: u32, x: u64): void {
  if (isSettled(yHead, y, xHead, x)) return;
  if (meetsDenormal(yHead, y, xHead, x)) return;
  const sign = signOf(yHead);
  const isLeft = signOf(xHead) != 0;
  const xIsInfinite = isInfinite(xHead, x);
  const yIsInfinite = isInfinite(yHead, y);
  if (y == 0 || (xIsInfinite && !yIsInfinite)) {
    if (!isLeft) return setZero(sign);
    setWide(0, 0);
    return finishAngle(sign, false, true);
  }
  if (x == 0 || (yIsInfinite && !xIsInfinite)) {
    setWide(0, 0);
    return finishAngle(sign, true, isLeft);
  }
  if (xIsInfinite) return finishDiagonal(sign, isLeft);
  const yNormal = normalize(yHead, y);
  const yExponent = normalExponent;
  const xNormal = normalize(xHead, x);
  const xExponent = normalExponent;
  if (yExponent == xExponent && yNormal == xNormal) return finishDiagonal(sign, isLeft);
  const isSteep = yExponent > xExponent || (yExponent == xExponent && yNormal > xNormal);
  power = isSteep ? xExponent - yExponent : yExponent - xExponent;
  if (isSteep) divideNumbers(xNormal, 0, yNormal, 0);
  else divideNumbers(yNormal, 0, xNormal, 0);
  if (power < -3) {
    // Below 1/16.
    timesArcSeries();
    if (!isSteep && !isLeft) return deliver(sign);
    toFixed(high, low, power - 2);
    return finishAngle(sign, isSteep, isLeft);
  }
  toFixed(high, low, power);
  addNearestEighth();
  finishAngle(sign, isSteep, isLeft);
}

function finishDiagonal(sign: u32, isLeft: bool): void {
  shiftRightSticky(PI_HIGH, PI_LOW, 2);
  finishAngle(sign, false, isLeft);
}

/** From an angle up to pi/4, with two bits before the point, to one in its quadrant. */
function finishAngle(sign: u32, isSteep: bool, isLeft: bool): void {
  if (isSteep) subtractWide(PI_HIGH >> 1, (PI_HIGH << 63) | (PI_LOW >> 1), high, low);
  if (isLeft) subtractWide(PI_HIGH, PI_LOW, high, low);
  power = 2;
  deliver(sign);
}

/** atan(t) of a number t up to 1/16. */
function timesArcSeries(): void {
  const tHigh = high;
  const tLow = low;
  setSquare();
  const squareHigh = high;
  const squareLow = low;
  let sumHigh: u64 = 0;
  let sumLow: u64 = 0;
  for (let odd = ARC_LAST_POWER; odd >= 1; odd -= 2) {
    multiplyFractions(squareHigh, squareLow, sumHigh, sumLow);
    sumHigh = high;
    sumLow = low;
    divideBySmall(ONE, 0, odd);
    subtractWide(high, low, sumHigh, sumLow);
    sumHigh = high;
    sumLow = low;
  }
  // However small t is, this is less.
  subtractWide(sumHigh, sumLow, 0, 1);
  multiplyFractions(tHigh, tLow, high, low);
  power++;
  normalizeWide();
}

/**
 * atan(r) = atan(c) + atan((r - c) / (1 + r c)), where c is the multiple of 1/8 next to the fraction r. The result has two bits
 * before the point.
 */
function addNearestEighth(): void {
  const rHigh = high;
  const rLow = low;
  const eighths = ((rHigh >> 60) + 1) >> 1;
  const nearest = eighths << 61;
  const isBelow = eighths == 8 || rHigh < nearest;
  // (1 + r c) / 2
  shiftRightSticky(rHigh, rLow, 4);
  const sixteenthHigh = high;
  multiply(low, eighths);
  addWide(high + sixteenthHigh * eighths, low, ONE, 0);
  const divisorHigh = high;
  const divisorLow = low;
  if (isBelow) subtractWide(nearest, 0, rHigh, rLow);
  else subtractWide(rHigh, rLow, nearest, 0);
  if ((high | low) != 0) {
    power = -1;
    divideNumbers(high, low, divisorHigh, divisorLow);
    timesArcSeries();
    toFixed(high, low, power - 2);
  }
  const smallHigh = high;
  const smallLow = low;
  setArcTangent(<u32>eighths);
  shiftRightSticky(high, low, 2);
  if (isBelow) subtractWide(high, low, smallHigh, smallLow);
  else addWide(high, low, smallHigh, smallLow);
}

/** atan(eighths / 8) as a fraction. */
function setArcTangent(eighths: u32): void {
  switch (eighths) {
    case 1:
      return setWide(0x1fd5_ba9a_ac2f_6dc6, 0x5912_f313_e7d1_11de);
    case 2:
      return setWide(0x3eb6_ebf2_5901_bac5, 0x5b71_e7bd_7de8_85f9);
    case 3:
      return setWide(0x5bd8_6507_937b_c239, 0xc551_9091_6e7f_2241);
    case 4:
      return setWide(0x76b1_9c15_86ed_3da2, 0xb7f2_22f6_5e1d_4681);
    case 5:
      return setWide(0x8f00_5d5e_f7f5_9f9b, 0x5c83_5e16_65c4_3747);
    case 6:
      return setWide(0xa4bc_7d19_34f7_0924, 0x19a8_7f2a_457d_ac9e);
    case 7:
      return setWide(0xb805_3e2b_c231_9e73, 0xcb2d_a552_10a4_443d);
    default:
      return setWide(PI_HIGH, PI_LOW);
  }
}

// ── Sine, cosine and tangent ──

/** Half of pi in units of 2^-65: all of pi that the hardware has. */
const HALF_PI_HIGH: u64 = 3;
const HALF_PI_LOW: u64 = 0x243f_6a88_85a3_08d3;
const UNIT_POWER: i32 = -65;
const CIRCLE_TERMS: i32 = 15;

/** C2: the operand is too great to be reduced. */
export function isOutOfRange(aHead: u32, a: u64): bool {
  const exponent = exponentOf(aHead);
  return exponent >= BIAS + 63 && exponent != MAX_EXPONENT && !isUnsupported(aHead, a);
}

/** The magnitude of an operand is an angle up to pi/4, which may be negative, and so many quadrants. */
let angleHigh: u64 = 0;
let angleLow: u64 = 0;
let anglePower: i32 = 0;
let isAngleNegative: bool = false;
let quadrant: u32 = 0;

/** What is the same for all: true when the result is there. */
function isAngleSettled(aHead: u32, a: u64): bool {
  if (isSettledAlone(aHead, a)) return true;
  if (isInfinite(aHead, a)) {
    invalid();
    return true;
  }
  return meetsDenormal(aHead, a, aHead, a);
}

function reduce(aHead: u32, a: u64): void {
  const normal = normalize(aHead, a);
  const exponent = normalExponent - BIAS;
  isAngleNegative = false;
  quadrant = 0;
  angleHigh = normal;
  angleLow = 0;
  anglePower = exponent + 1;
  // Up to pi/4.
  if (exponent < -1 || (exponent == -1 && normal <= PI_HIGH)) return;
  let upper: u64 = 0;
  let lower = normal;
  for (let bit = exponent - 63 - UNIT_POWER; bit > 0; bit--) {
    upper = (upper << 1) | (lower >> 63);
    lower <<= 1;
    quadrant <<= 1;
    if (!isWideBelow(upper, lower, HALF_PI_HIGH, HALF_PI_LOW)) {
      subtractWide(upper, lower, HALF_PI_HIGH, HALF_PI_LOW);
      upper = high;
      lower = low;
      quadrant |= 1;
    }
  }
  // To the nearest multiple of pi/2.
  subtractWide(HALF_PI_HIGH, HALF_PI_LOW, upper, lower);
  if (isWideBelow(high, low, upper, lower)) {
    quadrant++;
    isAngleNegative = true;
  } else {
    setWide(upper, lower);
  }
  power = 128 + UNIT_POWER;
  normalizeWide();
  angleHigh = high;
  angleLow = low;
  anglePower = power;
}

export function sine(aHead: u32, a: u64): void {
  if (isAngleSettled(aHead, a)) return;
  if (a == 0) return setResult(aHead, a);
  reduce(aHead, a);
  const half = signOf(aHead) ^ ((quadrant >> 1) & 1);
  if (quadrant & 1) return deliverCosine(half);
  deliverSine(half ^ u32(isAngleNegative));
}

export function cosine(aHead: u32, a: u64): void {
  if (isAngleSettled(aHead, a)) return;
  if (a == 0) return setResult(BIAS, INTEGER_BIT);
  reduce(aHead, a);
  const half = (quadrant >> 1) & 1;
  if (!(quadrant & 1)) return deliverCosine(half);
  deliverSine(half ^ 1 ^ u32(isAngleNegative));
}

/** FPTAN: sin / cos of the angle, or in an odd quadrant -cos / sin. */
export function tangent(aHead: u32, a: u64): void {
  if (isAngleSettled(aHead, a)) return;
  if (a == 0) return setResult(aHead, a);
  reduce(aHead, a);
  setSine();
  const sineHigh = high;
  const sineLow = low;
  const sinePower = power;
  setCosine();
  const isOdd = (quadrant & 1) != 0;
  if (isOdd) {
    power -= sinePower;
    divideNumbers(high, low, sineHigh, sineLow);
  } else {
    power = sinePower - power;
    divideNumbers(sineHigh, sineLow, high, low);
  }
  deliver(signOf(aHead) ^ u32(isOdd != isAngleNegative));
}

function deliverSine(sign: u32): void {
  setSine();
  deliverBelow(sign);
}

function deliverCosine(sign: u32): void {
  setCosine();
  deliverBelow(sign);
}

/** However small the angle is, its sine is less than it, and its cosine than 1. */
function deliverBelow(sign: u32): void {
  subtractWide(high, low, 0, 1);
  deliver(sign);
}

function setSine(): void {
  setCircleSeries(1);
  multiplyFractions(angleHigh, angleLow, high, low);
  power = anglePower + 1;
  normalizeWide();
}

function setCosine(): void {
  setCircleSeries(0);
  power = 1;
  normalizeWide();
}

/** 1 - x²/(n (n + 1)) (1 - …): sin(x) / x when n is 2, 4, …, and cos(x) when it is 1, 3, …. One bit is before the point. */
function setCircleSeries(offset: i32): void {
  multiplyFractions(angleHigh, angleLow, angleHigh, angleLow);
  toFixed(high, low, 2 * anglePower);
  const squareHigh = high;
  const squareLow = low;
  setWide(ONE, 0);
  for (let term = 2 * CIRCLE_TERMS - 1 + offset; term > 0; term -= 2) {
    multiplyFractions(squareHigh, squareLow, high, low);
    divideBySmall(high, low, term * (term + 1));
    subtractWide(ONE, 0, high, low);
  }
}
