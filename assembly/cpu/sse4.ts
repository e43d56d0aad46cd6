// SPDX-License-Identifier: Apache-2.0
// Packed integers of SSSE3 and SSE4: maps 0F 38 and 0F 3A. SDM volume 2, chapter 4, by their names in the cases.
import { CF, setFlags, ZF } from "./flags.ts";
import { CPU_XMMS } from "./layout.ts";
import { joinLow } from "./sse-integer.ts";
import {
  byteNumbers,
  imm8,
  mmx,
  prefix,
  PREFIX_NONE,
  setMmx,
  source,
  source128,
  sourceMmx,
} from "./sse-operands.ts";
import { COLD_CODE, registerA } from "./uop.ts";
import { cpu } from "./vcpu.ts";

/** SSSE3, which has MMX as well: opcodes 00 to 0B and 1C to 1E. */
export function execPackedSsse3(pc: usize): bool {
  const byte = load<u16>(pc, COLD_CODE) & 0xff;
  if (prefix(pc) != PREFIX_NONE) {
    const from = source128(pc);
    if (from == 0) return false;
    const to = registerA(pc);
    v128.store(to, packedSsse3(byte, v128.load(to), v128.load(from)));
    return true;
  }
  const from = sourceMmx(pc, 8);
  if (from == 0) return false;
  const number = registerA(pc);
  let first = v128.load64_zero(mmx(number));
  let second = v128.load64_zero(from);
  if (byte == 0) {
    // The upper half of the bytes to choose from is not there.
    second = v128.and(second, i8x16.splat(<i8>0x87));
  } else if (byte <= 7 && byte != 4) {
    first = joinLow(first, second);
    second = first;
  }
  setMmx(number, i64x2.extract_lane(packedSsse3(byte, first, second), 0));
  return true;
}

function packedSsse3(byte: u32, a: v128, b: v128): v128 {
  switch (byte) {
    case 0x00: // PSHUFB: a swizzle finds nothing for numbers above 15.
      return i8x16.swizzle(a, v128.and(b, i8x16.splat(<i8>0x8f)));
    case 0x01: // PHADDW
      return i16x8.add(evenWords(a, b), oddWords(a, b));
    case 0x02: // PHADDD
      return i32x4.add(i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
    case 0x03: // PHADDSW
      return i16x8.add_sat_s(evenWords(a, b), oddWords(a, b));
    case 0x04: {
      // PMADDUBSW
      const low = i16x8.mul(i16x8.extend_low_i8x16_u(a), i16x8.extend_low_i8x16_s(b));
      const high = i16x8.mul(i16x8.extend_high_i8x16_u(a), i16x8.extend_high_i8x16_s(b));
      return i16x8.add_sat_s(evenWords(low, high), oddWords(low, high));
    }
    case 0x05: // PHSUBW
      return i16x8.sub(evenWords(a, b), oddWords(a, b));
    case 0x06: // PHSUBD
      return i32x4.sub(i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
    case 0x07: // PHSUBSW
      return i16x8.sub_sat_s(evenWords(a, b), oddWords(a, b));
    case 0x08: {
      // PSIGNB
      const sign = i8x16.shr_s(b, 7);
      return v128.andnot(i8x16.sub(v128.xor(a, sign), sign), i8x16.eq(b, i64x2.splat(0)));
    }
    case 0x09: {
      // PSIGNW
      const sign = i16x8.shr_s(b, 15);
      return v128.andnot(i16x8.sub(v128.xor(a, sign), sign), i16x8.eq(b, i64x2.splat(0)));
    }
    case 0x0a: {
      // PSIGND
      const sign = i32x4.shr_s(b, 31);
      return v128.andnot(i32x4.sub(v128.xor(a, sign), sign), i32x4.eq(b, i64x2.splat(0)));
    }
    case 0x0b: {
      // PMULHRSW: Wasm's saturates where both are -1.
      const least = i16x8.splat(i16.MIN_VALUE);
      const overflow = v128.and(i16x8.eq(a, least), i16x8.eq(b, least));
      return v128.xor(i16x8.q15mulr_sat_s(a, b), overflow);
    }
    case 0x1c: // PABSB
      return i8x16.abs(b);
    case 0x1d: // PABSW
      return i16x8.abs(b);
    default: // PABSD
      return i32x4.abs(b);
  }
}

@inline
function evenWords(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}

@inline
function oddWords(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}

/** SSE4.1 and SSE4.2 of map 0F 38 whose operands have 16 bytes. */
export function execPackedSse4(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  v128.store(to, packedSse4(load<u16>(pc, COLD_CODE) & 0xff, v128.load(to), v128.load(from)));
  return true;
}

function packedSse4(byte: u32, a: v128, b: v128): v128 {
  switch (byte) {
    case 0x10: // PBLENDVB
      return v128.bitselect(b, a, i8x16.shr_s(v128.load(cpu, CPU_XMMS), 7));
    case 0x14: // BLENDVPS
      return v128.bitselect(b, a, i32x4.shr_s(v128.load(cpu, CPU_XMMS), 31));
    case 0x15: // BLENDVPD
      return v128.bitselect(b, a, i64x2.shr_s(v128.load(cpu, CPU_XMMS), 63));
    case 0x28: // PMULDQ
      return i64x2.extmul_low_i32x4_s(i32x4.shuffle(a, a, 0, 2, 0, 2), i32x4.shuffle(b, b, 0, 2, 0, 2));
    case 0x29: // PCMPEQQ
      return i64x2.eq(a, b);
    case 0x2b: // PACKUSDW
      return i16x8.narrow_i32x4_u(a, b);
    case 0x37: // PCMPGTQ
      return i64x2.gt_s(a, b);
    case 0x38: // PMINSB
      return i8x16.min_s(a, b);
    case 0x39: // PMINSD
      return i32x4.min_s(a, b);
    case 0x3a: // PMINUW
      return i16x8.min_u(a, b);
    case 0x3b: // PMINUD
      return i32x4.min_u(a, b);
    case 0x3c: // PMAXSB
      return i8x16.max_s(a, b);
    case 0x3d: // PMAXSD
      return i32x4.max_s(a, b);
    case 0x3e: // PMAXUW
      return i16x8.max_u(a, b);
    case 0x3f: // PMAXUD
      return i32x4.max_u(a, b);
    case 0x40: // PMULLD
      return i32x4.mul(a, b);
    default: // PHMINPOSUW
      return leastWord(b);
  }
}

/** The least word, and which one it is. */
function leastWord(value: v128): v128 {
  let least = i16x8.min_u(value, i16x8.shuffle(value, value, 4, 5, 6, 7, 0, 1, 2, 3));
  least = i16x8.min_u(least, i16x8.shuffle(least, least, 2, 3, 0, 1, 6, 7, 4, 5));
  least = i16x8.min_u(least, i16x8.shuffle(least, least, 1, 0, 3, 2, 5, 4, 7, 6));
  const place = ctz<u32>(i16x8.bitmask(i16x8.eq(value, least)));
  return v128.and(i16x8.replace_lane(least, 1, <i16>place), i64x2(0xffff_ffff, 0));
}

/** PMOVSX and PMOVZX, opcodes 20 to 25 and 30 to 35. */
export function execExtend(pc: usize): bool {
  const byte = load<u16>(pc, COLD_CODE) & 0xff;
  const which = byte & 7;
  // Of the first element in 8 bytes there are as many as the result has room for.
  const from = source(pc, which == 2 ? 2 : which == 1 || which == 4 ? 4 : 8);
  if (from == 0) return false;
  let value: v128;
  if (which == 2) value = i32x4.splat(load<u16>(from));
  else if (which == 1 || which == 4) value = v128.load32_zero(from);
  else value = v128.load64_zero(from);
  v128.store(registerA(pc), byte & 0x10 ? extendUnsigned(which, value) : extendSigned(which, value));
  return true;
}

function extendSigned(which: u32, value: v128): v128 {
  switch (which) {
    case 0: // BW
      return i16x8.extend_low_i8x16_s(value);
    case 1: // BD
      return i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(value));
    case 2: // BQ
      return i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(value)));
    case 3: // WD
      return i32x4.extend_low_i16x8_s(value);
    case 4: // WQ
      return i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(value));
    default: // DQ
      return i64x2.extend_low_i32x4_s(value);
  }
}

