// SPDX-License-Identifier: Apache-2.0
// Which instructions of SSE to SSE4.2, MMX, AES-NI, PCLMULQDQ and CRC32 there are, and what their operands are. SDM volume 2,
// appendix A. Who does them: sse.ts.
//
// Not here but where their likes are: POPCNT, MOVNTI, the fences, PREFETCH, EMMS, FXSAVE and FXRSTOR.
import { PREFIX_66, PREFIX_F2, PREFIX_F3, PREFIX_NONE, prefixOf } from "./sse-operands.ts";
import { FORM_66, FORM_MEMORY, MAP_0F, MAP_0F38, MAP_0F3A } from "./uop.ts";

// What `sseOperandKinds` tells.
/** There is such an instruction here. */
export const SSE_DEFINED: u32 = 1;
/** ModRM.reg names an XMM register; an MMX register; neither: a general one. Or it is a part of the opcode. */
export const SSE_A_XMM: u32 = 2;
export const SSE_A_MMX: u32 = 4;
export const SSE_A_OPCODE: u32 = 8;
/** The same of ModRM.rm where it is no memory; neither: a general register. */
export const SSE_B_XMM: u32 = 0x10;
export const SSE_B_MMX: u32 = 0x20;
/** It is a general register of 8 bits. */
export const SSE_B_BYTE: u32 = 0x40;
/** A byte follows. */
export const SSE_IMMEDIATE: u32 = 0x80;

const XMM_XMM: u32 = SSE_DEFINED | SSE_A_XMM | SSE_B_XMM;
const MMX_MMX: u32 = SSE_DEFINED | SSE_A_MMX | SSE_B_MMX;
const XMM_MMX: u32 = SSE_DEFINED | SSE_A_XMM | SSE_B_MMX;
const MMX_XMM: u32 = SSE_DEFINED | SSE_A_MMX | SSE_B_XMM;
const XMM_GENERAL: u32 = SSE_DEFINED | SSE_A_XMM;
const MMX_GENERAL: u32 = SSE_DEFINED | SSE_A_MMX;
const GENERAL_XMM: u32 = SSE_DEFINED | SSE_B_XMM;
const GENERAL_MMX: u32 = SSE_DEFINED | SSE_B_MMX;
const GENERAL_GENERAL: u32 = SSE_DEFINED;
const OPCODE_XMM: u32 = SSE_DEFINED | SSE_A_OPCODE | SSE_B_XMM;
const OPCODE_MMX: u32 = SSE_DEFINED | SSE_A_OPCODE | SSE_B_MMX;

/** MOVMSK, shifts by an immediate, PEXTRW, PMOVMSKB, MASKMOV, MOVQ2DQ and MOVDQ2Q. */
function hasNoMemory(code: u32, kind: u32): bool {
  switch (code) {
    case MAP_0F | 0x50:
    case MAP_0F | 0x71:
    case MAP_0F | 0x72:
    case MAP_0F | 0x73:
    case MAP_0F | 0xc5:
    case MAP_0F | 0xd7:
    case MAP_0F | 0xf7:
      return true;
    case MAP_0F | 0xd6:
      return kind > PREFIX_66;
    default:
      return false;
  }
}

/** Moves of halves to memory, non-temporal moves, LDDQU. */
function hasOnlyMemory(code: u32): bool {
  switch (code) {
    case MAP_0F | 0x13:
    case MAP_0F | 0x17:
    case MAP_0F | 0x2b:
    case MAP_0F | 0xe7:
    case MAP_0F | 0xf0:
    case MAP_0F38 | 0x2a:
      return true;
    default:
      return false;
  }
}

/** 0F 71 to 73: whether there is such a shift. */
export function isShift(code: u32, operation: u32, form: u32): bool {
  if (operation == 2 || operation == 6) return true;
  if (code == (MAP_0F | 0x73)) return (operation == 3 || operation == 7) && (form & FORM_66) != 0;
  return operation == 4;
}

/** `SSE_*` of the instruction with this COLD_CODE and COLD_FORM; 0 when there is none. */
export function sseOperandKinds(code: u32, form: u32): u32 {
  const kind = prefixOf(form);
  if (form & FORM_MEMORY ? hasNoMemory(code, kind) : hasOnlyMemory(code)) return 0;
  switch (code & 0x300) {
    case MAP_0F:
      return kinds0F(code & 0xff, kind);
    case MAP_0F38:
      return kinds0F38(code & 0xff, kind);
    case MAP_0F3A:
      return kinds0F3A(code & 0xff, kind);
    default:
      return 0;
  }
}

/** One of four by prefix: none, 66, F3, F2. */
@inline
function byPrefix(kind: u32, none: u32, with66: u32, withF3: u32, withF2: u32): u32 {
  return kind == PREFIX_NONE ? none : kind == PREFIX_66 ? with66 : kind == PREFIX_F3 ? withF3 : withF2;
}

/** Of 0F: integers side by side, of MMX registers or, with 66, of XMM registers. */
function isPacked(byte: u32): bool {
  return (byte >= 0x60 && byte <= 0x6b) || (byte >= 0x74 && byte <= 0x76) || (byte >= 0xd1 && byte <= 0xfe);
}

