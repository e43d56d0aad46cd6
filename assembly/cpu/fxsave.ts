// SPDX-License-Identifier: Apache-2.0
// FXSAVE, FXRSTOR and EMMS. SDM volume 1, 10.5.
//
//   0 u16 control word   2 u16 status word   4 u8 valid registers   6 u16 opcode
//   8 IP  16 DP          u64 with REX.W; u32, and a selector that is not kept, without
//   24 u32 MXCSR         28 u32 its bits that may be set
//   32 u8[8][16]         ST(0) to ST(7), 10 bytes each
//   160 u8[16][16]       XMM0 to XMM15; up to XMM7 outside of 64-bit mode
//
// Opcode, IP and DP are there while an exception that is not masked waits to be raised, and else 0: so it is with AMD.
import { isCanonical, readValue, toRead, writeValue } from "./access.ts";
import { CR0_EM, CR0_TS } from "./control-bits.ts";
import {
  CPU_CR0,
  CPU_MODE,
  CPU_MXCSR,
  CPU_X87_DP,
  CPU_X87_IP,
  CPU_X87_OPCODE,
  CPU_X87_TOP,
  CPU_X87_VALID,
  CPU_XMMS,
} from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import { address, COLD_CODE, COLD_FORM, COLD_MODRM, FORM_REX_W, isMemory, MAP_0F } from "./uop.ts";
import { cpu, GP, NM, raise, raiseWith, UD, unsupported } from "./vcpu.ts";
import {
  canRead,
  canWrite,
  controlWord,
  hasNothingPending,
  isAvailable,
  loadRegister,
  setControlWord,
  setStatusWord,
  stackRegister,
  STATUS_ES,
  statusWord,
  writeBytes,
} from "./x87-state.ts";

const IMAGE_SIZE_BYTES: u32 = 512;
const IMAGE_STATUS: u64 = 2;
const IMAGE_VALID: u64 = 4;
const IMAGE_OPCODE: u64 = 6;
const IMAGE_IP: u64 = 8;
const IMAGE_DP: u64 = 16;
const IMAGE_MXCSR: u64 = 24;
const IMAGE_MXCSR_MASK: u64 = 28;
const IMAGE_REGISTERS: u64 = 32;
const IMAGE_XMMS: u64 = 160;
const STRIDE_BYTES: u32 = 16;
/** Bits of MXCSR that may be set. */
export const MXCSR_MASK: u32 = 0xffff;

const CODE_EMMS: u32 = MAP_0F | 0x77;

/** 0F AE /0 and /1, 0F 77. */
export function execFxsave(pc: usize): bool {
  if (load<u16>(pc, COLD_CODE) == CODE_EMMS) return emms();
  if (!isMemory(pc)) return unsupported();
  if (!isAvailable()) return false;
  const at = address(pc);
  if (at & 15 && isCanonical(at)) return raiseWith(GP, 0);
  const isWide = (load<u8>(pc, COLD_FORM) & FORM_REX_W) != 0;
  switch ((load<u8>(pc, COLD_MODRM) >> 3) & 7) {
    case 0:
      return save(at, isWide);
    case 1:
      return restore(at, isWide);
    default:
      return unsupported();
  }
}

function save(at: u64, isWide: bool): bool {
  if (!canWrite(at, IMAGE_SIZE_BYTES)) return false;
  writeValue(at, 2, controlWord());
  writeValue(at + IMAGE_STATUS, 2, statusWord());
  writeValue(at + IMAGE_VALID, 2, load<u8>(cpu, CPU_X87_VALID));
  const isPending = (statusWord() & STATUS_ES) != 0;
  const pointerMask: u64 = !isPending ? 0 : isWide ? u64.MAX_VALUE : u32.MAX_VALUE;
  writeValue(at + IMAGE_OPCODE, 2, isPending ? load<u16>(cpu, CPU_X87_OPCODE) : 0);
  writeValue(at + IMAGE_IP, 8, load<u64>(cpu, CPU_X87_IP) & pointerMask);
  writeValue(at + IMAGE_DP, 8, load<u64>(cpu, CPU_X87_DP) & pointerMask);
  writeValue(at + IMAGE_MXCSR, 4, load<u32>(cpu, CPU_MXCSR));
  writeValue(at + IMAGE_MXCSR_MASK, 4, MXCSR_MASK);
  for (let index: u32 = 0; index < 8; index++) {
    const register = stackRegister(index);
    const place = at + IMAGE_REGISTERS + index * STRIDE_BYTES;
    writeValue(place, 8, load<u64>(register));
    writeValue(place + 8, 8, load<u16>(register, 8));
  }
  for (let index: u32 = 0, count = xmmCount(); index < count; index++) {
    writeBytes(at + IMAGE_XMMS + index * STRIDE_BYTES, cpu + CPU_XMMS + index * STRIDE_BYTES, STRIDE_BYTES);
  }
  return true;
}

function restore(at: u64, isWide: bool): bool {
  if (!canRead(at, IMAGE_SIZE_BYTES)) return false;
  const mxcsr = <u32>readValue(at + IMAGE_MXCSR, 4);
  if (mxcsr & ~MXCSR_MASK) return raiseWith(GP, 0);
  store<u32>(cpu, mxcsr, CPU_MXCSR);
  setControlWord(<u32>readValue(at, 2));
  setStatusWord(<u32>readValue(at + IMAGE_STATUS, 2));
  store<u8>(cpu, <u8>readValue(at + IMAGE_VALID, 1), CPU_X87_VALID);
  store<u16>(cpu, <u16>readValue(at + IMAGE_OPCODE, 2) & 0x7ff, CPU_X87_OPCODE);
  const pointerSizeBytes: u32 = isWide ? 8 : 4;
  store<u64>(cpu, readValue(at + IMAGE_IP, pointerSizeBytes), CPU_X87_IP);
  store<u64>(cpu, readValue(at + IMAGE_DP, pointerSizeBytes), CPU_X87_DP);
  for (let index: u32 = 0; index < 8; index++) {
    const from = toRead(at + IMAGE_REGISTERS + index * STRIDE_BYTES, STRIDE_BYTES);
    loadRegister(index, load<u16>(from, 8), load<u64>(from));
  }
  for (let index: u32 = 0, count = xmmCount(); index < count; index++) {
    const from = toRead(at + IMAGE_XMMS + index * STRIDE_BYTES, STRIDE_BYTES);
    memory.copy(cpu + CPU_XMMS + index * STRIDE_BYTES, from, STRIDE_BYTES);
  }
  return true;
}

function xmmCount(): u32 {
  return load<u32>(cpu, CPU_MODE) & MODE_64 ? 16 : 8;
}

/** All registers are empty, and TOP is 0. */
function emms(): bool {
  const cr0 = load<u64>(cpu, CPU_CR0);
  if (cr0 & CR0_EM) return raise(UD);
  if (cr0 & CR0_TS) return raise(NM);
  if (!hasNothingPending()) return false;
  store<u8>(cpu, 0, CPU_X87_TOP);
  store<u8>(cpu, 0, CPU_X87_VALID);
  return true;
}
