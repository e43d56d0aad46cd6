// SPDX-License-Identifier: Apache-2.0
// SSE instructions that are common enough to have uops of their own: moves, and integers of XMM registers. They cannot raise #UD or #NM
// where MODE_SSE is set. An operand in memory is first loaded into CPU_TEMPORARY. All others: sse.ts.
import * as d from "./decode.ts";
import { gpr, group, prepareOperand, put, putImmediate, putMemory, putOperand, putRegisters, xmm } from "./emit.ts";
import { CPU_MODE, CPU_TEMPORARY } from "./layout.ts";
import { MODE_SSE } from "./modes.ts";
import * as ops from "./ops.ts";
import { PREFIX_66, PREFIX_F2, PREFIX_F3, prefixOf } from "./sse-operands.ts";
import { FORM_REX_W, MAP_0F38, UOP_A, UOP_B, UOP_SECOND_IMMEDIATE, UOP_SIZE_BYTES } from "./uop.ts";
import { cpu } from "./vcpu.ts";

/** False: this one is not one of them. */
export function emitHotSse(): bool {
  if (!(load<u32>(cpu, CPU_MODE) & MODE_SSE)) return false;
  const code = d.code;
  const prefix = prefixOf(d.form);
  if (code == (MAP_0F38 | 0x00)) return prefix == PREFIX_66 && emitBinary(ops.OP_PSHUFB_XX);
  if (code >= MAP_0F38) return false;
  return emitMove(code & 0xff, prefix) || emitInteger(code & 0xff, prefix);
}

/** Opcodes of 0F. */
function emitMove(byte: u32, prefix: u32): bool {
  switch (byte) {
    case 0x10:
      if (prefix <= PREFIX_66) return emitLoad(ops.OP_MOVUPS_XM, ops.OP_MOVUPS_XX);
      return prefix == PREFIX_F3 ? emitLoad(ops.OP_MOVD_XM, ops.OP_MOVSS_XX) : emitLoad(ops.OP_MOVQ_XM, ops.OP_MOVSD_XX);
    case 0x11:
      if (prefix <= PREFIX_66) return emitStore(ops.OP_MOVUPS_MX, ops.OP_MOVUPS_XX);
      return prefix == PREFIX_F3 ? emitStore(ops.OP_MOVD_MX, ops.OP_MOVSS_XX) : emitStore(ops.OP_MOVQ_MX, ops.OP_MOVSD_XX);
    case 0x12:
      return d.hasMemory && prefix <= PREFIX_66 && emitLoad(ops.OP_MOVLPS_XM, 0);
    case 0x13:
      return d.hasMemory && prefix <= PREFIX_66 && emitStore(ops.OP_MOVQ_MX, 0);
    case 0x16:
      return d.hasMemory && prefix <= PREFIX_66 && emitLoad(ops.OP_MOVHPS_XM, 0);
    case 0x17:
      return d.hasMemory && prefix <= PREFIX_66 && emitStore(ops.OP_MOVHPS_MX, 0);
    case 0x28:
      return prefix <= PREFIX_66 && emitLoad(ops.OP_MOVAPS_XM, ops.OP_MOVUPS_XX);
    case 0x29:
      return prefix <= PREFIX_66 && emitStore(ops.OP_MOVAPS_MX, ops.OP_MOVUPS_XX);
    case 0x6e:
      if (prefix != PREFIX_66) return false;
      return d.form & FORM_REX_W ? emitFromGeneral(ops.OP_MOVQ_XM, ops.OP_MOVQ_XR) : emitFromGeneral(ops.OP_MOVD_XM, ops.OP_MOVD_XR);
    case 0x6f:
      if (prefix == PREFIX_66) return emitLoad(ops.OP_MOVAPS_XM, ops.OP_MOVUPS_XX);
      return prefix == PREFIX_F3 && emitLoad(ops.OP_MOVUPS_XM, ops.OP_MOVUPS_XX);
    case 0x7e:
      if (prefix == PREFIX_F3) return emitLoad(ops.OP_MOVQ_XM, ops.OP_MOVQ_XR);
      if (prefix != PREFIX_66) return false;
      return d.form & FORM_REX_W ? emitToGeneral(ops.OP_MOVQ_MX, ops.OP_MOV_RR64) : emitToGeneral(ops.OP_MOVD_MX, ops.OP_MOV_RR32);
    case 0x7f:
      if (prefix == PREFIX_66) return emitStore(ops.OP_MOVAPS_MX, ops.OP_MOVUPS_XX);
      return prefix == PREFIX_F3 && emitStore(ops.OP_MOVUPS_MX, ops.OP_MOVUPS_XX);
    case 0xd6:
      return prefix == PREFIX_66 && emitStore(ops.OP_MOVQ_MX, ops.OP_MOVQ_XR);
    default:
      return false;
  }
}

