// SPDX-License-Identifier: Apache-2.0
// Reading dirty bitmaps: how many pages, and which.
//
// A bitmap has the form of KVM_GET_DIRTY_LOG (https://docs.kernel.org/virt/kvm/api.html#kvm-get-dirty-log): page n is bit
// n % 64 of the little-endian 64-bit word n / 64, 1 = dirty. It starts at a multiple of 8 and is padded to whole words;
// bits behind `pageCount` are neither looked at nor changed.

const WORD_SIZE_BYTES = 8;
const VECTOR_SIZE_BYTES = 16;
/** Vectors whose byte-wise counts (at most 8 each) still fit in a byte when added up. */
const VECTORS_PER_SUM = 30;

/** Number of dirty pages. */
export function countDirty(bitmap: usize, pageCount: u32): u32 {
  const wordsEnd = bitmap + ((<usize>pageCount >> 6) << 3);
  let at = bitmap;
  let total: u32 = 0;
  let sums = i32x4.splat(0);
  while (at + VECTOR_SIZE_BYTES * 2 <= wordsEnd) {
    const groupEnd = min(at + VECTOR_SIZE_BYTES * VECTORS_PER_SUM, wordsEnd);
    let bytes = i8x16.splat(0);
    for (; at + VECTOR_SIZE_BYTES * 2 <= groupEnd; at += VECTOR_SIZE_BYTES * 2) {
      bytes = i8x16.add(bytes, i8x16.popcnt(v128.load(at)));
      bytes = i8x16.add(bytes, i8x16.popcnt(v128.load(at, VECTOR_SIZE_BYTES)));
    }
    sums = i32x4.add(sums, i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(bytes)));
  }
  total +=
    i32x4.extract_lane(sums, 0) +
    i32x4.extract_lane(sums, 1) +
    i32x4.extract_lane(sums, 2) +
    i32x4.extract_lane(sums, 3);
  for (; at < wordsEnd; at += WORD_SIZE_BYTES) total += <u32>popcnt<u64>(load<u64>(at));
  const rest = pageCount & 63;
  if (rest != 0) total += <u32>popcnt<u64>(load<u64>(at) & ((<u64>1 << <u64>rest) - 1));
  return total;
}

/**
 * The first page at or after `from` whose bit, xored with `flip`, is set; `pageCount` when there is none.
 *
 * `flip` 0 looks for a dirty page, all ones for a clean one. Uniform stretches go by 64 bytes (512 pages) at a time.
 */
// @ts-ignore: decorator
@inline
function findBit(bitmap: usize, pageCount: u32, from: u32, flip: u64): u32 {
  if (from >= pageCount) return pageCount;
  const end = bitmap + (((<usize>pageCount + 63) >> 6) << 3);
  let at = bitmap + ((<usize>from >> 6) << 3);
  let word = (load<u64>(at) ^ flip) & (~(<u64>0) << <u64>(from & 63));
  if (word == 0) {
    at += WORD_SIZE_BYTES;
    const flips = i64x2.splat(flip);
    for (; at + 64 <= end; at += 64) {
      const a = v128.or(v128.xor(v128.load(at), flips), v128.xor(v128.load(at, 16), flips));
      const b = v128.or(v128.xor(v128.load(at, 32), flips), v128.xor(v128.load(at, 48), flips));
      if (v128.any_true(v128.or(a, b))) break;
    }
    for (; at < end; at += WORD_SIZE_BYTES) {
      word = load<u64>(at) ^ flip;
      if (word != 0) break;
    }
    if (word == 0) return pageCount;
  }
  return min(<u32>((at - bitmap) << 3) + <u32>ctz<u64>(word), pageCount);
}

/** The first dirty page at or after `fromPage`; `pageCount` when there is none. */
export function nextDirtyPage(bitmap: usize, pageCount: u32, fromPage: u32): u32 {
  return findBit(bitmap, pageCount, fromPage, 0);
}

/** The first clean page at or after `fromPage`; `pageCount` when there is none. */
export function nextCleanPage(bitmap: usize, pageCount: u32, fromPage: u32): u32 {
  return findBit(bitmap, pageCount, fromPage, ~(<u64>0));
}

/**
 * The first run of dirty pages that has a page at or after `fromPage`, cut off before `fromPage`.
 *
 * @returns start | length << 32; a length of 0 means that there is none
 */
export function nextDirtyRun(bitmap: usize, pageCount: u32, fromPage: u32): u64 {
  const start = findBit(bitmap, pageCount, fromPage, 0);
  if (start >= pageCount) return <u64>pageCount;
  const end = findBit(bitmap, pageCount, start + 1, ~(<u64>0));
  return <u64>start | (<u64>(end - start) << 32);
}

/**
 * Writes the runs of dirty pages from `fromPage` on to `out`: u32 start, u32 length each, in ascending order.
 *
 * @returns the number of runs written, at most `outCapacity`. When it equals `outCapacity` there may be more: call again with
 * the end of the last run as `fromPage`
 */
export function collectDirty(bitmap: usize, pageCount: u32, fromPage: u32, out: usize, outCapacity: u32): u32 {
  let from = fromPage;
  let count: u32 = 0;
  while (count < outCapacity) {
    const start = findBit(bitmap, pageCount, from, 0);
    if (start >= pageCount) break;
    from = findBit(bitmap, pageCount, start + 1, ~(<u64>0));
    store<u32>(out, start);
    store<u32>(out, from - start, 4);
    out += 8;
    count++;
  }
  return count;
}
