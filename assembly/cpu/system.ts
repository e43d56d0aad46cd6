// SPDX-License-Identifier: Apache-2.0
// System instructions: segments, control registers, mode changes, system calls, interrupts by instruction. SDM volume 2; for what
// AMD does otherwise, APM volume 3.
import { writeCr8 } from "./apic.ts";
import { group, immediate, size, source } from "./cold-operands.ts";
import { arithmeticFlags, IF, IOPL, OF, rflags, RF, setRflags, TF } from "./flags.ts";
import {
  changeableFlags,
  deliver,
  FROM_EXCEPTION,
  FROM_INSTRUCTION,
  interruptReturn,
} from "./interrupts.ts";
import {
  CPU_ACTIVITY,
  CPU_ACTIVITY_HALTED,
  CPU_CR0,
  CPU_CR2,
  CPU_CR3,
  CPU_CR4,
  CPU_CR8,
  CPU_CSTAR,
  CPU_DRS,
  CPU_EFER,
  CPU_FMASK,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_KERNEL_GS_BASE,
  CPU_LSTAR,
  CPU_MODE,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_STAR,
  CPU_TSC_AUX,
  SEGMENT_BASE_U64,
  SEGMENT_CS,
  SEGMENT_DS,
  SEGMENT_ES,
  SEGMENT_FS,
  SEGMENT_GS,
  SEGMENT_LDTR,
  SEGMENT_SELECTOR_U16,
  SEGMENT_SS,
  SEGMENT_TR,
} from "./layout.ts";
import {
  CR0_PE,
  CR0_PG,
  CR0_WP,
  CR4_PAE,
  CR4_PGE,
  CR4_PSE,
  CR4_TSD,
  EFER_LMA,
  EFER_LME,
  EFER_SCE,
  flushPage,
  flushTlb,
  isCanonical,
  PHYSICAL_ADDRESS_BITS,
  readValue,
  selectTlb,
  writeValue,
} from "./mmu.ts";
import { MODE_64, privilegeLevel, segment, updateMode } from "./modes.ts";
import { execCpuid } from "./cpuid.ts";
import { readMsr, readTsc, writeMsr } from "./msr.ts";
import { execPort } from "./ports.ts";
import { loadAt, R11, RAX, RCX, RDX, setRegister } from "./registers.ts";
import {
  farReturn,
  farTransfer,
  isLongMode,
  isProtected,
  loadSegment,
  loadSystemSegment,
  setSegment,
  shadowInterrupts,
  verify,
} from "./segments.ts";
import { pop, setStackPointer, stackPointer } from "./stack.ts";
import {
  address,
  COLD_CODE,
  COLD_FORM,
  COLD_LENGTH,
  COLD_MODRM,
  FORM_66,
  FORM_F2,
  FORM_F3,
  isMemory,
  MAP_0F,
  registerB,
  UOP_NEXT,
} from "./uop.ts";
import { BP, cpu, DB, GP, hasFaulted, OF as OVERFLOW, raise, raiseWith, UD, unsupported } from "./vcpu.ts";

/** CR8 has no bits but these. */
const CR4_KNOWN: u64 = 0x6ff;
const CR0_KNOWN: u64 = 0xe005_003f;
const CR0_CD: u64 = 0x4000_0000;
const CR0_NW: u64 = 0x2000_0000;
const CR0_ET: u64 = 0x10;

// Single steps: whether there is a trap after an instruction is told by TF as it was before. Of some it is not.
const TRAP_BY_FLAG: u32 = 0;
const TRAP_NONE: u32 = 1;
const TRAP_NOW: u32 = 2;
let trapAfter: u32 = TRAP_BY_FLAG;

/** Whether the instruction that has just been run ends a single step. */
export function endsStep(hadTrapFlag: bool): bool {
  const verdict = trapAfter;
  trapAfter = TRAP_BY_FLAG;
  return verdict == TRAP_BY_FLAG ? hadTrapFlag : verdict == TRAP_NOW;
}

/** INT n and its like: their handlers have TF cleared, and their IRET sets it again. */
function interruptBy(vector: u32, from: u32): bool {
  trapAfter = TRAP_NONE;
  return deliver(vector, from, false, 0);
}

/** After a load of SS: neither interrupts nor traps until after the next instruction. */
function shadowStack(): void {
  shadowInterrupts();
  trapAfter = TRAP_NONE;
}

