// SPDX-License-Identifier: Apache-2.0
// Delivery of exceptions and interrupts through the IDT, and IRET. SDM volume 3, chapter 6. Task gates are not here.
import { isCanonical, readAsSupervisor, writeAsSupervisor } from "./access.ts";
import { AC, ARITHMETIC_FLAGS, DF as DIRECTION, ID, IF, IOPL, NT, RF, rflags, setRflags, TF, VM } from "./flags.ts";
import {
  CPU_ACTIVITY,
  CPU_ACTIVITY_RUNNING,
  CPU_ACTIVITY_SHUTDOWN,
  CPU_ERROR_CODE,
  CPU_EXCEPTION,
  CPU_HAS_ERROR_CODE,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_INTERRUPT_SHADOW,
  CPU_MODE,
  CPU_NMI_BLOCKED,
  CPU_RFLAGS,
  CPU_RIP,
  NO_EXCEPTION,
  SEGMENT_BASE_U64,
  SEGMENT_CS,
  SEGMENT_LIMIT_U32,
  SEGMENT_SELECTOR_U16,
  SEGMENT_SS,
  SEGMENT_TR,
} from "./layout.ts";
import { ATTRIBUTE_DPL_SHIFT, ATTRIBUTE_UNUSABLE, MODE_64, privilegeLevel, segment, updateMode } from "./modes.ts";
import { RSP } from "./registers.ts";
import { enterCode, enterOuter, isLongMode, isProtected, readDescriptor, setSegment } from "./segments.ts";
import { readStack, setStackPointer, stackPointer } from "./stack.ts";
import { selectTlb } from "./tlb.ts";
import { cpu, DB, DF, GP, hasFaulted, NP, PF, raiseWith, TS } from "./vcpu.ts";

/** Who asks: in the error code of an exception on the way, and for the gate's privilege level. */
export const FROM_EXCEPTION: u32 = 0;
export const FROM_OUTSIDE: u32 = 1;
/** INT n, INT3, INTO: the gate's privilege level counts. */
export const FROM_INSTRUCTION: u32 = 2;

/** Error code: the fault was met while an event from outside was delivered. */
const ERROR_EXTERNAL: u32 = 1;
const ERROR_IDT: u32 = 2;

const GATE_INTERRUPT_16: u32 = 6;
const GATE_TRAP_16: u32 = 7;
const GATE_INTERRUPT: u32 = 14;
const GATE_TRAP: u32 = 15;

/** Delivers what the instruction at CPU_RIP has raised, with what comes of that: double and triple faults. */
export function deliverException(): void {
  let vector = load<u32>(cpu, CPU_EXCEPTION);
  // A fault in the handler of a contributory exception or a page fault is a double fault; SDM volume 3, table 6-5.
  for (;;) {
    const errorCode = load<u32>(cpu, CPU_ERROR_CODE);
    const hasErrorCode = load<u32>(cpu, CPU_HAS_ERROR_CODE) != 0;
    store<u32>(cpu, NO_EXCEPTION, CPU_EXCEPTION);
    if (deliver(vector, FROM_EXCEPTION, hasErrorCode, errorCode)) return;
    const second = load<u32>(cpu, CPU_EXCEPTION);
    if (vector == DF) {
      store<u32>(cpu, NO_EXCEPTION, CPU_EXCEPTION);
      store<u32>(cpu, CPU_ACTIVITY_SHUTDOWN, CPU_ACTIVITY);
      return;
    }
    const isDouble = isContributory(vector) ? isContributory(second) : vector == PF && (isContributory(second) || second == PF);
    if (isDouble) {
      vector = DF;
      raiseWith(DF, 0);
    } else vector = second;
  }
}

/** #DE, #TS, #NP, #SS, #GP. */
function isContributory(vector: u32): bool {
  return vector == 0 || (vector >= TS && vector <= GP);
}

/** An interrupt from outside, or an NMI. */
export function deliverInterrupt(vector: u32): void {
  store<u32>(cpu, CPU_ACTIVITY_RUNNING, CPU_ACTIVITY);
  if (!deliver(vector, FROM_OUTSIDE, false, 0)) deliverException();
}

