// SPDX-License-Identifier: Apache-2.0
// The walk of the page tables: from linear to guest physical addresses, with rights, accessed and dirty flags, and #PF. SDM volume 3,
// chapter 4. What it finds goes into the TLB: tlb.ts.
import { CR0_PG, CR0_WP, CR4_PAE, CR4_PGE, CR4_PSE, EFER_LMA, EFER_NXE } from "./control-bits.ts";
import { CPU_CR0, CPU_CR3, CPU_CR4, CPU_EFER } from "./layout.ts";
import { isUser } from "./modes.ts";
import { install } from "./tlb.ts";
import { cpu, raisePageFault, ramBase, ramSizeBytes } from "./vcpu.ts";
import { notePageWrite } from "./write-tracking.ts";

/** What an access is. */
export const READ: u32 = 0;
export const WRITE: u32 = 1;
export const FETCH: u32 = 2;

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

export const NOT_MAPPED: u64 = u64.MAX_VALUE;

export function isMapped(physical: u64): bool {
  return physical != NOT_MAPPED;
}

/** Guest physical address for an access by the current privilege level; NOT_MAPPED after an exception. Fills the TLB. */
export function translate(address: u64, access: u32): u64 {
  const asUser = isUser();
  if (!(load<u64>(cpu, CPU_CR0) & CR0_PG)) {
    const physical = address & 0xffff_ffff;
    install(address, physical, asUser, true, true, false, false);
    return physical;
  }
  const isLong = (load<u64>(cpu, CPU_EFER) & EFER_LMA) != 0;
  const isWide = isLong || (load<u64>(cpu, CPU_CR4) & CR4_PAE) != 0;
  return isWide ? walkWide(address, access, asUser, isLong) : walkLegacy(address, access, asUser);
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
  install(address, physical, asUser, mayWrite && isDirty, !noExecute, isGlobal, isLarge);
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
