// SPDX-License-Identifier: Apache-2.0
// Operands of an OP_COLD: what ModRM names, immediates, DX:AX.
//
// Where something is changed: `destination` gives its place, register or memory; `change` ends what was written there.
import { isPlain, readValue, toWrite, writeValue } from "./access.ts";
import { exchangeLocked } from "./locked.ts";
import { loadAt, RAX, RDX, setRegister, storeAt } from "./registers.ts";
import { finishWrite } from "./slow-access.ts";
import { address, COLD_FORM, COLD_IMMEDIATE, COLD_SIZE, FORM_LOCK, isMemory, registerB, UOP_A } from "./uop.ts";
import { cpu } from "./vcpu.ts";

@inline
export function size(pc: usize): u32 {
  return load<u8>(pc, COLD_SIZE);
}

@inline
export function immediate(pc: usize): i64 {
  return load<i64>(pc, COLD_IMMEDIATE);
}

/** ModRM.reg where it is a number: of an operation of a group, or of a segment. */
@inline
export function group(pc: usize): u32 {
  return load<u16>(pc, UOP_A);
}

/** ModRM.rm as a source. `hasFaulted` is to be asked. */
export function source(pc: usize, sizeBytes: u32): u64 {
  return isMemory(pc) ? readValue(address(pc), sizeBytes) : loadAt(registerB(pc), sizeBytes);
}

/** ModRM.rm as a place to change. 0: an exception was raised. */
export function destination(pc: usize, sizeBytes: u32): usize {
  return isMemory(pc) ? toWrite(address(pc), sizeBytes) : registerB(pc);
}

/** Puts a new value where `old` was. False: with LOCK, somebody else has changed it meanwhile, and all is to be done again. */
export function change(pc: usize, place: usize, sizeBytes: u32, old: u64, value: u64): bool {
  if (!isMemory(pc)) {
    setRegister(place, sizeBytes, value);
    return true;
  }
  if (load<u8>(pc, COLD_FORM) & FORM_LOCK) return exchangeLocked(place, sizeBytes, old, value);
  storeAt(place, sizeBytes, value);
  return isPlain(place) || finishWrite();
}

/** Writes to ModRM.rm, whatever was there. False: an exception was raised. */
export function moveTo(pc: usize, sizeBytes: u32, value: u64): bool {
  if (isMemory(pc)) return writeValue(address(pc), sizeBytes, value);
  setRegister(registerB(pc), sizeBytes, value);
  return true;
}

/** DX:AX and the like; of bytes AX. */
export function wideAccumulator(sizeBytes: u32): u64 {
  if (sizeBytes == 1) return load<u16>(cpu, RAX);
  return loadAt(cpu + RAX, sizeBytes) | (loadAt(cpu + RDX, sizeBytes) << (8 * sizeBytes));
}

export function setWideAccumulator(low: u64, high: u64, sizeBytes: u32): void {
  if (sizeBytes == 1) {
    store<u16>(cpu, <u16>((low & 0xff) | (high << 8)), RAX);
    return;
  }
  setRegister(cpu + RAX, sizeBytes, low);
  setRegister(cpu + RDX, sizeBytes, high);
}
