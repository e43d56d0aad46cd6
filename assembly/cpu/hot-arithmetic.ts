// SPDX-License-Identifier: Apache-2.0
// Instructions that leave flags, for the loop in hot.ts: those on A write register A, those on M memory, at p. All give the next uop. `c` is
// `cpu`, which is a local there.
//
// The flags come after the register: with another store before it, the register's number would be loaded from the uop a second time.
import { FLAGS_ADD, FLAGS_DEC, FLAGS_INC, FLAGS_LOGIC, FLAGS_SUB, setIncFlags } from "./flags.ts";
import { getA, setA, setM } from "./hot-operands.ts";
import { addWithCarry, subtractWithBorrow } from "./integer-arithmetic.ts";
import { multiply32, multiply64 } from "./integer-multiply.ts";
import { setRotateFlags, setShiftFlagsSAR, setShiftFlagsSHL, setShiftFlagsSHR } from "./integer-shifts.ts";
import { CPU_FLAG_FIRST, CPU_FLAG_KIND, CPU_FLAG_RESULT } from "./layout.ts";
import { RCX } from "./registers.ts";
import { registerA, UOP_IMMEDIATE, UOP_SIZE_BYTES } from "./uop.ts";

/** As `setLazyFlags`, for operands of T. */
@inline
export function lazy<T>(c: usize, kind: u32, result: u64, first: u64): void {
  store<u64>(c, result, CPU_FLAG_RESULT);
  store<u64>(c, first, CPU_FLAG_FIRST);
  store<u32>(c, kind | (<u32>sizeof<T>() << 8), CPU_FLAG_KIND);
}

// ── Two operands ──

@inline
function finishA<T>(c: usize, pc: usize, kind: u32, result: T, first: T): usize {
  setA<T>(pc, result);
  lazy<T>(c, kind, result, first);
  return pc + UOP_SIZE_BYTES;
}

