// SPDX-License-Identifier: Apache-2.0
// Changing dirty bitmaps: ranges and unions. Layout and alignment: scan.ts.

/** Bits `bit…63` of a word. */
// @ts-ignore: decorator
@inline
function maskFrom(bit: u32): u64 {
  return ~(<u64>0) << <u64>bit;
}

/** Clears (`value` 0) or sets (all ones) the bits of [from, from + count). */
// @ts-ignore: decorator
@inline
function fillRange(bitmap: usize, from: u32, count: u32, value: u64): void {
  if (count == 0) return;
  const last = from + count - 1;
  const firstWord = bitmap + ((<usize>from >> 6) << 3);
  const lastWord = bitmap + ((<usize>last >> 6) << 3);
  const head = maskFrom(from & 63);
  const tail = ~(<u64>0) >> <u64>(63 - (last & 63));
  if (firstWord == lastWord) {
    store<u64>(firstWord, (load<u64>(firstWord) & ~(head & tail)) | (value & head & tail));
    return;
  }
  store<u64>(firstWord, (load<u64>(firstWord) & ~head) | (value & head));
  memory.fill(firstWord + 8, <u8>value, lastWord - firstWord - 8);
  store<u64>(lastWord, (load<u64>(lastWord) & ~tail) | (value & tail));
}

/** Marks the pages [fromPage, fromPage + pageCount) clean. */
export function clearRange(bitmap: usize, fromPage: u32, pageCount: u32): void {
  fillRange(bitmap, fromPage, pageCount, 0);
}

/** Marks the pages [fromPage, fromPage + pageCount) dirty. */
export function setRange(bitmap: usize, fromPage: u32, pageCount: u32): void {
  fillRange(bitmap, fromPage, pageCount, ~(<u64>0));
}

/** `target |= source` for the first `pageCount` pages. The two may be the same bitmap but may not overlap otherwise. */
export function orBitmap(target: usize, source: usize, pageCount: u32): void {
  const wholeBytes = (<usize>pageCount >> 6) << 3;
  const wideBytes = wholeBytes & ~31;
  for (let offset: usize = 0; offset < wideBytes; offset += 32) {
    const at = target + offset;
    v128.store(at, v128.or(v128.load(at), v128.load(source + offset)));
    v128.store(at, v128.or(v128.load(at, 16), v128.load(source + offset, 16)), 16);
  }
  for (let offset = wideBytes; offset < wholeBytes; offset += 8) {
    store<u64>(target + offset, load<u64>(target + offset) | load<u64>(source + offset));
  }
  const rest = pageCount & 63;
  if (rest == 0) return;
  const added = load<u64>(source + wholeBytes) & ~maskFrom(rest);
  store<u64>(target + wholeBytes, load<u64>(target + wholeBytes) | added);
}
