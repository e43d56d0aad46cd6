// SPDX-License-Identifier: Apache-2.0
// Shifts and rotates: group 2, SHLD and SHRD.
import { change, destination, group, immediate, size } from "./cold-operands.ts";
import { arithmeticFlags, carry, CF, OF, resultFlags, setFlags } from "./flags.ts";
import { loadAt, maskOf, RCX, signExtend } from "./registers.ts";
import { registerA } from "./uop.ts";
import { cpu } from "./vcpu.ts";

// Numbers of the operations in group 2. SDM volume 2, table A-6.
export const ROL: u32 = 0;
export const ROR: u32 = 1;
export const RCL: u32 = 2;
export const RCR: u32 = 3;
export const SHL: u32 = 4;
export const SHR: u32 = 5;
/** Not in the SDM, and the same as SHL. */
export const SAL: u32 = 6;
export const SAR: u32 = 7;

export function setShiftFlagsSHL(sizeBytes: u32, result: u64, first: u64, count: u32): void {
  const bits: u32 = 8 * sizeBytes;
  const carryOut = count <= bits ? <u32>(first >> (bits - count)) & 1 : 0;
  const overflow = (<u32>(result >> (bits - 1)) & 1) ^ carryOut;
  setFlags(resultFlags(result, sizeBytes) | carryOut | (overflow ? OF : 0));
}

export function setShiftFlagsSHR(sizeBytes: u32, result: u64, first: u64, count: u32): void {
  const carryOut = count <= 64 ? <u32>(first >> (count - 1)) & 1 : 0;
  const overflow = <u32>(first >> (8 * sizeBytes - 1)) & 1;
  setFlags(resultFlags(result, sizeBytes) | carryOut | (overflow && count == 1 ? OF : 0));
}

export function setShiftFlagsSAR(sizeBytes: u32, result: u64, first: u64, count: u32): void {
  const carryOut = <u32>(signExtend(first, sizeBytes) >> min<u32>(count - 1, 63)) & 1;
  setFlags(resultFlags(result, sizeBytes) | carryOut);
}

/** CF and OF after a rotate by an amount that is not 0. */
export function setRotateFlags(sizeBytes: u32, result: u64, isRight: bool): void {
  const carryOut = isRight ? <u32>(result >> (8 * sizeBytes - 1)) & 1 : <u32>result & 1;
  setRotateCarry(sizeBytes, result, isRight, carryOut);
}

@inline
function setRotateCarry(sizeBytes: u32, result: u64, isRight: bool, carryOut: u32): void {
  const bits: u32 = 8 * sizeBytes;
  const top = <u32>(result >> (bits - 1)) & 1;
  const overflow = top ^ (isRight ? <u32>(result >> (bits - 2)) & 1 : carryOut);
  setFlags((arithmeticFlags() & ~(CF | OF)) | carryOut | (overflow ? OF : 0));
}

/** One of the eight operations, with its flags. `count` is masked already, and not 0. */
function shift(operation: u32, value: u64, count: u32, sizeBytes: u32): u64 {
  const bits: u32 = 8 * sizeBytes;
  const mask = maskOf(sizeBytes);
  switch (operation) {
    case ROL:
    case ROR:
      return rotate(operation == ROR, value, count, sizeBytes);
    case RCL:
    case RCR:
      return rotateThroughCarry(operation == RCR, value, count, sizeBytes);
    case SHR: {
      const result = count < bits ? value >> count : 0;
      setShiftFlagsSHR(sizeBytes, result, value, count);
      return result;
    }
    case SAR: {
      const result = <u64>(signExtend(value, sizeBytes) >> min<u32>(count, 63)) & mask;
      setShiftFlagsSAR(sizeBytes, result, value, count);
      return result;
    }
    default: {
      const result = count < bits ? (value << count) & mask : 0;
      setShiftFlagsSHL(sizeBytes, result, value, count);
      return result;
    }
  }
}

function rotate(isRight: bool, value: u64, count: u32, sizeBytes: u32): u64 {
  const bits: u32 = 8 * sizeBytes;
  const amount = count & (bits - 1);
  const left = isRight ? (bits - amount) & (bits - 1) : amount;
  const result = left == 0 ? value : ((value << left) | (value >> (bits - left))) & maskOf(sizeBytes);
  setRotateFlags(sizeBytes, result, isRight);
  return result;
}

function rotateThroughCarry(isRight: bool, value: u64, count: u32, sizeBytes: u32): u64 {
  const bits: u32 = 8 * sizeBytes;
  let result = value;
  let carryBit: u64 = carry() ? 1 : 0;
  for (let turn = count % (bits + 1); turn > 0; turn--) {
    if (isRight) {
      const out = result & 1;
      result = (result >> 1) | (carryBit << (bits - 1));
      carryBit = out;
    } else {
      const out = (result >> (bits - 1)) & 1;
      result = ((result << 1) | carryBit) & maskOf(sizeBytes);
      carryBit = out;
    }
  }
  setRotateCarry(sizeBytes, result, isRight, <u32>carryBit);
  return result;
}

/** As much of a count as the CPU looks at. */
function maskCount(amount: u32, sizeBytes: u32): u32 {
  return amount & (sizeBytes == 8 ? 63 : 31);
}

/** Group 2: by an immediate, by 1, or by CL. */
export function execShift(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  const amount = code < 0xd0 ? <u32>immediate(pc) : code < 0xd2 ? 1 : load<u8>(cpu, RCX);
  const count = maskCount(amount, sizeBytes);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const old = loadAt(place, sizeBytes);
  return change(pc, place, sizeBytes, old, count == 0 ? old : shift(group(pc), old, count, sizeBytes));
}

/** SHLD and SHRD, by an immediate or by CL. */
export function execDoubleShift(pc: usize, code: u32): bool {
  const isRight = (code & 8) != 0;
  const sizeBytes = size(pc);
  const bits: u32 = 8 * sizeBytes;
  const count = maskCount(code & 1 ? load<u8>(cpu, RCX) : <u32>immediate(pc), sizeBytes);
  const place = destination(pc, sizeBytes);
  if (place == 0) return false;
  const old = loadAt(place, sizeBytes);
  if (count == 0) return change(pc, place, sizeBytes, old, old);
  const other = loadAt(registerA(pc), sizeBytes);
  let result: u64;
  let carryOut: u32;
  if (count > bits) {
    // Undefined, of 16 bits: the operands follow each other around.
    const around = (old << 32) | (other << 16) | old;
    result = isRight ? around >> count : (around << count) >> 32;
    carryOut = <u32>(isRight ? around >> (count - 1) : around >> (48 - count)) & 1;
  } else if (isRight) {
    result = count == bits ? other : (old >> count) | (other << (bits - count));
    carryOut = <u32>(old >> (count - 1)) & 1;
  } else {
    result = count == bits ? other : (old << count) | (other >> (bits - count));
    carryOut = <u32>(old >> (bits - count)) & 1;
  }
  result &= maskOf(sizeBytes);
  const overflow = <u32>((old ^ result) >> (bits - 1)) & 1;
  setFlags(resultFlags(result, sizeBytes) | carryOut | (overflow ? OF : 0));
  return change(pc, place, sizeBytes, old, result);
}
