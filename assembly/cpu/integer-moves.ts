// SPDX-License-Identifier: Apache-2.0
// Moves and conversions: MOV, MOVZX, MOVSX, MOVSXD, CMOVcc, CBW and CWD with their likes, XLAT, BSWAP.
import { readValue } from "./access.ts";
import { size, source } from "./cold-operands.ts";
import { condition } from "./flags.ts";
import { tableAddress } from "./operands.ts";
import { loadAt, RAX, RBX, RDX, setRegister, signExtend } from "./registers.ts";
import { registerA, registerB } from "./uop.ts";
import { cpu, hasFaulted } from "./vcpu.ts";

/** MOV to ModRM.reg. */
export function execMoveFrom(pc: usize): bool {
  return execMoveExtended(pc, size(pc), false);
}

/** MOVZX, MOVSX and MOVSXD. */
export function execMoveExtended(pc: usize, fromBytes: u32, isSigned: bool): bool {
  const value = source(pc, fromBytes);
  if (hasFaulted()) return false;
  setRegister(registerA(pc), size(pc), isSigned ? <u64>signExtend(value, fromBytes) : value);
  return true;
}

/** CMOVcc: an operand in memory is read in any case, and a register of 32 bits always loses its upper half. */
export function execConditionalMove(pc: usize, code: u32): bool {
  const sizeBytes = size(pc);
  const value = source(pc, sizeBytes);
  if (hasFaulted()) return false;
  const register = registerA(pc);
  setRegister(register, sizeBytes, condition(code & 15) ? value : loadAt(register, sizeBytes));
  return true;
}

/** CBW, CWDE, CDQE. */
export function execExtendAccumulator(pc: usize): bool {
  const sizeBytes = size(pc);
  setRegister(cpu + RAX, sizeBytes, <u64>signExtend(load<u64>(cpu, RAX), sizeBytes >> 1));
  return true;
}

/** CWD, CDQ, CQO. */
export function execExtendIntoD(pc: usize): bool {
  const sizeBytes = size(pc);
  setRegister(cpu + RDX, sizeBytes, <u64>(signExtend(load<u64>(cpu, RAX), sizeBytes) >> 63));
  return true;
}

/** XLAT. */
export function execTranslate(pc: usize): bool {
  const value = readValue(tableAddress(pc, load<u64>(cpu, RBX) + load<u8>(cpu, RAX)), 1);
  if (hasFaulted()) return false;
  store<u8>(cpu, <u8>value, RAX);
  return true;
}

/** BSWAP of 16 or 32 bits. That of 16 is undefined; it gives 0. */
export function execSwapBytes(pc: usize): bool {
  const sizeBytes = size(pc);
  setRegister(registerB(pc), sizeBytes, sizeBytes == 2 ? 0 : bswap<u32>(load<u32>(registerB(pc))));
  return true;
}
