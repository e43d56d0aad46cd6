// SPDX-License-Identifier: Apache-2.0
// How the loop in hot.ts finds guest memory: by one look into the TLB. What is not there, slow-access.ts finds.
//
// What that gives is an address in this memory, or 0 when an exception was raised.
import { isPlain } from "./access.ts";
import { isStale } from "./blocks.ts";
import { TLB_ADDEND_U32, TLB_ENTRY_COUNT, TLB_READ_U64, TLB_WRITE_U64 } from "./layout.ts";
import { finishWrite, slowToRead, slowToWrite } from "./slow-access.ts";
import { address } from "./uop.ts";

/** Of an address, where it is in a page. */
const PAGE_MASK: u64 = ~(<u64>0xfff);

@inline
export function toReadIn(tlb: usize, where: u64, sizeBytes: u32): usize {
  const entry = tlb + ((<u32>(where >> 12) & (TLB_ENTRY_COUNT - 1)) << 5);
  if (load<u64>(entry, TLB_READ_U64) == ((where + (sizeBytes - 1)) & PAGE_MASK)) {
    return <u32>where + load<u32>(entry, TLB_ADDEND_U32);
  }
  return slowToRead(where, sizeBytes);
}

@inline
export function toWriteIn(tlb: usize, where: u64, sizeBytes: u32): usize {
  const entry = tlb + ((<u32>(where >> 12) & (TLB_ENTRY_COUNT - 1)) << 5);
  if (load<u64>(entry, TLB_WRITE_U64) == ((where + (sizeBytes - 1)) & PAGE_MASK)) {
    return <u32>where + load<u32>(entry, TLB_ADDEND_U32);
  }
  return slowToWrite(where, sizeBytes);
}

/** The same for the operand in memory. */
@inline
export function toReadM<T>(tlb: usize, pc: usize): usize {
  return toReadIn(tlb, address(pc), sizeof<T>());
}

@inline
export function toWriteM<T>(tlb: usize, pc: usize): usize {
  return toWriteIn(tlb, address(pc), sizeof<T>());
}

/** After a write. True when the code that runs may be gone. */
@inline
export function finishAndCheck(p: usize): bool {
  return !isPlain(p) && finishSlowly();
}

/** What had to be written arrives. */
function finishSlowly(): bool {
  finishWrite();
  return isStale;
}
