// SPDX-License-Identifier: Apache-2.0
// From linear addresses to guest RAM: TLBs, the walk of the page tables, and accesses that are not as simple as most.
// SDM volume 3, chapter 4 (paging) and 8.2 (order of accesses).
//
// A TLB entry says what may be done without anybody having to know. A page is in TLB_WRITE_U64 only when its dirty flags, the guest's
// and PAGE_DIRTY, are set, and it has no code: the first write to any other page comes here. So tracking dirty pages, and code that
// is written, cost nothing where neither is the case.
import { CONTROL_PROTECTIONS, PAGE_FLAGS_BASE, PAGE_SIZE_BYTES } from "../layout.ts";
import { invalidateCode } from "./blocks.ts";
import { cpuCount } from "../irqchip/lapic.ts";
import { readApic, writeApic } from "./apic.ts";
import {
  CACHE_TLB_GROUPS,
  CACHE_TLB_SUPERVISOR,
  CACHE_TLB_USER,
  CPU_APIC_BASE,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_GLOBAL_EPOCH,
  CPU_LAST_EPOCH,
  CPU_LINK_EPOCH,
  CPU_MODE,
  CPU_PROTECTIONS,
  CPU_SPLIT,
  CPU_SPLIT_ADDRESS,
  CPU_SPLIT_SIZE,
  CPU_TLB,
  PAGE_DIRTY,
  PAGE_HAS_CODE,
  TLB_ADDEND_U32,
  TLB_ENTRY_COUNT,
  TLB_ENTRY_SIZE_BYTES,
  TLB_FETCH_U64,
  TLB_FLAGS_U32,
  TLB_GLOBAL,
  TLB_GROUP_ENTRY_COUNT,
  TLB_LARGE,
  TLB_READ_U64,
  TLB_SIZE_BYTES,
  TLB_WRITE_U64,
} from "./layout.ts";
import { MODE_USER } from "./modes.ts";
import {
  cpu,
  caches,
  GP,
  raisePageFault,
  raiseWith,
  ramBase,
  ramSizeBytes,
  readMmio,
  writeMmio,
} from "./vcpu.ts";

/** What an access is. */
export const READ: u32 = 0;
export const WRITE: u32 = 1;
export const FETCH: u32 = 2;

export const CR0_PE: u64 = 1;
export const CR0_MP: u64 = 2;
export const CR0_EM: u64 = 4;
export const CR0_TS: u64 = 8;
export const CR0_NE: u64 = 0x20;
export const CR0_WP: u64 = 0x1_0000;
export const CR0_AM: u64 = 0x4_0000;
export const CR0_PG: u64 = 0x8000_0000;
export const CR4_TSD: u64 = 4;
export const CR4_PSE: u64 = 0x10;
export const CR4_PAE: u64 = 0x20;
export const CR4_PGE: u64 = 0x80;
export const CR4_OSFXSR: u64 = 0x200;
export const CR4_OSXMMEXCPT: u64 = 0x400;
export const EFER_SCE: u64 = 1;
export const EFER_LME: u64 = 0x100;
export const EFER_LMA: u64 = 0x400;
export const EFER_NXE: u64 = 0x800;

const PTE_PRESENT: u64 = 1;
const PTE_WRITE: u64 = 2;
const PTE_USER: u64 = 4;
const PTE_ACCESSED: u64 = 0x20;
const PTE_DIRTY: u64 = 0x40;
const PTE_LARGE: u64 = 0x80;
const PTE_GLOBAL: u64 = 0x100;
const PTE_NX: u64 = 0x8000_0000_0000_0000;
const PTE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/** Between MAXPHYADDR, 46, and the ignored bits. */
const PTE_RESERVED: u64 = 0x000f_c000_0000_0000;
export const PHYSICAL_ADDRESS_BITS: u32 = 46;

