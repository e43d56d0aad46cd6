// SPDX-License-Identifier: Apache-2.0
// Finding pages that hold only zeroes, which need not be sent or stored.

const PAGE_SIZE_BYTES = 4096;
const BLOCK_SIZE_BYTES = 256;

// @ts-ignore: decorator
@inline
function or4(at: usize, offset: usize): v128 {
  const p = at + offset;
  return v128.or(v128.or(v128.load(p), v128.load(p, 16)), v128.or(v128.load(p, 32), v128.load(p, 48)));
}

/** Whether the 4096 bytes at `page` are all zero. Most pages that are not show it in their first 64 bytes. */
export function isZeroPage(page: usize): bool {
  if (v128.any_true(or4(page, 0))) return false;
  const end = page + PAGE_SIZE_BYTES;
  for (let at = page; at < end; at += BLOCK_SIZE_BYTES) {
    if (v128.any_true(v128.or(v128.or(or4(at, 0), or4(at, 64)), v128.or(or4(at, 128), or4(at, 192))))) return false;
  }
  return true;
}

/**
 * Writes a bitmap of the pages that are **not** zero to `outBitmap`, in the form of a dirty bitmap (scan.ts), padded with
 * zero bits to a whole word. All of it is overwritten.
 *
 * @returns the number of pages that are not zero
 */
export function scanZeroPages(pages: usize, pageCount: u32, outBitmap: usize): u32 {
  let total: u32 = 0;
  let page = pages;
  for (let done: u32 = 0; done < pageCount; done += 64) {
    const count = min<u32>(64, pageCount - done);
    let word: u64 = 0;
    for (let bit: u32 = 0; bit < count; bit++) {
      if (!isZeroPage(page)) word |= <u64>1 << <u64>bit;
      page += PAGE_SIZE_BYTES;
    }
    store<u64>(outBitmap, word);
    outBitmap += 8;
    total += <u32>popcnt<u64>(word);
  }
  return total;
}

/** How many of the first of `pageCount` pages are zero, up to the first that is not. */
export function countLeadingZeroPages(pages: usize, pageCount: u32): u32 {
  for (let index: u32 = 0; index < pageCount; index++) {
    if (!isZeroPage(pages + <usize>index * PAGE_SIZE_BYTES)) return index;
  }
  return pageCount;
}

/** How many of the first of `pageCount` pages are not zero, up to the first that is. */
export function countLeadingDataPages(pages: usize, pageCount: u32): u32 {
  for (let index: u32 = 0; index < pageCount; index++) {
    if (isZeroPage(pages + <usize>index * PAGE_SIZE_BYTES)) return index;
  }
  return pageCount;
}

/**
 * Makes the pages [fromPage, fromPage + pageCount) of the RAM at `ram` zero. A page that is zero is not written, and one whose
 * bit in `written` is clear is not even read: reading it would make the kernel allocate it. `written` 0: look at all.
 */
export function zeroPages(ram: usize, fromPage: u32, pageCount: u32, written: usize): void {
  const end = fromPage + pageCount;
  for (let page = fromPage; page < end; page++) {
    if (written != 0 && (load<u64>(written + (<usize>(page >> 6) << 3)) & (<u64>1 << (page & 63))) == 0) continue;
    const at = ram + <usize>page * PAGE_SIZE_BYTES;
    if (!isZeroPage(at)) memory.fill(at, 0, PAGE_SIZE_BYTES);
  }
}
