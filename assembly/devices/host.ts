// SPDX-License-Identifier: Apache-2.0
// What every device module imports from its host, and the answer of an address where nothing is.

/** The device's interrupt line. Called only when the level changes, in order, under the device's lock. */
@external("host", "setIrq")
export declare function setIrq(state: usize, level: u32): void;

/** Sets `EVENT_*` bits for the main thread and rings its doorbell. */
@external("host", "signal")
export declare function signal(event: u32): void;

@external("host", "monotonicNs")
export declare function monotonicNs(): i64;

/** Nanoseconds since 1970 (UTC). */
@external("host", "realtimeNs")
export declare function realtimeNs(): i64;

/**
 * The device's output ring is full. Returns 1 when the calling thread is the one that empties it, and has done so: it
 * would wait for itself. Else 0: another thread will. Called without any lock held.
 */
@external("host", "takeOutput")
export declare function takeOutput(state: usize): u32;

/** All ones, as wide as the access: what an ISA bus reads when no device drives it. */
export function openBus(sizeBytes: u32): u32 {
  return sizeBytes < 4 ? (1 << (sizeBytes * 8)) - 1 : 0xffff_ffff;
}
