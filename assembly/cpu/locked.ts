// SPDX-License-Identifier: Apache-2.0
// LOCK: changes of memory that other vCPUs see whole or not at all. SDM volume 3, 9.1.2.
//
//   aligned                       a compare-and-swap of that size
//   within an aligned quadword    one of the quadword
//   over two quadwords            one of each, under a lock that all such changes have. When the second fails, because a write that is not
//                                 one of these has come between, the first is undone, and all is done again
//
// The last one may lie in two pages. A load that comes between its two halves sees one of them: nothing here stops other vCPUs.
import { CODE_WRITES_BASE } from "../layout.ts";
import { acquire, release } from "../lock.ts";
import { isPlain } from "./access.ts";
import { CPU_SPLIT, CPU_SPLIT_ADDRESS } from "./layout.ts";
import { translate, WRITE } from "./page-walk.ts";
import { maskOf, storeAt } from "./registers.ts";
import { finishWrite } from "./slow-access.ts";
import { cpu, ramBase, ramSizeBytes } from "./vcpu.ts";
import { notePageWrite } from "./write-tracking.ts";

/** Puts `value` where `old` was: at a place that `toWrite` gave. False: somebody has changed it, and all is to be done again. */
export function exchangeLocked(place: usize, sizeBytes: u32, old: u64, value: u64): bool {
  if (!isPlain(place)) return exchangeSplit(sizeBytes, old, value);
  if (place & (sizeBytes - 1)) return exchangeParts(place, 0, sizeBytes, old, value);
  switch (sizeBytes) {
    case 1:
      return atomic.cmpxchg<u8>(place, <u8>old, <u8>value) == <u8>old;
    case 2:
      return atomic.cmpxchg<u16>(place, <u16>old, <u16>value) == <u16>old;
    case 4:
      return atomic.cmpxchg<u32>(place, <u32>old, <u32>value) == <u32>old;
    default:
      return atomic.cmpxchg<u64>(place, old, value) == old;
  }
}

@inline
function bytesInQuadword(place: usize, sizeBytes: u32): u32 {
  return min<u32>(sizeBytes, 8 - (<u32>place & 7));
}

/** `rest` is where the second quadword is, 0 for behind the first. */
function exchangeParts(place: usize, rest: usize, sizeBytes: u32, old: u64, value: u64): bool {
  const count = bytesInQuadword(place, sizeBytes);
  if (count == sizeBytes) return exchangeWithin(place, sizeBytes, old, value);
  const second = rest != 0 ? rest : place + count;
  const shift = 8 * count;
  acquire(CODE_WRITES_BASE);
  let isDone = exchangeWithin(place, count, old, value);
  if (isDone && !exchangeWithin(second, sizeBytes - count, old >> shift, value >> shift)) {
    exchangeWithin(place, count, value, old);
    isDone = false;
  }
  release(CODE_WRITES_BASE);
  return isDone;
}

/** Of some bytes of a quadword. */
function exchangeWithin(place: usize, sizeBytes: u32, old: u64, value: u64): bool {
  const quadword = place & ~7;
  const shift = 8 * (<u32>place & 7);
  const mask = maskOf(sizeBytes) << shift;
  while (true) {
    const now = atomic.load<u64>(quadword);
    if ((now ^ (old << shift)) & mask) return false;
    const then = (now & ~mask) | ((value << shift) & mask);
    if (atomic.cmpxchg<u64>(quadword, now, then) == now) return true;
  }
}

/** Of what is in two pages, or has code, or is no RAM: `old` is from CPU_SPLIT, which has what is there now after a failure. */
function exchangeSplit(sizeBytes: u32, old: u64, value: u64): bool {
  const split = cpu + CPU_SPLIT;
  const address = load<u64>(cpu, CPU_SPLIT_ADDRESS);
  const first = translate(address, WRITE);
  const last = translate(address + sizeBytes - 1, WRITE);
  if (first >= ramSizeBytes || last >= ramSizeBytes) {
    storeAt(split, sizeBytes, value);
    return finishWrite();
  }
  notePageWrite(first);
  notePageWrite(last);
  const place = ramBase + <usize>first;
  const count = bytesInQuadword(place, sizeBytes);
  const rest = ramBase + <usize>last + 1 - (sizeBytes - count);
  if (exchangeParts(place, rest, sizeBytes, old, value)) return true;
  for (let index: u32 = 0; index < sizeBytes; index++) {
    store<u8>(split + index, load<u8>(index < count ? place + index : rest + index - count));
  }
  return false;
}

/** What `exchangePair` has found. */
export let foundLow: u64 = 0;
export let foundHigh: u64 = 0;

/** CMPXCHG16B, of what is aligned and RAM. */
export function exchangePair(place: usize, low: u64, high: u64, newLow: u64, newHigh: u64): bool {
  acquire(CODE_WRITES_BASE);
  let isDone = false;
  while (true) {
    foundLow = atomic.load<u64>(place);
    foundHigh = atomic.load<u64>(place + 8);
    if (foundLow != low || foundHigh != high) break;
    if (atomic.cmpxchg<u64>(place, low, newLow) != low) continue;
    isDone = atomic.cmpxchg<u64>(place + 8, high, newHigh) == high;
    if (isDone) break;
    atomic.cmpxchg<u64>(place, newLow, low);
  }
  release(CODE_WRITES_BASE);
  return isDone;
}
