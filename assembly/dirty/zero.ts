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
