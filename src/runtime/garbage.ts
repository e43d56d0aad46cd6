// SPDX-License-Identifier: Apache-2.0
// Collecting garbage by hand, for a thread that never returns to its event loop and calls the kernel all the time.
//
// JavaScriptCore takes the shared memory of 4 GiB for a part of the heap, and waits until as much again has been allocated. Each
// call through koffi leaves some 180 bytes: a busy vCPU of the engine would have gigabytes of them in some minutes.

/** A collection of a small heap takes about a millisecond. */
export function collectGarbage(): void {
  if (typeof Bun !== "undefined") Bun.gc(true);
}
