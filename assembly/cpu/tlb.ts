// SPDX-License-Identifier: Apache-2.0
// The TLBs of a vCPU, one for user mode and one for others: what is put there, and how it is forgotten. SDM volume 3, 4.10.
//
// An entry says what may be done without anybody having to know. A page is in TLB_WRITE_U64 only when its dirty flags, the guest's
// and PAGE_DIRTY, are set, and it has no code: the first write to any other page takes the slow path. So tracking dirty pages, and
// code that is written, cost nothing where neither is the case.
//
// A TLB is large, and what is in it between two flushes is little. So its entries are in 64 groups, and groups in which there is nothing
// are passed over.
import { cpuCount } from "../irqchip/lapic.ts";
import { PAGE_FLAGS_BASE, PAGE_SIZE_BYTES } from "../layout.ts";
import { newEpoch, newLocalEpoch } from "./epochs.ts";
import {
  CACHE_TLB_GROUPS,
  CACHE_TLB_SUPERVISOR,
  CACHE_TLB_USER,
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
import { isUser } from "./modes.ts";
import { caches, cpu, ramBase, ramSizeBytes } from "./vcpu.ts";
import { isProtectionStale, markTagged, protectPages } from "./write-tracking.ts";

export const PAGE_MASK: u64 = ~(<u64>(PAGE_SIZE_BYTES - 1));
/** No page: not aligned. */
export const TLB_NONE: u64 = u64.MAX_VALUE;
const LARGEST_PAGE: u64 = 0x4000_0000;

const GROUP_SIZE_BYTES: u32 = TLB_GROUP_ENTRY_COUNT * TLB_ENTRY_SIZE_BYTES;
// Of CACHE_TLB_GROUPS, for each TLB.
/** u64: groups in which there may be entries; u64: in which there may be some of pages that are not global. */
const ANY = 0;
const LOCAL = 8;
const TLB_GROUPS_SIZE_BYTES: u32 = 16;

/** This instance has TLBs: what was in their memory before is another's. */
let hasTlbs: bool = false;

/** A global page in the lower half of the address space was once in the TLB. */
let hasLowGlobal: bool = false;

@inline
export function entryOf(tlb: usize, address: u64): usize {
  return tlb + ((<usize>(address >> 12) & (TLB_ENTRY_COUNT - 1)) * TLB_ENTRY_SIZE_BYTES);
}

/** After CPL, CR0, CR4 or EFER have changed: which TLB is in use. */
export function selectTlb(): void {
  store<u32>(cpu, <u32>(caches + (isUser() ? CACHE_TLB_USER : CACHE_TLB_SUPERVISOR)), CPU_TLB);
}

/** Puts what may be done with a page into the TLB. Pages that are no RAM are not put there. */
export function install(
  address: u64,
  physical: u64,
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

@inline
function noteGroup(asUser: bool, address: u64, isGlobal: bool): void {
  const groups = caches + CACHE_TLB_GROUPS + (asUser ? TLB_GROUPS_SIZE_BYTES : 0);
  const bit: u64 = 1 << ((<u32>(address >> 12) & (TLB_ENTRY_COUNT - 1)) / TLB_GROUP_ENTRY_COUNT);
  store<u64>(groups, load<u64>(groups, ANY) | bit, ANY);
  if (!isGlobal) store<u64>(groups, load<u64>(groups, LOCAL) | bit, LOCAL);
}

// ── Forgetting ──

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
export function nextEntry(caches: usize, entry: usize): usize {
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

function clear(entry: usize): void {
  store<u64>(entry, TLB_NONE, TLB_READ_U64);
  store<u64>(entry, TLB_NONE, TLB_WRITE_U64);
  store<u64>(entry, TLB_NONE, TLB_FETCH_U64);
}
