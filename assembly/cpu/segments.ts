// SPDX-License-Identifier: Apache-2.0
// Segment registers and descriptors, and transfers to other code segments. SDM volume 3, chapters 3 and 5; volume 2, MOV, CALL,
// JMP, RET. Call gates, task switches and virtual 8086 mode are not here: no 64-bit kernel and no boot code uses them.
import { isCanonical, readAsSupervisor, writeAsSupervisor } from "./access.ts";
import { moveTo, size, source } from "./cold-operands.ts";
import { CR0_PE, EFER_LMA } from "./control-bits.ts";
import { setFlag, ZF } from "./flags.ts";
import {
  CPU_CR0,
  CPU_EFER,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_INTERRUPT_SHADOW,
  CPU_RIP,
  SEGMENT_ATTRIBUTES_U32,
  SEGMENT_BASE_U64,
  SEGMENT_CS,
  SEGMENT_LDTR,
  SEGMENT_LIMIT_U32,
  SEGMENT_SELECTOR_U16,
  SEGMENT_SS,
  SEGMENT_TR,
} from "./layout.ts";
import {
  ATTRIBUTE_DB,
  ATTRIBUTE_DPL_SHIFT,
  ATTRIBUTE_G,
  ATTRIBUTE_L,
  ATTRIBUTE_PRESENT,
  ATTRIBUTE_S,
  ATTRIBUTE_UNUSABLE,
  privilegeLevel,
  segment,
  updateMode,
} from "./modes.ts";
import { loadAt, setRegister } from "./registers.ts";
import { push, readStack, setStackPointer, stackPointer } from "./stack.ts";
import { registerA } from "./uop.ts";
import { cpu, GP, hasFaulted, NP, raise, raiseWith, SS, UD } from "./vcpu.ts";

// Types of code and data segments: bit 3 code, 2 conforming or expand-down, 1 readable or writable, 0 accessed.
const TYPE_ACCESSED: u32 = 1;
const TYPE_READ_WRITE: u32 = 2;
const TYPE_CONFORMING: u32 = 4;
const TYPE_CODE: u32 = 8;
// Of system segments.
const TYPE_LDT: u32 = 2;
const TYPE_TSS: u32 = 9;
const TYPE_BUSY_TSS: u32 = 11;
const TYPE_BUSY: u64 = 1 << 41;

const SELECTOR_LDT: u32 = 4;

export function isProtected(): bool {
  return (load<u64>(cpu, CPU_CR0) & CR0_PE) != 0;
}

export function isLongMode(): bool {
  return (load<u64>(cpu, CPU_EFER) & EFER_LMA) != 0;
}

/** Linear address of a selector's descriptor; 0 after #GP: it is beyond its table. */
function descriptorAddress(selector: u32, sizeBytes: u32, vector: u32): u64 {
  const offset = selector & 0xfff8;
  const errorCode = selector & 0xfffc;
  let base: u64;
  let limit: u32;
  if (selector & SELECTOR_LDT) {
    const table = segment(SEGMENT_LDTR);
    if (load<u32>(table, SEGMENT_ATTRIBUTES_U32) & ATTRIBUTE_UNUSABLE) {
      raiseWith(vector, errorCode);
      return 0;
    }
    base = load<u64>(table, SEGMENT_BASE_U64);
    limit = load<u32>(table, SEGMENT_LIMIT_U32);
  } else {
    base = load<u64>(cpu, CPU_GDTR_BASE);
    limit = load<u32>(cpu, CPU_GDTR_LIMIT);
  }
  if (offset + sizeBytes - 1 > limit) {
    raiseWith(vector, errorCode);
    return 0;
  }
  return base + offset;
}

/** `hasFaulted` is to be asked. */
export function readDescriptor(selector: u32, vector: u32): u64 {
  const where = descriptorAddress(selector, 8, vector);
  return where == 0 ? 0 : readAsSupervisor(where, 8);
}

@inline
function attributesOf(descriptor: u64): u32 {
  return <u32>(descriptor >> 40) & 0xf0ff;
}