/** Through the IDT. False: an exception was raised, nothing else has changed. */
export function deliver(vector: u32, from: u32, hasErrorCode: bool, errorCode: u32): bool {
  const isDone = isProtected() ? throughGate(vector, from, hasErrorCode, errorCode) : throughVector(vector);
  if (isDone) {
    store<u32>(cpu, 0, CPU_INTERRUPT_SHADOW);
    updateMode();
    selectTlb();
  }
  return isDone;
}

/** Real mode: SDM volume 3, 20.1.4. */
function throughVector(vector: u32): bool {
  if (vector * 4 + 3 > load<u32>(cpu, CPU_IDTR_LIMIT)) return raiseWith(GP, 0);
  const target = readAsSupervisor(load<u64>(cpu, CPU_IDTR_BASE) + vector * 4, 4);
  const code = segment(SEGMENT_CS);
  const base = load<u64>(segment(SEGMENT_SS), SEGMENT_BASE_U64);
  const pointer = load<u64>(cpu, RSP);
  writeAsSupervisor(base + ((pointer - 2) & 0xffff), 2, rflags());
  writeAsSupervisor(base + ((pointer - 4) & 0xffff), 2, load<u16>(code, SEGMENT_SELECTOR_U16));
  writeAsSupervisor(base + ((pointer - 6) & 0xffff), 2, load<u64>(cpu, CPU_RIP));
  if (hasFaulted()) return false;
  store<u16>(cpu, <u16>(pointer - 6), RSP);
  store<u16>(code, <u16>(target >> 16), SEGMENT_SELECTOR_U16);
  store<u64>(code, ((target >> 16) & 0xffff) << 4, SEGMENT_BASE_U64);
  store<u64>(cpu, target & 0xffff, CPU_RIP);
  store<u64>(cpu, load<u64>(cpu, CPU_RFLAGS) & ~(<u64>(IF | TF | AC)), CPU_RFLAGS);
  return true;
}

function throughGate(vector: u32, from: u32, hasErrorCode: bool, errorCode: u32): bool {
  const isLong = isLongMode();
  const external = from == FROM_INSTRUCTION ? 0 : ERROR_EXTERNAL;
  const gateError = vector * 8 + ERROR_IDT + external;
  const gateSize: u32 = isLong ? 16 : 8;
  if (vector * gateSize + gateSize - 1 > load<u32>(cpu, CPU_IDTR_LIMIT)) return raiseWith(GP, gateError);
  const where = load<u64>(cpu, CPU_IDTR_BASE) + vector * gateSize;
  const gate = readAsSupervisor(where, 8);
  if (hasFaulted()) return false;
  const upper = isLong ? readAsSupervisor(where + 8, 8) : 0;
  if (hasFaulted()) return false;
  const type = <u32>(gate >> 40) & 31;
  const is16 = type == GATE_INTERRUPT_16 || type == GATE_TRAP_16;
  const isKnown = type == GATE_INTERRUPT || type == GATE_TRAP || (is16 && !isLong);
  if (!isKnown) return raiseWith(GP, gateError);
  const level = privilegeLevel();
  if (from == FROM_INSTRUCTION && (<u32>(gate >> 45) & 3) < level) return raiseWith(GP, gateError);
  if (!((gate >> 47) & 1)) return raiseWith(NP, gateError);

  const selector = <u32>(gate >> 16) & 0xffff;
  if ((selector & 0xfffc) == 0) return raiseWith(GP, external);
  const descriptor = readDescriptor(selector, GP);
  if (hasFaulted()) return false;
  const isConforming = ((descriptor >> 42) & 1) != 0;
  const segmentLevel = <u32>(descriptor >> 45) & 3;
  const newLevel = isConforming ? level : segmentLevel;
  if (newLevel > level) return raiseWith(GP, (selector & 0xfffc) + external);
  if (isLong && !((descriptor >> 53) & 1)) return raiseWith(GP, (selector & 0xfffc) + external);
  let target = (gate & 0xffff) | ((gate >> 32) & 0xffff_0000) | (upper << 32);
  if (is16) target &= 0xffff;
  const isInterrupt = type == GATE_INTERRUPT || type == GATE_INTERRUPT_16;
  // The instruction that has faulted is to be run again without its breakpoint: 18.3.1.1.
  const isFault = from == FROM_EXCEPTION && vector != DB && vector != DF;
  const flags = rflags() | (isFault ? RF : 0);
  if (isLong) {
    return enterLong(selector, descriptor, newLevel, target, <u32>(gate >> 32) & 7, flags, isInterrupt, hasErrorCode, errorCode);
  }
  return enterLegacy(selector, descriptor, newLevel, target, is16 ? 2 : 4, flags, isInterrupt, hasErrorCode, errorCode);
}

