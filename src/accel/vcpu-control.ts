// SPDX-License-Identifier: Apache-2.0
// The control block that the main thread and a vCPU's thread share: what is wanted, what is, and how to wait for it.
//
//   main                                  vCPU thread
//   REQUEST = PARK, kick ───────────────▶ leaves the guest, completes pending I/O
//   waits for STATE ◀──────────────────── STATE = PARKED, waits for REQUEST to change
//   REQUEST = RUN, notify ──────────────▶ STATE = RUNNING, enters the guest
import {
  CONTROL_STANDSTILLS,
  MAX_VCPUS,
  VCPU_BASE,
  VCPU_DIRTY_RING_FETCH,
  VCPU_EXITS,
  VCPU_FAILURE,
  VCPU_FAILURE_DETAIL,
  VCPU_OFFER,
  VCPU_OFFER_AWAITED,
  VCPU_OFFER_MADE,
  VCPU_OFFER_NONE,
  VCPU_REQUEST,
  VCPU_STATE,
  VCPU_STATE_ABSENT,
  VCPU_STATE_RUNNING,
  VCPU_STRIDE_BYTES,
  VCPU_THROTTLE_PERCENT,
  VCPU_TID,
} from "../../assembly/layout.ts";
import { waitForChange, wakeWaiters } from "../../ffi/futex.ts";

function stateWord(index: number): number {
  return (VCPU_BASE + index * VCPU_STRIDE_BYTES + VCPU_STATE) >> 2;
}

/** Any thread, for one that waits in `waitForStandstill`: no more than one wake-up, however many vCPUs there are. */
function noteStandstill(words: Int32Array): void {
  for (let index = 0; index < MAX_VCPUS; index++) {
    if (Atomics.load(words, stateWord(index)) === VCPU_STATE_RUNNING) return;
  }
  Atomics.add(words, CONTROL_STANDSTILLS >> 2, 1);
  wakeWaiters(words, CONTROL_STANDSTILLS >> 2);
}

/**
 * Blocks until `isOver`, which is asked again whenever the last vCPU stops running; false when that takes longer than
 * `timeoutMs`. It does not spin: a loop gets hot, and its compilation takes the CPU from what comes next.
 */
export function waitForStandstill(memory: WebAssembly.Memory, isOver: () => boolean, timeoutMs: number): boolean {
  const words = new Int32Array(memory.buffer);
  const startMs = performance.now();
  for (;;) {
    const before = Atomics.load(words, CONTROL_STANDSTILLS >> 2);
    if (isOver()) return true;
    const leftMs = startMs + timeoutMs - performance.now();
    if (leftMs <= 0) return false;
    waitForChange(words, CONTROL_STANDSTILLS >> 2, before, leftMs);
  }
}

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
    wakeWaiters(this.#words, this.#base + (VCPU_REQUEST >> 2));
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
    wakeWaiters(this.#words, this.#base + (VCPU_STATE >> 2));
    if (value !== VCPU_STATE_RUNNING) noteStandstill(this.#words);
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
    Atomics.store(this.#words, this.#base + (VCPU_OFFER >> 2), VCPU_OFFER_MADE);
    Atomics.notify(this.#words, this.#base + (VCPU_OFFER >> 2));
  }

  /** Whether the vCPU's own thread is in `waitForOffer`. */
  get isOfferAwaited(): boolean {
    return Atomics.load(this.#words, this.#base + (VCPU_OFFER >> 2)) === VCPU_OFFER_AWAITED;
  }

  waitForOffer(): void {
    const word = this.#base + (VCPU_OFFER >> 2);
    Atomics.compareExchange(this.#words, word, VCPU_OFFER_NONE, VCPU_OFFER_AWAITED);
    Atomics.wait(this.#words, word, VCPU_OFFER_AWAITED);
  }

  countExit(): void {
    this.#words[this.#base + (VCPU_EXITS >> 2)]!++;
  }

  /** Blocks while the request is `value`. */
  waitWhileRequest(value: number): void {
    Atomics.wait(this.#words, this.#base + (VCPU_REQUEST >> 2), value);
  }

  /** Blocks while the request is `value`, `timeoutMs` at most; it may return sooner. */
  sleepWhileRequest(value: number, timeoutMs: number): void {
    waitForChange(this.#words, this.#base + (VCPU_REQUEST >> 2), value, timeoutMs);
  }

  /** Blocks until the state is `value`. */
  awaitState(value: number): void {
    for (let state = this.state; state !== value; state = this.state) {
      Atomics.wait(this.#words, this.#base + (VCPU_STATE >> 2), state);
    }
  }

  /** Blocks until the state is `value`; false when that takes longer than `timeoutMs`. */
  waitForState(value: number, timeoutMs: number): boolean {
    const deadline = performance.now() + timeoutMs;
    for (let state = this.state; state !== value; state = this.state) {
      const remainingMs = deadline - performance.now();
      if (remainingMs <= 0) return false;
      waitForChange(this.#words, this.#base + (VCPU_STATE >> 2), state, remainingMs);
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