// Error code of #PF.
const PF_PRESENT: u32 = 1;
const PF_WRITE: u32 = 2;
const PF_USER: u32 = 4;
const PF_RESERVED: u32 = 8;
const PF_FETCH: u32 = 16;

const PAGE_MASK: u64 = ~(<u64>(PAGE_SIZE_BYTES - 1));
/** No page: not aligned. */
const TLB_NONE: u64 = u64.MAX_VALUE;
const LARGEST_PAGE: u64 = 0x4000_0000;
const NOT_MAPPED: u64 = u64.MAX_VALUE;

@inline
export function isCanonical(address: u64): bool {
  return <u64>((<i64>address << 16) >> 16) == address;
}

@inline
function isUser(): bool {
  return (load<u32>(cpu, CPU_MODE) & MODE_USER) != 0;
}

@inline
function entryOf(tlb: usize, address: u64): usize {
  return tlb + ((<usize>(address >> 12) & (TLB_ENTRY_COUNT - 1)) * TLB_ENTRY_SIZE_BYTES);
}

// ── The hot paths, for the inner loop and for everybody else ──

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

// ── Translation ──

/** Guest physical address for an access by the current privilege level; NOT_MAPPED after an exception. Fills the TLB. */
export function translate(address: u64, access: u32): u64 {
  return translateAs(address, access, isUser());
}

/** As supervisor, whatever the privilege level is: descriptor tables, TSS. Does not fill the TLB. */
export function translateAs(address: u64, access: u32, asUser: bool): u64 {
  if (!(load<u64>(cpu, CPU_CR0) & CR0_PG)) {
    const physical = address & 0xffff_ffff;
    install(address, physical, access, asUser, true, true, false, false);
    return physical;
  }
  const isLong = (load<u64>(cpu, CPU_EFER) & EFER_LMA) != 0;
  const isWide = isLong || (load<u64>(cpu, CPU_CR4) & CR4_PAE) != 0;
  return isWide ? walkWide(address, access, asUser, isLong) : walkLegacy(address, access, asUser);
}

export function isMapped(physical: u64): bool {
  return physical != NOT_MAPPED;
}

function walkWide(address: u64, access: u32, asUser: bool, isLong: bool): u64 {
  const hasNx = (load<u64>(cpu, CPU_EFER) & EFER_NXE) != 0;
  let table = load<u64>(cpu, CPU_CR3) & (isLong ? PTE_ADDRESS : 0xffff_ffe0);
  let rights = PTE_WRITE | PTE_USER;
  let noExecute: u64 = 0;
  let shift: u32 = isLong ? 39 : 30;
  while (true) {
    const mask: u64 = shift == 30 && !isLong ? 3 : 511;
    const where = table + (((address >> shift) & mask) << 3);
    const entry = readTable(where);
    if (!(entry & PTE_PRESENT)) return miss(address, access, asUser, 0);
    const isLarge = shift > 12 && (entry & PTE_LARGE) != 0;
    let reserved = PTE_RESERVED;
    if (!hasNx) reserved |= PTE_NX;
    if (shift == 39) reserved |= PTE_LARGE;
    // PDPTEs of PAE paging have no rights and are not marked as accessed.
    const isPointer = shift == 30 && !isLong;
    if (isLarge && !isPointer) reserved |= ((<u64>1 << shift) - 1) & ~(<u64>0x1fff);
    if (entry & reserved) return miss(address, access, asUser, PF_PRESENT | PF_RESERVED);
    if (!isPointer) {
      rights &= entry;
      noExecute |= entry & PTE_NX;
    }
    if (shift == 12 || (isLarge && !isPointer)) {
      const physical = (entry & PTE_ADDRESS & ~((<u64>1 << shift) - 1)) | (address & ((<u64>1 << shift) - 1));
      return finish(address, access, asUser, physical, where, entry, rights, noExecute != 0, 8, shift > 12);
    }
    if (!isPointer && !(entry & PTE_ACCESSED)) markTable(where, PTE_ACCESSED, 8);
    table = entry & PTE_ADDRESS;
    shift -= 9;
  }
}

