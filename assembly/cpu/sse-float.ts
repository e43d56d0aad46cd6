// SPDX-License-Identifier: Apache-2.0
// Instructions on floats and doubles, packed and scalar: what they do with elements is in sse-arithmetic.ts. SDM volume 2.
//
// No register changes before it is known that no exception was raised: results are put together in draft().
import { CF, PF, setFlags, ZF } from "./flags.ts";
import {
  ADD,
  arithmetic,
  beginFloat,
  compare,
  DOUBLE,
  endFloat,
  EQUAL,
  extremum,
  isNan,
  isRelaxed,
  LESS,
  MAX,
  MIN,
  MUL,
  rounding,
  roundToIntegral,
  SINGLE,
  SUB,
  UNORDERED,
} from "./sse-arithmetic.ts";
import { draft, imm8, prefix, PREFIX_66, PREFIX_F3, source, source128 } from "./sse-operands.ts";
import { COLD_CODE, registerA } from "./uop.ts";

@inline
function isPacked(kind: u32): bool {
  return kind <= PREFIX_66;
}

@inline
function fractionFor(kind: u32): u32 {
  return kind & 1 ? DOUBLE : SINGLE;
}

/** Of a scalar or packed operand. */
@inline
function sizeFor(kind: u32): u32 {
  return isPacked(kind) ? 16 : kind == PREFIX_F3 ? 4 : 8;
}

@inline
function operand(pc: usize, kind: u32): usize {
  return isPacked(kind) ? source128(pc) : source(pc, sizeFor(kind));
}

@inline
export function loadElement(at: usize, fraction: u32): u64 {
  return fraction == DOUBLE ? load<u64>(at) : <u64>load<u32>(at);
}

@inline
export function storeElement(at: usize, fraction: u32, bits: u64): void {
  if (fraction == DOUBLE) store<u64>(at, bits);
  else store<u32>(at, <u32>bits);
}

@inline
export function elementSize(fraction: u32): u32 {
  return fraction == DOUBLE ? 8 : 4;
}

/** Moves the draft to where it belongs. */
export function commit(to: usize, sizeBytes: u32): bool {
  if (sizeBytes == 16) v128.store(to, v128.load(draft()));
  else if (sizeBytes == 8) store<u64>(to, load<u64>(draft()));
  else store<u32>(to, load<u32>(draft()));
  return true;
}

/** Opcodes 51, 58, 59 and 5C to 5F: SQRT, ADD, MUL, SUB, MIN, DIV, MAX of any kind. */
export function execArithmetic(pc: usize): bool {
  const kind = prefix(pc);
  const from = operand(pc, kind);
  if (from == 0) return false;
  const operation = <u32>load<u16>(pc, COLD_CODE) & 0xff;
  const to = registerA(pc);
  beginFloat();
  if (isPacked(kind) && isRelaxed() && operation >= ADD && operation != MIN && operation != MAX) {
    const a = v128.load(to);
    const b = v128.load(from);
    const isDouble = kind == PREFIX_66;
    const result = isDouble ? packedDoubles(operation, a, b) : packedSingles(operation, a, b);
    if (isDouble ? areLargeDoubles(a, b, result) : areLargeSingles(a, b, result)) {
      v128.store(to, result);
      return true;
    }
  }
  const fraction = fractionFor(kind);
  const sizeBytes = sizeFor(kind);
  const step = elementSize(fraction);
  for (let offset: u32 = 0; offset < sizeBytes; offset += step) {
    const a = loadElement(to + offset, fraction);
    const b = loadElement(from + offset, fraction);
    const isExtremum = operation == MIN || operation == MAX;
    const result = isExtremum ? extremum(operation, a, b, fraction) : arithmetic(operation, a, b, fraction);
    storeElement(draft() + offset, fraction, result);
  }
  return endFloat() && commit(to, sizeBytes);
}

function packedDoubles(operation: u32, a: v128, b: v128): v128 {
  switch (operation) {
    case ADD:
      return f64x2.add(a, b);
    case MUL:
      return f64x2.mul(a, b);
    case SUB:
      return f64x2.sub(a, b);
    default:
      return f64x2.div(a, b);
  }
}

function packedSingles(operation: u32, a: v128, b: v128): v128 {
  switch (operation) {
    case ADD:
      return f32x4.add(a, b);
    case MUL:
      return f32x4.mul(a, b);
    case SUB:
      return f32x4.sub(a, b);
    default:
      return f32x4.div(a, b);
  }
}

