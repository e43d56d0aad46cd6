// SPDX-License-Identifier: Apache-2.0
// System instructions: which is which, and those that are a line or two. SDM volume 2; for what AMD does otherwise, APM volume 3.
import { readValue, writeValue } from "./access.ts";
import { group, immediate, size } from "./cold-operands.ts";
import { clearTaskSwitched, controlRegister, loadStatusWord, moveControl, moveDebug } from "./control-registers.ts";
import { execCpuid } from "./cpuid.ts";
import { group6, loadTable, storeTable } from "./descriptor-tables.ts";
import { arithmeticFlags, IF, IOPL, OF, RF, rflags, setRflags } from "./flags.ts";
import { changeableFlags, FROM_EXCEPTION, FROM_INSTRUCTION, interruptReturn } from "./interrupts.ts";
import {
  CPU_ACTIVITY,
  CPU_ACTIVITY_HALTED,
  CPU_CR0,
  CPU_RFLAGS,
  CPU_RIP,
  SEGMENT_DS,
  SEGMENT_ES,
  SEGMENT_FS,
  SEGMENT_GS,
  SEGMENT_SS,
} from "./layout.ts";
import { privilegeLevel, updateMode } from "./modes.ts";
import { execReadMsr, execReadTsc, execReadTscp, execWriteMsr } from "./msr.ts";
import { execPort } from "./ports.ts";
import { setRegister } from "./registers.ts";
import { loadFarPointer, moveToSegment, popSegment } from "./segment-loads.ts";
import { farReturn, farTransfer, isProtected, shadowInterrupts } from "./segments.ts";
import { interruptBy } from "./single-step.ts";
import { pop } from "./stack.ts";
import { swapGs, systemCall, systemReturn } from "./system-calls.ts";
import { isSupervisor } from "./system-operands.ts";
import { flushPage, selectTlb } from "./tlb.ts";
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

function execSystem1(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  switch (code) {
    case 0x07:
    case 0x17:
    case 0x1f:
      return popSegment(group(pc), sizeBytes);
    case 0x8e:
      return moveToSegment(pc);
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
    case 0xff:
      return farIndirect(pc);
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
      clearTaskSwitched();
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
    case 0x30:
      return isSupervisor() && execWriteMsr();
    case 0x31:
      return execReadTsc();
    case 0x32:
      return isSupervisor() && execReadMsr();
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

/** SGDT, SIDT, LGDT, LIDT, SMSW, LMSW, INVLPG. */
function group7(pc: usize): bool {
  switch (group(pc)) {
    case 0:
    case 1:
      return storeTable(pc);
    case 2:
    case 3:
      return loadTable(pc);
    case 4:
      return writeValue(address(pc), 2, load<u64>(cpu, CPU_CR0));
    case 6: {
      if (!isSupervisor()) return false;
      const value = readValue(address(pc), 2);
      return !hasFaulted() && loadStatusWord(value);
    }
    case 7:
      if (!isSupervisor()) return false;
      flushPage(address(pc));
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
      return execReadTscp();
    default:
      return unsupported();
  }
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

/** JMP and CALL through memory. */
function farIndirect(pc: usize): bool {
  const sizeBytes = size(pc);
  const where = address(pc);
  const offset = readValue(where, sizeBytes);
  if (hasFaulted()) return false;
  const selector = <u32>readValue(where + sizeBytes, 2);
  return !hasFaulted() && farTransfer(selector, offset, sizeBytes, group(pc) == 3);
}
