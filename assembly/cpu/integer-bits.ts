// SPDX-License-Identifier: Apache-2.0
// Single bits and counts of them: BT, BTS, BTR, BTC, BSF, BSR, POPCNT.
import { toRead, toWrite } from "./access.ts";
import { change, group, immediate, size, source } from "./cold-operands.ts";
import { CF, setFlag, setFlags, ZF } from "./flags.ts";
import { operandAt } from "./operands.ts";
import { loadAt, setRegister, signExtend } from "./registers.ts";
import { address, isMemory, registerA, registerB } from "./uop.ts";
import { hasFaulted } from "./vcpu.ts";

// The low two bits of their numbers in group 8, and bits 3 and 4 of their opcodes. What is left is BTC.
const BT: u32 = 0;
const BTS: u32 = 1;
const BTR: u32 = 2;

/** By a register, whose bits reach beyond an operand in memory. */
export function execBit(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  const number = signExtend(loadAt(registerA(pc), sizeBytes), sizeBytes);
  const where = isMemory(pc) ? operandAt(pc, (number >> (3 + ctz(sizeBytes))) * sizeBytes) : 0;
  return changeBit(pc, where, (code >> 3) & 3, <u32>number);
}

/** Group 8: by an immediate. */
export function execBitImmediate(pc: usize): bool {
  return changeBit(pc, isMemory(pc) ? address(pc) : 0, group(pc) & 3, <u32>immediate(pc));
}

/** `where`: of an operand in memory. */
function changeBit(pc: usize, where: u64, operation: u32, number: u32): bool {
  const sizeBytes = size(pc);
  let place = registerB(pc);
  if (isMemory(pc)) place = operation == BT ? toRead(where, sizeBytes) : toWrite(where, sizeBytes);
  if (place == 0) return false;
  const bit: u64 = <u64>1 << (number & (8 * sizeBytes - 1));
  while (true) {
    const old = loadAt(place, sizeBytes);
    const value = operation == BTS ? old | bit : operation == BTR ? old & ~bit : old ^ bit;
    if (operation != BT && !change(pc, place, sizeBytes, old, value)) continue;
    setFlag(CF, (old & bit) != 0);
    return true;
  }
}

/** BSF and BSR; of a CPU without BMI also with F3. */
export function execBitScan(pc: usize, isReverse: bool): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  // AMD: of 0 the destination stays as it is.
  if (value != 0) setRegister(registerA(pc), sizeBytes, isReverse ? 63 - clz(value) : ctz(value));
  setFlag(ZF, value == 0);
  return true;
}

/** POPCNT. */
export function execPopulationCount(pc: usize): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  setRegister(registerA(pc), sizeBytes, popcnt(value));
  setFlags(value == 0 ? ZF : 0);
  return true;
}
