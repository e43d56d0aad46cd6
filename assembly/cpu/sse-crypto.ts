// SPDX-License-Identifier: Apache-2.0
// AES-NI, PCLMULQDQ and CRC32. SDM volume 2; FIPS 197 for AES.
//
// A state of AES is a vector, byte i is row i & 3 of column i >> 2.
import { generalSize, imm8, source, source128 } from "./sse-operands.ts";
import { COLD_CODE, registerA } from "./uop.ts";

/** AESIMC, AESENC, AESENCLAST, AESDEC, AESDECLAST: opcodes DB to DF. */
export function execAes(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  const state = v128.load(to);
  const key = v128.load(from);
  let result: v128;
  switch (load<u16>(pc, COLD_CODE) & 0xff) {
    case 0xdb:
      v128.store(to, unmixColumns(key));
      return true;
    case 0xdc:
      result = mixColumns(substitute(shiftRows(state)));
      break;
    case 0xdd:
      result = substitute(shiftRows(state));
      break;
    case 0xde:
      result = unmixColumns(unsubstitute(unshiftRows(state)));
      break;
    default:
      result = unsubstitute(unshiftRows(state));
      break;
  }
  v128.store(to, v128.xor(result, key));
  return true;
}

/** AESKEYGENASSIST */
export function execAesKey(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const words = substitute(v128.load(from));
  const rotated = i8x16.shuffle(words, words, 4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12);
  const round = imm8(pc);
  v128.store(registerA(pc), v128.xor(rotated, i32x4(0, round, 0, round)));
  return true;
}

@inline
function shiftRows(state: v128): v128 {
  return i8x16.shuffle(state, state, 0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11);
}

@inline
function unshiftRows(state: v128): v128 {
  return i8x16.shuffle(state, state, 0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3);
}

/** Times x in GF(2^8), for each byte. */
@inline
function double(value: v128): v128 {
  return v128.xor(i8x16.add(value, value), v128.and(i8x16.shr_s(value, 7), i8x16.splat(0x1b)));
}

@inline
function rotateColumns(value: v128): v128 {
  return i8x16.shuffle(value, value, 1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12);
}

/** Each byte is 2a + 3b + c + d of its column, itself first. */
function mixColumns(state: v128): v128 {
  const next = rotateColumns(state);
  const pairs = v128.xor(state, next);
  const others = i32x4.add(i32x4.shl(pairs, 16), i32x4.shr_u(pairs, 16));
  return v128.xor(v128.xor(double(pairs), next), others);
}

/** The matrix of the inverse is that of mixColumns times one of 5 and 4: a is 5a + 4c first. */
function unmixColumns(state: v128): v128 {
  const opposite = i32x4.add(i32x4.shl(state, 16), i32x4.shr_u(state, 16));
  return mixColumns(v128.xor(state, double(double(v128.xor(state, opposite)))));
}

/** What a row of 16 bytes of a table has for the bytes whose upper half is its number; others are 0. */
@inline
function row(indices: v128, number: i32, values: v128): v128 {
  return i8x16.swizzle(values, i8x16.sub(indices, i8x16.splat(<i8>(number << 4))));
}