/** Whether all are normal numbers but the least ones: no exception is new then, see isLarge of sse-arithmetic.ts. */
function areLargeDoubles(a: v128, b: v128, result: v128): bool {
  return i64x2.all_true(v128.and(v128.and(largeDoubles(a), largeDoubles(b)), largeDoubles(result)));
}

@inline
function largeDoubles(value: v128): v128 {
  const exponents = v128.and(value, i64x2.splat(0x7ff0_0000_0000_0000));
  return v128.and(
    i64x2.gt_s(exponents, i64x2.splat(0x0010_0000_0000_0000)),
    i64x2.lt_s(exponents, i64x2.splat(0x7ff0_0000_0000_0000)),
  );
}

function areLargeSingles(a: v128, b: v128, result: v128): bool {
  return i32x4.all_true(v128.and(v128.and(largeSingles(a), largeSingles(b)), largeSingles(result)));
}

@inline
function largeSingles(value: v128): v128 {
  const exponents = v128.and(value, i32x4.splat(0x7f80_0000));
  return v128.and(
    i32x4.gt_s(exponents, i32x4.splat(0x0080_0000)),
    i32x4.lt_s(exponents, i32x4.splat(0x7f80_0000)),
  );
}

/** Opcodes 54 to 57: AND, ANDN, OR, XOR. */
export function execFloatLogic(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  const a = v128.load(to);
  const b = v128.load(from);
  let result: v128;
  switch (load<u16>(pc, COLD_CODE) & 3) {
    case 0:
      result = v128.and(a, b);
      break;
    case 1:
      result = v128.andnot(b, a);
      break;
    case 2:
      result = v128.or(a, b);
      break;
    default:
      result = v128.xor(a, b);
      break;
  }
  v128.store(to, result);
  return true;
}

/** RSQRTPS, RSQRTSS, RCPPS, RCPSS: neither MXCSR nor exceptions; the result is more exact than it has to be. */
export function execReciprocal(pc: usize, isRoot: bool): bool {
  const kind = prefix(pc);
  const from = operand(pc, kind);
  if (from == 0) return false;
  const sizeBytes = sizeFor(kind);
  for (let offset: u32 = 0; offset < sizeBytes; offset += 4) {
    const bits = load<u32>(from + offset);
    store<u32>(draft() + offset, isRoot ? reciprocalRoot(bits) : reciprocal(bits));
  }
  return commit(registerA(pc), sizeBytes);
}

const INFINITE: u32 = 0x7f80_0000;
const QUIET: u32 = 0x0040_0000;

function reciprocal(bits: u32): u32 {
  if (isNan(bits, SINGLE)) return bits | QUIET;
  const result = reinterpret<u32>(<f32>1 / reinterpret<f32>(bits));
  // Denormal numbers are 0, operands as well as results.
  if ((bits & INFINITE) == 0) return (bits & 0x8000_0000) | INFINITE;
  return (result & INFINITE) == 0 ? bits & 0x8000_0000 : result;
}

function reciprocalRoot(bits: u32): u32 {
  if (isNan(bits, SINGLE)) return bits | QUIET;
  if ((bits & INFINITE) == 0) return (bits & 0x8000_0000) | INFINITE;
  if (bits >> 31) return 0xffc0_0000;
  return reinterpret<u32>(<f32>1 / sqrt<f32>(reinterpret<f32>(bits)));
}

/** CMPPS, CMPPD, CMPSS, CMPSD. */
export function execCompare(pc: usize): bool {
  const kind = prefix(pc);
  const from = operand(pc, kind);
  if (from == 0) return false;
  const predicate = imm8(pc) & 7;
  const fraction = fractionFor(kind);
  const sizeBytes = sizeFor(kind);
  const step = elementSize(fraction);
  const to = registerA(pc);
  beginFloat();
  for (let offset: u32 = 0; offset < sizeBytes; offset += step) {
    const relation = compare(
      loadElement(to + offset, fraction),
      loadElement(from + offset, fraction),
      fraction,
      isQuietPredicate(predicate),
    );
    storeElement(draft() + offset, fraction, (relation & relationsOf(predicate)) != 0 ? u64.MAX_VALUE : 0);
  }
  return endFloat() && commit(to, sizeBytes);
}

/** EQ, UNORD, NEQ and ORD; the others tell which is less. */
@inline
function isQuietPredicate(predicate: u32): bool {
  return (predicate & 3) == 0 || (predicate & 3) == 3;
}

