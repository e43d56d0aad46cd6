// SPDX-License-Identifier: Apache-2.0
// SSE4.2's comparisons of strings: PCMPESTRM, PCMPESTRI, PCMPISTRM, PCMPISTRI. SDM volume 2, 4.1.
import { CF, OF, setFlags, SF, ZF } from "./flags.ts";
import { CPU_GPRS, CPU_XMMS } from "./layout.ts";
import { shiftBytesRight } from "./sse-integer.ts";
import { imm8, source, wideSize } from "./sse-operands.ts";
import { COLD_CODE, registerA } from "./uop.ts";
import { cpu } from "./vcpu.ts";

// The immediate.
const WORDS: u32 = 1;
const SIGNED: u32 = 2;
const AGGREGATION: u32 = 0x0c;
const EQUAL_ANY: u32 = 0;
const RANGES: u32 = 4;
const EQUAL_EACH: u32 = 8;
const NEGATIVE: u32 = 0x10;
const MASKED: u32 = 0x20;
/** The last of the indices, or a mask of elements instead of one of bits. */
const MOST: u32 = 0x40;

/** Sets of elements are sets of bits, the first is bit 0. */
export function execCompareStrings(pc: usize): bool {
  const from = source(pc, 16);
  if (from == 0) return false;
  const order = imm8(pc);
  const a = v128.load(registerA(pc));
  const b = v128.load(from);
  const count: u32 = order & WORDS ? 8 : 16;
  const all: u32 = (1 << count) - 1;
  const code = <u32>load<u16>(pc, COLD_CODE);
  let lengthA: u32;
  let lengthB: u32;
  if (code & 2) {
    lengthA = min<u32>(ctz<u32>(equals(a, 0, order)), count);
    lengthB = min<u32>(ctz<u32>(equals(b, 0, order)), count);
  } else {
    lengthA = explicitLength(cpu + CPU_GPRS, wideSize(pc), count);
    lengthB = explicitLength(cpu + CPU_GPRS + 2 * 8, wideSize(pc), count);
  }
  const validB: u32 = (1 << lengthB) - 1;
  let result = aggregate(a, lengthA, b, lengthB, order, count);
  if (order & NEGATIVE) result ^= order & MASKED ? validB : all;

  if (code & 1) {
    const index = result == 0 ? count : order & MOST ? 31 - clz<u32>(result) : ctz<u32>(result);
    store<u64>(cpu, <u64>index, CPU_GPRS + 8);
  } else {
    v128.store(cpu, order & MOST ? elementMask(result, order) : i64x2(result, 0), CPU_XMMS);
  }
  setFlags(
    (result != 0 ? CF : 0) | (lengthB < count ? ZF : 0) | (lengthA < count ? SF : 0) | (result & 1 ? OF : 0),
  );
  return true;
}

/** Of RAX or RDX, whose sign does not matter. */
function explicitLength(register: usize, sizeBytes: u32, count: u32): u32 {
  const value = sizeBytes == 8 ? load<i64>(register) : <i64>load<i32>(register);
  const length = <u64>(value < 0 ? -value : value);
  return length > count ? count : <u32>length;
}

function aggregate(a: v128, lengthA: u32, b: v128, lengthB: u32, order: u32, count: u32): u32 {
  const validB: u32 = (1 << lengthB) - 1;
  let result: u32 = 0;
  switch (order & AGGREGATION) {
    case EQUAL_ANY:
      for (let index: u32 = 0; index < lengthA; index++) result |= equals(b, element(a, index, order), order);
      return result & validB;
    case RANGES:
      for (let index: u32 = 0; index + 1 < lengthA; index += 2) {
        result |= within(b, element(a, index, order), element(a, index + 1, order), order);
      }
      return result & validB;
    case EQUAL_EACH: {
      const all: u32 = (1 << count) - 1;
      const validA: u32 = (1 << lengthA) - 1;
      const same = <u32>(order & WORDS ? i16x8.bitmask(i16x8.eq(a, b)) : i8x16.bitmask(i8x16.eq(a, b)));
      return (same & validA & validB) | (all & ~(validA | validB));
    }
    default: {
      // Equal ordered: where in the second string the first one starts, or at its end may start.
      result = (1 << count) - 1;
      for (let index: u32 = 0; index < lengthA; index++) {
        const found = equals(b, element(a, index, order), order) & validB;
        result &= (found >> index) | ~((<u32>0xffff >> (16 - count)) >> index);
      }
      return result;
    }
  }
}

@inline
function element(value: v128, index: u32, order: u32): i32 {
  const moved = shiftBytesRight(value, order & WORDS ? 2 * index : index);
  return order & WORDS ? i16x8.extract_lane_u(moved, 0) : i8x16.extract_lane_u(moved, 0);
}

function equals(value: v128, wanted: i32, order: u32): u32 {
  return order & WORDS
    ? i16x8.bitmask(i16x8.eq(value, i16x8.splat(<i16>wanted)))
    : i8x16.bitmask(i8x16.eq(value, i8x16.splat(<i8>wanted)));
}

function within(value: v128, low: i32, high: i32, order: u32): u32 {
  if (order & WORDS) {
    const from = i16x8.splat(<i16>low);
    const to = i16x8.splat(<i16>high);
    return order & SIGNED
      ? i16x8.bitmask(v128.and(i16x8.ge_s(value, from), i16x8.le_s(value, to)))
      : i16x8.bitmask(v128.and(i16x8.ge_u(value, from), i16x8.le_u(value, to)));
  }
  const from = i8x16.splat(<i8>low);
  const to = i8x16.splat(<i8>high);
  return order & SIGNED
    ? i8x16.bitmask(v128.and(i8x16.ge_s(value, from), i8x16.le_s(value, to)))
    : i8x16.bitmask(v128.and(i8x16.ge_u(value, from), i8x16.le_u(value, to)));
}

/** Ones in all elements of a set. */
function elementMask(set: u32, order: u32): v128 {
  if (order & WORDS) {
    const bits = i16x8(1, 2, 4, 8, 16, 32, 64, 128);
    return i16x8.eq(v128.and(i16x8.splat(<i16>set), bits), bits);
  }
  const bits = i8x16(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
  const sets = i64x2(<i64>((<u64>set & 0xff) * 0x0101_0101_0101_0101), <i64>((<u64>set >> 8) * 0x0101_0101_0101_0101));
  return i8x16.eq(v128.and(sets, bits), bits);
}
