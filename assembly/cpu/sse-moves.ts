// SPDX-License-Identifier: Apache-2.0
// Moves of XMM and MMX registers, and MXCSR. SDM volume 2.
import { toWrite, writeValue } from "./access.ts";
import { CPU_GPRS, CPU_MODE, CPU_MXCSR, SEGMENT_BASE_U64, SEGMENT_FS } from "./layout.ts";
import { MODE_64, segment } from "./modes.ts";
import {
  mmx,
  PREFIX_66,
  PREFIX_F2,
  PREFIX_F3,
  PREFIX_NONE,
  prefix,
  setGeneral,
  setMmx,
  source,
  source128,
  sourceMmx,
  wideSize,
  write128,
  writeLow,
} from "./sse-operands.ts";
import { address, COLD_ADDRESS_SIZE, COLD_MODRM, COLD_SEGMENT, isMemory, registerA, registerB } from "./uop.ts";
import { cpu, GP, raise, raiseWith, UD, unsupported } from "./vcpu.ts";

/** MOVUPS, MOVUPD, MOVSS, MOVSD to a register. */
export function execLoad(pc: usize): bool {
  const kind = prefix(pc);
  if (kind <= PREFIX_66) return loadVector(pc, false);
  const sizeBytes: u32 = kind == PREFIX_F3 ? 4 : 8;
  const from = source(pc, sizeBytes);
  if (from == 0) return false;
  const to = registerA(pc);
  if (isMemory(pc)) {
    v128.store(to, sizeBytes == 4 ? v128.load32_zero(from) : v128.load64_zero(from));
  } else if (sizeBytes == 4) store<u32>(to, load<u32>(from));
  else store<u64>(to, load<u64>(from));
  return true;
}

/** The same from a register. */
export function execStore(pc: usize): bool {
  const kind = prefix(pc);
  if (kind <= PREFIX_66) return storeVector(pc, false);
  return writeLow(pc, kind == PREFIX_F3 ? 4 : 8);
}

export function loadVector(pc: usize, isAligned: bool): bool {
  const from = isAligned ? source128(pc) : source(pc, 16);
  if (from == 0) return false;
  v128.store(registerA(pc), v128.load(from));
  return true;
}

export function storeVector(pc: usize, isAligned: bool): bool {
  const from = registerA(pc);
  if (!isMemory(pc)) {
    v128.store(registerB(pc), v128.load(from));
    return true;
  }
  const at = address(pc);
  if (isAligned && at & 15) return raiseWith(GP, 0);
  return write128(at, from);
}

/** MOVNTPS, MOVNTPD, MOVNTDQ, of which nothing is not temporal here; MOVNTQ. */
export function execStoreStreaming(pc: usize): bool {
  return storeVector(pc, true);
}

/** Opcodes 6F and 7F: MOVQ, MOVDQA, MOVDQU. */
export function execLoadInteger(pc: usize): bool {
  const kind = prefix(pc);
  if (kind != PREFIX_NONE) return loadVector(pc, kind == PREFIX_66);
  const from = sourceMmx(pc, 8);
  if (from == 0) return false;
  setMmx(registerA(pc), load<u64>(from));
  return true;
}

export function execStoreInteger(pc: usize): bool {
  const kind = prefix(pc);
  return kind == PREFIX_NONE ? storeMmx(pc) : storeVector(pc, kind == PREFIX_66);
}

/** MOVQ of MMX, MOVNTQ. */
export function storeMmx(pc: usize): bool {
  const value = load<u64>(mmx(registerA(pc)));
  if (isMemory(pc)) return writeValue(address(pc), 8, value);
  setMmx(registerB(pc), value);
  return true;
}

/** LDDQU. */
export function execLoadUnaligned(pc: usize): bool {
  return loadVector(pc, false);
}

/** MOVNTDQA. */
export function execLoadStreaming(pc: usize): bool {
  return loadVector(pc, true);
}

/** Opcode 12: MOVLPS, MOVHLPS, MOVLPD, MOVSLDUP, MOVDDUP. */
export function execLoadLow(pc: usize): bool {
  const to = registerA(pc);
  const kind = prefix(pc);
  if (kind == PREFIX_F3) {
    const from = source128(pc);
    if (from == 0) return false;
    const value = v128.load(from);
    v128.store(to, i32x4.shuffle(value, value, 0, 0, 2, 2));
    return true;
  }
  if (!isMemory(pc) && kind != PREFIX_F2) {
    if (kind == PREFIX_66) return raise(UD);
    store<u64>(to, load<u64>(registerB(pc), 8));
    return true;
  }
  const from = source(pc, 8);
  if (from == 0) return false;
  const value = load<u64>(from);
  store<u64>(to, value);
  if (kind == PREFIX_F2) store<u64>(to, value, 8);
  return true;
}

