// SPDX-License-Identifier: Apache-2.0
// Uops of shifts and rotates: of registers, by an immediate or by 1; shifts also by CL. A rotate to the right is one to the left by what
// is missing, with a mark for the flags.
import * as d from "./decode.ts";
import { gpr, group, half, noteFlags, noteRotateFlags, noteShiftFlags, putImmediate, putRegisters } from "./emit.ts";
import { RCL, RCR, ROL, SAL, SHL, SHR } from "./integer-shifts.ts";
import * as ops from "./ops.ts";

/** Of a rotate's amount: it was one to the right. */
const IS_RIGHT: u32 = 0x100;

/** Group 2. False: no uop was made, OP_COLD is left for this one. */
export function emitShift(): bool {
  const operation = group();
  if (d.hasMemory || operation == RCL || operation == RCR || operation == SAL) return false;
  const isRotate = operation < RCL;
  if (d.code == 0xd3) return !isRotate && emitShiftByCl(operation);
  const bits = d.operandSize * 8;
  const count = (d.code == 0xd1 ? 1 : <u32>d.immediate) & (bits - 1);
  // It changes nothing, no flags either; but the upper half of a 32-bit register.
  if (count == 0) return false;
  const a = gpr(d.rm, d.operandSize);
  if (isRotate) {
    const number = half(d.operandSize);
    const left = operation == ROL ? count : (bits - count) | IS_RIGHT;
    noteRotateFlags(putImmediate(ops.OP_ROL_RI64 + number, a, left), ops.OP_ROL_RI64_QUIET + number);
    return true;
  }
  const number = shiftNumber(operation);
  noteFlags(putImmediate(ops.OP_SHL_RI64 + number, a, count), ops.OP_SHL_RI64_QUIET + number);
  return true;
}

function emitShiftByCl(operation: u32): bool {
  const number = shiftNumber(operation);
  noteShiftFlags(putRegisters(ops.OP_SHL_RC64 + number, gpr(d.rm, d.operandSize), 0), ops.OP_SHL_RC64_QUIET + number);
  return true;
}

/** Among the uops of shifts, which are two each. */
function shiftNumber(operation: u32): u16 {
  return (operation == SHL ? 0 : operation == SHR ? 2 : 4) + half(d.operandSize);
}
