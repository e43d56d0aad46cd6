// SPDX-License-Identifier: Apache-2.0
// Producer's side of a byte ring between a device and a character back end.
//
// The consumer takes bytes between head and tail, stores head, and tells the device. Head and tail run freely and wrap
// at 2^32, so `tail - head` is the fill level without any special case for a full ring.
import {
  RING_BASE,
  RING_CAPACITY_BYTES,
  RING_DATA,
  RING_HEAD,
  RING_STRIDE_BYTES,
  RING_TAIL,
} from "./layout.ts";

/** Bounds the time for which a consumer that stored head without a notify goes unseen. */
const SLEEP_NS: i64 = 10_000_000;

@inline
export function ringAddress(index: u32): usize {
  return RING_BASE + index * RING_STRIDE_BYTES;
}

export function roomBytes(ring: usize): u32 {
  return RING_CAPACITY_BYTES - (atomic.load<u32>(ring, RING_TAIL) - atomic.load<u32>(ring, RING_HEAD));
}

/** Appends a byte and returns true, or false when that would take the reserve. One producer at a time. */
export function push(ring: usize, byte: u8, reserveBytes: u32): bool {
  if (roomBytes(ring) <= reserveBytes) return false;
  const tail = atomic.load<u32>(ring, RING_TAIL);
  store<u8>(ring + (tail & (RING_CAPACITY_BYTES - 1)), byte, RING_DATA);
  // Publishes the byte: the consumer reads tail first.
  atomic.store<u32>(ring, tail + 1, RING_TAIL);
  return true;
}

/** Sleeps until the consumer may have taken something. Call without any lock held. */
export function waitForRoom(ring: usize, reserveBytes: u32): void {
  const head = atomic.load<u32>(ring, RING_HEAD);
  if (roomBytes(ring) <= reserveBytes) atomic.wait<i32>(ring + RING_HEAD, head, SLEEP_NS);
}

/** Wakes who sleeps in `waitForRoom`. */
export function notifyRoom(ring: usize): void {
  atomic.notify(ring + RING_HEAD);
}
