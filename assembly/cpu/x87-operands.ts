// SPDX-License-Identifier: Apache-2.0
// What instructions of the x87 have in common: operands, and how they end. An empty register, and a stack that is full, are exceptions
// like others: when they are masked, the result is what they have.
import { readValue } from "./access.ts";
import { fromFloat32, fromFloat64, fromInteger } from "./float80-formats.ts";
import { flags, head, IE, isForbidden, isUp, mantissa, report, setIndefinite, setUp, SF } from "./float80.ts";
import { CPU_X87_STATUS } from "./layout.ts";
import { cpu, hasFaulted } from "./vcpu.ts";
import {
  headOf,
  isEmpty,
  mantissaOf,
  notePointers,
  pop,
  push,
  setRegister,
  setStatus,
  stackRegister,
  STATUS_C0,
  STATUS_C1,
  STATUS_C2,
  STATUS_C3,
} from "./x87-state.ts";

// ── Operands ──

@inline
export function stackHead(index: u32): u32 {
  return headOf(stackRegister(index));
}

@inline
export function stackMantissa(index: u32): u64 {
  return mantissaOf(stackRegister(index));
}

/** Operands in memory; the first four in the order of the opcodes D8, DA, DC and DE. */
export const KIND_FLOAT32: u32 = 0;
export const KIND_INT32: u32 = 1;
export const KIND_FLOAT64: u32 = 2;
export const KIND_INT16: u32 = 3;
export const KIND_INT64: u32 = 4;

/** Makes an operand in memory the result. False: an exception was raised. */
export function fetch(at: u64, kind: u32): bool {
  switch (kind) {
    case KIND_FLOAT32:
      fromFloat32(<u32>readValue(at, 4));
      break;
    case KIND_INT32:
      fromInteger(<i32>readValue(at, 4));
      break;
    case KIND_FLOAT64:
      fromFloat64(readValue(at, 8));
      break;
    case KIND_INT16:
      fromInteger(<i16>readValue(at, 2));
      break;
    default:
      fromInteger(readValue(at, 8));
      break;
  }
  return !hasFaulted();
}

// ── How an instruction ends ──

/** The condition codes that comparisons set: C1 is another matter. */
export const ALL_CODES: u32 = STATUS_C0 | STATUS_C2 | STATUS_C3;

/** Brings what it has met into the status word; of the condition codes, those in `mask` become `codes`. C1 is `isUp`. */
export function finish(pc: usize, mask: u32, codes: u32): bool {
  const status = load<u16>(cpu, CPU_X87_STATUS) & ~(mask | STATUS_C1);
  setStatus(status | flags | codes | (isUp ? STATUS_C1 : 0));
  notePointers(pc);
  return true;
}

/** A register was empty. The result is what it is when that is masked. */
export function underflow(): void {
  report(IE | SF);
  setUp(false);
  setIndefinite();
}

/** There is no register left. */
export function overflow(): void {
  report(IE | SF);
  setUp(true);
  setIndefinite();
}

/** The result goes to ST(destination). */
export function finishResult(pc: usize, destination: u32, pops: bool): bool {
  if (!isForbidden()) {
    setRegister(destination, head, mantissa);
    if (pops) pop();
  }
  return finish(pc, 0, 0);
}

/** The result is pushed. */
export function finishPush(pc: usize): bool {
  if (!isForbidden()) push(head, mantissa);
  return finish(pc, 0, 0);
}

/** There is an operand, and room for a second result; else both are that of an invalid operation. */
export function hasRoom(): bool {
  if (isEmpty(0)) underflow();
  else if (!isEmpty(7)) overflow();
  else return true;
  if (!isForbidden()) {
    setRegister(0, head, mantissa);
    push(head, mantissa);
  }
  return false;
}
