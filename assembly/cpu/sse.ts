// SPDX-License-Identifier: Apache-2.0
// SSE to SSE4.2, MMX, AES-NI, PCLMULQDQ and CRC32: when they may be used, and who does them. SDM volume 2, appendix A; volume 3, 2.5 and
// 13.1. Which there are, and their operands: sse-kinds.ts.
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
import { SSE_A_MMX, SSE_A_XMM, SSE_B_MMX, SSE_B_XMM, sseOperandKinds } from "./sse-kinds.ts";
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
import { enterMmx, prefix, PREFIX_NONE, wideSize } from "./sse-operands.ts";
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
import { execBlend, execExtend, execPackedSse4, execPackedSsse3, execSumsOfDifferences, execTest } from "./sse4.ts";
import { COLD_CODE, COLD_FORM, isMemory, MAP_0F, MAP_0F38, MAP_0F3A } from "./uop.ts";
import { cpu, MF, NM, raise, UD, unsupported, XM } from "./vcpu.ts";

/** An unmasked exception of the x87 is pending. */
const X87_ES: u16 = 0x80;

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

// Which opcodes there are is said in sse-kinds.ts alone: no other comes here, and the last of each switch takes all that are left.

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
      return prefix(pc) == PREFIX_NONE ? storeMmx(pc) : execStoreStreaming(pc);
    case 0xf0:
      return execLoadUnaligned(pc);
    case 0xf7:
      return execStoreMasked(pc);
    default:
      return execPacked(pc);
  }
}

function exec0F38(pc: usize, byte: u32): bool {
  if (byte <= 0x0b || (byte >= 0x1c && byte <= 0x1e)) return execPackedSsse3(pc);
  if ((byte >= 0x20 && byte <= 0x25) || (byte >= 0x30 && byte <= 0x35)) return execExtend(pc);
  if (byte >= 0xf0) return execCrc32(pc);
  if (byte >= 0xdb) return execAes(pc);
  if (byte == 0x17) return execTest(pc);
  if (byte == 0x2a) return execLoadStreaming(pc);
  return execPackedSse4(pc);
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
    default:
      return execInsert(pc, wideSize(pc));
  }
}