/** 64-bit mode: always a new stack frame of five words, on a boundary of 16 bytes. */
function enterLong(
  selector: u32,
  descriptor: u64,
  level: u32,
  target: u64,
  stackTable: u32,
  flags: u64,
  isInterrupt: bool,
  hasErrorCode: bool,
  errorCode: u32,
): bool {
  const oldLevel = privilegeLevel();
  const oldStack = load<u64>(cpu, RSP);
  const oldCode = load<u16>(segment(SEGMENT_CS), SEGMENT_SELECTOR_U16);
  const oldStackSelector = load<u16>(segment(SEGMENT_SS), SEGMENT_SELECTOR_U16);
  const oldRip = load<u64>(cpu, CPU_RIP);
  let pointer = oldStack;
  if (stackTable != 0 || level < oldLevel) {
    // RSP0 is at 4, IST1 at 36.
    pointer = readTask(stackTable != 0 ? 28 + 8 * stackTable : 4 + 8 * level, 8);
    if (hasFaulted()) return false;
    if (!isCanonical(pointer)) return raiseWith(12, 0);
  }
  pointer &= ~(<u64>15);
  let place = pointer;
  const ok =
    writeAsSupervisor((place -= 8), 8, oldStackSelector) &&
    writeAsSupervisor((place -= 8), 8, oldStack) &&
    writeAsSupervisor((place -= 8), 8, flags) &&
    writeAsSupervisor((place -= 8), 8, oldCode) &&
    writeAsSupervisor((place -= 8), 8, oldRip) &&
    (!hasErrorCode || writeAsSupervisor((place -= 8), 8, errorCode));
  if (!ok) return false;
  if (!enterCode(selector, descriptor, level, target)) return false;
  if (level < oldLevel) setSegment(SEGMENT_SS, level, 0, 0, ATTRIBUTE_UNUSABLE | (level << ATTRIBUTE_DPL_SHIFT));
  store<u64>(cpu, place, RSP);
  clearFlags(isInterrupt);
  return true;
}

function enterLegacy(
  selector: u32,
  descriptor: u64,
  level: u32,
  target: u64,
  sizeBytes: u32,
  flags: u64,
  isInterrupt: bool,
  hasErrorCode: bool,
  errorCode: u32,
): bool {
  const oldLevel = privilegeLevel();
  const oldStack = stackPointer();
  const oldCode = load<u16>(segment(SEGMENT_CS), SEGMENT_SELECTOR_U16);
  const oldStackSelector = load<u16>(segment(SEGMENT_SS), SEGMENT_SELECTOR_U16);
  const oldRip = load<u64>(cpu, CPU_RIP);
  let base = load<u64>(segment(SEGMENT_SS), SEGMENT_BASE_U64);
  let pointer = oldStack;
  let stackSelector: u32 = 0;
  let stackDescriptor: u64 = 0;
  if (level < oldLevel) {
    pointer = readTask(4 + 8 * level, 4);
    if (hasFaulted()) return false;
    stackSelector = <u32>readTask(8 + 8 * level, 2);
    if (hasFaulted()) return false;
    stackDescriptor = readDescriptor(stackSelector, TS);
    if (hasFaulted()) return false;
    base = ((stackDescriptor >> 16) & 0xff_ffff) | ((stackDescriptor >> 32) & 0xff00_0000);
  }
  let place = pointer;
  let ok = true;
  if (level < oldLevel) {
    ok =
      writeAsSupervisor(base + (place -= sizeBytes), sizeBytes, oldStackSelector) &&
      writeAsSupervisor(base + (place -= sizeBytes), sizeBytes, oldStack);
  }
  ok =
    ok &&
    writeAsSupervisor(base + (place -= sizeBytes), sizeBytes, flags) &&
    writeAsSupervisor(base + (place -= sizeBytes), sizeBytes, oldCode) &&
    writeAsSupervisor(base + (place -= sizeBytes), sizeBytes, oldRip) &&
    (!hasErrorCode || writeAsSupervisor(base + (place -= sizeBytes), sizeBytes, errorCode));
  if (!ok || !enterCode(selector, descriptor, level, target)) return false;
  if (level < oldLevel) {
    const attributes = <u32>(stackDescriptor >> 40) & 0xf0ff;
    setSegment(SEGMENT_SS, stackSelector, base, 0xffff_ffff, attributes);
  }
  updateMode();
  setStackPointer(place);
  clearFlags(isInterrupt);
  return true;
}

