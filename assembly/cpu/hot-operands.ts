// SPDX-License-Identifier: Apache-2.0
// Operands of the uops in hot.ts: A and B are registers, M is guest memory, p where that is in this one. T is as large as the operand.
//
// A uop ends with what it writes, so that gives the next uop.
import { registerA, registerB, UOP_IMMEDIATE, UOP_SECOND_IMMEDIATE, UOP_SIZE_BYTES } from "./uop.ts";

@inline
export function getA<T>(pc: usize): T {
  return load<T>(registerA(pc));
}

@inline
export function getB<T>(pc: usize): T {
  return load<T>(registerB(pc));
}

@inline
export function getImmediate<T>(pc: usize): T {
  return sizeof<T>() == 8 ? <T>load<i32>(pc, UOP_IMMEDIATE) : load<T>(pc, UOP_IMMEDIATE);
}

/** Beside an address, whose displacement is the first. It makes the uop longer by UOP_SIZE_BYTES. */
@inline
export function getSecondImmediate<T>(pc: usize): T {
  return sizeof<T>() == 8 ? <T>load<i32>(pc, UOP_SECOND_IMMEDIATE) : load<T>(pc, UOP_SECOND_IMMEDIATE);
}

/** 32 bits clear the upper half of a register, 16 and 8 leave the rest as it is. */
@inline
export function setA<T>(pc: usize, value: T): usize {
  if (sizeof<T>() == 4) store<u64>(registerA(pc), value);
  else store<T>(registerA(pc), value);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function setM<T>(pc: usize, p: usize, value: T): usize {
  store<T>(p, value);
  return pc + UOP_SIZE_BYTES;
}

/** A and B, of 32 or 64 bits. */
@inline
export function exchange<T>(pc: usize): usize {
  const value = getA<T>(pc);
  setA<T>(pc, getB<T>(pc));
  store<u64>(registerB(pc), value);
  return pc + UOP_SIZE_BYTES;
}
