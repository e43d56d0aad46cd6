// SPDX-License-Identifier: Apache-2.0
// The lock of a device's state page, for accesses from several threads' instances of one module.
// U. Drepper, "Futexes Are Tricky", mutex 2: https://www.akkadia.org/drepper/futex.pdf
//
// A holder can be preempted by the host for a whole time slice, so a waiter spins briefly and then sleeps. The sleep has
// a timeout because a page may be put back under a sleeper's feet by an update; nobody may hang on a word that changed
// without a notify.
import { DEVICE_STRIDE_BYTES } from "./layout.ts";

/** i32 at the end of every state page. Never saved: a device is only saved or restored when nobody is inside it. */
export const LOCK_OFFSET = DEVICE_STRIDE_BYTES - 4;

const FREE: i32 = 0;
const HELD: i32 = 1;
const CONTENDED: i32 = 2;

/** An access takes well under a microsecond, so it is mostly over before this many looks. */
const SPIN_COUNT = 128;
const SLEEP_NS: i64 = 1_000_000;

export function acquire(state: usize): void {
  if (atomic.cmpxchg<i32>(state, FREE, HELD, LOCK_OFFSET) == FREE) return;
  for (let spin = 0; spin < SPIN_COUNT; spin++) {
    if (atomic.load<i32>(state, LOCK_OFFSET) == FREE && atomic.cmpxchg<i32>(state, FREE, HELD, LOCK_OFFSET) == FREE) {
      return;
    }
  }
  while (atomic.xchg<i32>(state, CONTENDED, LOCK_OFFSET) != FREE) {
    atomic.wait<i32>(state + LOCK_OFFSET, CONTENDED, SLEEP_NS);
  }
}

export function release(state: usize): void {
  if (atomic.xchg<i32>(state, FREE, LOCK_OFFSET) == CONTENDED) atomic.notify(state + LOCK_OFFSET, 1);
}