/** When it holds; upper predicates are the opposites of lower ones. */
@inline
function relationsOf(predicate: u32): u32 {
  const which = predicate & 3;
  const relations = which == 0 ? EQUAL : which == 1 ? LESS : which == 2 ? LESS | EQUAL : UNORDERED;
  return predicate & 4 ? ~relations : relations;
}

/** Opcodes 2E and 2F: UCOMISS, UCOMISD, COMISS, COMISD. */
export function execCompareFlags(pc: usize): bool {
  const fraction = fractionFor(prefix(pc));
  const from = source(pc, elementSize(fraction));
  if (from == 0) return false;
  beginFloat();
  const isQuiet = (load<u16>(pc, COLD_CODE) & 1) == 0;
  const relation = compare(loadElement(registerA(pc), fraction), loadElement(from, fraction), fraction, isQuiet);
  if (!endFloat()) return false;
  setFlags(
    relation == UNORDERED ? ZF | PF | CF : relation == LESS ? CF : relation == EQUAL ? ZF : 0,
  );
  return true;
}

/** Opcodes 7C, 7D and D0: HADDPS, HADDPD, HSUBPS, HSUBPD, ADDSUBPS, ADDSUBPD. */
export function execHorizontal(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const byte = <u32>load<u16>(pc, COLD_CODE) & 0xff;
  const fraction = prefix(pc) == PREFIX_66 ? DOUBLE : SINGLE;
  const step = elementSize(fraction);
  const to = registerA(pc);
  beginFloat();
  for (let offset: u32 = 0; offset < 16; offset += step) {
    let result: u64;
    if (byte == 0xd0) {
      const operation = offset & step ? ADD : SUB;
      result = arithmetic(operation, loadElement(to + offset, fraction), loadElement(from + offset, fraction), fraction);
    } else {
      // Pairs of the first operand make the lower half of the result.
      const pair = (offset < 8 ? to : from) + ((offset & 7) << 1);
      const operation = byte == 0x7c ? ADD : SUB;
      result = arithmetic(operation, loadElement(pair, fraction), loadElement(pair + step, fraction), fraction);
    }
    storeElement(draft() + offset, fraction, result);
  }
  return endFloat() && commit(to, 16);
}

/** ROUNDPS, ROUNDPD, ROUNDSS, ROUNDSD. */
export function execRound(pc: usize, fraction: u32, isScalar: bool): bool {
  const step = elementSize(fraction);
  const from = isScalar ? source(pc, step) : source128(pc);
  if (from == 0) return false;
  const sizeBytes: u32 = isScalar ? step : 16;
  const order = imm8(pc);
  beginFloat();
  const mode = order & 4 ? rounding() : order & 3;
  for (let offset: u32 = 0; offset < sizeBytes; offset += step) {
    const bits = loadElement(from + offset, fraction);
    storeElement(draft() + offset, fraction, roundToIntegral(bits, fraction, mode, (order & 8) != 0));
  }
  return endFloat() && commit(registerA(pc), sizeBytes);
}

/**
 * DPPS, DPPD: products of the elements that the upper half of the immediate names, summed up in pairs. An unmasked exception
 * keeps the steps that follow from being done.
 */
export function execDotProduct(pc: usize, fraction: u32): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const order = imm8(pc);
  const to = registerA(pc);
  const step = elementSize(fraction);
  const products = draft();
  beginFloat();
  for (let index: u32 = 0; index < 16 / step; index++) {
    const offset = index * step;
    const isWanted = ((order >> (4 + index)) & 1) != 0;
    const a = loadElement(to + offset, fraction);
    const b = loadElement(from + offset, fraction);
    storeElement(products + offset, fraction, isWanted ? arithmetic(MUL, a, b, fraction) : 0);
  }
  if (!endFloat()) return false;
  let sum = sumPair(products, fraction);
  if (fraction == SINGLE) {
    const other = sumPair(products + 8, fraction);
    if (!endFloat()) return false;
    sum = arithmetic(ADD, sum, other, fraction);
  }
  if (!endFloat()) return false;
  for (let index: u32 = 0; index < 16 / step; index++) {
    storeElement(to + index * step, fraction, (order >> index) & 1 ? sum : 0);
  }
  return true;
}

function sumPair(at: usize, fraction: u32): u64 {
  const first = loadElement(at, fraction);
  return arithmetic(ADD, first, loadElement(at + elementSize(fraction), fraction), fraction);
}
