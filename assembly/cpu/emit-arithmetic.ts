// SPDX-License-Identifier: Apache-2.0
// Uops of arithmetic: opcodes 00 to 3F and group 1, TEST, NOT, NEG, INC, DEC, MUL and IMUL.
//
// All say whether they have made a uop; OP_COLD is left for the others.
import * as d from "./decode.ts";
import {
  gpr,
  group,
  half,
  noteFlags,
  noteFlagsSeen,
  prepareOperand,
  putImmediate,
  putMemory,
  putMemoryImmediate,
  putOperand,
  putOperandImmediate,
  putRegisters,
  putRegistersImmediate,
  sizeByOpcode,
} from "./emit.ts";
import { noteComparison } from "./emit-branches.ts";
import { ADC, CMP, SBB } from "./integer-arithmetic.ts";
import * as ops from "./ops.ts";

// Forms of the uops of an operation, two each.
const RR: u16 = 0;
const RI: u16 = 2;
const RM: u16 = 4;
const MR: u16 = 6;
const MI: u16 = 8;
const FORMS_OF_ALU: u16 = 10;
const QUIET_FORMS_OF_ALU: u16 = 4;

/** Uops of these are others, and there are none in memory. */
function hasCarryIn(operation: u32): bool {
  return operation == ADC || operation == SBB;
}

function carryOp(operation: u32, form: u16): u16 {
  const is64 = d.operandSize == 8;
  if (operation == ADC) {
    if (form == RR) return is64 ? ops.OP_ADC_RR64 : ops.OP_ADC_RR32;
    return is64 ? ops.OP_ADC_RI64 : ops.OP_ADC_RI32;
  }
  if (form == RR) return is64 ? ops.OP_SBB_RR64 : ops.OP_SBB_RR32;
  return is64 ? ops.OP_SBB_RI64 : ops.OP_SBB_RI32;
}

/** Number of an operation among the others. */
function aluNumber(operation: u32): u16 {
  return <u16>(operation < ADC ? operation : operation - 2);
}

function aluOp(operation: u32, form: u16): u16 {
  return ops.OP_ADD_RR64 + aluNumber(operation) * FORMS_OF_ALU + form + half(d.operandSize);
}

function quietAluOp(operation: u32, form: u16): u16 {
  return ops.OP_ADD_RR64_QUIET + aluNumber(operation) * QUIET_FORMS_OF_ALU + form + half(d.operandSize);
}

/** Registers with form RR; with RI a register and the immediate. */
function putAlu(operation: u32, form: u16, a: u32, b: u32): bool {
  const isWithCarry = hasCarryIn(operation);
  if (isWithCarry) noteFlagsSeen();
  const op = isWithCarry ? carryOp(operation, form) : aluOp(operation, form);
  const uop = form == RR ? putRegisters(op, a, b) : putImmediate(op, a, d.immediate);
  noteFlags(uop, isWithCarry || operation == CMP ? 0 : quietAluOp(operation, form));
  if (operation == CMP) noteComparison(uop);
  return true;
}

/** Opcodes 00 to 3F. */
export function emitAlu(): bool {
  const operation = d.code >> 3;
  const form = d.code & 7;
  if (form > 5) return false;
  if (!(form & 1)) return operation == CMP && emitCompare8(form);
  const size = d.operandSize;
  if (size == 2) return false;
  if (form == 5) return putAlu(operation, RI, gpr(0, size), 0);
  const register = gpr(d.reg, size);
  if (!d.hasMemory) {
    const other = gpr(d.rm, size);
    return form == 1 ? putAlu(operation, RR, other, register) : putAlu(operation, RR, register, other);
  }
  if (hasCarryIn(operation)) return false;
  prepareOperand();
  noteFlags(putMemory(aluOp(operation, form == 1 ? MR : RM), register), 0);
  return true;
}

/** Of 8 bits only comparisons are common. */
function emitCompare8(form: u32): bool {
  if (form == 4) {
    noteFlags(putImmediate(ops.OP_CMP_RI8, gpr(0, 1), d.immediate), 0);
    return true;
  }
  const register = gpr(d.reg, 1);
  const other = gpr(d.rm, 1);
  if (d.hasMemory) {
    prepareOperand();
    noteFlags(putMemory(form == 0 ? ops.OP_CMP_MR8 : ops.OP_CMP_RM8, register), 0);
  } else if (form == 0) noteFlags(putRegisters(ops.OP_CMP_RR8, other, register), 0);
  else noteFlags(putRegisters(ops.OP_CMP_RR8, register, other), 0);
  return true;
}

