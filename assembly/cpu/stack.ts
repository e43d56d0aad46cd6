// SPDX-License-Identifier: Apache-2.0
// The stack of any mode: RSP, ESP or SP, in SS. SDM volume 1, 6.2.
import { readValue, toWrite, writeValue } from "./access.ts";
import { CPU_EXCEPTION, CPU_MODE, SEGMENT_SS } from "./layout.ts";
import { MODE_64, MODE_STACK_32 } from "./modes.ts";
import { linear } from "./operands.ts";
import { RSP } from "./registers.ts";
import { cpu, GP, hasFaulted, raiseWith, SS } from "./vcpu.ts";

function pointerSize(): u32 {
  const mode = load<u32>(cpu, CPU_MODE);
  return mode & MODE_64 ? 8 : mode & MODE_STACK_32 ? 4 : 2;
}

/** As much of RSP as counts. */
export function stackPointer(): u64 {
  const sizeBytes = pointerSize();
  const value = load<u64>(cpu, RSP);
  return sizeBytes == 8 ? value : sizeBytes == 4 ? value & 0xffff_ffff : value & 0xffff;
}

export function setStackPointer(value: u64): void {
  const sizeBytes = pointerSize();
  if (sizeBytes == 8) store<u64>(cpu, value, RSP);
  else if (sizeBytes == 4) store<u64>(cpu, value & 0xffff_ffff, RSP);
  else store<u16>(cpu, <u16>value, RSP);
}

/** An address on the stack that is not canonical is #SS. False: for `return`. */
function raiseOfStack(): bool {
  if (load<u32>(cpu, CPU_EXCEPTION) == GP) raiseWith(SS, 0);
  return false;
}

/** What is at an offset in SS. `hasFaulted` is to be asked. */
export function readStack(offset: u64, sizeBytes: u32): u64 {
  const value = readValue(linear(SEGMENT_SS, offset, pointerSize()), sizeBytes);
  if (hasFaulted()) raiseOfStack();
  return value;
}

/** False: an exception was raised, as a write there would do. */
export function isWritableStack(offset: u64, sizeBytes: u32): bool {
  return toWrite(linear(SEGMENT_SS, offset, pointerSize()), sizeBytes) != 0 || raiseOfStack();
}

/** False: an exception was raised, and the stack pointer is what it was. */
export function push(value: u64, sizeBytes: u32): bool {
  const pointer = stackPointer() - sizeBytes;
  if (!writeValue(linear(SEGMENT_SS, pointer, pointerSize()), sizeBytes, value)) return raiseOfStack();
  setStackPointer(pointer);
  return true;
}

/** `hasFaulted` is to be asked; the stack pointer is what it was then. */
export function pop(sizeBytes: u32): u64 {
  const pointer = stackPointer();
  const value = readStack(pointer, sizeBytes);
  if (!hasFaulted()) setStackPointer(pointer + sizeBytes);
  return value;
}
