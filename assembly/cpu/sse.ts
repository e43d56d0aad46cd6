// SPDX-License-Identifier: Apache-2.0
// SSE to SSE4.2, MMX, AES-NI, PCLMULQDQ and CRC32: which instructions there are, what their operands are, and who does them. SDM
// volume 2, appendix A; volume 3, 2.5 and 13.1 for when they may be used.
//
// Not here but where their likes are: POPCNT, MOVNTI, the fences, PREFETCH, EMMS, FXSAVE and FXRSTOR.
import { CR0_EM, CR0_TS, CR4_OSFXSR } from "./control-bits.ts";
import { CPU_CR0, CPU_CR4, CPU_EXCEPTION, CPU_X87_STATUS } from "./layout.ts";
import { DOUBLE, SINGLE } from "./sse-arithmetic.ts";
import {
  execConvert,
  execConvertDoubles,
  execConvertSingles,
  execFromInteger,
  execToInteger,
} from "./sse-conversions.ts";
import { execAes, execAesKey, execCrc32, execMultiplyCarryless } from "./sse-crypto.ts";
import {
  execArithmetic,
  execCompare,
  execCompareFlags,
  execDotProduct,
  execFloatLogic,
  execHorizontal,
  execReciprocal,
  execRound,
} from "./sse-float.ts";
import { execPacked, execShiftImmediate } from "./sse-integer.ts";
import {
  execLoad,
  execLoadGeneral,
  execLoadHigh,
  execLoadInteger,
  execLoadLow,
  execLoadStreaming,
  execLoadUnaligned,
  execMxcsr,
  execStore,
  execStoreGeneral,
  execStoreHalf,
  execStoreInteger,
  execStoreMasked,
  execStoreQuad,
  execStoreStreaming,
  loadVector,
  storeMmx,
  storeVector,
} from "./sse-moves.ts";
import { enterMmx, prefix, PREFIX_66, PREFIX_F2, PREFIX_F3, PREFIX_NONE, prefixOf, wideSize } from "./sse-operands.ts";
import {
  execAlign,
  execByteMask,
  execExtract,
  execExtractWord,
  execFloatMask,
  execInsert,
  execInsertFloat,
  execShuffle,
  execShuffleFloats,
  execUnpackFloats,
} from "./sse-shuffles.ts";
import { execCompareStrings } from "./sse-strings.ts";
import {
  execBlend,
  execExtend,
  execPackedSse4,
  execPackedSsse3,
  execSumsOfDifferences,
  execTest,
} from "./sse4.ts";
import { COLD_CODE, COLD_FORM, FORM_66, FORM_MEMORY, isMemory, MAP_0F, MAP_0F38, MAP_0F3A } from "./uop.ts";
import { cpu, MF, NM, raise, UD, unsupported, XM } from "./vcpu.ts";

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

