// SPDX-License-Identifier: Apache-2.0
// What the guest and its devices have signalled to the main thread (doorbell.ts), and whether the guest still waits for what it has
// asked for.
import {
  CONTROL_DOORBELL,
  CONTROL_EVENTS,
  EVENT_DEBUG_EXIT,
  EVENT_RESET,
  EVENT_SHUTDOWN,
  EVENT_SUSPEND,
  EVENT_VCPU_ERROR,
} from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";
import { signalMain } from "./doorbell.ts";

/** Events that end or change the run state: the vCPU that raised one expects it to be served. */
export const GUEST_REQUESTS = EVENT_DEBUG_EXIT | EVENT_RESET | EVENT_SHUTDOWN | EVENT_SUSPEND | EVENT_VCPU_ERROR;

/** A reset loads the guest anew, which takes tens of milliseconds. */
const SETTLE_TIMEOUT_MS = 5000;
const SETTLE_POLL_MS = 1;

export class GuestSignals {
  readonly #words: Int32Array;
  /** Resets, ends and sleeps that are being carried out. */
  #changesUnderWay = 0;
  #isClosed = false;

  constructor(memory: WebAssembly.Memory) {
    this.#words = new Int32Array(memory.buffer);
  }

  /** The guest has asked for its end, a reset or sleep, and has not got it yet. */
  get hasRequest(): boolean {
    return this.#changesUnderWay > 0 || (Atomics.load(this.#words, CONTROL_EVENTS >> 2) & GUEST_REQUESTS) !== 0;
  }

  /** See `Vm.whenSettled`. When `isOver`, the guest gets nothing any more. */
  async whenSettled(isOver: () => boolean): Promise<void> {
    const deadlineMs = performance.now() + SETTLE_TIMEOUT_MS;
    while (this.hasRequest && !isOver()) {
      if (performance.now() > deadlineMs) {
        throw new VmmError(
          "guest-busy",
          `The guest's reset, end or sleep was not done within ${SETTLE_TIMEOUT_MS} ms: try again after it`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, SETTLE_POLL_MS));
    }
  }

  /** What the guest asked for before it stopped, it asked for in its former life. */
  forgetRequests(): void {
    Atomics.and(this.#words, CONTROL_EVENTS >> 2, ~GUEST_REQUESTS);
  }

  /** RAM and registers do not fit together while this runs: no update may start. */
  async whileChanging(change: () => Promise<void>): Promise<void> {
    this.#changesUnderWay++;
    try {
      await change();
    } finally {
      this.#changesUnderWay--;
    }
  }

  /** Calls `handle` with `EVENT_*` bits as they come, one call at a time, until `close`. */
  async serve(handle: (events: number) => Promise<void>): Promise<void> {
    const words = this.#words;
    while (!this.#isClosed) {
      const seen = Atomics.load(words, CONTROL_DOORBELL >> 2);
      const events = Atomics.exchange(words, CONTROL_EVENTS >> 2, 0);
      if (events !== 0) await handle(events);
      const { async, value } = Atomics.waitAsync(words, CONTROL_DOORBELL >> 2, seen);
      if (async) await value;
    }
  }

  /** Wakes up `serve`, which ends. */
  close(): void {
    this.#isClosed = true;
    signalMain(this.#words, 0);
  }
}