function limitOf(descriptor: u64): u32 {
  const limit = (<u32>descriptor & 0xffff) | (<u32>(descriptor >> 32) & 0xf_0000);
  return attributesOf(descriptor) & ATTRIBUTE_G ? (limit << 12) | 0xfff : limit;
}

function baseOfDescriptor(descriptor: u64): u64 {
  return ((descriptor >> 16) & 0xff_ffff) | ((descriptor >> 32) & 0xff00_0000);
}

@inline
function typeOf(attributes: u32): u32 {
  return attributes & 15;
}

@inline
function levelOf(attributes: u32): u32 {
  return (attributes >> ATTRIBUTE_DPL_SHIFT) & 3;
}

export function setSegment(number: u32, selector: u32, base: u64, limit: u32, attributes: u32): void {
  const place = segment(number);
  store<u64>(place, base, SEGMENT_BASE_U64);
  store<u32>(place, limit, SEGMENT_LIMIT_U32);
  store<u16>(place, <u16>selector, SEGMENT_SELECTOR_U16);
  store<u32>(place, attributes, SEGMENT_ATTRIBUTES_U32);
}

function setFromDescriptor(number: u32, selector: u32, descriptor: u64): void {
  setSegment(number, selector, baseOfDescriptor(descriptor), limitOf(descriptor), attributesOf(descriptor));
}

/** Sets the accessed flag where it is not. False: an exception was raised. */
function markAccessed(selector: u32, descriptor: u64): bool {
  if (descriptor & (<u64>TYPE_ACCESSED << 40)) return true;
  const where = descriptorAddress(selector, 8, GP);
  return writeAsSupervisor(where, 8, descriptor | (<u64>TYPE_ACCESSED << 40));
}

/** A selector into ES, SS, DS, FS or GS. False: an exception was raised. */
export function loadSegment(number: u32, selector: u32): bool {
  if (!isProtected()) {
    const place = segment(number);
    store<u16>(place, <u16>selector, SEGMENT_SELECTOR_U16);
    store<u64>(place, <u64>selector << 4, SEGMENT_BASE_U64);
    return true;
  }
  const errorCode = selector & 0xfffc;
  const level = privilegeLevel();
  if (errorCode == 0) {
    if (number == SEGMENT_SS && !(isLongMode() && level < 3 && (selector & 3) == level)) return raiseWith(GP, 0);
    // In 64-bit mode SS keeps the privilege level.
    const attributes = ATTRIBUTE_UNUSABLE | (number == SEGMENT_SS ? level << ATTRIBUTE_DPL_SHIFT : 0);
    setSegment(number, selector, 0, 0, attributes);
    return true;
  }
  const descriptor = readDescriptor(selector, GP);
  if (hasFaulted()) return false;
  const attributes = attributesOf(descriptor);
  const type = typeOf(attributes);
  const segmentLevel = levelOf(attributes);
  const asked = selector & 3;
  if (!(attributes & ATTRIBUTE_S)) return raiseWith(GP, errorCode);
  if (number == SEGMENT_SS) {
    const isWritableData = !(type & TYPE_CODE) && (type & TYPE_READ_WRITE) != 0;
    if (!isWritableData || asked != level || segmentLevel != level) return raiseWith(GP, errorCode);
    if (!(attributes & ATTRIBUTE_PRESENT)) return raiseWith(SS, errorCode);
  } else {
    if (type & TYPE_CODE && !(type & TYPE_READ_WRITE)) return raiseWith(GP, errorCode);
    const isConforming = (type & TYPE_CODE) != 0 && (type & TYPE_CONFORMING) != 0;
    if (!isConforming && (asked > segmentLevel || level > segmentLevel)) return raiseWith(GP, errorCode);
    if (!(attributes & ATTRIBUTE_PRESENT)) return raiseWith(NP, errorCode);
  }
  if (!markAccessed(selector, descriptor)) return false;
  setFromDescriptor(number, selector, descriptor | (<u64>TYPE_ACCESSED << 40));
  return true;
}

