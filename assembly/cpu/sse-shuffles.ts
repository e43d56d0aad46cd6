// SPDX-License-Identifier: Apache-2.0
// Elements that change places: shuffles, and single elements in and out of vectors. SDM volume 2.
import { writeValue } from "./access.ts";
import { joinLow, shiftBytesLeft, shiftBytesRight } from "./sse-integer.ts";
import {
  imm8,
  mmx,
  PREFIX_66,
  PREFIX_F3,
  PREFIX_NONE,
  prefix,
  setMmx,
  source,
  source128,
  sourceMmx,
} from "./sse-operands.ts";
import { address, COLD_CODE, isMemory, registerA, registerB } from "./uop.ts";

/** Opcode 70: PSHUFW, PSHUFD, PSHUFHW, PSHUFLW. */
export function execShuffle(pc: usize): bool {
  const order = imm8(pc);
  const kind = prefix(pc);
  if (kind == PREFIX_NONE) {
    const from = sourceMmx(pc, 8);
    if (from == 0) return false;
    setMmx(registerA(pc), shuffleWords(from, order));
    return true;
  }
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  let low = load<u64>(from);
  let high = load<u64>(from, 8);
  if (kind == PREFIX_66) {
    const first = pick32(from, order);
    const second = pick32(from, order >> 4);
    low = first;
    high = second;
  } else if (kind == PREFIX_F3) high = shuffleWords(from + 8, order);
  else low = shuffleWords(from, order);
  store<u64>(to, low);
  store<u64>(to, high, 8);
  return true;
}

/** Two elements, named by bits 0–1 and 2–3. */
@inline
function pick32(from: usize, order: u32): u64 {
  const low = <u64>load<u32>(from + ((order & 3) << 2));
  return low | (<u64>load<u32>(from + (((order >> 2) & 3) << 2)) << 32);
}

function shuffleWords(from: usize, order: u32): u64 {
  let result: u64 = 0;
  for (let index: u32 = 0; index < 4; index++) {
    result |= <u64>load<u16>(from + (((order >> (2 * index)) & 3) << 1)) << (16 * index);
  }
  return result;
}

/** SHUFPS, SHUFPD. */
export function execShuffleFloats(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  const order = imm8(pc);
  const isDouble = prefix(pc) == PREFIX_66;
  const low = isDouble ? load<u64>(to + ((order & 1) << 3)) : pick32(to, order);
  const high = isDouble ? load<u64>(from + ((order & 2) << 2)) : pick32(from, order >> 4);
  store<u64>(to, low);
  store<u64>(to, high, 8);
  return true;
}

/** UNPCKLPS, UNPCKLPD, UNPCKHPS, UNPCKHPD. */
export function execUnpackFloats(pc: usize): bool {
  const from = source128(pc);
  if (from == 0) return false;
  const to = registerA(pc);
  const a = v128.load(to);
  const b = v128.load(from);
  const isHigh = (load<u16>(pc, COLD_CODE) & 1) != 0;
  let result: v128;
  if (prefix(pc) == PREFIX_66) result = isHigh ? i64x2.shuffle(a, b, 1, 3) : i64x2.shuffle(a, b, 0, 2);
  else result = isHigh ? i32x4.shuffle(a, b, 2, 6, 3, 7) : i32x4.shuffle(a, b, 0, 4, 1, 5);
  v128.store(to, result);
  return true;
}

/** PALIGNR: 16 of the 32 bytes that the two operands are, the first of them upper. */
export function execAlign(pc: usize): bool {
  const count = imm8(pc);
  const number = registerA(pc);
  if (prefix(pc) == PREFIX_NONE) {
    const from = sourceMmx(pc, 8);
    if (from == 0) return false;
    const both = joinLow(v128.load64_zero(from), v128.load64_zero(mmx(number)));
    setMmx(number, i64x2.extract_lane(shiftBytesRight(both, count), 0));
    return true;
  }
  const from = source128(pc);
  if (from == 0) return false;
  const upper = v128.load(number);
  const low = shiftBytesRight(v128.load(from), count);
  const high = count < 16 ? shiftBytesLeft(upper, 16 - count) : shiftBytesRight(upper, count - 16);
  v128.store(number, v128.or(low, high));
  return true;
}

/** PINSRW, PINSRB, PINSRD, PINSRQ. */
export function execInsert(pc: usize, sizeBytes: u32): bool {
  const from = source(pc, sizeBytes);
  if (from == 0) return false;
  const isMmx = prefix(pc) == PREFIX_NONE;
  const to = isMmx ? mmx(registerA(pc)) : registerA(pc);
  const place = to + ((imm8(pc) * sizeBytes) & (isMmx ? 7 : 15));
  switch (sizeBytes) {
    case 1:
      store<u8>(place, load<u8>(from));
      break;
    case 2:
      store<u16>(place, load<u16>(from));
      break;
    case 4:
      store<u32>(place, load<u32>(from));
      break;
    default:
      store<u64>(place, load<u64>(from));
      break;
  }
  if (isMmx) setMmx(registerA(pc), load<u64>(to));
  return true;
}

/** PEXTRB, PEXTRW to memory too, PEXTRD, PEXTRQ, EXTRACTPS. */
export function execExtract(pc: usize, sizeBytes: u32): bool {
  const value = element(registerA(pc), (imm8(pc) * sizeBytes) & 15, sizeBytes);
  if (isMemory(pc)) return writeValue(address(pc), sizeBytes, value);
  store<u64>(registerB(pc), value);
  return true;
}

/** Opcode C5: PEXTRW to a register. */
export function execExtractWord(pc: usize): bool {
  const isMmx = prefix(pc) == PREFIX_NONE;
  const from = isMmx ? mmx(registerB(pc)) : registerB(pc);
  store<u64>(registerA(pc), element(from, (imm8(pc) * 2) & (isMmx ? 7 : 15), 2));
  return true;
}

function element(register: usize, offset: u32, sizeBytes: u32): u64 {
  switch (sizeBytes) {
    case 1:
      return load<u8>(register + offset);
    case 2:
      return load<u16>(register + offset);
    case 4:
      return load<u32>(register + offset);
    default:
      return load<u64>(register + offset);
  }
}

/** INSERTPS. */
export function execInsertFloat(pc: usize): bool {
  const order = imm8(pc);
  const from = source(pc, isMemory(pc) ? 4 : 16);
  if (from == 0) return false;
  const to = registerA(pc);
  const value = load<u32>(isMemory(pc) ? from : from + ((order >> 6) << 2));
  store<u32>(to + (((order >> 4) & 3) << 2), value);
  for (let index: u32 = 0; index < 4; index++) {
    if ((order >> index) & 1) store<u32>(to + 4 * index, 0);
  }
  return true;
}

/** PMOVMSKB. */
export function execByteMask(pc: usize): bool {
  const number = registerB(pc);
  const value = prefix(pc) == PREFIX_NONE ? v128.load64_zero(mmx(number)) : v128.load(number);
  store<u64>(registerA(pc), <u64>(<u32>i8x16.bitmask(value)));
  return true;
}

/** MOVMSKPS, MOVMSKPD. */
export function execFloatMask(pc: usize): bool {
  const value = v128.load(registerB(pc));
  const mask = prefix(pc) == PREFIX_66 ? i64x2.bitmask(value) : i32x4.bitmask(value);
  store<u64>(registerA(pc), <u64>(<u32>mask));
  return true;
}