/** SYSCALL and SYSRET look at TF when they are done, so that it can be masked. */
function trapAsNow(): void {
  trapAfter = load<u64>(cpu, CPU_RFLAGS) & TF ? TRAP_NOW : TRAP_NONE;
}

/** Runs it. CPU_RIP is what is next, and the mode and the TLB are right, whether it has raised an exception or not. */
export function execSystem(pc: usize): void {
  const next = load<u64>(pc, UOP_NEXT);
  store<u64>(cpu, next, CPU_RIP);
  const code = <u32>load<u16>(pc, COLD_CODE);
  const isDone = code >= MAP_0F ? execSystem0f(pc, code & 0xff) : execSystem1(pc, code);
  if (!isDone) store<u64>(cpu, next - load<u8>(pc, COLD_LENGTH), CPU_RIP);
  updateMode();
  selectTlb();
}

function store16(pc: usize, value: u64): bool {
  if (isMemory(pc)) return writeValue(address(pc), 2, value);
  setRegister(registerB(pc), size(pc), value);
  return true;
}

/** Only at privilege level 0. False: #GP was raised. */
function isSupervisor(): bool {
  return privilegeLevel() == 0 || raiseWith(GP, 0);
}

function execSystem1(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  switch (code) {
    case 0x07:
    case 0x17:
    case 0x1f:
      return popSegment(group(pc), sizeBytes);
    case 0x8e: {
      const selector = <u32>source(pc, 2);
      if (hasFaulted() || !loadSegment(group(pc), selector)) return false;
      if (group(pc) == SEGMENT_SS) shadowStack();
      return true;
    }
    case 0x9a:
    case 0xea: {
      const pointer = <u64>immediate(pc);
      return farTransfer(<u32>(pointer >> 32) & 0xffff, pointer & 0xffff_ffff, sizeBytes, code == 0x9a);
    }
    case 0x9d:
      return popFlags(sizeBytes);
    case 0xc4:
    case 0xc5:
      return loadFarPointer(pc, code == 0xc4 ? SEGMENT_ES : SEGMENT_DS);
    case 0xca:
    case 0xcb:
      return farReturn(sizeBytes, immediate(pc));
    case 0xcc:
      return interruptBy(BP, FROM_INSTRUCTION);
    case 0xcd:
      return interruptBy(<u32>immediate(pc) & 0xff, FROM_INSTRUCTION);
    case 0xce:
      return !(arithmeticFlags() & OF) || interruptBy(OVERFLOW, FROM_INSTRUCTION);
    case 0xcf:
      return interruptReturn(sizeBytes);
    case 0xf1:
      return interruptBy(DB, FROM_EXCEPTION);
    case 0xf4:
      if (!isSupervisor()) return false;
      store<u32>(cpu, CPU_ACTIVITY_HALTED, CPU_ACTIVITY);
      return true;
    case 0xfb:
      return setInterruptFlag();
    case 0xff: {
      const where = address(pc);
      const offset = readValue(where, sizeBytes);
      if (hasFaulted()) return false;
      const selector = <u32>readValue(where + sizeBytes, 2);
      return !hasFaulted() && farTransfer(selector, offset, sizeBytes, group(pc) == 3);
    }
    default:
      return execPort(pc);
  }
}

function execSystem0f(pc: usize, code: u32): bool {
  switch (code) {
    case 0x00:
      return group6(pc);
    case 0x01:
      return isMemory(pc) ? group7(pc) : group7Register(pc);
    case 0x05:
      return systemCall();
    case 0x06:
      if (!isSupervisor()) return false;
      store<u64>(cpu, load<u64>(cpu, CPU_CR0) & ~(<u64>8), CPU_CR0);
      return true;
    case 0x07:
      return systemReturn(size(pc) == 8);
    case 0x08:
    case 0x09:
      return isSupervisor();
    case 0x20:
    case 0x22:
      if (controlRegister(group(pc)) == 0) return raise(UD);
      return isSupervisor() && moveControl(pc, code == 0x22);
    case 0x21:
    case 0x23:
      if (group(pc) > 7) return raise(UD);
      return isSupervisor() && moveDebug(pc, code == 0x23);
    case 0x30: {
      if (!isSupervisor()) return false;
      const value = <u64>load<u32>(cpu, RAX) | (<u64>load<u32>(cpu, RDX) << 32);
      return writeMsr(load<u32>(cpu, RCX), value);
    }
    case 0x31:
      return readTimeStamp();
    case 0x32: {
      if (!isSupervisor()) return false;
      const value = readMsr(load<u32>(cpu, RCX));
      if (hasFaulted()) return false;
      setPair(value);
      return true;
    }
    case 0xa1:
    case 0xa9:
      return popSegment(code == 0xa1 ? SEGMENT_FS : SEGMENT_GS, size(pc));
    case 0xa2:
      execCpuid();
      return true;
    case 0xb2:
      return loadFarPointer(pc, SEGMENT_SS);
    case 0xb4:
      return loadFarPointer(pc, SEGMENT_FS);
    case 0xb5:
      return loadFarPointer(pc, SEGMENT_GS);
    default:
      // SYSENTER and SYSEXIT are of Intel's in long mode, and RDPMC has no counters.
      return unsupported();
  }
}