function emitInteger(byte: u32, prefix: u32): bool {
  if (prefix > PREFIX_66) return byte == 0x70 && emitShuffleWords(prefix);
  switch (byte) {
    case 0x54:
      return emitBinary(ops.OP_PAND_XX);
    case 0x55:
      return emitBinary(ops.OP_PANDN_XX);
    case 0x56:
      return emitBinary(ops.OP_POR_XX);
    case 0x57:
      return emitBinary(ops.OP_PXOR_XX);
    default:
      break;
  }
  if (prefix != PREFIX_66) return false;
  if (byte == 0x70) return emitShuffleDwords();
  if (byte >= 0x71 && byte <= 0x73) return emitShift(byte);
  if (byte == 0xd7) {
    if (d.hasMemory) return false;
    putRegisters(ops.OP_PMOVMSKB_RX, gpr(d.reg, 8), xmm(d.rm));
    return true;
  }
  const op = binaryOf(byte);
  return op != 0 && emitBinary(op);
}

function binaryOf(byte: u32): u16 {
  switch (byte) {
    case 0x60:
      return ops.OP_PUNPCKLBW_XX;
    case 0x61:
      return ops.OP_PUNPCKLWD_XX;
    case 0x62:
      return ops.OP_PUNPCKLDQ_XX;
    case 0x64:
      return ops.OP_PCMPGTB_XX;
    case 0x65:
      return ops.OP_PCMPGTW_XX;
    case 0x66:
      return ops.OP_PCMPGTD_XX;
    case 0x68:
      return ops.OP_PUNPCKHBW_XX;
    case 0x69:
      return ops.OP_PUNPCKHWD_XX;
    case 0x6a:
      return ops.OP_PUNPCKHDQ_XX;
    case 0x6c:
      return ops.OP_PUNPCKLQDQ_XX;
    case 0x6d:
      return ops.OP_PUNPCKHQDQ_XX;
    case 0x74:
      return ops.OP_PCMPEQB_XX;
    case 0x75:
      return ops.OP_PCMPEQW_XX;
    case 0x76:
      return ops.OP_PCMPEQD_XX;
    case 0xd4:
      return ops.OP_PADDQ_XX;
    case 0xd5:
      return ops.OP_PMULLW_XX;
    case 0xda:
      return ops.OP_PMINUB_XX;
    case 0xdb:
      return ops.OP_PAND_XX;
    case 0xde:
      return ops.OP_PMAXUB_XX;
    case 0xdf:
      return ops.OP_PANDN_XX;
    case 0xeb:
      return ops.OP_POR_XX;
    case 0xef:
      return ops.OP_PXOR_XX;
    case 0xf4:
      return ops.OP_PMULUDQ_XX;
    case 0xf8:
      return ops.OP_PSUBB_XX;
    case 0xf9:
      return ops.OP_PSUBW_XX;
    case 0xfa:
      return ops.OP_PSUBD_XX;
    case 0xfb:
      return ops.OP_PSUBQ_XX;
    case 0xfc:
      return ops.OP_PADDB_XX;
    case 0xfd:
      return ops.OP_PADDW_XX;
    case 0xfe:
      return ops.OP_PADDD_XX;
    default:
      return 0;
  }
}

