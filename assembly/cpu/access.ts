// SPDX-License-Identifier: Apache-2.0
// Guest memory by linear address: what a look into the TLB settles, and simple accesses for instructions that are not hot. Whatever
// the TLB does not settle is done in slow-access.ts.
import {
  CACHE_TLB_SUPERVISOR,
  CPU_MODE,
  CPU_SPLIT,
  CPU_TLB,
  TLB_ADDEND_U32,
  TLB_FETCH_U64,
  TLB_READ_U64,
  TLB_WRITE_U64,
} from "./layout.ts";
import { MODE_USER } from "./modes.ts";
import { FETCH, NOT_MAPPED, translate } from "./page-walk.ts";
import { finishWrite, slowToRead, slowToWrite } from "./slow-access.ts";
import { entryOf, PAGE_MASK } from "./tlb.ts";
import { caches, cpu, GP, raiseWith, ramBase } from "./vcpu.ts";

@inline
export function isCanonical(address: u64): bool {
  return <u64>((<i64>address << 16) >> 16) == address;
}

// ── What the TLB settles ──

/** Where `sizeBytes` at a linear address can be read: RAM, or CPU_SPLIT with a copy. 0: an exception was raised. */
@inline
export function toRead(address: u64, sizeBytes: u32): usize {
  const entry = entryOf(load<u32>(cpu, CPU_TLB), address);
  if (load<u64>(entry, TLB_READ_U64) == ((address + sizeBytes - 1) & PAGE_MASK)) {
    return <u32>address + load<u32>(entry, TLB_ADDEND_U32);
  }
  return slowToRead(address, sizeBytes);
}

/**
 * Where they can be read and written: RAM, or CPU_SPLIT. 0: an exception was raised. When that is done, and it is no RAM,
 * `finishWrite` is to be called.
 */
@inline
export function toWrite(address: u64, sizeBytes: u32): usize {
  const entry = entryOf(load<u32>(cpu, CPU_TLB), address);
  if (load<u64>(entry, TLB_WRITE_U64) == ((address + sizeBytes - 1) & PAGE_MASK)) {
    return <u32>address + load<u32>(entry, TLB_ADDEND_U32);
  }
  return slowToWrite(address, sizeBytes);
}

/** True when nothing has to be done after a write to what `toWrite` gave: it is RAM, and no code. */
@inline
export function isPlain(pointer: usize): bool {
  return pointer != cpu + CPU_SPLIT;
}

/** Guest physical address of code, with the right to execute it; NOT_MAPPED after an exception. */
export function translateFetch(address: u64): u64 {
  const entry = entryOf(load<u32>(cpu, CPU_TLB), address);
  if (load<u64>(entry, TLB_FETCH_U64) == (address & PAGE_MASK)) {
    return <u64>(<u32>address + load<u32>(entry, TLB_ADDEND_U32) - <u32>ramBase);
  }
  if (!isCanonical(address)) {
    raiseWith(GP, 0);
    return NOT_MAPPED;
  }
  return translate(address, FETCH);
}

// ── Simple accesses, for instructions that are not hot: after each, `hasFaulted` is to be asked ──

export function readValue(address: u64, sizeBytes: u32): u64 {
  const pointer = toRead(address, sizeBytes);
  if (pointer == 0) return 0;
  switch (sizeBytes) {
    case 1:
      return load<u8>(pointer);
    case 2:
      return load<u16>(pointer);
    case 4:
      return load<u32>(pointer);
    default:
      return load<u64>(pointer);
  }
}

/** False: an exception was raised, and nothing written. */
export function writeValue(address: u64, sizeBytes: u32, value: u64): bool {
  const pointer = toWrite(address, sizeBytes);
  if (pointer == 0) return false;
  switch (sizeBytes) {
    case 1:
      store<u8>(pointer, <u8>value);
      break;
    case 2:
      store<u16>(pointer, <u16>value);
      break;
    case 4:
      store<u32>(pointer, <u32>value);
      break;
    default:
      store<u64>(pointer, value);
      break;
  }
  return isPlain(pointer) || finishWrite();
}

/** Descriptor tables and the like are read as supervisor, whatever the privilege level. `hasFaulted` is to be asked. */
export function readAsSupervisor(address: u64, sizeBytes: u32): u64 {
  const tlb = load<u32>(cpu, CPU_TLB);
  const mode = load<u32>(cpu, CPU_MODE);
  asSupervisor();
  const value = readValue(address, sizeBytes);
  store<u32>(cpu, tlb, CPU_TLB);
  store<u32>(cpu, mode, CPU_MODE);
  return value;
}

export function writeAsSupervisor(address: u64, sizeBytes: u32, value: u64): bool {
  const tlb = load<u32>(cpu, CPU_TLB);
  const mode = load<u32>(cpu, CPU_MODE);
  asSupervisor();
  const isWritten = writeValue(address, sizeBytes, value);
  store<u32>(cpu, tlb, CPU_TLB);
  store<u32>(cpu, mode, CPU_MODE);
  return isWritten;
}

function asSupervisor(): void {
  store<u32>(cpu, <u32>(caches + CACHE_TLB_SUPERVISOR), CPU_TLB);
  store<u32>(cpu, load<u32>(cpu, CPU_MODE) & ~MODE_USER, CPU_MODE);
}
