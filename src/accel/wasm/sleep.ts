// SPDX-License-Identifier: Apache-2.0
// How an idle vCPU sleeps, and is woken: on its word CPU_PENDING, by futex(2).
import { CPU_PENDING_ASLEEP } from "../../../assembly/cpu/layout.ts";
import { waitForChange, wakeWaiters } from "../../../ffi/futex.ts";

/** Sleeps while `words[index]` is `seen`, for `timeoutMs` at most; it may end sooner. The vCPU's thread. */
export function sleepWhilePending(words: Int32Array, index: number, seen: number, timeoutMs: number): void {
  const asleep = seen | CPU_PENDING_ASLEEP;
  // What came since `seen` was read found nobody asleep.
  if (Atomics.compareExchange(words, index, seen, asleep) !== seen) return;
  waitForChange(words, index, asleep, timeoutMs);
  Atomics.and(words, index, ~CPU_PENDING_ASLEEP);
}

/** Sets bits of a vCPU's CPU_PENDING. Any thread. */
export function setPending(words: Int32Array, index: number, bits: number): void {
  if ((Atomics.or(words, index, bits) & CPU_PENDING_ASLEEP) !== 0) wakeWaiters(words, index);
}

/** The modules' import: wakes the vCPU whose CPU_PENDING is at an address. */
export function vcpuWaker(memory: WebAssembly.Memory): (address: number) => void {
  const words = new Int32Array(memory.buffer);
  return (address) => wakeWaiters(words, address >> 2);
}