/** EDX:EAX. */
function setPair(value: u64): void {
  store<u64>(cpu, <u32>value, RAX);
  store<u64>(cpu, value >> 32, RDX);
}

function readTimeStamp(): bool {
  if (load<u64>(cpu, CPU_CR4) & CR4_TSD && privilegeLevel() != 0) return raiseWith(GP, 0);
  setPair(readTsc());
  return true;
}

function popSegment(number: u32, sizeBytes: u32): bool {
  const before = stackPointer();
  const selector = <u32>pop(sizeBytes) & 0xffff;
  if (hasFaulted()) return false;
  if (!loadSegment(number, selector)) {
    setStackPointer(before);
    return false;
  }
  if (number == SEGMENT_SS) shadowStack();
  return true;
}

/** LDS and its like. */
function loadFarPointer(pc: usize, number: u32): bool {
  const sizeBytes = size(pc);
  const where = address(pc);
  const offset = readValue(where, sizeBytes);
  if (hasFaulted()) return false;
  const selector = <u32>readValue(where + sizeBytes, 2);
  if (hasFaulted() || !loadSegment(number, selector)) return false;
  setRegister(group(pc), sizeBytes, offset);
  return true;
}

function popFlags(sizeBytes: u32): bool {
  const flags = pop(sizeBytes);
  if (hasFaulted()) return false;
  const before = rflags();
  const may = changeableFlags(isProtected() ? privilegeLevel() : 0, sizeBytes);
  setRflags((before & ~may & ~(<u64>RF)) | (flags & may));
  return true;
}

/** STI: interrupts wait for one instruction more. */
function setInterruptFlag(): bool {
  const flags = load<u64>(cpu, CPU_RFLAGS);
  if (isProtected() && privilegeLevel() > (<u32>(flags & IOPL) >> 12)) return raiseWith(GP, 0);
  if (!(flags & IF)) shadowInterrupts();
  store<u64>(cpu, flags | IF, CPU_RFLAGS);
  return true;
}

/** SLDT, STR, LLDT, LTR, VERR, VERW. */
function group6(pc: usize): bool {
  if (!isProtected()) return raise(UD);
  const operation = group(pc);
  if (operation < 2) {
    return store16(pc, load<u16>(segment(operation == 0 ? SEGMENT_LDTR : SEGMENT_TR), SEGMENT_SELECTOR_U16));
  }
  if (operation > 5) return raise(UD);
  if (operation < 4 && !isSupervisor()) return false;
  const selector = <u32>source(pc, 2);
  if (hasFaulted()) return false;
  if (operation >= 4) return verify(selector, operation == 5);
  return loadSystemSegment(operation == 2 ? SEGMENT_LDTR : SEGMENT_TR, selector);
}

