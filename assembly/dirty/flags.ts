// SPDX-License-Identifier: Apache-2.0
// The engine's PAGE_FLAGS, taken into a dirty bitmap. Layout and alignment of bitmaps: scan.ts.
import { PAGE_DIRTY } from "../cpu/layout";
import { PAGE_FLAGS_BASE } from "../layout";

const ALL_DIRTY: u64 = 0x0101_0101_0101_0101 * <u64>PAGE_DIRTY;

/** Adds the pages that are PAGE_DIRTY to `bitmap`, and makes them clean. Others may set flags meanwhile. */
export function takeDirtyFlags(bitmap: usize, pageCount: u32): void {
  for (let page: u32 = 0; page < pageCount; page += 8) {
    const flags = PAGE_FLAGS_BASE + <usize>page;
    if (!(load<u64>(flags) & ALL_DIRTY)) continue;
    const dirty = atomic.and<u64>(flags, ~ALL_DIRTY) & ALL_DIRTY;
    // Each byte's lowest bit to a bit of the highest byte.
    const bits = <u8>((dirty * 0x0102_0408_1020_4080) >> 56);
    const place = bitmap + <usize>(page >> 3);
    store<u8>(place, load<u8>(place) | bits);
  }
}