function walkLegacy(address: u64, access: u32, asUser: bool): u64 {
  const upperWhere = (load<u64>(cpu, CPU_CR3) & 0xffff_f000) + (((address >> 22) & 1023) << 2);
  const upper = readTable32(upperWhere);
  if (!(upper & PTE_PRESENT)) return miss(address, access, asUser, 0);
  if (upper & PTE_LARGE && load<u64>(cpu, CPU_CR4) & CR4_PSE) {
    const physical = (upper & 0xffc0_0000) | ((upper & 0x1fe000) << 19) | (address & 0x3f_ffff);
    return finish(address, access, asUser, physical, upperWhere, upper, upper & 6, false, 4, true);
  }
  const where = (upper & 0xffff_f000) + (((address >> 12) & 1023) << 2);
  const entry = readTable32(where);
  if (!(entry & PTE_PRESENT)) return miss(address, access, asUser, 0);
  if (!(upper & PTE_ACCESSED)) markTable(upperWhere, PTE_ACCESSED, 4);
  const physical = (entry & 0xffff_f000) | (address & 0xfff);
  return finish(address, access, asUser, physical, where, entry, entry & upper & 6, false, 4, true);
}

/** The last step: rights, accessed and dirty flags, TLB. */
function finish(
  address: u64,
  access: u32,
  asUser: bool,
  physical: u64,
  where: u64,
  entry: u64,
  rights: u64,
  noExecute: bool,
  entrySizeBytes: u32,
  isLarge: bool,
): u64 {
  const isAllowed = asUser ? (rights & PTE_USER) != 0 : true;
  const mayWrite = (rights & PTE_WRITE) != 0 || (!asUser && !(load<u64>(cpu, CPU_CR0) & CR0_WP));
  if (!isAllowed || (access == WRITE && !mayWrite) || (access == FETCH && noExecute)) {
    return miss(address, access, asUser, PF_PRESENT);
  }
  const wanted = PTE_ACCESSED | (access == WRITE ? PTE_DIRTY : 0);
  if ((entry & wanted) != wanted) markTable(where, wanted, entrySizeBytes);
  const isDirty = access == WRITE || (entry & PTE_DIRTY) != 0;
  const isGlobal = (entry & PTE_GLOBAL) != 0 && (load<u64>(cpu, CPU_CR4) & CR4_PGE) != 0;
  install(address, physical, access, asUser, mayWrite && isDirty, !noExecute, isGlobal, isLarge);
  return physical;
}

function miss(address: u64, access: u32, asUser: bool, code: u32): u64 {
  const hasNx = (load<u64>(cpu, CPU_EFER) & EFER_NXE) != 0 && (load<u64>(cpu, CPU_CR4) & CR4_PAE) != 0;
  const kind = access == WRITE ? PF_WRITE : access == FETCH && hasNx ? PF_FETCH : 0;
  raisePageFault(address, code | kind | (asUser ? PF_USER : 0));
  return NOT_MAPPED;
}

/** What is beyond RAM reads as all ones, in which reserved bits are set. */
function readTable(physical: u64): u64 {
  if (physical + 8 > ramSizeBytes) return u64.MAX_VALUE;
  return load<u64>(ramBase + <usize>physical);
}

function readTable32(physical: u64): u64 {
  return physical + 4 > ramSizeBytes ? u32.MAX_VALUE : load<u32>(ramBase + <usize>physical);
}

function markTable(physical: u64, bits: u64, entrySizeBytes: u32): void {
  const pointer = ramBase + <usize>physical;
  if (entrySizeBytes == 8) atomic.or<u64>(pointer, bits);
  else atomic.or<u32>(pointer, <u32>bits);
  notePageWrite(physical);
}