/** SGDT, SIDT, LGDT, LIDT, SMSW, LMSW, INVLPG. */
function group7(pc: usize): bool {
  const where = address(pc);
  const operation = group(pc);
  const baseBytes: u32 = load<u32>(cpu, CPU_MODE) & MODE_64 ? 8 : 4;
  const limitAt = operation & 1 ? CPU_IDTR_LIMIT : CPU_GDTR_LIMIT;
  const baseAt = operation & 1 ? CPU_IDTR_BASE : CPU_GDTR_BASE;
  switch (operation) {
    case 0:
    case 1:
      return (
        writeValue(where, 2, load<u32>(cpu + limitAt)) && writeValue(where + 2, baseBytes, load<u64>(cpu + baseAt))
      );
    case 2:
    case 3: {
      if (!isSupervisor()) return false;
      const limit = readValue(where, 2);
      if (hasFaulted()) return false;
      let base = readValue(where + 2, baseBytes);
      if (hasFaulted()) return false;
      // Of 16 bits, the base has 24.
      if (baseBytes == 4 && load<u8>(pc, COLD_FORM) & FORM_66) base &= 0xff_ffff;
      if (!isCanonical(base)) return raiseWith(GP, 0);
      store<u32>(cpu + limitAt, <u32>limit);
      store<u64>(cpu + baseAt, base);
      return true;
    }
    case 4:
      return writeValue(where, 2, load<u64>(cpu, CPU_CR0));
    case 6: {
      if (!isSupervisor()) return false;
      const value = readValue(where, 2);
      return !hasFaulted() && loadStatusWord(value);
    }
    case 7:
      if (!isSupervisor()) return false;
      flushPage(where);
      return true;
    default:
      return raise(UD);
  }
}

function group7Register(pc: usize): bool {
  const operation = group(pc);
  if (operation == 4) {
    setRegister(registerB(pc), size(pc), load<u64>(cpu, CPU_CR0));
    return true;
  }
  if (operation == 6) return isSupervisor() && loadStatusWord(load<u16>(registerB(pc)));
  switch (load<u8>(pc, COLD_MODRM)) {
    case 0xe8:
      // SERIALIZE: all here is in order.
      return load<u8>(pc, COLD_FORM) & (FORM_66 | FORM_F2 | FORM_F3) ? raise(UD) : true;
    case 0xf8:
      return swapGs();
    case 0xf9:
      if (!readTimeStamp()) return false;
      store<u64>(cpu, load<u32>(cpu, CPU_TSC_AUX), RCX);
      return true;
    default:
      return unsupported();
  }
}

/** LMSW: the lowest four bits of CR0; PE is not cleared. */
function loadStatusWord(value: u64): bool {
  const before = load<u64>(cpu, CPU_CR0);
  return setCr0((before & ~(<u64>14)) | (value & 15) | (before & 1));
}

function swapGs(): bool {
  if (!(load<u32>(cpu, CPU_MODE) & MODE_64)) return raise(UD);
  if (!isSupervisor()) return false;
  const place = segment(SEGMENT_GS);
  const base = load<u64>(place, SEGMENT_BASE_U64);
  store<u64>(place, load<u64>(cpu, CPU_KERNEL_GS_BASE), SEGMENT_BASE_U64);
  store<u64>(cpu, base, CPU_KERNEL_GS_BASE);
  return true;
}

// ── Control and debug registers ──

function moveControl(pc: usize, isWrite: bool): bool {
  const number = group(pc);
  const register = registerB(pc);
  const sizeBytes = size(pc);
  if (!isWrite) {
    setRegister(register, sizeBytes, load<u64>(cpu + controlRegister(number)));
    return true;
  }
  const value = loadAt(register, sizeBytes);
  switch (number) {
    case 0:
      return setCr0(value);
    case 2:
      store<u64>(cpu, value, CPU_CR2);
      return true;
    case 3:
      if (value >> PHYSICAL_ADDRESS_BITS) return raiseWith(GP, 0);
      store<u64>(cpu, value, CPU_CR3);
      flushTlb(true);
      return true;
    case 4:
      return setCr4(value);
    case 8:
      return writeCr8(value);
    default:
      return raise(UD);
  }
}

function controlRegister(number: u32): usize {
  switch (number) {
    case 0:
      return CPU_CR0;
    case 2:
      return CPU_CR2;
    case 3:
      return CPU_CR3;
    case 4:
      return CPU_CR4;
    case 8:
      return CPU_CR8;
    default:
      return 0;
  }
}

