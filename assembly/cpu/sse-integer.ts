// SPDX-License-Identifier: Apache-2.0
// Packed integers of the 0F map: arithmetic, comparisons, shifts, packing. SDM volume 2, chapter 4, by their names in the cases.
//
// MMX is done in the lower halves of vectors. Of most instructions that is all there is to it, those that move elements between
// halves get their operands in other places.
import { byteNumbers, imm8, mmx, prefix, PREFIX_NONE, setMmx, source128, sourceMmx } from "./sse-operands.ts";
import { COLD_CODE, COLD_MODRM, isMemory, registerA, registerB } from "./uop.ts";
import { unsupported } from "./vcpu.ts";

/** All of the map whose operands are two registers, or one and memory, of one kind, and that make the first anew of both. */
export function execPacked(pc: usize): bool {
  const byte = load<u16>(pc, COLD_CODE) & 0xff;
  if (prefix(pc) != PREFIX_NONE) {
    const from = source128(pc);
    if (from == 0) return false;
    const to = registerA(pc);
    v128.store(to, packed(byte, v128.load(to), v128.load(from)));
    return true;
  }
  const isLowUnpack = byte <= 0x62;
  const from = sourceMmx(pc, isLowUnpack ? 4 : 8);
  if (from == 0) return false;
  const number = registerA(pc);
  let first = v128.load64_zero(mmx(number));
  let second = isLowUnpack ? v128.load32_zero(from) : v128.load64_zero(from);
  if (byte == 0x63 || byte == 0x67 || byte == 0x6b) {
    first = joinLow(first, second);
    second = first;
  }
  // The interleaved lower halves of vectors are all of the MMX registers: PUNPCKH's are the second half of that.
  const isHighUnpack = byte >= 0x68 && byte <= 0x6a;
  const result = packed(isHighUnpack ? byte - 8 : byte, first, second);
  setMmx(number, isHighUnpack ? i64x2.extract_lane(result, 1) : i64x2.extract_lane(result, 0));
  return true;
}

/** Lower halves of two vectors. */
@inline
export function joinLow(first: v128, second: v128): v128 {
  return i64x2.shuffle(first, second, 0, 2);
}

function packed(byte: u32, a: v128, b: v128): v128 {
  switch (byte) {
    case 0x60: // PUNPCKLBW
      return i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    case 0x61: // PUNPCKLWD
      return i16x8.shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    case 0x62: // PUNPCKLDQ
      return i32x4.shuffle(a, b, 0, 4, 1, 5);
    case 0x63: // PACKSSWB
      return i8x16.narrow_i16x8_s(a, b);
    case 0x64: // PCMPGTB
      return i8x16.gt_s(a, b);
    case 0x65: // PCMPGTW
      return i16x8.gt_s(a, b);
    case 0x66: // PCMPGTD
      return i32x4.gt_s(a, b);
    case 0x67: // PACKUSWB
      return i8x16.narrow_i16x8_u(a, b);
    case 0x68: // PUNPCKHBW
      return i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    case 0x69: // PUNPCKHWD
      return i16x8.shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    case 0x6a: // PUNPCKHDQ
      return i32x4.shuffle(a, b, 2, 6, 3, 7);
    case 0x6b: // PACKSSDW
      return i16x8.narrow_i32x4_s(a, b);
    case 0x6c: // PUNPCKLQDQ
      return i64x2.shuffle(a, b, 0, 2);
    case 0x6d: // PUNPCKHQDQ
      return i64x2.shuffle(a, b, 1, 3);
    case 0x74: // PCMPEQB
      return i8x16.eq(a, b);
    case 0x75: // PCMPEQW
      return i16x8.eq(a, b);
    case 0x76: // PCMPEQD
      return i32x4.eq(a, b);
    case 0xd1: // PSRLW
      return shiftRight16(a, i64x2.extract_lane(b, 0));
    case 0xd2: // PSRLD
      return shiftRight32(a, i64x2.extract_lane(b, 0));
    case 0xd3: // PSRLQ
      return shiftRight64(a, i64x2.extract_lane(b, 0));
    case 0xd4: // PADDQ
      return i64x2.add(a, b);
    case 0xd5: // PMULLW
      return i16x8.mul(a, b);
    case 0xd8: // PSUBUSB
      return i8x16.sub_sat_u(a, b);
    case 0xd9: // PSUBUSW
      return i16x8.sub_sat_u(a, b);
    case 0xda: // PMINUB
      return i8x16.min_u(a, b);
    case 0xdb: // PAND
      return v128.and(a, b);
    case 0xdc: // PADDUSB
      return i8x16.add_sat_u(a, b);
    case 0xdd: // PADDUSW
      return i16x8.add_sat_u(a, b);
    case 0xde: // PMAXUB
      return i8x16.max_u(a, b);
    case 0xdf: // PANDN
      return v128.andnot(b, a);
    case 0xe0: // PAVGB
      return i8x16.avgr_u(a, b);
    case 0xe1: // PSRAW
      return shiftArithmetic16(a, i64x2.extract_lane(b, 0));
    case 0xe2: // PSRAD
      return shiftArithmetic32(a, i64x2.extract_lane(b, 0));
    case 0xe3: // PAVGW
      return i16x8.avgr_u(a, b);
    case 0xe4: // PMULHUW
      return upperWords(i32x4.extmul_low_i16x8_u(a, b), i32x4.extmul_high_i16x8_u(a, b));
    case 0xe5: // PMULHW
      return upperWords(i32x4.extmul_low_i16x8_s(a, b), i32x4.extmul_high_i16x8_s(a, b));
    case 0xe8: // PSUBSB
      return i8x16.sub_sat_s(a, b);
    case 0xe9: // PSUBSW
      return i16x8.sub_sat_s(a, b);
    case 0xea: // PMINSW
      return i16x8.min_s(a, b);
    case 0xeb: // POR
      return v128.or(a, b);
    case 0xec: // PADDSB
      return i8x16.add_sat_s(a, b);
    case 0xed: // PADDSW
      return i16x8.add_sat_s(a, b);
    case 0xee: // PMAXSW
      return i16x8.max_s(a, b);
    case 0xef: // PXOR
      return v128.xor(a, b);
    case 0xf1: // PSLLW
      return shiftLeft16(a, i64x2.extract_lane(b, 0));
    case 0xf2: // PSLLD
      return shiftLeft32(a, i64x2.extract_lane(b, 0));
    case 0xf3: // PSLLQ
      return shiftLeft64(a, i64x2.extract_lane(b, 0));
    case 0xf4: // PMULUDQ
      return i64x2.extmul_low_i32x4_u(i32x4.shuffle(a, a, 0, 2, 0, 2), i32x4.shuffle(b, b, 0, 2, 0, 2));
    case 0xf5: // PMADDWD
      return i32x4.dot_i16x8_s(a, b);
    case 0xf6: // PSADBW
      return sumOfDifferences(a, b);
    case 0xf8: // PSUBB
      return i8x16.sub(a, b);
    case 0xf9: // PSUBW
      return i16x8.sub(a, b);
    case 0xfa: // PSUBD
      return i32x4.sub(a, b);
    case 0xfb: // PSUBQ
      return i64x2.sub(a, b);
    case 0xfc: // PADDB
      return i8x16.add(a, b);
    case 0xfd: // PADDW
      return i16x8.add(a, b);
    default: // PADDD
      return i32x4.add(a, b);
  }
}

