// SPDX-License-Identifier: Apache-2.0
// The six arithmetic flags, made when they are asked for. An instruction leaves its result, its first operand and what it was;
// most of that is never looked at. SDM volume 1, 3.4.3.1.
//
// CPU_FLAG_KIND is one of FLAGS_*, plus the operand's size in bytes << 8. Results and operands are zero-extended, so that
//   ZF    result == 0                      always, even for FLAGS_KNOWN: whoever makes that keeps the result so
//   CF    add: result < first              subtract: result > first         others: CPU_FLAG_CARRY
import { CPU_FLAG_CARRY, CPU_FLAG_FIRST, CPU_FLAG_KIND, CPU_FLAG_RESULT, CPU_RFLAGS } from "./layout.ts";
import { cpu } from "./vcpu.ts";

/** All six are in CPU_FLAG_CARRY, as in RFLAGS. */
export const FLAGS_KNOWN: u32 = 0;
export const FLAGS_ADD: u32 = 1;
/** Also compare and negate (of which the first operand is 0). */
export const FLAGS_SUB: u32 = 2;
/** CF, OF and AF are 0. */
export const FLAGS_LOGIC: u32 = 3;
/** CF as before, in CPU_FLAG_CARRY. */
export const FLAGS_INC: u32 = 4;
export const FLAGS_DEC: u32 = 5;

export const CF: u32 = 1;
export const PF: u32 = 4;
export const AF: u32 = 0x10;
export const ZF: u32 = 0x40;
export const SF: u32 = 0x80;
export const OF: u32 = 0x800;
export const ARITHMETIC_FLAGS: u32 = CF | PF | AF | ZF | SF | OF;

export const TF: u32 = 0x100;
export const IF: u32 = 0x200;
export const DF: u32 = 0x400;
export const IOPL: u32 = 0x3000;
export const NT: u32 = 0x4000;
export const RF: u32 = 0x1_0000;
export const VM: u32 = 0x2_0000;
export const AC: u32 = 0x4_0000;
export const ID: u32 = 0x20_0000;

/** For an operation whose operands were `sizeBytes` long. */
@inline
export function setLazyFlags(kind: u32, sizeBytes: u32, result: u64, first: u64): void {
  store<u64>(cpu, result, CPU_FLAG_RESULT);
  store<u64>(cpu, first, CPU_FLAG_FIRST);
  store<u32>(cpu, kind | (sizeBytes << 8), CPU_FLAG_KIND);
}

/** INC and DEC leave CF alone. */
@inline
export function setIncFlags(kind: u32, sizeBytes: u32, result: u64): void {
  store<u32>(cpu, <u32>carry(), CPU_FLAG_CARRY);
  store<u64>(cpu, result, CPU_FLAG_RESULT);
  store<u32>(cpu, kind | (sizeBytes << 8), CPU_FLAG_KIND);
}

/** All six, as in RFLAGS. */
export function setFlags(flags: u32): void {
  store<u32>(cpu, flags & ARITHMETIC_FLAGS, CPU_FLAG_CARRY);
  store<u64>(cpu, flags & ZF ? 0 : 1, CPU_FLAG_RESULT);
  store<u32>(cpu, FLAGS_KNOWN, CPU_FLAG_KIND);
}

/** One of the six. */
export function setFlag(flag: u32, isSet: bool): void {
  setFlags(isSet ? arithmeticFlags() | flag : arithmeticFlags() & ~flag);
}

/** CF, as 0 or 1. */
export function carry(): bool {
  const kind = load<u32>(cpu, CPU_FLAG_KIND) & 0xff;
  switch (kind) {
    case FLAGS_ADD:
      return load<u64>(cpu, CPU_FLAG_RESULT) < load<u64>(cpu, CPU_FLAG_FIRST);
    case FLAGS_SUB:
      return load<u64>(cpu, CPU_FLAG_RESULT) > load<u64>(cpu, CPU_FLAG_FIRST);
    case FLAGS_LOGIC:
      return false;
    default:
      return (load<u32>(cpu, CPU_FLAG_CARRY) & CF) != 0;
  }
}

/** ZF, SF and PF of a result. */
export function resultFlags(result: u64, sizeBytes: u32): u32 {
  const sign = <u32>(result >> (8 * sizeBytes - 1)) & 1;
  return (result == 0 ? ZF : 0) | (sign << 7) | ((popcnt<u32>(<u32>result & 0xff) & 1) ? 0 : PF);
}

/** All six, as in RFLAGS. */
export function arithmeticFlags(): u32 {
  const kindAndSize = load<u32>(cpu, CPU_FLAG_KIND);
  const kind = kindAndSize & 0xff;
  if (kind == FLAGS_KNOWN) return load<u32>(cpu, CPU_FLAG_CARRY);
  const sizeBytes = kindAndSize >> 8;
  const result = load<u64>(cpu, CPU_FLAG_RESULT);
  const flags = resultFlags(result, sizeBytes) | u32(carry());
  const signBit: u64 = 1 << (8 * sizeBytes - 1);
  switch (kind) {
    case FLAGS_ADD: {
      const first = load<u64>(cpu, CPU_FLAG_FIRST);
      const second = result - first;
      const overflow = (first ^ result) & (second ^ result) & signBit;
      return flags | (<u32>(first ^ second ^ result) & AF) | (overflow ? OF : 0);
    }
    case FLAGS_SUB: {
      const first = load<u64>(cpu, CPU_FLAG_FIRST);
      const second = first - result;
      const overflow = (first ^ second) & (first ^ result) & signBit;
      return flags | (<u32>(first ^ second ^ result) & AF) | (overflow ? OF : 0);
    }
    case FLAGS_INC:
      return flags | ((<u32>result & 15) == 0 ? AF : 0) | (result == signBit ? OF : 0);
    case FLAGS_DEC:
      return flags | ((<u32>result & 15) == 15 ? AF : 0) | (result == signBit - 1 ? OF : 0);
    default:
      return flags;
  }
}

/** RFLAGS as PUSHF sees it, but for RF and VM. */
export function rflags(): u64 {
  return load<u64>(cpu, CPU_RFLAGS) | arithmeticFlags();
}

/** All of RFLAGS; the caller has masked what may not change. */
export function setRflags(flags: u64): void {
  setFlags(<u32>flags);
  store<u64>(cpu, (flags & ~(<u64>ARITHMETIC_FLAGS)) | 2, CPU_RFLAGS);
}

/** Whether a condition (the low four bits of Jcc's opcode) holds: SDM volume 1, appendix B. */
export function condition(code: u32): bool {
  let holds: bool;
  switch ((code >> 1) & 7) {
    case 0:
      holds = (arithmeticFlags() & OF) != 0;
      break;
    case 1:
      holds = carry();
      break;
    case 2:
      holds = load<u64>(cpu, CPU_FLAG_RESULT) == 0;
      break;
    case 3:
      holds = carry() || load<u64>(cpu, CPU_FLAG_RESULT) == 0;
      break;
    case 4:
      holds = (arithmeticFlags() & SF) != 0;
      break;
    case 5:
      holds = (arithmeticFlags() & PF) != 0;
      break;
    case 6: {
      const flags = arithmeticFlags();
      holds = ((flags & SF) != 0) != ((flags & OF) != 0);
      break;
    }
    default: {
      const flags = arithmeticFlags();
      holds = (flags & ZF) != 0 || ((flags & SF) != 0) != ((flags & OF) != 0);
      break;
    }
  }
  return holds != ((code & 1) != 0);
}