/** With the switch to and from long mode. SDM volume 3, 4.1.2 and 9.8.5. */
export function setCr0(value: u64): bool {
  const before = load<u64>(cpu, CPU_CR0);
  const isPaging = (value & CR0_PG) != 0;
  if (value >> 32 || (isPaging && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD))) return raiseWith(GP, 0);
  let efer = load<u64>(cpu, CPU_EFER);
  if (isPaging && !(before & CR0_PG)) {
    if (efer & EFER_LME) {
      if (!(load<u64>(cpu, CPU_CR4) & CR4_PAE)) return raiseWith(GP, 0);
      efer |= EFER_LMA;
    }
  } else if (!isPaging && before & CR0_PG) {
    if (load<u32>(cpu, CPU_MODE) & MODE_64) return raiseWith(GP, 0);
    efer &= ~EFER_LMA;
  }
  store<u64>(cpu, efer, CPU_EFER);
  store<u64>(cpu, (value & CR0_KNOWN) | CR0_ET, CPU_CR0);
  if ((value ^ before) & (CR0_PG | CR0_WP | CR0_PE)) flushTlb(false);
  return true;
}

function setCr4(value: u64): bool {
  const before = load<u64>(cpu, CPU_CR4);
  if (value & ~CR4_KNOWN) return raiseWith(GP, 0);
  if (isLongMode() && !(value & CR4_PAE)) return raiseWith(GP, 0);
  store<u64>(cpu, value, CPU_CR4);
  if ((value ^ before) & (CR4_PGE | CR4_PAE | CR4_PSE)) flushTlb(false);
  return true;
}

/** Breakpoints are kept and not heeded. */
function moveDebug(pc: usize, isWrite: bool): bool {
  let number = group(pc);
  const register = registerB(pc);
  if (number == 4 || number == 5) number += 2;
  const place = CPU_DRS + number * 8;
  if (!isWrite) {
    setRegister(register, size(pc), load<u64>(cpu + place));
    return true;
  }
  const value = loadAt(register, size(pc));
  if (number >= 6 && value >> 32) return raiseWith(GP, 0);
  const fixed: u64 = number == 6 ? 0xffff_0ff0 : number == 7 ? 0x400 : 0;
  store<u64>(cpu + place, value | fixed);
  return true;
}

// ── System calls: SDM volume 2, SYSCALL and SYSRET ──

const FLAT_LIMIT: u32 = 0xffff_ffff;
const CODE_64: u32 = 0xa09b;
const CODE_32: u32 = 0xc09b;
const DATA: u32 = 0xc093;
const LEVEL_3: u32 = 0x60;

function systemCall(): bool {
  if (!(load<u64>(cpu, CPU_EFER) & EFER_SCE)) return raise(UD);
  const star = load<u64>(cpu, CPU_STAR);
  const selector = <u32>(star >> 32) & 0xfffc;
  if (!isLongMode()) return unsupported();
  const is64 = (load<u32>(cpu, CPU_MODE) & MODE_64) != 0;
  store<u64>(cpu, load<u64>(cpu, CPU_RIP), RCX);
  const flags = rflags() & ~(<u64>RF);
  store<u64>(cpu, flags, R11);
  setRflags(flags & ~load<u64>(cpu, CPU_FMASK));
  store<u64>(cpu, load<u64>(cpu + (is64 ? CPU_LSTAR : CPU_CSTAR)), CPU_RIP);
  setSegment(SEGMENT_CS, selector, 0, FLAT_LIMIT, CODE_64);
  setSegment(SEGMENT_SS, selector + 8, 0, FLAT_LIMIT, DATA);
  trapAsNow();
  return true;
}

function systemReturn(is64: bool): bool {
  if (!(load<u64>(cpu, CPU_EFER) & EFER_SCE)) return raise(UD);
  if (!isSupervisor()) return false;
  const target = load<u64>(cpu, RCX);
  // Here, with the privileges of the kernel, as on Intel's: AMD's finds that out in user mode.
  if (is64 && !isCanonical(target)) return raiseWith(GP, 0);
  const base = <u32>(load<u64>(cpu, CPU_STAR) >> 48);
  const selector = ((is64 ? base + 16 : base) & 0xffff) | 3;
  setSegment(SEGMENT_CS, selector, 0, FLAT_LIMIT, (is64 ? CODE_64 : CODE_32) | LEVEL_3);
  setSegment(SEGMENT_SS, ((base + 8) & 0xffff) | 3, 0, FLAT_LIMIT, DATA | LEVEL_3);
  setRflags(load<u64>(cpu, R11) & 0x3c_7fd7);
  trapAsNow();
  store<u64>(cpu, is64 ? target : target & 0xffff_ffff, CPU_RIP);
  return true;
}