/** SubBytes */
function substitute(state: v128): v128 {
  let result = row(state, 0, i8x16(99, 124, 119, 123, -14, 107, 111, -59, 48, 1, 103, 43, -2, -41, -85, 118));
  result = v128.or(result, row(state, 1, i8x16(-54, -126, -55, 125, -6, 89, 71, -16, -83, -44, -94, -81, -100, -92, 114, -64)));
  result = v128.or(result, row(state, 2, i8x16(-73, -3, -109, 38, 54, 63, -9, -52, 52, -91, -27, -15, 113, -40, 49, 21)));
  result = v128.or(result, row(state, 3, i8x16(4, -57, 35, -61, 24, -106, 5, -102, 7, 18, -128, -30, -21, 39, -78, 117)));
  result = v128.or(result, row(state, 4, i8x16(9, -125, 44, 26, 27, 110, 90, -96, 82, 59, -42, -77, 41, -29, 47, -124)));
  result = v128.or(result, row(state, 5, i8x16(83, -47, 0, -19, 32, -4, -79, 91, 106, -53, -66, 57, 74, 76, 88, -49)));
  result = v128.or(result, row(state, 6, i8x16(-48, -17, -86, -5, 67, 77, 51, -123, 69, -7, 2, 127, 80, 60, -97, -88)));
  result = v128.or(result, row(state, 7, i8x16(81, -93, 64, -113, -110, -99, 56, -11, -68, -74, -38, 33, 16, -1, -13, -46)));
  result = v128.or(result, row(state, 8, i8x16(-51, 12, 19, -20, 95, -105, 68, 23, -60, -89, 126, 61, 100, 93, 25, 115)));
  result = v128.or(result, row(state, 9, i8x16(96, -127, 79, -36, 34, 42, -112, -120, 70, -18, -72, 20, -34, 94, 11, -37)));
  result = v128.or(result, row(state, 10, i8x16(-32, 50, 58, 10, 73, 6, 36, 92, -62, -45, -84, 98, -111, -107, -28, 121)));
  result = v128.or(result, row(state, 11, i8x16(-25, -56, 55, 109, -115, -43, 78, -87, 108, 86, -12, -22, 101, 122, -82, 8)));
  result = v128.or(result, row(state, 12, i8x16(-70, 120, 37, 46, 28, -90, -76, -58, -24, -35, 116, 31, 75, -67, -117, -118)));
  result = v128.or(result, row(state, 13, i8x16(112, 62, -75, 102, 72, 3, -10, 14, 97, 53, 87, -71, -122, -63, 29, -98)));
  result = v128.or(result, row(state, 14, i8x16(-31, -8, -104, 17, 105, -39, -114, -108, -101, 30, -121, -23, -50, 85, 40, -33)));
  result = v128.or(result, row(state, 15, i8x16(-116, -95, -119, 13, -65, -26, 66, 104, 65, -103, 45, 15, -80, 84, -69, 22)));
  return result;
}

/** InvSubBytes */
function unsubstitute(state: v128): v128 {
  let result = row(state, 0, i8x16(82, 9, 106, -43, 48, 54, -91, 56, -65, 64, -93, -98, -127, -13, -41, -5));
  result = v128.or(result, row(state, 1, i8x16(124, -29, 57, -126, -101, 47, -1, -121, 52, -114, 67, 68, -60, -34, -23, -53)));
  result = v128.or(result, row(state, 2, i8x16(84, 123, -108, 50, -90, -62, 35, 61, -18, 76, -107, 11, 66, -6, -61, 78)));
  result = v128.or(result, row(state, 3, i8x16(8, 46, -95, 102, 40, -39, 36, -78, 118, 91, -94, 73, 109, -117, -47, 37)));
  result = v128.or(result, row(state, 4, i8x16(114, -8, -10, 100, -122, 104, -104, 22, -44, -92, 92, -52, 93, 101, -74, -110)));
  result = v128.or(result, row(state, 5, i8x16(108, 112, 72, 80, -3, -19, -71, -38, 94, 21, 70, 87, -89, -115, -99, -124)));
  result = v128.or(result, row(state, 6, i8x16(-112, -40, -85, 0, -116, -68, -45, 10, -9, -28, 88, 5, -72, -77, 69, 6)));
  result = v128.or(result, row(state, 7, i8x16(-48, 44, 30, -113, -54, 63, 15, 2, -63, -81, -67, 3, 1, 19, -118, 107)));
  result = v128.or(result, row(state, 8, i8x16(58, -111, 17, 65, 79, 103, -36, -22, -105, -14, -49, -50, -16, -76, -26, 115)));
  result = v128.or(result, row(state, 9, i8x16(-106, -84, 116, 34, -25, -83, 53, -123, -30, -7, 55, -24, 28, 117, -33, 110)));
  result = v128.or(result, row(state, 10, i8x16(71, -15, 26, 113, 29, 41, -59, -119, 111, -73, 98, 14, -86, 24, -66, 27)));
  result = v128.or(result, row(state, 11, i8x16(-4, 86, 62, 75, -58, -46, 121, 32, -102, -37, -64, -2, 120, -51, 90, -12)));
  result = v128.or(result, row(state, 12, i8x16(31, -35, -88, 51, -120, 7, -57, 49, -79, 18, 16, 89, 39, -128, -20, 95)));
  result = v128.or(result, row(state, 13, i8x16(96, 81, 127, -87, 25, -75, 74, 13, 45, -27, 122, -97, -109, -55, -100, -17)));
  result = v128.or(result, row(state, 14, i8x16(-96, -32, 59, 77, -82, 42, -11, -80, -56, -21, -69, 60, -125, 83, -103, 97)));
  result = v128.or(result, row(state, 15, i8x16(23, 43, 4, 126, -70, 119, -42, 38, -31, 105, 20, 99, 85, 33, 12, 125)));
  return result;
}

