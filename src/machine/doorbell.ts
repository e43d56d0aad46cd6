// SPDX-License-Identifier: Apache-2.0
// How any thread tells the main thread that something happened.
import { CONTROL_DOORBELL, CONTROL_EVENTS } from "../../assembly/layout.ts";

/** Sets bits of `CONTROL_EVENTS` and rings the doorbell. */
export function signalMain(words: Int32Array, events: number): void {
  Atomics.or(words, CONTROL_EVENTS >> 2, events);
  Atomics.add(words, CONTROL_DOORBELL >> 2, 1);
  Atomics.notify(words, CONTROL_DOORBELL >> 2);
}
