// SPDX-License-Identifier: Apache-2.0
// The control block that the main thread and a vCPU's thread share: what is wanted, what is, and how to wait for it.
//
//   main                                  vCPU thread
//   REQUEST = PARK, kick ───────────────▶ leaves the guest, completes pending I/O
//   waits for STATE ◀──────────────────── STATE = PARKED, waits for REQUEST to change
//   REQUEST = RUN, notify ──────────────▶ STATE = RUNNING, enters the guest
import {
  VCPU_BASE,
  VCPU_DIRTY_RING_FETCH,
  VCPU_EXITS,
  VCPU_FAILURE,
  VCPU_FAILURE_DETAIL,
  VCPU_IS_ON_OFFER,
  VCPU_REQUEST,
  VCPU_STATE,
  VCPU_STATE_ABSENT,
  VCPU_STRIDE_BYTES,
  VCPU_THROTTLE_PERCENT,
  VCPU_TID,
} from "../../assembly/layout.ts";

/** As long as it takes to be woken up. */
const SPIN_MS = 0.1;

export class VcpuControl {
  readonly #words: Int32Array;
  readonly #base: number;

  constructor(memory: WebAssembly.Memory, index: number) {
    this.#words = new Int32Array(memory.buffer);
    this.#base = (VCPU_BASE + index * VCPU_STRIDE_BYTES) >> 2;
  }

  get request(): number {
    return Atomics.load(this.#words, this.#base + (VCPU_REQUEST >> 2));
  }

  set request(value: number) {
    Atomics.store(this.#words, this.#base + (VCPU_REQUEST >> 2), value);
    Atomics.notify(this.#words, this.#base + (VCPU_REQUEST >> 2));
  }

  /** Changes the request from `from` to `to`, unless somebody else has changed it; true when that was done. */
  exchangeRequest(from: number, to: number): boolean {
    return Atomics.compareExchange(this.#words, this.#base + (VCPU_REQUEST >> 2), from, to) === from;
  }

  get state(): number {
    return Atomics.load(this.#words, this.#base + (VCPU_STATE >> 2));
  }

  set state(value: number) {
    Atomics.store(this.#words, this.#base + (VCPU_STATE >> 2), value);
    Atomics.notify(this.#words, this.#base + (VCPU_STATE >> 2));
  }

  /** Changes the state from `from` to `to`, unless somebody else has changed it; true when that was done. */
  exchangeState(from: number, to: number): boolean {
    return Atomics.compareExchange(this.#words, this.#base + (VCPU_STATE >> 2), from, to) === from;
  }

  get tid(): number {
    return Atomics.load(this.#words, this.#base + (VCPU_TID >> 2));
  }

  set tid(value: number) {
    Atomics.store(this.#words, this.#base + (VCPU_TID >> 2), value);
  }

  get failure(): number {
    return Atomics.load(this.#words, this.#base + (VCPU_FAILURE >> 2));
  }

  set failure(value: number) {
    Atomics.store(this.#words, this.#base + (VCPU_FAILURE >> 2), value);
  }

  get failureDetail(): number {
    return Atomics.load(this.#words, this.#base + (VCPU_FAILURE_DETAIL >> 2));
  }

  set failureDetail(value: number) {
    Atomics.store(this.#words, this.#base + (VCPU_FAILURE_DETAIL >> 2), value);
  }

  get throttlePercent(): number {
    return Atomics.load(this.#words, this.#base + (VCPU_THROTTLE_PERCENT >> 2));
  }

  set throttlePercent(value: number) {
    Atomics.store(this.#words, this.#base + (VCPU_THROTTLE_PERCENT >> 2), value);
  }

  /** The main thread, which runs the vCPU: its own thread may take it over. */
  offer(): void {
    Atomics.store(this.#words, this.#base + (VCPU_IS_ON_OFFER >> 2), 1);
    Atomics.notify(this.#words, this.#base + (VCPU_IS_ON_OFFER >> 2));
  }

  waitForOffer(): void {
    Atomics.wait(this.#words, this.#base + (VCPU_IS_ON_OFFER >> 2), 0);
  }

  countExit(): void {
    this.#words[this.#base + (VCPU_EXITS >> 2)]!++;
  }

  /** Blocks while the request is `value`, `timeoutMs` at most. */
  waitWhileRequest(value: number, timeoutMs = Number.POSITIVE_INFINITY): void {
    Atomics.wait(this.#words, this.#base + (VCPU_REQUEST >> 2), value, timeoutMs);
  }

  /** Blocks until the state is `value`; false when that takes longer than `timeoutMs`. */
  waitForState(value: number, timeoutMs: number): boolean {
    const startMs = performance.now();
    // What is about to happen is seen sooner by who looks than by who sleeps.
    while (performance.now() - startMs < SPIN_MS) if (this.state === value) return true;
    const deadline = startMs + timeoutMs;
    for (let state = this.state; state !== value; state = this.state) {
      const remainingMs = deadline - performance.now();
      if (remainingMs <= 0) return false;
      Atomics.wait(this.#words, this.#base + (VCPU_STATE >> 2), state, remainingMs);
    }
    return true;
  }

  clear(): void {
    const words = [VCPU_REQUEST, VCPU_TID, VCPU_EXITS, VCPU_FAILURE, VCPU_THROTTLE_PERCENT, VCPU_DIRTY_RING_FETCH];
    for (const word of words) {
      Atomics.store(this.#words, this.#base + (word >> 2), 0);
    }
    this.state = VCPU_STATE_ABSENT;
  }
}
