// SPDX-License-Identifier: Apache-2.0
// The module `dirty-ring`: empties KVM's dirty rings into DIRTY_MARKS, and DIRTY_MARKS into somebody's bitmap. Stateless.
//
// A ring (https://docs.kernel.org/virt/kvm/api.html#kvm-cap-dirty-log-ring-kvm-cap-dirty-log-ring-acq-rel) has entries of
// 16 bytes: u32 flags, u32 slot, u64 page. KVM sets DIRTY when an entry is complete; who has taken it sets RESET in its place;
// KVM_RESET_DIRTY_RINGS protects the pages of such entries and makes them empty again.
//
// A room of its own beside `dirty`: every vCPU's worker has it within reach, so it must be small.
import {
  CONTROL_BASE,
  DIRTY_MARKS,
  DIRTY_RING_BASE,
  DIRTY_RING_STRIDE_BYTES,
  VCPU_BASE,
  VCPU_DIRTY_RING_FETCH,
  VCPU_STRIDE_BYTES,
} from "../layout";
import { acquire, release } from "../lock";

const ENTRY_SHIFT: u32 = 4;
const ENTRY_SLOT: usize = 4;
const ENTRY_PAGE: usize = 8;

const FLAGS_DIRTY: u32 = 1;
const FLAGS_RESET: u32 = 2;

/** All guest RAM is in one memory slot. */
const RAM_SLOT: u32 = 0;

/** Everything from the first look at a ring to the return of KVM_RESET_DIRTY_RINGS happens under this lock. */
export function lock(): void {
  acquire(CONTROL_BASE);
}

export function unlock(): void {
  release(CONTROL_BASE);
}

/** Moves the complete entries of one vCPU's ring to DIRTY_MARKS. Returns how many there were. The lock is held. */
export function harvestRing(vcpu: u32, entryCount: u32, pageCount: u32): u32 {
  const ring: usize = DIRTY_RING_BASE + <usize>vcpu * DIRTY_RING_STRIDE_BYTES;
  const control: usize = VCPU_BASE + <usize>vcpu * VCPU_STRIDE_BYTES;
  const first = load<u32>(control, VCPU_DIRTY_RING_FETCH);
  let count: u32 = 0;
  for (; count < entryCount; count++) {
    const entry = ring + (<usize>((first + count) & (entryCount - 1)) << ENTRY_SHIFT);
    // Acquire: slot and page are valid once this is seen.
    if ((atomic.load<u32>(entry) & (FLAGS_DIRTY | FLAGS_RESET)) != FLAGS_DIRTY) break;
    const page = load<u64>(entry, ENTRY_PAGE);
    if (load<u32>(entry, ENTRY_SLOT) == RAM_SLOT && page < <u64>pageCount) {
      atomic.or<u64>(DIRTY_MARKS + ((<usize>page >> 6) << 3), <u64>1 << (page & 63));
    }
    // Release: the page is marked before KVM may use the entry again.
    atomic.store<u32>(entry, FLAGS_RESET);
  }
  store<u32>(control, first + count, VCPU_DIRTY_RING_FETCH);
  return count;
}

/** Adds the bits of `source` to `target` and clears them. Others may set bits of `source` meanwhile. */
export function moveBitmap(target: usize, source: usize, pageCount: u32): void {
  const sizeBytes = ((<usize>pageCount + 63) >> 6) << 3;
  for (let offset: usize = 0; offset < sizeBytes; offset += 8) {
    if (load<u64>(source + offset) == 0) continue;
    store<u64>(target + offset, load<u64>(target + offset) | atomic.xchg<u64>(source + offset, 0));
  }
}

/** Sets the bits of the pages [fromPage, fromPage + pageCount) in DIRTY_MARKS. */
export function markPages(fromPage: u32, pageCount: u32): void {
  const end = fromPage + pageCount;
  for (let page = fromPage; page < end; ) {
    const word = page & ~63;
    const last = min<u32>(end - word, 64);
    const bits = (~(<u64>0) << <u64>(page & 63)) & (~(<u64>0) >> <u64>(64 - last));
    atomic.or<u64>(DIRTY_MARKS + (<usize>(word >> 6) << 3), bits);
    page = word + last;
  }
}