/** A field of the task state segment. `hasFaulted` is to be asked. */
function readTask(offset: u32, sizeBytes: u32): u64 {
  const task = segment(SEGMENT_TR);
  if (offset + sizeBytes - 1 > load<u32>(task, SEGMENT_LIMIT_U32)) {
    raiseWith(TS, load<u16>(task, SEGMENT_SELECTOR_U16) & 0xfffc);
    return 0;
  }
  return readAsSupervisor(load<u64>(task, SEGMENT_BASE_U64) + offset, sizeBytes);
}

function clearFlags(isInterrupt: bool): void {
  const cleared = <u64>(TF | NT | RF | VM | (isInterrupt ? IF : 0));
  store<u64>(cpu, load<u64>(cpu, CPU_RFLAGS) & ~cleared, CPU_RFLAGS);
}

/** Flags that POPF and IRET may change at a privilege level. */
export function changeableFlags(level: u32, sizeBytes: u32): u64 {
  let flags: u64 = ARITHMETIC_FLAGS | TF | DIRECTION | NT;
  if (sizeBytes > 2) flags |= AC | ID;
  if (level == 0) flags |= IOPL;
  if (level <= (<u32>(load<u64>(cpu, CPU_RFLAGS) & IOPL) >> 12)) flags |= IF;
  return flags;
}

/** IRET, IRETD, IRETQ. False: an exception was raised. */
export function interruptReturn(sizeBytes: u32): bool {
  const before = stackPointer();
  const oldFlags = rflags();
  const rip = readStack(before, sizeBytes);
  if (hasFaulted()) return false;
  const selector = <u32>readStack(before + sizeBytes, sizeBytes) & 0xffff;
  if (hasFaulted()) return false;
  const flags = readStack(before + 2 * sizeBytes, sizeBytes);
  if (hasFaulted()) return false;
  if (!isProtected()) {
    setStackPointer(before + 3 * sizeBytes);
    const code = segment(SEGMENT_CS);
    store<u16>(code, <u16>selector, SEGMENT_SELECTOR_U16);
    store<u64>(code, <u64>selector << 4, SEGMENT_BASE_U64);
    store<u64>(cpu, rip, CPU_RIP);
    const may = changeableFlags(0, sizeBytes);
    setRflags((oldFlags & ~may) | (flags & may));
    return true;
  }
  const isLong = isLongMode();
  if (oldFlags & NT && isLong) return raiseWith(GP, 0);
  // Tasks and virtual 8086 mode.
  if (!isLong && (oldFlags & NT || flags & VM)) return raiseWith(GP, 0);
  if ((selector & 0xfffc) == 0) return raiseWith(GP, 0);
  const level = privilegeLevel();
  const newLevel = selector & 3;
  if (newLevel < level) return raiseWith(GP, selector & 0xfffc);
  const descriptor = readDescriptor(selector, GP);
  if (hasFaulted()) return false;
  // There are no breakpoints that RF could keep off.
  const may = changeableFlags(level, sizeBytes);
  if (load<u32>(cpu, CPU_MODE) & MODE_64 || newLevel > level) {
    const stack = readStack(before + 3 * sizeBytes, sizeBytes);
    if (hasFaulted()) return false;
    const stackSelector = <u32>readStack(before + 4 * sizeBytes, sizeBytes) & 0xffff;
    if (hasFaulted()) return false;
    if (!enterOuter(selector, descriptor, newLevel, rip, stackSelector, stack)) return false;
  } else {
    if (!enterCode(selector, descriptor, newLevel, rip)) return false;
    setStackPointer(before + 3 * sizeBytes);
  }
  setRflags((oldFlags & ~may) | (flags & may));
  store<u32>(cpu, 0, CPU_NMI_BLOCKED);
  return true;
}