/** MOVMSK, shifts by an immediate, PEXTRW, PMOVMSKB, MASKMOV. */
function hasNoMemory(code: u32): bool {
  switch (code) {
    case MAP_0F | 0x50:
    case MAP_0F | 0x71:
    case MAP_0F | 0x72:
    case MAP_0F | 0x73:
    case MAP_0F | 0xc5:
    case MAP_0F | 0xd7:
    case MAP_0F | 0xf7:
      return true;
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
  if (form & FORM_MEMORY ? hasNoMemory(code) : hasOnlyMemory(code)) return 0;
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
    case 0x60:
    case 0x61:
    case 0x62:
    case 0x63:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0x68:
    case 0x69:
    case 0x6a:
    case 0x6b:
    case 0x74:
    case 0x75:
    case 0x76:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4:
    case 0xd5:
    case 0xd8:
    case 0xd9:
    case 0xda:
    case 0xdb:
    case 0xdc:
    case 0xdd:
    case 0xde:
    case 0xdf:
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xe4:
    case 0xe5:
    case 0xe7:
    case 0xe8:
    case 0xe9:
    case 0xea:
    case 0xeb:
    case 0xec:
    case 0xed:
    case 0xee:
    case 0xef:
    case 0xf1:
    case 0xf2:
    case 0xf3:
    case 0xf4:
    case 0xf5:
    case 0xf6:
    case 0xf7:
    case 0xf8:
    case 0xf9:
    case 0xfa:
    case 0xfb:
    case 0xfc:
    case 0xfd:
    case 0xfe:
      return byPrefix(kind, MMX_MMX, XMM_XMM, 0, 0);
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
      return 0;
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

export function execSse(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  const kinds = sseOperandKinds(code, load<u8>(pc, COLD_FORM));
  if (kinds == 0) return unsupported();
  const usesXmm = (kinds & (SSE_A_XMM | SSE_B_XMM)) != 0 || code == (MAP_0F | 0xae);
  // CVTPI2PS and CVTPI2PD from memory leave the x87 alone.
  const usesMmx = (kinds & SSE_A_MMX) != 0 || ((kinds & SSE_B_MMX) != 0 && !(usesXmm && isMemory(pc)));
  if (usesXmm || usesMmx) {
    const cr0 = load<u64>(cpu, CPU_CR0);
    if (cr0 & CR0_EM || (usesXmm && !(load<u64>(cpu, CPU_CR4) & CR4_OSFXSR))) return raise(UD);
    if (cr0 & CR0_TS) return raise(NM);
    if (usesMmx && load<u16>(cpu, CPU_X87_STATUS) & X87_ES) return raise(MF);
  }
  const isDone =
    code < MAP_0F38 ? exec0F(pc, code & 0xff) : code < MAP_0F3A ? exec0F38(pc, code & 0xff) : exec0F3A(pc, code & 0xff);
  // AMD: also when the result is an exception of SSE's own.
  if (usesMmx && (isDone || load<u32>(cpu, CPU_EXCEPTION) == XM)) enterMmx();
  return isDone;
}

/** An unmasked exception of the x87 is pending. */
const X87_ES: u16 = 0x80;

function exec0F(pc: usize, byte: u32): bool {
  switch (byte) {
    case 0x10:
      return execLoad(pc);
    case 0x11:
      return execStore(pc);
    case 0x12:
      return execLoadLow(pc);
    case 0x13:
      return execStoreHalf(pc, 0);
    case 0x14:
    case 0x15:
      return execUnpackFloats(pc);
    case 0x16:
      return execLoadHigh(pc);
    case 0x17:
      return execStoreHalf(pc, 8);
    case 0x28:
      return loadVector(pc, true);
    case 0x29:
      return storeVector(pc, true);
    case 0x2a:
      return execFromInteger(pc);
    case 0x2b:
      return execStoreStreaming(pc);
    case 0x2c:
    case 0x2d:
      return execToInteger(pc);
    case 0x2e:
    case 0x2f:
      return execCompareFlags(pc);
    case 0x50:
      return execFloatMask(pc);
    case 0x51:
    case 0x58:
    case 0x59:
    case 0x5c:
    case 0x5d:
    case 0x5e:
    case 0x5f:
      return execArithmetic(pc);
    case 0x52:
      return execReciprocal(pc, true);
    case 0x53:
      return execReciprocal(pc, false);
    case 0x54:
    case 0x55:
    case 0x56:
    case 0x57:
      return execFloatLogic(pc);
    case 0x5a:
      return execConvert(pc);
    case 0x5b:
      return execConvertSingles(pc);
    case 0x6e:
      return execLoadGeneral(pc);
    case 0x6f:
      return execLoadInteger(pc);
    case 0x70:
      return execShuffle(pc);
    case 0x71:
    case 0x72:
    case 0x73:
      return execShiftImmediate(pc);
    case 0x7c:
    case 0x7d:
    case 0xd0:
      return execHorizontal(pc);
    case 0x7e:
      return execStoreGeneral(pc);
    case 0x7f:
      return execStoreInteger(pc);
    case 0xae:
      return execMxcsr(pc);
    case 0xc2:
      return execCompare(pc);
    case 0xc4:
      return execInsert(pc, 2);
    case 0xc5:
      return execExtractWord(pc);
    case 0xc6:
      return execShuffleFloats(pc);
    case 0xd6:
      return execStoreQuad(pc);
    case 0xd7:
      return execByteMask(pc);
    case 0xe6:
      return execConvertDoubles(pc);
    case 0xe7:
      if (!isMemory(pc)) return raise(UD);
      return prefix(pc) == PREFIX_NONE ? storeMmx(pc) : execStoreStreaming(pc);
    case 0xf0:
      return execLoadUnaligned(pc);
    case 0xf7:
      return execStoreMasked(pc);
    case 0x60:
    case 0x61:
    case 0x62:
    case 0x63:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0x68:
    case 0x69:
    case 0x6a:
    case 0x6b:
    case 0x6c:
    case 0x6d:
    case 0x74:
    case 0x75:
    case 0x76:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4:
    case 0xd5:
    case 0xd8:
    case 0xd9:
    case 0xda:
    case 0xdb:
    case 0xdc:
    case 0xdd:
    case 0xde:
    case 0xdf:
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xe4:
    case 0xe5:
    case 0xe8:
    case 0xe9:
    case 0xea:
    case 0xeb:
    case 0xec:
    case 0xed:
    case 0xee:
    case 0xef:
    case 0xf1:
    case 0xf2:
    case 0xf3:
    case 0xf4:
    case 0xf5:
    case 0xf6:
    case 0xf8:
    case 0xf9:
    case 0xfa:
    case 0xfb:
    case 0xfc:
    case 0xfd:
    case 0xfe:
      return execPacked(pc);
    default:
      return unsupported();
  }
}

function exec0F38(pc: usize, byte: u32): bool {
  if (byte >= 0xf0) return execCrc32(pc);
  if (byte >= 0xdb) return execAes(pc);
  switch (byte) {
    case 0x00:
    case 0x01:
    case 0x02:
    case 0x03:
    case 0x04:
    case 0x05:
    case 0x06:
    case 0x07:
    case 0x08:
    case 0x09:
    case 0x0a:
    case 0x0b:
    case 0x1c:
    case 0x1d:
    case 0x1e:
      return execPackedSsse3(pc);
    case 0x17:
      return execTest(pc);
    case 0x20:
    case 0x21:
    case 0x22:
    case 0x23:
    case 0x24:
    case 0x25:
    case 0x30:
    case 0x31:
    case 0x32:
    case 0x33:
    case 0x34:
    case 0x35:
      return execExtend(pc);
    case 0x2a:
      return execLoadStreaming(pc);
    default:
      return execPackedSse4(pc);
  }
}

function exec0F3A(pc: usize, byte: u32): bool {
  if (byte == 0xdf) return execAesKey(pc);
  if (byte >= 0x60) return execCompareStrings(pc);
  if (byte == 0x44) return execMultiplyCarryless(pc);
  if (byte == 0x42) return execSumsOfDifferences(pc);
  if (byte >= 0x40) return execDotProduct(pc, byte == 0x41 ? DOUBLE : SINGLE);
  switch (byte) {
    case 0x08:
      return execRound(pc, SINGLE, false);
    case 0x09:
      return execRound(pc, DOUBLE, false);
    case 0x0a:
      return execRound(pc, SINGLE, true);
    case 0x0b:
      return execRound(pc, DOUBLE, true);
    case 0x0c:
      return execBlend(pc, 4);
    case 0x0d:
      return execBlend(pc, 8);
    case 0x0e:
      return execBlend(pc, 2);
    case 0x0f:
      return execAlign(pc);
    case 0x14:
      return execExtract(pc, 1);
    case 0x15:
      return execExtract(pc, 2);
    case 0x16:
      return execExtract(pc, wideSize(pc));
    case 0x17:
      return execExtract(pc, 4);
    case 0x20:
      return execInsert(pc, 1);
    case 0x21:
      return execInsertFloat(pc);
    case 0x22:
      return execInsert(pc, wideSize(pc));
    default:
      return unsupported();
  }
}
