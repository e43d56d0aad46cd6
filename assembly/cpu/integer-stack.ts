// SPDX-License-Identifier: Apache-2.0
// PUSH and POP of what has no uop, PUSHA, POPA, ENTER and LEAVE. How the stack itself goes is in stack.ts.
import { writeValue } from "./access.ts";
import { immediate, size, source } from "./cold-operands.ts";
import { CPU_GPRS } from "./layout.ts";
import { NUMBER_OF_RSP, RBP, RSP, setRegister } from "./registers.ts";
import { isWritableStack, pop, push, readStack, setStackPointer, stackPointer } from "./stack.ts";
import { address, isMemory, registerB } from "./uop.ts";
import { cpu, hasFaulted } from "./vcpu.ts";

export function execPush(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  return !hasFaulted() && push(value, sizeBytes);
}

export function execPop(pc: usize): bool {
  const sizeBytes = size(pc);
  const old = stackPointer();
  // The decoder has added to an address with RSP what is popped.
  const where = isMemory(pc) ? address(pc) : 0;
  const value = pop(sizeBytes);
  if (hasFaulted()) return false;
  if (!isMemory(pc)) {
    setRegister(registerB(pc), sizeBytes, value);
    return true;
  }
  if (writeValue(where, sizeBytes, value)) return true;
  setStackPointer(old);
  return false;
}

/** PUSHA. */
export function execPushAll(pc: usize): bool {
  const sizeBytes = size(pc);
  const old = stackPointer();
  const stack = load<u64>(cpu, RSP);
  for (let number: u32 = 0; number < 8; number++) {
    if (!push(number == NUMBER_OF_RSP ? stack : load<u64>(cpu + CPU_GPRS + number * 8), sizeBytes)) {
      setStackPointer(old);
      return false;
    }
  }
  return true;
}

/** POPA. */
export function execPopAll(pc: usize): bool {
  const sizeBytes = size(pc);
  const old = stackPointer();
  // All of it can be read, or none is. The lowest that cannot is what a page fault tells.
  for (let number: u32 = 0; number < 8; number++) {
    readStack(old + number * sizeBytes, sizeBytes);
    if (hasFaulted()) return false;
  }
  for (let number: i32 = 7; number >= 0; number--) {
    const value = pop(sizeBytes);
    if (number != NUMBER_OF_RSP) setRegister(cpu + CPU_GPRS + number * 8, sizeBytes, value);
  }
  return true;
}

export function execEnter(pc: usize): bool {
  const sizeBytes = size(pc);
  const frameBytes = <u64>immediate(pc) & 0xffff;
  const level = <u32>(immediate(pc) >> 16) & 31;
  const oldStack = stackPointer();
  const oldFrame = load<u64>(cpu, RBP);
  if (!push(oldFrame, sizeBytes)) return false;
  // As wide as the operand, whatever of it the stack uses.
  const frame = load<u64>(cpu, RSP);
  for (let above: u32 = 1; above <= level; above++) {
    let link = frame;
    if (above < level) {
      link = readStack(oldFrame - above * sizeBytes, sizeBytes);
      if (hasFaulted()) {
        setStackPointer(oldStack);
        return false;
      }
    }
    if (!push(link, sizeBytes)) {
      setStackPointer(oldStack);
      return false;
    }
  }
  // What is pushed next must not fault.
  const end = stackPointer() - frameBytes;
  if (!isWritableStack(end, sizeBytes)) {
    setStackPointer(oldStack);
    return false;
  }
  setStackPointer(end);
  setRegister(cpu + RBP, sizeBytes, frame);
  return true;
}

export function execLeave(pc: usize): bool {
  const sizeBytes = size(pc);
  const frame = load<u64>(cpu, RBP);
  const value = readStack(frame, sizeBytes);
  if (hasFaulted()) return false;
  setStackPointer(frame + sizeBytes);
  setRegister(cpu + RBP, sizeBytes, value);
  return true;
}
