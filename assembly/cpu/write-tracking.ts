// SPDX-License-Identifier: Apache-2.0
// Who has written which page of RAM: its dirty flag, and that it is no code any more.
//
// Who takes the flags of pages makes CONTROL_PROTECTIONS odd, takes them, makes it even, and sets CPU_PENDING_PROTECT. Until this vCPU
// has seen that, it may have written pages that its TLBs have as PAGE_DIRTY and are so no more: it says so of all pages that
// it forgets, before it forgets them. Those are few, and one too many is sent once more.
import { CONTROL_PROTECTIONS, PAGE_FLAGS_BASE } from "../layout.ts";
import { invalidateCode } from "./blocks.ts";
import {
  CACHE_TLB_SUPERVISOR,
  CPU_PROTECTIONS,
  PAGE_DIRTY,
  PAGE_HAS_CODE,
  TLB_ADDEND_U32,
  TLB_ENTRY_SIZE_BYTES,
  TLB_WRITE_U64,
} from "./layout.ts";
import { nextEntry, PAGE_MASK, TLB_NONE } from "./tlb.ts";
import { caches, cpu, ramBase } from "./vcpu.ts";

/** A page of RAM is written: it is dirty, and has no code any more. True when that was news. */
export function notePageWrite(physical: u64): bool {
  const place = PAGE_FLAGS_BASE + <usize>(physical >> 12);
  const flags = load<u8>(place);
  if (flags == PAGE_DIRTY) return false;
  if (flags & PAGE_HAS_CODE) invalidateCode(physical);
  atomic.or<u8>(place, PAGE_DIRTY);
  return true;
}

export function hasCode(physical: u64): bool {
  return (load<u8>(PAGE_FLAGS_BASE + <usize>(physical >> 12)) & PAGE_HAS_CODE) != 0;
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

@inline
export function isProtectionStale(): bool {
  return atomic.load<u32>(CONTROL_PROTECTIONS) != load<u32>(cpu, CPU_PROTECTIONS);
}

/** The page of an entry may have been written. */
export function markTagged(entry: usize): void {
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