/** Group 1. */
export function emitAluImmediate(): bool {
  const operation = group();
  if (d.code == 0x80) {
    if (operation != CMP) return false;
    noteFlags(putOperandImmediate(ops.OP_CMP_RI8, ops.OP_CMP_MI8, gpr(d.rm, 1)), 0);
    return true;
  }
  if (!d.hasMemory) return putAlu(operation, RI, gpr(d.rm, d.operandSize), 0);
  if (hasCarryIn(operation)) return false;
  prepareOperand();
  noteFlags(putMemoryImmediate(aluOp(operation, MI), d.immediate), 0);
  return true;
}

export function emitTest(): bool {
  const size = sizeByOpcode();
  if (size == 1) {
    if (d.hasMemory) return false;
    noteFlags(putRegisters(ops.OP_TEST_RR8, gpr(d.rm, 1), gpr(d.reg, 1)), 0);
    return true;
  }
  const register = gpr(d.reg, size);
  if (d.hasMemory) {
    prepareOperand();
    noteFlags(putMemory(ops.OP_TEST_MR64 + half(size), register), 0);
    return true;
  }
  const uop = putRegisters(ops.OP_TEST_RR64 + half(size), gpr(d.rm, size), register);
  noteFlags(uop, 0);
  noteComparison(uop);
  return true;
}

/** Of a register of that number, or of memory. */
export function emitTestImmediate(number: u32): bool {
  const size = sizeByOpcode();
  if (size == 1) {
    noteFlags(putOperandImmediate(ops.OP_TEST_RI8, ops.OP_TEST_MI8, gpr(number, 1)), 0);
    return true;
  }
  const uop = putOperandImmediate(ops.OP_TEST_RI64 + half(size), ops.OP_TEST_MI64 + half(size), gpr(number, size));
  noteFlags(uop, 0);
  if (!d.hasMemory) noteComparison(uop);
  return true;
}

/** TEST, NOT, NEG, MUL. */
export function emitGroup3(): bool {
  if (group() == 0) return emitTestImmediate(d.rm);
  if (d.code == 0xf6 || d.hasMemory) return false;
  const size = d.operandSize;
  const a = gpr(d.rm, size);
  switch (group()) {
    case 2:
      putRegisters(ops.OP_NOT_R64 + half(size), a, 0);
      return true;
    case 3:
      noteFlags(putRegisters(ops.OP_NEG_R64 + half(size), a, 0), 0);
      return true;
    case 4:
      if (size != 8) return false;
      noteFlags(putRegisters(ops.OP_MUL64, 0, a), 0);
      return true;
    default:
      return false;
  }
}

/** INC and DEC, of group 5. They keep CF, which the flags before them are needed for. */
export function emitIncrement(): bool {
  const isDec = group() == 1;
  const size = d.operandSize;
  noteFlagsSeen();
  putOperand(
    (isDec ? ops.OP_DEC_R64 : ops.OP_INC_R64) + half(size),
    (isDec ? ops.OP_DEC_M64 : ops.OP_INC_M64) + half(size),
    d.hasMemory ? 0 : gpr(d.rm, size),
    0,
  );
  return true;
}

/** IMUL with two operands. */
export function emitMultiply(): bool {
  const size = d.operandSize;
  const uop = putOperand(
    ops.OP_IMUL_RR64 + half(size),
    ops.OP_IMUL_RM64 + half(size),
    gpr(d.reg, size),
    gpr(d.rm, size),
  );
  noteFlags(uop, 0);
  return true;
}

/** IMUL with three. */
export function emitMultiplyImmediate(): bool {
  if (d.hasMemory) return false;
  const size = d.operandSize;
  noteFlags(putRegistersImmediate(ops.OP_IMUL_RRI64 + half(size), gpr(d.reg, size), gpr(d.rm, size), d.immediate), 0);
  return true;
}
