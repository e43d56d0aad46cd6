// SPDX-License-Identifier: Apache-2.0
// Instructions without a uop of their own, or whose uop is for other operands, of the one-byte map: which unit runs them, and with which
// operands. SDM volume 2, table A-2.
import * as d from "./decode.ts";
import { gpr, group, opcodeNumber, putCold, putColdEnd, putRaise, sizeByOpcode } from "./emit.ts";
import { emitLea } from "./emit-moves.ts";
import { SEGMENT_CS, SEGMENT_GS } from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import * as ops from "./ops.ts";
import { NUMBER_OF_RSP } from "./registers.ts";
import { FORM_F2, FORM_F3 } from "./uop.ts";
import { UD } from "./vcpu.ts";

// ── What both maps need ──

export function cold(a: u32, b: u32, size: u32): void {
  putCold(ops.OP_COLD_INTEGER, a, b, size);
}

/** Registers of that size. */
export function coldModrm(size: u32): void {
  cold(gpr(d.reg, size), gpr(d.rm, size), size);
}

export function coldGroup(size: u32): void {
  cold(group(), gpr(d.rm, size), size);
}

/** Of a register that the opcode names. */
export function coldRegister(number: u32, size: u32): void {
  cold(0, gpr(number, size), size);
}

export function coldSystem(a: u32, b: u32, size: u32): void {
  putColdEnd(ops.OP_COLD_SYSTEM, a, b, size);
}

/** Operands on the stack: 64 bits, unless a prefix says 16. */
export function stackSize(): u32 {
  if (d.codeSize != MODE_64) return d.operandSize;
  return d.operandSize == 2 ? 2 : 8;
}

// ── The one-byte map ──

function coldJump(a: u32, b: u32, size: u32): void {
  putColdEnd(ops.OP_COLD_JUMP, a, b, size);
}

/** There are no ports of 64 bits. */
function portSize(): u32 {
  return min<u32>(sizeByOpcode(), 4);
}

/** "i64" in table A-2: segments on the stack, BCD, PUSHA and POPA, BOUND, far pointers; and SALC. */
function isNotIn64(code: u32): bool {
  switch (code) {
    case 0x60:
    case 0x61:
    case 0x62:
    case 0x82:
    case 0x9a:
    case 0xc4:
    case 0xc5:
    case 0xce:
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xea:
      return true;
    default:
      return code < 0x40 && (code & 7) > 5;
  }
}