function kinds0F(byte: u32, kind: u32): u32 {
  switch (byte) {
    case 0x10:
    case 0x11:
    case 0x12:
    case 0x51:
    case 0x58:
    case 0x59:
    case 0x5a:
    case 0x5c:
    case 0x5d:
    case 0x5e:
    case 0x5f:
      return XMM_XMM;
    case 0x16:
      return kind == PREFIX_F2 ? 0 : XMM_XMM;
    case 0x13:
    case 0x14:
    case 0x15:
    case 0x17:
    case 0x28:
    case 0x29:
    case 0x2b:
    case 0x2e:
    case 0x2f:
    case 0x54:
    case 0x55:
    case 0x56:
    case 0x57:
      return kind <= PREFIX_66 ? XMM_XMM : 0;
    case 0x2a:
      return kind <= PREFIX_66 ? XMM_MMX : XMM_GENERAL;
    case 0x2c:
    case 0x2d:
      return kind <= PREFIX_66 ? MMX_XMM : GENERAL_XMM;
    case 0x50:
      return kind <= PREFIX_66 ? GENERAL_XMM : 0;
    case 0x52:
    case 0x53:
      return byPrefix(kind, XMM_XMM, 0, XMM_XMM, 0);
    case 0x5b:
      return byPrefix(kind, XMM_XMM, XMM_XMM, XMM_XMM, 0);
    case 0x6c:
    case 0x6d:
      return kind == PREFIX_66 ? XMM_XMM : 0;
    case 0x6e:
      return byPrefix(kind, MMX_GENERAL, XMM_GENERAL, 0, 0);
    case 0x6f:
    case 0x7f:
      return byPrefix(kind, MMX_MMX, XMM_XMM, XMM_XMM, 0);
    case 0x70:
      return SSE_IMMEDIATE | (kind == PREFIX_NONE ? MMX_MMX : XMM_XMM);
    case 0x71:
    case 0x72:
    case 0x73:
      return kind > PREFIX_66 ? 0 : SSE_IMMEDIATE | (kind == PREFIX_NONE ? OPCODE_MMX : OPCODE_XMM);
    case 0x7c:
    case 0x7d:
    case 0xd0:
      return byPrefix(kind, 0, XMM_XMM, 0, XMM_XMM);
    case 0x7e:
      return byPrefix(kind, MMX_GENERAL, XMM_GENERAL, XMM_XMM, 0);
    case 0xae:
      return kind == PREFIX_NONE ? SSE_DEFINED | SSE_A_OPCODE : 0;
    case 0xc2:
      return XMM_XMM | SSE_IMMEDIATE;
    case 0xc4:
      return kind > PREFIX_66 ? 0 : SSE_IMMEDIATE | (kind == PREFIX_NONE ? MMX_GENERAL : XMM_GENERAL);
    case 0xc5:
      return kind > PREFIX_66 ? 0 : SSE_IMMEDIATE | (kind == PREFIX_NONE ? GENERAL_MMX : GENERAL_XMM);
    case 0xc6:
      return kind > PREFIX_66 ? 0 : SSE_IMMEDIATE | XMM_XMM;
    case 0xd6:
      return byPrefix(kind, 0, XMM_XMM, XMM_MMX, MMX_XMM);
    case 0xd7:
      return byPrefix(kind, GENERAL_MMX, GENERAL_XMM, 0, 0);
    case 0xe6:
      return kind == PREFIX_NONE ? 0 : XMM_XMM;
    case 0xf0:
      return kind == PREFIX_F2 ? XMM_XMM : 0;
    default:
      return isPacked(byte) ? byPrefix(kind, MMX_MMX, XMM_XMM, 0, 0) : 0;
  }
}

function kinds0F38(byte: u32, kind: u32): u32 {
  if (byte <= 0x0b || (byte >= 0x1c && byte <= 0x1e)) return byPrefix(kind, MMX_MMX, XMM_XMM, 0, 0);
  if (byte == 0xf0 || byte == 0xf1) {
    return kind != PREFIX_F2 ? 0 : byte == 0xf0 ? GENERAL_GENERAL | SSE_B_BYTE : GENERAL_GENERAL;
  }
  const isDefined =
    byte == 0x10 ||
    byte == 0x14 ||
    byte == 0x15 ||
    byte == 0x17 ||
    (byte >= 0x20 && byte <= 0x25) ||
    (byte >= 0x28 && byte <= 0x2b) ||
    (byte >= 0x30 && byte <= 0x35) ||
    (byte >= 0x37 && byte <= 0x41) ||
    (byte >= 0xdb && byte <= 0xdf);
  return isDefined && kind == PREFIX_66 ? XMM_XMM : 0;
}

function kinds0F3A(byte: u32, kind: u32): u32 {
  if (byte == 0x0f) return kind > PREFIX_66 ? 0 : SSE_IMMEDIATE | (kind == PREFIX_NONE ? MMX_MMX : XMM_XMM);
  if (kind != PREFIX_66) return 0;
  if ((byte >= 0x14 && byte <= 0x17) || byte == 0x20 || byte == 0x22) return SSE_IMMEDIATE | XMM_GENERAL;
  const isDefined =
    (byte >= 0x08 && byte <= 0x0e) ||
    byte == 0x21 ||
    (byte >= 0x40 && byte <= 0x42) ||
    byte == 0x44 ||
    (byte >= 0x60 && byte <= 0x63) ||
    byte == 0xdf;
  return isDefined ? SSE_IMMEDIATE | XMM_XMM : 0;
}