/** PCLMULQDQ */
export function execMultiplyCarryless(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const order = imm8(pc);
  const to = registerA(pc);
  const a = load<u64>(to + ((order & 1) << 3));
  const b = load<u64>(from + ((order & 0x10) >> 1));
  store<u64>(to, multiplyCarryless(a, b));
  // Backwards it is the same.
  store<u64>(to, reverse(multiplyCarryless(reverse(a), reverse(b))) >> 1, 8);
  return true;
}

/** Every fourth bit. */
const FOURTHS: u64 = 0x1111_1111_1111_1111;

/**
 * Low half of a product without carries, made of such with carries: between bits that are three zeroes apart there is room for the
 * sum of 15, and the only one of 16 is at the upper end.
 */
function multiplyCarryless(a: u64, b: u64): u64 {
  const a0 = a & FOURTHS;
  const a1 = a & (FOURTHS << 1);
  const a2 = a & (FOURTHS << 2);
  const a3 = a & (FOURTHS << 3);
  const b0 = b & FOURTHS;
  const b1 = b & (FOURTHS << 1);
  const b2 = b & (FOURTHS << 2);
  const b3 = b & (FOURTHS << 3);
  const c0 = (a0 * b0) ^ (a1 * b3) ^ (a2 * b2) ^ (a3 * b1);
  const c1 = (a0 * b1) ^ (a1 * b0) ^ (a2 * b3) ^ (a3 * b2);
  const c2 = (a0 * b2) ^ (a1 * b1) ^ (a2 * b0) ^ (a3 * b3);
  const c3 = (a0 * b3) ^ (a1 * b2) ^ (a2 * b1) ^ (a3 * b0);
  return (c0 & FOURTHS) | (c1 & (FOURTHS << 1)) | (c2 & (FOURTHS << 2)) | (c3 & (FOURTHS << 3));
}

/** Its bits in the opposite order. */
function reverse(value: u64): u64 {
  value = ((value >> 1) & 0x5555_5555_5555_5555) | ((value & 0x5555_5555_5555_5555) << 1);
  value = ((value >> 2) & 0x3333_3333_3333_3333) | ((value & 0x3333_3333_3333_3333) << 2);
  value = ((value >> 4) & 0x0f0f_0f0f_0f0f_0f0f) | ((value & 0x0f0f_0f0f_0f0f_0f0f) << 4);
  return bswap<u64>(value);
}

// CRC-32C, bits reflected: what is left of a bit after one step, two, three and four.
const AFTER_1: u32 = 0x82f6_3b78;
const AFTER_2: u32 = 0x417b_1dbc;
const AFTER_3: u32 = 0x20bd_8ede;
const AFTER_4: u32 = 0x105e_c76f;

/** CRC32, opcodes F0 (of a byte) and F1. */
export function execCrc32(pc: usize): bool {
  const sizeBytes: u32 = load<u16>(pc, COLD_CODE) & 1 ? generalSize(pc) : 1;
  const from = source(pc, sizeBytes);
  if (from == 0) return false;
  const to = registerA(pc);
  let sum = load<u32>(to);
  for (let offset: u32 = 0; offset < sizeBytes; offset++) {
    sum ^= load<u8>(from + offset);
    sum = afterFour(afterFour(sum));
  }
  store<u64>(to, <u64>sum);
  return true;
}

@inline
function afterFour(sum: u32): u32 {
  const low = (AFTER_4 & -(sum & 1)) ^ (AFTER_3 & -((sum >> 1) & 1));
  const high = (AFTER_2 & -((sum >> 2) & 1)) ^ (AFTER_1 & -((sum >> 3) & 1));
  return (sum >> 4) ^ low ^ high;
}