/** A descriptor that CS can have, for code of that privilege level. False: an exception was raised. */
function checkCode(selector: u32, descriptor: u64, level: u32): bool {
  const errorCode = selector & 0xfffc;
  const attributes = attributesOf(descriptor);
  const type = typeOf(attributes);
  if (!(attributes & ATTRIBUTE_S) || !(type & TYPE_CODE)) return raiseWith(GP, errorCode);
  const segmentLevel = levelOf(attributes);
  if (type & TYPE_CONFORMING ? segmentLevel > level : segmentLevel != level) return raiseWith(GP, errorCode);
  if (!(attributes & ATTRIBUTE_PRESENT)) return raiseWith(NP, errorCode);
  if (isLongMode() && attributes & ATTRIBUTE_L && attributes & ATTRIBUTE_DB) return raiseWith(GP, errorCode);
  return true;
}

/**
 * Code of another privilege level, from a gate or IRET: CS and RIP. The caller has checked what it may be. Level is the new one, in
 * the selector and for SS.
 */
export function enterCode(selector: u32, descriptor: u64, level: u32, rip: u64): bool {
  if (!checkCode(selector, descriptor, level)) return false;
  const attributes = attributesOf(descriptor);
  const is64 = isLongMode() && (attributes & ATTRIBUTE_L) != 0;
  if (is64 ? !isCanonical(rip) : rip > limitOf(descriptor)) return raiseWith(GP, 0);
  if (!markAccessed(selector, descriptor)) return false;
  setFromDescriptor(SEGMENT_CS, (selector & 0xfffc) | level, descriptor | (<u64>TYPE_ACCESSED << 40));
  store<u64>(cpu, is64 ? rip : rip & 0xffff_ffff, CPU_RIP);
  return true;
}

/** JMP and CALL to another segment. */
export function farTransfer(selector: u32, offset: u64, sizeBytes: u32, isCall: bool): bool {
  const returnTo = load<u64>(cpu, CPU_RIP);
  const before = stackPointer();
  const oldSelector = <u64>load<u16>(segment(SEGMENT_CS), SEGMENT_SELECTOR_U16);
  if (!isProtected()) {
    if (isCall && !(push(oldSelector, sizeBytes) && push(returnTo, sizeBytes))) return undo(before);
    const place = segment(SEGMENT_CS);
    store<u16>(place, <u16>selector, SEGMENT_SELECTOR_U16);
    store<u64>(place, <u64>selector << 4, SEGMENT_BASE_U64);
    store<u64>(cpu, sizeBytes == 2 ? offset & 0xffff : offset, CPU_RIP);
    return true;
  }
  if ((selector & 0xfffc) == 0) return raiseWith(GP, 0);
  const descriptor = readDescriptor(selector, GP);
  if (hasFaulted()) return false;
  const attributes = attributesOf(descriptor);
  const level = privilegeLevel();
  const isConforming = (typeOf(attributes) & TYPE_CONFORMING) != 0;
  if (!isConforming && (selector & 3) > level) return raiseWith(GP, selector & 0xfffc);
  if (isCall && !(push(oldSelector, sizeBytes) && push(returnTo, sizeBytes))) return undo(before);
  return enterCode(selector, descriptor, level, offset) || undo(before);
}

function undo(pointer: u64): bool {
  setStackPointer(pointer);
  return false;
}

