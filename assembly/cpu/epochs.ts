// SPDX-License-Identifier: Apache-2.0
// Epochs of links between pages of translated code: a link is good for as long as the page tables say what they said when it was made.
// Global pages have an epoch of their own, because a change of address space leaves them alone.
import {
  CPU_GLOBAL_EPOCH,
  CPU_LAST_EPOCH,
  CPU_LINK_EPOCH,
  CPU_TLB,
  TLB_FETCH_U64,
  TLB_FLAGS_U32,
  TLB_GLOBAL,
} from "./layout.ts";
import { entryOf, PAGE_MASK } from "./tlb.ts";
import { cpu } from "./vcpu.ts";

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