export function emitCold(): void {
  const code = d.code;
  const size = d.operandSize;
  if (d.codeSize == MODE_64 && isNotIn64(code)) {
    putRaise(UD);
    return;
  }
  if (code < 0x40) {
    emitColdAlu();
    return;
  }
  switch (code >> 3) {
    case 0x40 >> 3:
    case 0x48 >> 3:
      // As group 5 has them.
      cold((code >> 3) & 1, gpr(opcodeNumber(), size), size);
      return;
    case 0x50 >> 3:
    case 0x58 >> 3:
      coldRegister(opcodeNumber(), stackSize());
      return;
    case 0x90 >> 3:
      cold(gpr(0, size), gpr(opcodeNumber(), size), size);
      return;
    case 0xb0 >> 3:
      coldRegister(opcodeNumber(), 1);
      return;
    case 0xb8 >> 3:
      coldRegister(opcodeNumber(), size);
      return;
    case 0xd8 >> 3:
      putCold(ops.OP_COLD_X87, 0, 0, size);
      return;
    default:
      break;
  }
  switch (code) {
    case 0x60:
    case 0x61:
    case 0x98:
    case 0x99:
    case 0x9e:
    case 0x9f:
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xf5:
    case 0xf8:
    case 0xf9:
    case 0xfa:
    case 0xfc:
    case 0xfd:
      cold(0, 0, size);
      return;
    case 0x68:
    case 0x6a:
    case 0x9c:
    case 0xc8:
    case 0xc9:
      cold(0, 0, stackSize());
      return;
    case 0x62:
      // With a register EVEX, which is not here.
      if (d.hasMemory) coldModrm(size);
      else putRaise(UD);
      return;
    case 0x63:
      // In 64-bit mode MOVSXD, else ARPL.
      if (d.codeSize == MODE_64) cold(gpr(d.reg, size), gpr(d.rm, 4), size);
      else coldModrm(2);
      return;
    case 0x69:
    case 0x6b:
      coldModrm(size);
      return;
    case 0x84:
    case 0x85:
    case 0x86:
    case 0x87:
    case 0x88:
    case 0x89:
    case 0x8a:
    case 0x8b:
      coldModrm(sizeByOpcode());
      return;
    case 0x80:
    case 0x81:
    case 0x82:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xf6:
    case 0xf7:
      coldGroup(sizeByOpcode());
      return;
    case 0x8c:
      if (group() > <u32>SEGMENT_GS) putRaise(UD);
      else cold(group(), gpr(d.rm, size), d.hasMemory ? 2 : size);
      return;
    case 0x8d:
      if (d.hasMemory) emitLea();
      else putRaise(UD);
      return;
    case 0x8e:
      if (group() > <u32>SEGMENT_GS || group() == SEGMENT_CS) putRaise(UD);
      else coldSystem(group(), gpr(d.rm, 2), 2);
      return;
    case 0x8f:
      if (group() != 0) putRaise(UD);
      else emitPopOperand();
      return;
    case 0x9b:
      putCold(ops.OP_COLD_X87, 0, 0, size);
      return;
    case 0x9d:
      coldSystem(0, 0, stackSize());
      return;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
      cold(gpr(0, sizeByOpcode()), 0, sizeByOpcode());
      return;
    case 0xa4:
    case 0xa5:
    case 0xa6:
    case 0xa7:
    case 0xaa:
    case 0xab:
    case 0xac:
    case 0xad:
    case 0xae:
    case 0xaf:
      if (d.form & (FORM_F2 | FORM_F3)) coldJump(0, 0, sizeByOpcode());
      else putCold(ops.OP_COLD_STRING, 0, 0, sizeByOpcode());
      return;
    case 0xa8:
    case 0xa9:
      coldRegister(0, sizeByOpcode());
      return;
    case 0xc2:
    case 0xc3:
    case 0xe8:
      coldJump(0, 0, stackSize());
      return;
    case 0xc4:
    case 0xc5:
      if (d.hasMemory) coldSystem(gpr(d.reg, size), 0, size);
      else putRaise(UD);
      return;
    case 0xc6:
    case 0xc7:
      if (group() != 0) putRaise(UD);
      else coldModrm(sizeByOpcode());
      return;
    case 0x9a:
    case 0xca:
    case 0xcb:
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
    case 0xea:
    case 0xf1:
    case 0xf4:
    case 0xfb:
      coldSystem(0, 0, size);
      return;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
      coldJump(0, 0, size);
      return;
    case 0x6c:
    case 0x6d:
    case 0x6e:
    case 0x6f:
      coldJump(0, 0, portSize());
      return;
    case 0xe4:
    case 0xe5:
    case 0xe6:
    case 0xe7:
    case 0xec:
    case 0xed:
    case 0xee:
    case 0xef:
      coldSystem(0, 0, portSize());
      return;
    case 0xfe:
      if (group() > 1) putRaise(UD);
      else coldGroup(1);
      return;
    case 0xff:
      emitGroup5();
      return;
    default:
      putRaise(UD);
  }
}

/** Opcodes 00 to 3F, where segments on the stack and BCD are, too. */
function emitColdAlu(): void {
  const code = d.code;
  if ((code & 7) < 4) coldModrm(sizeByOpcode());
  else if ((code & 7) < 6) coldRegister(0, sizeByOpcode());
  else if (code >= 0x20) cold(0, 0, 1);
  else if (code & 1) coldSystem(code >> 3, 0, d.operandSize);
  else cold(code >> 3, 0, d.operandSize);
}

/** POP to memory: an address with RSP is that after the pop. */
function emitPopOperand(): void {
  const size = stackSize();
  if (d.hasMemory && d.base == NUMBER_OF_RSP && d.addressSize != 2) d.addDisplacement(size);
  coldRegister(d.rm, size);
}

function emitGroup5(): void {
  const operation = group();
  switch (operation) {
    case 0:
    case 1:
      coldGroup(d.operandSize);
      return;
    case 2:
    case 4:
      coldJump(operation, gpr(d.rm, stackSize()), stackSize());
      return;
    case 3:
    case 5:
      if (d.hasMemory) coldSystem(operation, 0, d.operandSize);
      else putRaise(UD);
      return;
    case 6:
      coldGroup(stackSize());
      return;
    default:
      putRaise(UD);
  }
}