/** RETF; `extra` bytes are taken from the stack, too. */
export function farReturn(sizeBytes: u32, extra: u64): bool {
  const before = stackPointer();
  const rip = readStack(before, sizeBytes);
  if (hasFaulted()) return false;
  const selector = <u32>readStack(before + sizeBytes, sizeBytes) & 0xffff;
  if (hasFaulted()) return false;
  const after = before + 2 * sizeBytes + extra;
  if (!isProtected()) {
    setStackPointer(after);
    const place = segment(SEGMENT_CS);
    store<u16>(place, <u16>selector, SEGMENT_SELECTOR_U16);
    store<u64>(place, <u64>selector << 4, SEGMENT_BASE_U64);
    store<u64>(cpu, rip, CPU_RIP);
    return true;
  }
  if ((selector & 0xfffc) == 0) return raiseWith(GP, 0);
  const level = privilegeLevel();
  const newLevel = selector & 3;
  if (newLevel < level) return raiseWith(GP, selector & 0xfffc);
  let newStack: u64 = 0;
  let stackSelector: u32 = 0;
  if (newLevel > level) {
    newStack = readStack(after, sizeBytes);
    if (hasFaulted()) return false;
    stackSelector = <u32>readStack(after + sizeBytes, sizeBytes) & 0xffff;
    if (hasFaulted()) return false;
  }
  const descriptor = readDescriptor(selector, GP);
  if (hasFaulted()) return false;
  if (newLevel == level) {
    if (!enterCode(selector, descriptor, level, rip)) return false;
    setStackPointer(after);
    return true;
  }
  return enterOuter(selector, descriptor, newLevel, rip, stackSelector, newStack + extra);
}

/** Code and stack of an outer privilege level, whose data segments are taken away where it may not have them. */
export function enterOuter(
  selector: u32,
  descriptor: u64,
  level: u32,
  rip: u64,
  stackSelector: u32,
  stack: u64,
): bool {
  const attributes = attributesOf(descriptor);
  const is64 = isLongMode() && (attributes & ATTRIBUTE_L) != 0;
  let stackDescriptor: u64 = 0;
  if ((stackSelector & 0xfffc) == 0) {
    if (!is64 || level == 3) return raiseWith(GP, 0);
  } else {
    stackDescriptor = readDescriptor(stackSelector, GP);
    if (hasFaulted()) return false;
    const stackAttributes = attributesOf(stackDescriptor);
    const type = typeOf(stackAttributes);
    const isWritableData = (stackAttributes & ATTRIBUTE_S) != 0 && !(type & TYPE_CODE) && (type & TYPE_READ_WRITE) != 0;
    if (!isWritableData || (stackSelector & 3) != level || levelOf(stackAttributes) != level) {
      return raiseWith(GP, stackSelector & 0xfffc);
    }
    if (!(stackAttributes & ATTRIBUTE_PRESENT)) return raiseWith(SS, stackSelector & 0xfffc);
  }
  if (!enterCode(selector, descriptor, level, rip)) return false;
  if (stackDescriptor == 0) setSegment(SEGMENT_SS, stackSelector, 0, 0, ATTRIBUTE_UNUSABLE | (level << ATTRIBUTE_DPL_SHIFT));
  else setFromDescriptor(SEGMENT_SS, stackSelector, stackDescriptor | (<u64>TYPE_ACCESSED << 40));
  updateMode();
  setStackPointer(stack);
  for (let number: u32 = 0; number < 6; number++) {
    if (number == SEGMENT_CS || number == SEGMENT_SS) continue;
    const own = load<u32>(segment(number), SEGMENT_ATTRIBUTES_U32);
    const isConforming = (own & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING);
    if (!(own & ATTRIBUTE_UNUSABLE) && levelOf(own) < level && !isConforming) {
      setSegment(number, 0, load<u64>(segment(number), SEGMENT_BASE_U64), 0, ATTRIBUTE_UNUSABLE);
    }
  }
  return true;
}