@inline
function finishM<T>(c: usize, pc: usize, p: usize, kind: u32, result: T, first: T): usize {
  setM<T>(pc, p, result);
  lazy<T>(c, kind, result, first);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function addA<T>(c: usize, pc: usize, second: T): usize {
  const first = getA<T>(pc);
  return finishA<T>(c, pc, FLAGS_ADD, first + second, first);
}

@inline
export function addM<T>(c: usize, pc: usize, p: usize, second: T): usize {
  const first = load<T>(p);
  return finishM<T>(c, pc, p, FLAGS_ADD, first + second, first);
}

@inline
export function orA<T>(c: usize, pc: usize, second: T): usize {
  const first = getA<T>(pc);
  return finishA<T>(c, pc, FLAGS_LOGIC, first | second, first);
}

@inline
export function orM<T>(c: usize, pc: usize, p: usize, second: T): usize {
  const first = load<T>(p);
  return finishM<T>(c, pc, p, FLAGS_LOGIC, first | second, first);
}

@inline
export function andA<T>(c: usize, pc: usize, second: T): usize {
  const first = getA<T>(pc);
  return finishA<T>(c, pc, FLAGS_LOGIC, first & second, first);
}

@inline
export function andM<T>(c: usize, pc: usize, p: usize, second: T): usize {
  const first = load<T>(p);
  return finishM<T>(c, pc, p, FLAGS_LOGIC, first & second, first);
}

@inline
export function subA<T>(c: usize, pc: usize, second: T): usize {
  const first = getA<T>(pc);
  return finishA<T>(c, pc, FLAGS_SUB, first - second, first);
}

@inline
export function subM<T>(c: usize, pc: usize, p: usize, second: T): usize {
  const first = load<T>(p);
  return finishM<T>(c, pc, p, FLAGS_SUB, first - second, first);
}

@inline
export function xorA<T>(c: usize, pc: usize, second: T): usize {
  const first = getA<T>(pc);
  return finishA<T>(c, pc, FLAGS_LOGIC, first ^ second, first);
}

@inline
export function xorM<T>(c: usize, pc: usize, p: usize, second: T): usize {
  const first = load<T>(p);
  return finishM<T>(c, pc, p, FLAGS_LOGIC, first ^ second, first);
}

@inline
export function adcA<T>(pc: usize, second: T): usize {
  store<u64>(registerA(pc), addWithCarry(getA<T>(pc), second, sizeof<T>()));
  return pc + UOP_SIZE_BYTES;
}

@inline
export function sbbA<T>(pc: usize, second: T): usize {
  store<u64>(registerA(pc), subtractWithBorrow(getA<T>(pc), second, sizeof<T>()));
  return pc + UOP_SIZE_BYTES;
}

@inline
export function imulA<T>(pc: usize, first: T, second: T): usize {
  if (sizeof<T>() == 8) multiply64(registerA(pc), first, second);
  else multiply32(registerA(pc), <u32>first, <u32>second);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function cmp<T>(c: usize, pc: usize, first: T, second: T): usize {
  lazy<T>(c, FLAGS_SUB, first - second, first);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function test<T>(c: usize, pc: usize, first: T, second: T): usize {
  lazy<T>(c, FLAGS_LOGIC, <u64>first & <u64>second, 0);
  return pc + UOP_SIZE_BYTES;
}

// ── One operand ──

@inline
export function negA<T>(c: usize, pc: usize): usize {
  return finishA<T>(c, pc, FLAGS_SUB, 0 - getA<T>(pc), 0);
}

@inline
export function incA<T>(pc: usize): usize {
  const result: T = getA<T>(pc) + 1;
  setA<T>(pc, result);
  setIncFlags(FLAGS_INC, sizeof<T>(), result);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function incM<T>(pc: usize, p: usize): usize {
  const result: T = load<T>(p) + 1;
  setM<T>(pc, p, result);
  setIncFlags(FLAGS_INC, sizeof<T>(), result);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function decA<T>(pc: usize): usize {
  const result: T = getA<T>(pc) - 1;
  setA<T>(pc, result);
  setIncFlags(FLAGS_DEC, sizeof<T>(), result);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function decM<T>(pc: usize, p: usize): usize {
  const result: T = load<T>(p) - 1;
  setM<T>(pc, p, result);
  setIncFlags(FLAGS_DEC, sizeof<T>(), result);
  return pc + UOP_SIZE_BYTES;
}

// ── Shifts and rotates: a count of 0 leaves the flags alone, which only CL can be ──

@inline
export function countInCL<T>(c: usize): u8 {
  return load<u8>(c, RCX) & <u8>(8 * sizeof<T>() - 1);
}

@inline
export function shiftRightSigned<T>(value: T, count: u8): T {
  return sizeof<T>() == 8 ? <T>(<i64>value >> count) : <T>(<i32>value >> count);
}

@inline
export function shlA<T>(pc: usize, count: u8): usize {
  const first = getA<T>(pc);
  const result: T = first << count;
  setA<T>(pc, result);
  setShiftFlagsSHL(sizeof<T>(), result, first, count);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function shrA<T>(pc: usize, count: u8): usize {
  const first = getA<T>(pc);
  const result: T = first >> count;
  setA<T>(pc, result);
  setShiftFlagsSHR(sizeof<T>(), result, first, count);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function sarA<T>(pc: usize, count: u8): usize {
  const first = getA<T>(pc);
  const result = shiftRightSigned<T>(first, count);
  setA<T>(pc, result);
  setShiftFlagsSAR(sizeof<T>(), result, first, count);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function shlByCL<T>(c: usize, pc: usize): usize {
  const first = getA<T>(pc);
  const count = countInCL<T>(c);
  const result: T = first << count;
  setA<T>(pc, result);
  if (count != 0) setShiftFlagsSHL(sizeof<T>(), result, first, count);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function shrByCL<T>(c: usize, pc: usize): usize {
  const first = getA<T>(pc);
  const count = countInCL<T>(c);
  const result: T = first >> count;
  setA<T>(pc, result);
  if (count != 0) setShiftFlagsSHR(sizeof<T>(), result, first, count);
  return pc + UOP_SIZE_BYTES;
}

@inline
export function sarByCL<T>(c: usize, pc: usize): usize {
  const first = getA<T>(pc);
  const count = countInCL<T>(c);
  const result = shiftRightSigned<T>(first, count);
  setA<T>(pc, result);
  if (count != 0) setShiftFlagsSAR(sizeof<T>(), result, first, count);
  return pc + UOP_SIZE_BYTES;
}

/** The second byte of the immediate says that it was a rotate to the right. */
@inline
export function rolA<T>(pc: usize): usize {
  const result = rotl<T>(getA<T>(pc), load<u8>(pc, UOP_IMMEDIATE));
  setA<T>(pc, result);
  setRotateFlags(sizeof<T>(), result, load<u8>(pc, UOP_IMMEDIATE + 1) != 0);
  return pc + UOP_SIZE_BYTES;
}