@inline
function upperWords(low: v128, high: v128): v128 {
  return i16x8.shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
}

function sumOfDifferences(a: v128, b: v128): v128 {
  const differences = v128.or(i8x16.sub_sat_u(a, b), i8x16.sub_sat_u(b, a));
  const sums = i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(differences));
  return i64x2.add(i64x2.shr_u(sums, 32), v128.and(sums, i64x2.splat(0xffff_ffff)));
}

// Shift counts are 64 bits long; those of Wasm are taken modulo the size of the element.

function shiftLeft16(value: v128, count: u64): v128 {
  return count > 15 ? i64x2.splat(0) : i16x8.shl(value, <i32>count);
}

function shiftLeft32(value: v128, count: u64): v128 {
  return count > 31 ? i64x2.splat(0) : i32x4.shl(value, <i32>count);
}

function shiftLeft64(value: v128, count: u64): v128 {
  return count > 63 ? i64x2.splat(0) : i64x2.shl(value, <i32>count);
}

function shiftRight16(value: v128, count: u64): v128 {
  return count > 15 ? i64x2.splat(0) : i16x8.shr_u(value, <i32>count);
}

function shiftRight32(value: v128, count: u64): v128 {
  return count > 31 ? i64x2.splat(0) : i32x4.shr_u(value, <i32>count);
}

function shiftRight64(value: v128, count: u64): v128 {
  return count > 63 ? i64x2.splat(0) : i64x2.shr_u(value, <i32>count);
}

function shiftArithmetic16(value: v128, count: u64): v128 {
  return i16x8.shr_s(value, count > 15 ? 15 : <i32>count);
}

function shiftArithmetic32(value: v128, count: u64): v128 {
  return i32x4.shr_s(value, count > 31 ? 31 : <i32>count);
}

/** Opcodes 71 to 73: shifts by an immediate count, ModRM.reg says which. */
export function execShiftImmediate(pc: usize): bool {
  if (isMemory(pc)) return unsupported();
  const isMmx = prefix(pc) == PREFIX_NONE;
  const operation = (load<u8>(pc, COLD_MODRM) >> 3) & 7;
  const elements = (load<u16>(pc, COLD_CODE) & 0xff) - 0x71;
  const count = imm8(pc);
  const number = registerB(pc);
  const value = isMmx ? v128.load64_zero(mmx(number)) : v128.load(number);
  let result: v128;
  switch (elements * 8 + operation) {
    case 2:
      result = shiftRight16(value, count);
      break;
    case 4:
      result = shiftArithmetic16(value, count);
      break;
    case 6:
      result = shiftLeft16(value, count);
      break;
    case 10:
      result = shiftRight32(value, count);
      break;
    case 12:
      result = shiftArithmetic32(value, count);
      break;
    case 14:
      result = shiftLeft32(value, count);
      break;
    case 18:
      result = shiftRight64(value, count);
      break;
    case 19:
      if (isMmx) return unsupported();
      result = shiftBytesRight(value, count);
      break;
    case 22:
      result = shiftLeft64(value, count);
      break;
    case 23:
      if (isMmx) return unsupported();
      result = shiftBytesLeft(value, count);
      break;
    default:
      return unsupported();
  }
  if (isMmx) setMmx(number, i64x2.extract_lane(result, 0));
  else v128.store(number, result);
  return true;
}

/** Bytes beyond the end are 0: a swizzle finds none for numbers above 15. */
@inline
export function shiftBytesRight(value: v128, count: u32): v128 {
  return i8x16.swizzle(value, i8x16.add(byteNumbers(), i8x16.splat(<i8>min<u32>(count, 16))));
}

@inline
export function shiftBytesLeft(value: v128, count: u32): v128 {
  return i8x16.swizzle(value, i8x16.sub(byteNumbers(), i8x16.splat(<i8>min<u32>(count, 16))));
}