/** Opcode 16: MOVHPS, MOVLHPS, MOVHPD, MOVSHDUP. */
export function execLoadHigh(pc: usize): bool {
  const to = registerA(pc);
  const kind = prefix(pc);
  if (kind == PREFIX_F3) {
    const from = source128(pc);
    if (from == 0) return false;
    const value = v128.load(from);
    v128.store(to, i32x4.shuffle(value, value, 1, 1, 3, 3));
    return true;
  }
  if (!isMemory(pc) && kind == PREFIX_66) return raise(UD);
  const from = source(pc, 8);
  if (from == 0) return false;
  store<u64>(to, load<u64>(from), 8);
  return true;
}

/** Opcodes 13 and 17: MOVLPS, MOVLPD, MOVHPS, MOVHPD to memory. */
export function execStoreHalf(pc: usize, offset: usize): bool {
  return writeValue(address(pc), 8, load<u64>(registerA(pc) + offset));
}

/** Opcode 6E: MOVD and MOVQ from a general register. */
export function execLoadGeneral(pc: usize): bool {
  const sizeBytes = wideSize(pc);
  const from = source(pc, sizeBytes);
  if (from == 0) return false;
  const value = sizeBytes == 8 ? load<u64>(from) : <u64>load<u32>(from);
  const to = registerA(pc);
  if (prefix(pc) == PREFIX_NONE) setMmx(to, value);
  else setXmm(to, value);
  return true;
}

/** Opcode 7E: the same to a general register; with F3 MOVQ from XMM or memory. */
export function execStoreGeneral(pc: usize): bool {
  const kind = prefix(pc);
  if (kind == PREFIX_F3) {
    const from = source(pc, 8);
    if (from == 0) return false;
    setXmm(registerA(pc), load<u64>(from));
    return true;
  }
  const sizeBytes = wideSize(pc);
  const value = load<u64>(kind == PREFIX_NONE ? mmx(registerA(pc)) : registerA(pc));
  if (isMemory(pc)) return writeValue(address(pc), sizeBytes, value);
  setGeneral(registerB(pc), value, sizeBytes);
  return true;
}

/** Opcode D6: MOVQ to XMM or memory, MOVQ2DQ, MOVDQ2Q. */
export function execStoreQuad(pc: usize): bool {
  const kind = prefix(pc);
  if (kind == PREFIX_66) {
    const value = load<u64>(registerA(pc));
    if (isMemory(pc)) return writeValue(address(pc), 8, value);
    setXmm(registerB(pc), value);
    return true;
  }
  if (kind == PREFIX_F3) setXmm(registerA(pc), load<u64>(mmx(registerB(pc))));
  else setMmx(registerA(pc), load<u64>(registerB(pc)));
  return true;
}

@inline
function setXmm(register: usize, low: u64): void {
  store<u64>(register, low);
  store<u64>(register, 0, 8);
}

/** MASKMOVQ, MASKMOVDQU: bytes of ModRM.reg whose masks in ModRM.rm are negative go to [rDI]. */
export function execStoreMasked(pc: usize): bool {
  const isMmx = prefix(pc) == PREFIX_NONE;
  const value = isMmx ? mmx(registerA(pc)) : registerA(pc);
  const mask = isMmx ? mmx(registerB(pc)) : registerB(pc);
  const at = maskedAddress(pc);
  const sizeBytes: u32 = isMmx ? 8 : 16;
  // All of them can be written before any is.
  for (let index: u32 = 0; index < sizeBytes; index++) {
    if (load<i8>(mask + index) < 0 && toWrite(at + index, 1) == 0) return false;
  }
  for (let index: u32 = 0; index < sizeBytes; index++) {
    if (load<i8>(mask + index) < 0) writeValue(at + index, 1, load<u8>(value + index));
  }
  return true;
}

function maskedAddress(pc: usize): u64 {
  const number = <u32>load<u8>(pc, COLD_SEGMENT);
  const isFlat = (load<u32>(cpu, CPU_MODE) & MODE_64) != 0 && number < <u32>SEGMENT_FS;
  const base = isFlat ? 0 : load<u64>(segment(number), SEGMENT_BASE_U64);
  const offset = load<u64>(cpu, CPU_GPRS + 8 * 7);
  switch (load<u8>(pc, COLD_ADDRESS_SIZE)) {
    case 8:
      return base + offset;
    case 4:
      return linear(base + (offset & 0xffff_ffff));
    default:
      return linear(base + (offset & 0xffff));
  }
}

/** Outside of 64-bit mode linear addresses have 32 bits. */
function linear(at: u64): u64 {
  return load<u32>(cpu, CPU_MODE) & MODE_64 ? at : at & 0xffff_ffff;
}

/** Opcode AE: LDMXCSR and STMXCSR. The others of the group are not here. */
export function execMxcsr(pc: usize): bool {
  if (!isMemory(pc) || prefix(pc) != PREFIX_NONE) return unsupported();
  switch ((load<u8>(pc, COLD_MODRM) >> 3) & 7) {
    case 2: {
      const from = source(pc, 4);
      if (from == 0) return false;
      const value = load<u32>(from);
      if (value >> 16) return raiseWith(GP, 0);
      store<u32>(cpu, value, CPU_MXCSR);
      return true;
    }
    case 3:
      return writeValue(address(pc), 4, load<u32>(cpu, CPU_MXCSR));
    default:
      return unsupported();
  }
}