/** Puts what may be done with a page into the TLB. Pages that are no RAM are not put there. */
function install(
  address: u64,
  physical: u64,
  access: u32,
  asUser: bool,
  mayWrite: bool,
  mayFetch: bool,
  isGlobal: bool,
  isLarge: bool,
): void {
  if ((physical | 0xfff) >= ramSizeBytes) return;
  const flags = load<u8>(PAGE_FLAGS_BASE + <usize>(physical >> 12));
  const isPlainPage = (flags & (PAGE_DIRTY | PAGE_HAS_CODE)) == PAGE_DIRTY;
  const entry = entryOf(caches + (asUser ? CACHE_TLB_USER : CACHE_TLB_SUPERVISOR), address);
  const page = address & PAGE_MASK;
  noteGroup(asUser, address, isGlobal);
  if (isProtectionStale()) markTagged(entry);
  store<u64>(entry, page, TLB_READ_U64);
  store<u64>(entry, mayFetch ? page : TLB_NONE, TLB_FETCH_U64);
  store<u32>(entry, <u32>ramBase + <u32>(physical & PAGE_MASK) - <u32>page, TLB_ADDEND_U32);
  store<u32>(entry, (isGlobal ? TLB_GLOBAL : 0) | (isLarge ? TLB_LARGE : 0), TLB_FLAGS_U32);
  if (isGlobal && <i64>address >= 0) hasLowGlobal = true;
  if (!mayWrite || !isPlainPage) {
    store<u64>(entry, TLB_NONE, TLB_WRITE_U64);
  } else if (cpuCount() == 1) {
    store<u64>(entry, page, TLB_WRITE_U64);
  } else {
    // Another vCPU that makes the page code sees this, or this vCPU sees that it has.
    atomic.store<u64>(entry + TLB_WRITE_U64, page);
    if (atomic.load<u8>(PAGE_FLAGS_BASE + <usize>(physical >> 12)) & PAGE_HAS_CODE) store<u64>(entry, TLB_NONE, TLB_WRITE_U64);
  }
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

// ── Accesses that are not in the TLB ──

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

function hasCode(physical: u64): bool {
  return (load<u8>(PAGE_FLAGS_BASE + <usize>(physical >> 12)) & PAGE_HAS_CODE) != 0;
}

/** A page of RAM is written: it is dirty, and has no code any more. True when that was news. */
export function notePageWrite(physical: u64): bool {
  const place = PAGE_FLAGS_BASE + <usize>(physical >> 12);
  const flags = load<u8>(place);
  if (flags == PAGE_DIRTY) return false;
  if (flags & PAGE_HAS_CODE) invalidateCode(physical);
  atomic.or<u8>(place, PAGE_DIRTY);
  return true;
}

// ── Forgetting ──
//
// A TLB is large, and what is in it between two flushes is little. So its entries are in 64 groups, and groups in which there is nothing
// are passed over.

const GROUP_SIZE_BYTES: u32 = TLB_GROUP_ENTRY_COUNT * TLB_ENTRY_SIZE_BYTES;
const ANY = 0;
const LOCAL = 8;
const TLB_GROUPS_SIZE_BYTES: u32 = 16;

/** This instance has TLBs: what was in their memory before is another's. */
let hasTlbs: bool = false;

@inline
function noteGroup(asUser: bool, address: u64, isGlobal: bool): void {
  const groups = caches + CACHE_TLB_GROUPS + (asUser ? TLB_GROUPS_SIZE_BYTES : 0);
  const bit: u64 = 1 << ((<u32>(address >> 12) & (TLB_ENTRY_COUNT - 1)) / TLB_GROUP_ENTRY_COUNT);
  store<u64>(groups, load<u64>(groups, ANY) | bit, ANY);
  if (!isGlobal) store<u64>(groups, load<u64>(groups, LOCAL) | bit, LOCAL);
}

/** All TLB entries; `keepsGlobal`: but for those of global pages. */
export function flushTlb(keepsGlobal: bool): void {
  if (!hasTlbs) {
    hasTlbs = true;
    memory.fill(caches + CACHE_TLB_SUPERVISOR, 0xff, 2 * TLB_SIZE_BYTES);
    memory.fill(caches + CACHE_TLB_GROUPS, 0, 2 * TLB_GROUPS_SIZE_BYTES);
  }
  if (isProtectionStale()) protectPages();
  for (let tlb: u32 = 0; tlb < 2; tlb++) {
    const groups = caches + CACHE_TLB_GROUPS + tlb * TLB_GROUPS_SIZE_BYTES;
    let left = keepsGlobal ? load<u64>(groups, LOCAL) : load<u64>(groups, ANY);
    for (; left != 0; left &= left - 1) {
      const group = caches + CACHE_TLB_SUPERVISOR + tlb * TLB_SIZE_BYTES + <usize>ctz<u64>(left) * GROUP_SIZE_BYTES;
      if (keepsGlobal) clearLocal(group);
      else memory.fill(group, 0xff, GROUP_SIZE_BYTES);
    }
    store<u64>(groups, 0, LOCAL);
    if (!keepsGlobal) store<u64>(groups, 0, ANY);
  }
  if (keepsGlobal) newLocalEpoch();
  else newEpoch();
}

function clearLocal(group: usize): void {
  for (let entry = group; entry < group + GROUP_SIZE_BYTES; entry += TLB_ENTRY_SIZE_BYTES) {
    if (load<u64>(entry, TLB_READ_U64) != TLB_NONE && !(load<u32>(entry, TLB_FLAGS_U32) & TLB_GLOBAL)) clear(entry);
  }
}

/** The first entry at or behind `entry` in a group of which there may be some, of either TLB of a vCPU; 0 for none. */
@inline
function nextEntry(caches: usize, entry: usize): usize {
  const start = caches + CACHE_TLB_SUPERVISOR;
  for (; entry < start + 2 * TLB_SIZE_BYTES; ) {
    const number = <u32>(entry - start) / GROUP_SIZE_BYTES;
    const groups = load<u64>(caches + CACHE_TLB_GROUPS + (number >> 6) * TLB_GROUPS_SIZE_BYTES, ANY);
    if (groups & (<u64>1 << (number & 63))) return entry;
    entry = start + <usize>(number + 1) * GROUP_SIZE_BYTES;
  }
  return 0;
}

/** INVLPG: entries of one page, or of the large page that it is in. */
export function flushPage(address: u64): void {
  if (isProtectionStale()) protectPages();
  const start = caches + CACHE_TLB_SUPERVISOR;
  for (let entry = nextEntry(caches, start); entry != 0; entry = nextEntry(caches, entry + TLB_ENTRY_SIZE_BYTES)) {
    const page = load<u64>(entry, TLB_READ_U64);
    if (page == TLB_NONE) continue;
    // A large page has 1 GiB at most.
    const distance = page ^ address;
    const isPart = (load<u32>(entry, TLB_FLAGS_U32) & TLB_LARGE) != 0;
    if (isPart ? distance < LARGEST_PAGE : distance < <u64>PAGE_SIZE_BYTES) clear(entry);
  }
  // Links may be older than entries. In the lower half global pages are rare.
  if (<i64>address < 0 || hasLowGlobal) newEpoch();
  else newLocalEpoch();
}

/** A global page in the lower half of the address space was once in the TLB. */
let hasLowGlobal: bool = false;

function clear(entry: usize): void {
  store<u64>(entry, TLB_NONE, TLB_READ_U64);
  store<u64>(entry, TLB_NONE, TLB_WRITE_U64);
  store<u64>(entry, TLB_NONE, TLB_FETCH_U64);
}

/** Links between pages, and jumps by address, are looked up anew; but for those to global pages. */
export function newLocalEpoch(): void {
  const epoch = load<u32>(cpu, CPU_LAST_EPOCH) + 1;
  store<u32>(cpu, epoch, CPU_LAST_EPOCH);
  store<u32>(cpu, epoch, CPU_LINK_EPOCH);
}

/** Those, too. */
export function newEpoch(): void {
  newLocalEpoch();
  const epoch = load<u32>(cpu, CPU_LAST_EPOCH) + 1;
  store<u32>(cpu, epoch, CPU_LAST_EPOCH);
  store<u32>(cpu, epoch, CPU_GLOBAL_EPOCH);
}

/** The epoch for which a link to `address` is good. */
export function linkEpochOf(address: u64): u32 {
  const entry = entryOf(load<u32>(cpu, CPU_TLB), address);
  const isHere = load<u64>(entry, TLB_FETCH_U64) == (address & PAGE_MASK);
  const isGlobal = isHere && (load<u32>(entry, TLB_FLAGS_U32) & TLB_GLOBAL) != 0;
  return isGlobal ? load<u32>(cpu, CPU_GLOBAL_EPOCH) : load<u32>(cpu, CPU_LINK_EPOCH);
}

/** A vCPU, this one or another, may not write a page of RAM without coming here first. `caches` is that vCPU's. */
export function protectPageIn(caches: usize, physical: u64): void {
  const host = <u32>ramBase + <u32>(physical & PAGE_MASK);
  const start = caches + CACHE_TLB_SUPERVISOR;
  for (let entry = nextEntry(caches, start); entry != 0; entry = nextEntry(caches, entry + TLB_ENTRY_SIZE_BYTES)) {
    const page = load<u64>(entry, TLB_WRITE_U64);
    if (page != TLB_NONE && <u32>page + load<u32>(entry, TLB_ADDEND_U32) == host) {
      store<u64>(entry, TLB_NONE, TLB_WRITE_U64);
    }
  }
}

// ── Dirty pages are being tracked ──
//
// Who takes the flags of pages makes CONTROL_PROTECTIONS odd, takes them, makes it even, and sets CPU_PENDING_PROTECT. Until this vCPU
// has seen that, it may have written pages that its TLBs have as PAGE_DIRTY and are so no more: it says so of all pages that
// it forgets, before it forgets them. Those are few, and one too many is sent once more.

@inline
function isProtectionStale(): bool {
  return atomic.load<u32>(CONTROL_PROTECTIONS) != load<u32>(cpu, CPU_PROTECTIONS);
}

/** The page of an entry may have been written. */
function markTagged(entry: usize): void {
  const page = load<u64>(entry, TLB_WRITE_U64);
  if (page == TLB_NONE) return;
  const physical = <u32>page + load<u32>(entry, TLB_ADDEND_U32) - <u32>ramBase;
  atomic.or<u8>(PAGE_FLAGS_BASE + <usize>(physical >> 12), PAGE_DIRTY);
}

/** From now on no page is written unseen that is not PAGE_DIRTY. To be called before the vCPU is said to stand, too. */
export function protectPages(): void {
  const protections = atomic.load<u32>(CONTROL_PROTECTIONS);
  if (protections == load<u32>(cpu, CPU_PROTECTIONS)) return;
  const start = caches + CACHE_TLB_SUPERVISOR;
  for (let entry = nextEntry(caches, start); entry != 0; entry = nextEntry(caches, entry + TLB_ENTRY_SIZE_BYTES)) {
    markTagged(entry);
    store<u64>(entry, TLB_NONE, TLB_WRITE_U64);
  }
  // While it is odd, flags are still being taken.
  if (!(protections & 1)) store<u32>(cpu, protections, CPU_PROTECTIONS);
}

/** After CPL, CR0, CR4 or EFER have changed: which TLB is in use. */
export function selectTlb(): void {
  store<u32>(cpu, <u32>(caches + (isUser() ? CACHE_TLB_USER : CACHE_TLB_SUPERVISOR)), CPU_TLB);
}
