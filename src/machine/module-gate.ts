// SPDX-License-Identifier: Apache-2.0
// The door to one device's module: every thread goes through it on its way into the module, and learns there which
// module that is. Whoever swaps the module closes it, waits until nobody is inside, and opens it to the new one.
//
//   main (module-swap.ts)                       vCPU threads (io-bus.ts)
//   close: nobody enters any more               enter: count + 1, or wait while it is closed
//   waits until the count is 0                  is the generation that of my instance? if not, make an instance of
//   carries the state, publishes the module       the published bytes: 0.2 ms
//   open ─────────────────────────────────────▶ access; leave: count - 1
//
// Why a door outside of the module, and not the lock that its state page has: a thread that waits for the lock is in the
// old code already, and would go on in it, on state of the new layout. Why a count, and not a flag for each thread: it
// is one word, and two threads in one device have to take turns for the lock anyway. Going in and out costs an access
// 0.03 to 0.05 µs; an exit from the guest costs several.
//
// Why each thread makes its instance when it first needs it: instances belong to a thread, and those of the vCPUs are in
// KVM_RUN, where no message reaches them. Compiling a device module takes a warm thread 0.13 to 0.17 ms, instantiating it
// 0.03 ms, its first call up to 0.1 ms (medians of 40, both runtimes; measured on modules of 3 to 5 KB). That is within
// the 1 ms that an access may take, and it stops nobody who does not touch the device, as fetching each vCPU out of
// the guest beforehand would. The price is that a thread can fail after the swap: it then says so (`refuse`) and waits
// until the main thread has gone back to the module before.
import {
  DEVICE_BASE,
  DEVICE_STRIDE_BYTES,
  EVENT_MODULE_REFUSED,
  MODULE_BASE,
  MODULE_BYTES_BASE,
  MODULE_GATE,
  MODULE_GENERATION,
  MODULE_MAX_SIZE_BYTES,
  MODULE_REFUSED,
  MODULE_SIZE_BYTES,
  MODULE_STRIDE_BYTES,
} from "../../assembly/layout.ts";
import { waitForChange, wakeWaiters } from "../../ffi/futex.ts";
import { signalMain } from "./doorbell.ts";

/** The sign bit of the gate's word. */
const CLOSED = -0x8000_0000;

/**
 * The gate is closed for 0.04 ms, an access takes 0.001. Who sleeps meanwhile has to wait for a CPU afterwards, and has lost
 * the one that it had to somebody else.
 */
const SPIN_MS = 0.1;

/** Bounds every sleep: nobody may hang on a notify that came a moment too early. */
const SLEEP_MS = 10;

export class ModuleGate {
  readonly #memory: WebAssembly.Memory;
  readonly #words: Int32Array;
  readonly #gate: number;
  readonly #generation: number;
  readonly #refused: number;
  readonly #size: number;
  readonly #bytes: number;

  /** `state` is the address of the device's state page. */
  constructor(memory: WebAssembly.Memory, state: number) {
    const slot = (state - DEVICE_BASE) / DEVICE_STRIDE_BYTES;
    const base = MODULE_BASE + slot * MODULE_STRIDE_BYTES;
    this.#memory = memory;
    this.#words = new Int32Array(memory.buffer);
    this.#gate = (base + MODULE_GATE) >> 2;
    this.#generation = (base + MODULE_GENERATION) >> 2;
    this.#refused = (base + MODULE_REFUSED) >> 2;
    this.#size = (base + MODULE_SIZE_BYTES) >> 2;
    this.#bytes = MODULE_BYTES_BASE + slot * MODULE_MAX_SIZE_BYTES;
  }

  /** Goes in, when it is open, and returns the generation of the module: it stays that until `leave`. */
  enter(): number {
    for (;;) {
      const seen = Atomics.load(this.#words, this.#gate);
      if (seen < 0) this.#awaitOpen();
      else if (Atomics.compareExchange(this.#words, this.#gate, seen, seen + 1) === seen) break;
    }
    return Atomics.load(this.#words, this.#generation);
  }

  #awaitOpen(): void {
    const spinEndMs = performance.now() + SPIN_MS;
    for (;;) {
      const seen = Atomics.load(this.#words, this.#gate);
      if (seen >= 0) return;
      if (performance.now() >= spinEndMs) waitForChange(this.#words, this.#gate, seen, SLEEP_MS);
    }
  }

  leave(): void {
    if (Atomics.sub(this.#words, this.#gate, 1) === CLOSED + 1) wakeWaiters(this.#words, this.#gate);
  }

  /** Inside: a copy of the module; undefined for the built-in one. */
  module(): Uint8Array<ArrayBuffer> | undefined {
    const sizeBytes = Atomics.load(this.#words, this.#size);
    if (sizeBytes === 0) return undefined;
    const bytes = new Uint8Array(sizeBytes);
    bytes.set(new Uint8Array(this.#memory.buffer, this.#bytes, sizeBytes));
    return bytes;
  }

  /** Outside: the calling thread can make no instance of that generation. Returns when there is another one. */
  refuse(generation: number): void {
    Atomics.store(this.#words, this.#refused, generation);
    signalMain(this.#words, EVENT_MODULE_REFUSED);
    while (Atomics.load(this.#words, this.#generation) === generation) {
      waitForChange(this.#words, this.#generation, generation, SLEEP_MS);
    }
  }

  /** Some thread could make no instance of the present generation. */
  get isRefused(): boolean {
    const refused = Atomics.load(this.#words, this.#refused);
    return refused !== 0 && refused === Atomics.load(this.#words, this.#generation);
  }

  /** Keeps everybody out who is not inside. Only the main thread closes, publishes and opens. */
  close(): void {
    Atomics.or(this.#words, this.#gate, CLOSED);
  }

  /** While closed: blocks until nobody is inside; false when that takes longer than `timeoutMs`. */
  waitUntilEmpty(timeoutMs: number): boolean {
    const startMs = performance.now();
    for (;;) {
      const seen = Atomics.load(this.#words, this.#gate);
      if (seen === CLOSED) return true;
      const elapsedMs = performance.now() - startMs;
      if (elapsedMs >= timeoutMs) return false;
      if (elapsedMs >= SPIN_MS) waitForChange(this.#words, this.#gate, seen, SLEEP_MS);
    }
  }

  /** While closed and empty: what everybody finds who enters from now on. */
  publish(generation: number, bytes: Uint8Array | undefined): void {
    if (bytes !== undefined) new Uint8Array(this.#memory.buffer, this.#bytes, MODULE_MAX_SIZE_BYTES).set(bytes);
    Atomics.store(this.#words, this.#size, bytes?.length ?? 0);
    Atomics.store(this.#words, this.#generation, generation);
    wakeWaiters(this.#words, this.#generation);
  }

  open(): void {
    Atomics.and(this.#words, this.#gate, ~CLOSED);
    wakeWaiters(this.#words, this.#gate);
  }
}