/** LLDT and LTR. */
export function loadSystemSegment(number: u32, selector: u32): bool {
  const errorCode = selector & 0xfffc;
  const isTask = number == SEGMENT_TR;
  if (errorCode == 0) {
    if (isTask) return raiseWith(GP, 0);
    setSegment(number, selector, 0, 0, ATTRIBUTE_UNUSABLE);
    return true;
  }
  if (selector & SELECTOR_LDT) return raiseWith(GP, errorCode);
  const isLong = isLongMode();
  const where = descriptorAddress(selector, isLong ? 16 : 8, GP);
  if (where == 0) return false;
  const descriptor = readAsSupervisor(where, 8);
  if (hasFaulted()) return false;
  const attributes = attributesOf(descriptor);
  if (attributes & ATTRIBUTE_S || typeOf(attributes) != (isTask ? TYPE_TSS : TYPE_LDT)) return raiseWith(GP, errorCode);
  if (!(attributes & ATTRIBUTE_PRESENT)) return raiseWith(NP, errorCode);
  let base = baseOfDescriptor(descriptor);
  if (isLong) {
    base |= readAsSupervisor(where + 8, 8) << 32;
    if (hasFaulted()) return false;
    if (!isCanonical(base)) return raiseWith(GP, errorCode);
  }
  if (isTask && !writeAsSupervisor(where, 8, descriptor | TYPE_BUSY)) return false;
  setSegment(number, selector, base, limitOf(descriptor), isTask ? attributes | TYPE_BUSY_TSS : attributes);
  return true;
}

/** LAR and LSL. */
export function loadDescriptorRights(pc: usize, isLimit: bool): bool {
  if (!isProtected()) return raise(UD);
  const selector = <u32>source(pc, 2);
  if (hasFaulted()) return false;
  const found = visibleDescriptor(selector, isLimit);
  if (hasFaulted()) return false;
  setFlag(ZF, found != 0);
  if (found == 0) return true;
  const value: u64 = isLimit ? limitOf(found) : (found >> 32) & 0x00ff_ff00;
  setRegister(registerA(pc), size(pc), value);
  return true;
}

/** ARPL: the RPL of a selector becomes no less than that of another. What is no less already is not written. */
export function adjustPrivilege(pc: usize): bool {
  if (!isProtected()) return raise(UD);
  const selector = source(pc, 2);
  if (hasFaulted()) return false;
  const level = loadAt(registerA(pc), 2) & 3;
  const isLower = (selector & 3) < level;
  if (isLower && !moveTo(pc, 2, (selector & ~(<u64>3)) | level)) return false;
  setFlag(ZF, isLower);
  return true;
}

/** 0 for one that does not exist or may not be looked at. */
function visibleDescriptor(selector: u32, isLimit: bool): u64 {
  if ((selector & 0xfffc) == 0) return 0;
  const offset = selector & 0xfff8;
  const limit =
    selector & SELECTOR_LDT ? load<u32>(segment(SEGMENT_LDTR), SEGMENT_LIMIT_U32) : load<u32>(cpu, CPU_GDTR_LIMIT);
  if (offset + 7 > limit) return 0;
  const descriptor = readDescriptor(selector, GP);
  if (hasFaulted()) return 0;
  const attributes = attributesOf(descriptor);
  const type = typeOf(attributes);
  if (!(attributes & ATTRIBUTE_S)) {
    const isKnown = type == TYPE_LDT || type == TYPE_TSS || type == TYPE_BUSY_TSS || (!isLimit && type == 12);
    if (!isKnown) return 0;
  }
  const isConforming = (attributes & ATTRIBUTE_S) != 0 && (type & (TYPE_CODE | TYPE_CONFORMING)) == (TYPE_CODE | TYPE_CONFORMING);
  const level = levelOf(attributes);
  return !isConforming && (privilegeLevel() > level || (selector & 3) > level) ? 0 : descriptor;
}

/** VERR and VERW. */
export function verify(selector: u32, isWrite: bool): bool {
  const found = visibleDescriptor(selector, true);
  if (hasFaulted()) return false;
  const attributes = attributesOf(found);
  const type = typeOf(attributes);
  let isGood = found != 0 && (attributes & ATTRIBUTE_S) != 0;
  if (isWrite) isGood = isGood && !(type & TYPE_CODE) && (type & TYPE_READ_WRITE) != 0;
  else isGood = isGood && (!(type & TYPE_CODE) || (type & TYPE_READ_WRITE) != 0);
  setFlag(ZF, isGood);
  return true;
}

/** After a load of SS no interrupt is taken before the next instruction, which loads the stack pointer. */
export function shadowInterrupts(): void {
  store<u32>(cpu, 1, CPU_INTERRUPT_SHADOW);
}
