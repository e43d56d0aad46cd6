// SPDX-License-Identifier: Apache-2.0
// The same as in emit-cold.ts of the maps 0F, 0F 38 and 0F 3A. SDM volume 2, tables.
import * as d from "./decode.ts";
import { cold, coldGroup, coldModrm, coldRegister, coldSystem, stackSize } from "./emit-cold.ts";
import { emitNop } from "./emit-moves.ts";
import { gpr, group, opcodeNumber, putCold, putRaise, sizeByOpcode, xmm } from "./emit.ts";
import { MODE_64 } from "./modes.ts";
import * as ops from "./ops.ts";
import {
  isShift,
  SSE_A_MMX,
  SSE_A_OPCODE,
  SSE_A_XMM,
  SSE_B_BYTE,
  SSE_B_MMX,
  SSE_B_XMM,
  sseOperandKinds,
} from "./sse-kinds.ts";
import { FORM_66, FORM_F2, FORM_F3, FORM_MEMORY, FORM_REX_W, MAP_0F, MAP_0F38 } from "./uop.ts";
import { UD } from "./vcpu.ts";

/** What chooses between instructions of one opcode. */
const PREFIXES: u32 = FORM_66 | FORM_F2 | FORM_F3;

export function emitCold0f(): void {
  const byte = d.code & 0xff;
  const size = d.operandSize;
  if (d.code >= MAP_0F38) {
    emitSse();
    return;
  }
  switch (byte >> 3) {
    case 0x18 >> 3:
      emitNop();
      return;
    case 0x40 >> 3:
    case 0x48 >> 3:
      coldModrm(size);
      return;
    case 0x90 >> 3:
    case 0x98 >> 3:
      coldModrm(1);
      return;
    case 0xc8 >> 3:
      coldRegister(opcodeNumber(), size);
      return;
    default:
      break;
  }
  switch (byte) {
    case 0x00:
    case 0x01: {
      const width = d.hasMemory ? 2 : size;
      coldSystem(group(), gpr(d.rm, width), width);
      return;
    }
    case 0x05:
    case 0x06:
    case 0x07:
    case 0x08:
    case 0x09:
    case 0x30:
    case 0x31:
    case 0x32:
    case 0x33:
    case 0x34:
    case 0x35:
    case 0xa2:
      coldSystem(0, 0, size);
      return;
    case 0xa1:
    case 0xa9:
      coldSystem(0, 0, stackSize());
      return;
    case 0x0d:
      // AMD: there is nothing in a register to prefetch.
      if (d.hasMemory) emitNop();
      else putRaise(UD);
      return;
    case 0x20:
    case 0x21:
    case 0x22:
    case 0x23:
      coldSystem(d.reg, gpr(d.rm, 8), d.codeSize == MODE_64 ? 8 : 4);
      return;
    case 0x77:
      if (d.form & PREFIXES) putRaise(UD);
      else putCold(ops.OP_COLD_X87, 0, 0, 0);
      return;
    case 0xa0:
    case 0xa8:
      // FS and GS.
      cold((byte >> 3) & 7, 0, stackSize());
      return;
    case 0x02:
    case 0x03:
    case 0xa3:
    case 0xa4:
    case 0xa5:
    case 0xab:
    case 0xac:
    case 0xad:
    case 0xaf:
    case 0xb3:
    case 0xbb:
    case 0xbc:
    case 0xbd:
      coldModrm(size);
      return;
    case 0xae:
      emitGroup15();
      return;
    case 0xb0:
    case 0xb1:
    case 0xc0:
    case 0xc1:
      coldModrm(sizeByOpcode());
      return;
    case 0xb2:
    case 0xb4:
    case 0xb5:
      if (d.hasMemory) coldSystem(gpr(d.reg, size), 0, size);
      else putRaise(UD);
      return;
    case 0xb6:
    case 0xb7:
    case 0xbe:
    case 0xbf:
      cold(gpr(d.reg, size), gpr(d.rm, byte & 1 ? 2 : 1), size);
      return;
    case 0xb8:
      if (d.form & FORM_F3) coldModrm(size);
      else putRaise(UD);
      return;
    case 0xba:
      if (group() < 4) putRaise(UD);
      else coldGroup(size);
      return;
    case 0xc3:
      // MOVNTI: there is none of 16 bits.
      if (!d.hasMemory || d.form & PREFIXES) putRaise(UD);
      else coldModrm(max<u32>(size, 4));
      return;
    case 0xc7:
      if (group() == 1 && d.hasMemory) coldGroup(d.form & FORM_REX_W ? 8 : 4);
      else putRaise(UD);
      return;
    default:
      // Also UD0, UD1 and UD2, which SSE has not either.
      emitSse();
  }
}

/** Operands in memory: FXSAVE and FXRSTOR, LDMXCSR and STMXCSR, CLFLUSH. None: LFENCE, MFENCE, SFENCE. */
function emitGroup15(): void {
  const operation = group();
  const isFence = !d.hasMemory && operation > 4;
  if (d.form & PREFIXES) putRaise(UD);
  // CLFLUSH looks at its operand as a load does.
  else if (isFence || (d.hasMemory && operation == 7)) cold(operation, 0, 1);
  else if (d.hasMemory && operation < 2) putCold(ops.OP_COLD_X87, operation, 0, d.operandSize);
  else if (d.hasMemory && operation < 4) putCold(ops.OP_COLD_SSE, operation, 0, 4);
  else putRaise(UD);
}

function emitSse(): void {
  const form = d.form | (d.hasMemory ? FORM_MEMORY : 0);
  const kinds = sseOperandKinds(d.code, form);
  const isGroup = d.code >= (MAP_0F | 0x71) && d.code <= (MAP_0F | 0x73);
  if (kinds == 0 || (isGroup && !isShift(d.code, group(), form))) {
    putRaise(UD);
    return;
  }
  let a = gpr(d.reg, 8);
  if (kinds & SSE_A_XMM) a = xmm(d.reg);
  else if (kinds & SSE_A_MMX) a = d.reg & 7;
  else if (kinds & SSE_A_OPCODE) a = group();
  let b = gpr(d.rm, kinds & SSE_B_BYTE ? 1 : 8);
  if (kinds & SSE_B_XMM) b = xmm(d.rm);
  else if (kinds & SSE_B_MMX) b = d.rm & 7;
  putCold(ops.OP_COLD_SSE, a, b, d.operandSize);
}
