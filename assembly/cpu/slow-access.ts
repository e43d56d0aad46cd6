// SPDX-License-Identifier: Apache-2.0
// Accesses that the TLB does not settle: the first ones to a page, those over two pages, the first write to a page that is clean or has
// code, and what is no RAM. SDM volume 3, 8.2 (order of accesses).
//
// What is no RAM, or in two places, is read into CPU_SPLIT beforehand, or written from there afterwards.
import { isCanonical } from "./access.ts";
import { readApic, writeApic } from "./apic-registers.ts";
import { CPU_APIC_BASE, CPU_SPLIT, CPU_SPLIT_ADDRESS, CPU_SPLIT_SIZE } from "./layout.ts";
import { isMapped, READ, translate, WRITE } from "./page-walk.ts";
import { PAGE_MASK } from "./tlb.ts";
import { cpu, GP, raiseWith, ramBase, ramSizeBytes, readMmio, writeMmio } from "./vcpu.ts";
import { hasCode, notePageWrite } from "./write-tracking.ts";

/** The last #GP is of an address that is not canonical. */
export let isRefused: bool = false;

export function forgetRefusal(): void {
  isRefused = false;
}

/** #GP; of what is in the stack segment, #SS is made of it later: stack-faults.ts. */
function refuse(): usize {
  isRefused = true;
  raiseWith(GP, 0);
  return 0;
}

export function slowToRead(address: u64, sizeBytes: u32): usize {
  const last = address + sizeBytes - 1;
  if (!isCanonical(address) || !isCanonical(last)) return refuse();
  if ((address ^ last) & PAGE_MASK) {
    // Both pages before either is read.
    if (!isMapped(translate(address, READ)) || !isMapped(translate(last & PAGE_MASK, READ))) return 0;
    const split = cpu + CPU_SPLIT;
    for (let index: u32 = 0; index < sizeBytes; index++) {
      const place = translate(address + index, READ);
      const byte = place < ramSizeBytes ? load<u8>(ramBase + <usize>place) : <u8>readPhysical(place, 1);
      store<u8>(split + index, byte);
    }
    return split;
  }
  const physical = translate(address, READ);
  if (!isMapped(physical)) return 0;
  return toReadPhysical(physical, sizeBytes);
}

function toReadPhysical(physical: u64, sizeBytes: u32): usize {
  if (physical + sizeBytes <= ramSizeBytes) return ramBase + <usize>physical;
  const split = cpu + CPU_SPLIT;
  for (let done: u32 = 0; done < sizeBytes; done += 8) {
    const count = min<u32>(8, sizeBytes - done);
    store<u64>(split + done, readPhysical(physical + done, count));
  }
  return split;
}

/** Of what is no RAM. */
function readPhysical(physical: u64, sizeBytes: u32): u64 {
  if (isApic(physical)) return readApic(<u32>physical & 0xfff, sizeBytes);
  return readMmio(physical, sizeBytes);
}

export function slowToWrite(address: u64, sizeBytes: u32): usize {
  const last = address + sizeBytes - 1;
  if (!isCanonical(address) || !isCanonical(last)) return refuse();
  const first = translate(address, WRITE);
  if (!isMapped(first)) return 0;
  const isOnePage = !((address ^ last) & PAGE_MASK);
  if (isOnePage && first + sizeBytes <= ramSizeBytes && !hasCode(first)) {
    if (notePageWrite(first)) translate(address, WRITE);
    return ramBase + <usize>first;
  }
  if (!isOnePage && !isMapped(translate(last & PAGE_MASK, WRITE))) return 0;
  // Read first: this may be the first half of a change. Devices are not read by that.
  const split = cpu + CPU_SPLIT;
  for (let index: u32 = 0; index < sizeBytes; index++) {
    const physical = translate(address + index, WRITE);
    store<u8>(split + index, physical < ramSizeBytes ? load<u8>(ramBase + <usize>physical) : 0xff);
  }
  store<u64>(cpu, address, CPU_SPLIT_ADDRESS);
  store<u32>(cpu, sizeBytes, CPU_SPLIT_SIZE);
  return split;
}

/** Has what was written to CPU_SPLIT arrive. True: for `return`. */
export function finishWrite(): bool {
  const address = load<u64>(cpu, CPU_SPLIT_ADDRESS);
  const sizeBytes = load<u32>(cpu, CPU_SPLIT_SIZE);
  const split = cpu + CPU_SPLIT;
  const physical = translate(address, WRITE);
  if (physical >= ramSizeBytes && !((address ^ (address + sizeBytes - 1)) & PAGE_MASK)) {
    for (let done: u32 = 0; done < sizeBytes; done += 8) {
      writePhysical(physical + done, min<u32>(8, sizeBytes - done), load<u64>(split + done));
    }
    return true;
  }
  for (let index: u32 = 0; index < sizeBytes; index++) {
    const place = translate(address + index, WRITE);
    const byte = load<u8>(split + index);
    if (place < ramSizeBytes) {
      notePageWrite(place);
      store<u8>(ramBase + <usize>place, byte);
    } else {
      writePhysical(place, 1, byte);
    }
  }
  return true;
}

function writePhysical(physical: u64, sizeBytes: u32, value: u64): void {
  if (isApic(physical)) writeApic(<u32>physical & 0xfff, sizeBytes, <u32>value);
  else writeMmio(physical, sizeBytes, sizeBytes < 8 ? value & ((<u64>1 << (8 * sizeBytes)) - 1) : value);
}

@inline
function isApic(physical: u64): bool {
  // Enabled, and not in x2APIC mode.
  const base = load<u64>(cpu, CPU_APIC_BASE);
  return (physical & PAGE_MASK) == (base & PAGE_MASK) && (base & 0xc00) == 0x800;
}
