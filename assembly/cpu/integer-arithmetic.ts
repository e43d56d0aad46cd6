// SPDX-License-Identifier: Apache-2.0
// The eight operations of opcodes 00 to 3F and of group 1; TEST, NOT, NEG, INC, DEC and BOUND.
import { readValue } from "./access.ts";
import { change, destination, group, immediate, size, source } from "./cold-operands.ts";
import {
  AF,
  arithmeticFlags,
  carry,
  CF,
  FLAGS_ADD,
  FLAGS_DEC,
  FLAGS_INC,
  FLAGS_LOGIC,
  FLAGS_SUB,
  OF,
  resultFlags,
  setFlags,
  setIncFlags,
  setLazyFlags,
} from "./flags.ts";
import { operandAt } from "./operands.ts";
import { loadAt, maskOf, setRegister, signExtend } from "./registers.ts";
import { registerA } from "./uop.ts";
import { BR, hasFaulted, raise } from "./vcpu.ts";

// Numbers of the operations. SDM volume 2, table A-6.
export const ADD: u32 = 0;
export const OR: u32 = 1;
export const ADC: u32 = 2;
export const SBB: u32 = 3;
export const AND: u32 = 4;
export const SUB: u32 = 5;
export const XOR: u32 = 6;
export const CMP: u32 = 7;

/** One of the eight, with its flags. */
function alu(operation: u32, first: u64, second: u64, sizeBytes: u32): u64 {
  const mask = maskOf(sizeBytes);
  switch (operation) {
    case ADD: {
      const result = (first + second) & mask;
      setLazyFlags(FLAGS_ADD, sizeBytes, result, first);
      return result;
    }
    case OR:
      return logic(first | second, sizeBytes);
    case ADC:
      return addWithCarry(first, second & mask, sizeBytes);
    case SBB:
      return subtractWithBorrow(first, second & mask, sizeBytes);
    case AND:
      return logic(first & second, sizeBytes);
    case XOR:
      return logic(first ^ second, sizeBytes);
    default: {
      const result = (first - second) & mask;
      setLazyFlags(FLAGS_SUB, sizeBytes, result, first);
      return result;
    }
  }
}

function logic(result: u64, sizeBytes: u32): u64 {
  const masked = result & maskOf(sizeBytes);
  setLazyFlags(FLAGS_LOGIC, sizeBytes, masked, 0);
  return masked;
}

export function addWithCarry(first: u64, second: u64, sizeBytes: u32): u64 {
  const carryIn: u64 = carry() ? 1 : 0;
  const result = (first + second + carryIn) & maskOf(sizeBytes);
  const isCarry = carryIn ? result <= first : result < first;
  setCarryFlags(first, second, result, sizeBytes, isCarry, (first ^ result) & (second ^ result));
  return result;
}

export function subtractWithBorrow(first: u64, second: u64, sizeBytes: u32): u64 {
  const borrow: u64 = carry() ? 1 : 0;
  const result = (first - second - borrow) & maskOf(sizeBytes);
  const isCarry = borrow ? first <= second : first < second;
  setCarryFlags(first, second, result, sizeBytes, isCarry, (first ^ second) & (first ^ result));
  return result;
}

/** `overflow` has OF where a result has its sign. */
@inline
function setCarryFlags(first: u64, second: u64, result: u64, sizeBytes: u32, isCarry: bool, overflow: u64): void {
  setFlags(
    resultFlags(result, sizeBytes) |
      (isCarry ? CF : 0) |
      (<u32>(first ^ second ^ result) & AF) |
      ((overflow >> (8 * sizeBytes - 1)) & 1 ? OF : 0),
  );
}

/** ModRM.rm op= second. */
function aluTo(pc: usize, operation: u32, second: u64): bool {
  const sizeBytes = size(pc);
  if (operation == CMP) {
    const first = source(pc, sizeBytes);
    if (hasFaulted()) return false;
    alu(CMP, first, second, sizeBytes);
    return true;
  }
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const hasCarryIn = operation == ADC || operation == SBB;
  // Each attempt begins with the flags of before.
  const before = hasCarryIn ? arithmeticFlags() : 0;
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = alu(operation, old, second, sizeBytes);
    if (change(pc, place, sizeBytes, old, result)) return true;
    if (hasCarryIn) setFlags(before);
  }
}

/** ModRM.reg op= ModRM.rm. */
function aluFrom(pc: usize, operation: u32): bool {
  const sizeBytes = size(pc);
  const place = registerA(pc);
  const second = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  const result = alu(operation, loadAt(place, sizeBytes), second, sizeBytes);
  if (operation != CMP) setRegister(place, sizeBytes, result);
  return true;
}

/** Opcodes 00 to 3F but for those of segments and BCD. */
export function execAlu(pc: usize, code: u32): bool {
  const operation = code >> 3;
  switch (code & 7) {
    case 0:
    case 1:
      return aluTo(pc, operation, loadAt(registerA(pc), size(pc)));
    case 2:
    case 3:
      return aluFrom(pc, operation);
    default:
      return execAluImmediate(pc, operation);
  }
}

export function execAluImmediate(pc: usize, operation: u32): bool {
  return aluTo(pc, operation, <u64>immediate(pc) & maskOf(size(pc)));
}

export function execTest(pc: usize, second: u64): bool {
  const value = source(pc, size(pc));
  if (hasFaulted()) return false;
  logic(value & second, size(pc));
  return true;
}

/** INC and DEC: the lowest bit of their number in groups 4 and 5. */
export function execIncrement(pc: usize): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const isDec = group(pc) == 1;
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = (isDec ? old - 1 : old + 1) & maskOf(sizeBytes);
    if (!change(pc, place, sizeBytes, old, result)) continue;
    setIncFlags(isDec ? FLAGS_DEC : FLAGS_INC, sizeBytes, result);
    return true;
  }
}

/** NOT leaves the flags alone. */
export function execNegate(pc: usize, isNot: bool): bool {
  const sizeBytes = size(pc);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  while (true) {
    const old = loadAt(place, sizeBytes);
    const result = (isNot ? ~old : 0 - old) & maskOf(sizeBytes);
    if (!change(pc, place, sizeBytes, old, result)) continue;
    if (!isNot) setLazyFlags(FLAGS_SUB, sizeBytes, result, 0);
    return true;
  }
}

/** BOUND: the index in a register is to be between the two in memory. */
export function execBound(pc: usize): bool {
  const sizeBytes = size(pc);
  const index = signExtend(loadAt(registerA(pc), sizeBytes), sizeBytes);
  const lowest = signExtend(source(pc, sizeBytes), sizeBytes);
  if (hasFaulted()) return false;
  const highest = signExtend(readValue(operandAt(pc, sizeBytes), sizeBytes), sizeBytes);
  if (hasFaulted()) return false;
  return (index >= lowest && index <= highest) || raise(BR);
}
