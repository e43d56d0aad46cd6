// SPDX-License-Identifier: Apache-2.0
// Instructions that load a segment register: MOV, POP, LDS and their like. SDM volume 2. What is checked then: segments.ts.
import { readValue } from "./access.ts";
import { group, size, source } from "./cold-operands.ts";
import { SEGMENT_SS } from "./layout.ts";
import { setRegister } from "./registers.ts";
import { loadSegment } from "./segments.ts";
import { shadowStack } from "./single-step.ts";
import { pop, setStackPointer, stackPointer } from "./stack.ts";
import { address } from "./uop.ts";
import { hasFaulted } from "./vcpu.ts";

/** 8E. */
export function moveToSegment(pc: usize): bool {
  const number = group(pc);
  const selector = <u32>source(pc, 2);
  if (hasFaulted() || !loadSegment(number, selector)) return false;
  if (number == SEGMENT_SS) shadowStack();
  return true;
}

export function popSegment(number: u32, sizeBytes: u32): bool {
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
export function loadFarPointer(pc: usize, number: u32): bool {
  const sizeBytes = size(pc);
  const where = address(pc);
  const offset = readValue(where, sizeBytes);
  if (hasFaulted()) return false;
  const selector = <u32>readValue(where + sizeBytes, 2);
  if (hasFaulted() || !loadSegment(number, selector)) return false;
  setRegister(group(pc), sizeBytes, offset);
  return true;
}