/** The operand of 16 bytes that ModRM.rm names, as the address of an XMM register. */
function operand(): u32 {
  if (!d.hasMemory) return xmm(d.rm);
  prepareOperand();
  putMemory(ops.OP_MOVAPS_XM, <u32>cpu + CPU_TEMPORARY);
  return <u32>cpu + CPU_TEMPORARY;
}

function emitBinary(op: u16): bool {
  const b = operand();
  putRegisters(op, xmm(d.reg), b);
  return true;
}

function emitLoad(op: u16, registers: u16): bool {
  putOperand(registers, op, xmm(d.reg), xmm(d.rm));
  return true;
}

function emitStore(op: u16, registers: u16): bool {
  if (!d.hasMemory) {
    putRegisters(registers, xmm(d.rm), xmm(d.reg));
    return true;
  }
  return emitLoad(op, 0);
}

function emitFromGeneral(op: u16, registers: u16): bool {
  if (d.hasMemory) return emitLoad(op, 0);
  putRegisters(registers, xmm(d.reg), gpr(d.rm, 8));
  return true;
}

function emitToGeneral(op: u16, registers: u16): bool {
  if (d.hasMemory) return emitLoad(op, 0);
  putRegisters(registers, gpr(d.rm, 8), xmm(d.reg));
  return true;
}

/** Opcodes 71 to 73: by an immediate. */
function emitShift(byte: u32): bool {
  const operation = group();
  const count = <u32>d.immediate & 0xff;
  const a = xmm(d.rm);
  if (d.hasMemory) return false;
  if (byte == 0x73 && (operation == 3 || operation == 7)) {
    // By bytes: beyond the end there are zeros.
    const uop = putShuffle(a, a);
    const bytes = min<u32>(count, 16);
    for (let to: u32 = 0; to < 16; to++) {
      const from = operation == 3 ? to + bytes : to - bytes;
      store<u8>(uop + to, from < 16 ? <u8>from : 0xff, UOP_SECOND_IMMEDIATE);
    }
    return true;
  }
  if (count >= (<u32>8 << (byte - 0x70))) return false;
  let op: u16;
  if (operation == 6) op = ops.OP_PSLLW_XI;
  else if (operation == 2) op = ops.OP_PSRLW_XI;
  else if (operation == 4 && byte != 0x73) op = ops.OP_PSRAW_XI;
  else return false;
  putImmediate(op + <u16>(byte - 0x71), a, count);
  return true;
}

/** PSHUFD. */
function emitShuffleDwords(): bool {
  const source = operand();
  const uop = putShuffle(xmm(d.reg), source);
  for (let to: u32 = 0; to < 16; to++) {
    const from = (<u32>d.immediate >> ((to >> 2) * 2)) & 3;
    store<u8>(uop + to, <u8>(from * 4 + (to & 3)), UOP_SECOND_IMMEDIATE);
  }
  return true;
}

/** PSHUFLW, with F2, and PSHUFHW, with F3: the other half stays as it is. */
function emitShuffleWords(prefix: u32): bool {
  const half: u32 = prefix == PREFIX_F2 ? 0 : 8;
  const source = operand();
  const uop = putShuffle(xmm(d.reg), source);
  for (let to: u32 = 0; to < 16; to++) {
    const from = (<u32>d.immediate >> (((to & 7) >> 1) * 2)) & 3;
    store<u8>(uop + to, (to & 8) == half ? <u8>(half + from * 2 + (to & 1)) : <u8>to, UOP_SECOND_IMMEDIATE);
  }
  return true;
}

function putShuffle(a: u32, b: u32): usize {
  const uop = put(ops.OP_SHUFFLE_XX, 2 * UOP_SIZE_BYTES);
  store<u16>(uop, <u16>a, UOP_A);
  store<u16>(uop, <u16>b, UOP_B);
  return uop;
}
