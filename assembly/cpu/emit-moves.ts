// SPDX-License-Identifier: Apache-2.0
// Uops of moves: MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, BSWAP, CBW and CWD with their likes, PUSH, POP and LEAVE; and of NOP.
//
// Those that say whether they have made a uop leave the others to OP_COLD.
import * as d from "./decode.ts";
import {
  gpr,
  group,
  half,
  noteFlagsSeen,
  opcodeNumber,
  prepareAddress,
  prepareOperand,
  put,
  putImmediate,
  putMemory,
  putOperand,
  putOperandImmediate,
  putRegisters,
  putRegistersImmediate,
  sizeByOpcode,
} from "./emit.ts";
import * as ops from "./ops.ts";
import { addressRegister, UOP_A, UOP_SECOND_IMMEDIATE, UOP_SIZE_BYTES } from "./uop.ts";

/** 0 to 3, in the order of uops of moves: 64, 32, 16 and 8 bits. */
function width(sizeBytes: u32): u16 {
  return <u16>(3 - ctz(sizeBytes));
}

export function emitNop(): bool {
  put(ops.OP_NOP, UOP_SIZE_BYTES);
  return true;
}

// ── MOV ──

export function emitLoad(): bool {
  const size = sizeByOpcode();
  const number = width(size);
  putOperand(ops.OP_MOV_RR64 + number, ops.OP_MOV_RM64 + number, gpr(d.reg, size), gpr(d.rm, size));
  return true;
}

export function emitStore(): bool {
  const size = sizeByOpcode();
  const register = gpr(d.reg, size);
  if (d.hasMemory) {
    prepareOperand();
    putMemory(ops.OP_MOV_MR64 + width(size), register);
  } else putRegisters(ops.OP_MOV_RR64 + width(size), gpr(d.rm, size), register);
  return true;
}

/** To ModRM.rm. */
export function emitMoveImmediate(): bool {
  if (group() != 0) return false;
  const size = sizeByOpcode();
  putOperandImmediate(ops.OP_MOV_RI64 + width(size), ops.OP_MOV_MI64 + width(size), gpr(d.rm, size));
  return true;
}

/** To the opcode's register. */
export function emitMoveRegisterImmediate(size: u32): bool {
  const a = gpr(opcodeNumber(), size);
  if (size != 8 || d.immediate == <i64>(<i32>d.immediate)) {
    putImmediate(ops.OP_MOV_RI64 + width(size), a, d.immediate);
    return true;
  }
  const uop = put(ops.OP_MOV_RI_FAR, 2 * UOP_SIZE_BYTES);
  store<u16>(uop, <u16>a, UOP_A);
  store<i64>(uop, d.immediate, UOP_SECOND_IMMEDIATE);
  return true;
}

// ── Moves that change what they move ──

/** MOVZX, MOVSX and MOVSXD, from operands of that size. */
export function emitExtension(registers: u16, memory: u16, size: u32): bool {
  putOperand(registers, memory, gpr(d.reg, 8), gpr(d.rm, size));
  return true;
}

/** CWDE, CDQE. */
export function emitExtendAccumulator(): bool {
  put(d.operandSize == 8 ? ops.OP_CDQE : ops.OP_CWDE, UOP_SIZE_BYTES);
  return true;
}

/** CDQ, CQO. */
export function emitExtendIntoD(): bool {
  put(d.operandSize == 8 ? ops.OP_CQO : ops.OP_CDQ, UOP_SIZE_BYTES);
  return true;
}

/** BSWAP. */
export function emitSwapBytes(): bool {
  const size = d.operandSize;
  putRegisters(ops.OP_BSWAP64 + half(size), gpr(opcodeNumber(), size), 0);
  return true;
}

/** In every mode and size: what its address is, is known. Of 16 bits the address is made first, as any that is not simple. */
export function emitLea(): void {
  const size = d.operandSize;
  prepareAddress(false);
  putMemory(size == 8 ? ops.OP_LEA64 : ops.OP_LEA32, size == 2 ? addressRegister() : gpr(d.reg, size));
  if (size == 2) putRegisters(ops.OP_MOV_RR16, gpr(d.reg, 2), addressRegister());
}

/** XCHG of registers. */
export function emitExchange(a: u32, b: u32): bool {
  const size = d.operandSize;
  putRegisters(ops.OP_XCHG_RR64 + half(size), gpr(a, size), gpr(b, size));
  return true;
}

// ── Moves by a condition ──

export function emitConditionalMove(): bool {
  if (d.hasMemory) return false;
  const size = d.operandSize;
  noteFlagsSeen();
  putRegistersImmediate(ops.OP_CMOV_RR64 + half(size), gpr(d.reg, size), gpr(d.rm, size), d.code & 15);
  return true;
}

export function emitSetCondition(): bool {
  if (d.hasMemory) return false;
  noteFlagsSeen();
  putImmediate(ops.OP_SETCC_R, gpr(d.rm, 1), d.code & 15);
  return true;
}

// ── The stack ──

export function emitPush(number: u32): bool {
  noteFlagsSeen();
  putRegisters(ops.OP_PUSH_R, gpr(number, 8), 0);
  return true;
}

/** Of group 5. */
export function emitPushOperand(): bool {
  if (!d.hasMemory) return emitPush(d.rm);
  prepareOperand();
  putMemory(ops.OP_PUSH_M, 0);
  return true;
}

export function emitPushImmediate(): bool {
  noteFlagsSeen();
  putImmediate(ops.OP_PUSH_I, 0, d.immediate);
  return true;
}

export function emitPop(number: u32): bool {
  noteFlagsSeen();
  putRegisters(ops.OP_POP_R, gpr(number, 8), 0);
  return true;
}

export function emitLeave(): bool {
  noteFlagsSeen();
  put(ops.OP_LEAVE, UOP_SIZE_BYTES);
  return true;
}
