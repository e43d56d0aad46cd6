// SPDX-License-Identifier: Apache-2.0
// futex(2): waiting for a word of shared memory to change, for so long at most.
//
// Not by Atomics.wait, whose timeouts are of CLOCK_REALTIME on Bun: when that clock is set back meanwhile, a wait of a
// millisecond takes as much longer as it was set back by. FUTEX_WAIT's are of CLOCK_MONOTONIC. Without a timeout Atomics.wait will do.
import { check, EAGAIN, EINTR, ETIMEDOUT, lazyCall } from "./libc.ts";

/** asm/unistd_64.h */
const SYS_futex = 202;
/** linux/futex.h: between threads of one process. */
const FUTEX_WAIT_PRIVATE = 128;
const FUTEX_WAKE_PRIVATE = 129;
const ALL_WAITERS = 0x7fffffff;

const cFutex = lazyCall("long syscall(long number, void *word, int operation, int value, const void *timespec)", {
  retry: false,
});

/** struct timespec: seconds, nanoseconds. One per thread, because every worker has its own module. */
const timespec = new BigInt64Array(2);

/**
 * Blocks while `words[index]` is `value`, until `wakeWaiters` or for `timeoutMs`; a signal ends it, too. So it is called in
 * a loop, which looks at the word and at the time. Whoever changes the word calls `wakeWaiters`: Atomics.notify ends no futex(2).
 */
export function waitForChange(words: Int32Array, index: number, value: number, timeoutMs: number): void {
  const ns = BigInt(Math.ceil(timeoutMs * 1e6));
  timespec[0] = ns / 1_000_000_000n;
  timespec[1] = ns % 1_000_000_000n;
  const result = cFutex(SYS_futex, words.subarray(index, index + 1), FUTEX_WAIT_PRIVATE, value, timespec);
  if (result === -EAGAIN || result === -ETIMEDOUT || result === -EINTR) return;
  check("futex", result);
}

/** Ends every `waitForChange` of this word. */
export function wakeWaiters(words: Int32Array, index: number): void {
  check("futex", cFutex(SYS_futex, words.subarray(index, index + 1), FUTEX_WAKE_PRIVATE, ALL_WAITERS, null));
}

/** Blocks the calling thread. A signal ends it early. */
export function sleep(timeoutMs: number): void {
  waitForChange(new Int32Array(1), 0, 0, timeoutMs);
}