function extendUnsigned(which: u32, value: v128): v128 {
  switch (which) {
    case 0:
      return i16x8.extend_low_i8x16_u(value);
    case 1:
      return i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(value));
    case 2:
      return i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(value)));
    case 3:
      return i32x4.extend_low_i16x8_u(value);
    case 4:
      return i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(value));
    default:
      return i64x2.extend_low_i32x4_u(value);
  }
}

/** PTEST */
export function execTest(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const a = v128.load(registerA(pc));
  const b = v128.load(from);
  setFlags((v128.any_true(v128.and(a, b)) ? 0 : ZF) | (v128.any_true(v128.andnot(b, a)) ? 0 : CF));
  return true;
}

/** BLENDPS, BLENDPD, PBLENDW: elements of the second operand where the immediate has a bit. */
export function execBlend(pc: usize, elementSizeBytes: u32): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  const order = i16x8.splat(<i16>imm8(pc));
  let bits: v128;
  if (elementSizeBytes == 2) bits = i16x8(1, 2, 4, 8, 16, 32, 64, 128);
  else if (elementSizeBytes == 4) bits = i16x8(1, 1, 2, 2, 4, 4, 8, 8);
  else bits = i16x8(1, 1, 1, 1, 2, 2, 2, 2);
  const mask = i16x8.eq(v128.and(order, bits), bits);
  v128.store(to, v128.bitselect(v128.load(from), v128.load(to), mask));
  return true;
}

/** MPSADBW: sums of differences between four bytes of the second operand and eight runs of four of the first. */
export function execSumsOfDifferences(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const order = imm8(pc);
  const to = registerA(pc);
  const value = v128.load(to);
  const four = from + ((order & 3) << 2);
  let places = i8x16.add(byteNumbers(), i8x16.splat(<i8>(order & 4)));
  let sums = i64x2.splat(0);
  for (let index: u32 = 0; index < 4; index++) {
    const run = i16x8.extend_low_i8x16_u(i8x16.swizzle(value, places));
    const difference = i16x8.sub(run, i16x8.splat(load<u8>(four + index)));
    sums = i16x8.add(sums, i16x8.abs(difference));
    places = i8x16.add(places, i8x16.splat(1));
  }
  v128.store(to, sums);
  return true;
}
