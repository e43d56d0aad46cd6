// SPDX-License-Identifier: Apache-2.0
// Operands of system instructions, and who may use them.
import { readValue, writeValue } from "./access.ts";
import { loadAt, setRegister } from "./integer.ts";
import { privilegeLevel } from "./modes.ts";
import { address, COLD_SIZE, isMemory, registerB, UOP_A } from "./uop.ts";
import { GP, raiseWith } from "./vcpu.ts";

@inline
export function size(pc: usize): u32 {
  return load<u8>(pc, COLD_SIZE);
}

@inline
export function group(pc: usize): u32 {
  return load<u16>(pc, UOP_A);
}

export function source(pc: usize, sizeBytes: u32): u64 {
  return isMemory(pc) ? readValue(address(pc), sizeBytes) : loadAt(registerB(pc), sizeBytes);
}

export function store16(pc: usize, value: u64): bool {
  if (isMemory(pc)) return writeValue(address(pc), 2, value);
  setRegister(registerB(pc), size(pc), value);
  return true;
}

/** Only at privilege level 0. False: #GP was raised. */
export function isSupervisor(): bool {
  return privilegeLevel() == 0 || raiseWith(GP, 0);
}
