// SPDX-License-Identifier: Apache-2.0
// The main thread's end of a serial port: moves bytes between the UART's output ring, its receiver and a chardev.
import { RING_CAPACITY_BYTES, RING_DATA, RING_HEAD, RING_TAIL } from "../../assembly/layout.ts";
import type { Chardev } from "../backends/chardev/types.ts";
import type { Uart16550Exports } from "./device-module.ts";
import { type DeviceInstance, ringAddress } from "./device-table.ts";

/** What the chardev may owe the host before the port stops emptying the ring, and the guest has to wait. */
const MAX_QUEUED_BYTES = 64 * 1024;

export class SerialPort {
  readonly device: DeviceInstance;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #exports: () => Uart16550Exports;
  #chardev: Chardev | undefined;
  #isInputBlocked = false;

  /** `exports` gives this thread's instance of the UART module, made when it is first needed. */
  constructor(memory: WebAssembly.Memory, device: DeviceInstance, exports: () => Uart16550Exports) {
    const ring = ringAddress(device.ring!);
    this.device = device;
    this.#words = new Int32Array(memory.buffer, ring, RING_DATA / 4);
    this.#bytes = new Uint8Array(memory.buffer, ring + RING_DATA, RING_CAPACITY_BYTES);
    this.#exports = exports;
  }

  get chardevId(): string | null {
    return this.device.chardev ?? null;
  }

  attach(chardev: Chardev): void {
    this.#chardev = chardev;
    chardev.attach({
      inputSpaceBytes: () => {
        const space = this.#exports().receiveSpace(this.device.state);
        this.#isInputBlocked = space === 0;
        return space;
      },
      receive: (bytes) => {
        for (const byte of bytes) this.#exports().receive(this.device.state, byte);
      },
      drained: () => this.flush(),
    });
  }

  /** Gives what the guest has written to the chardev, and asks for input if the receiver has room again. */
  flush(): void {
    const taken = this.#take(MAX_QUEUED_BYTES - (this.#chardev?.queuedBytes ?? 0));
    if (taken.length > 0) {
      this.#chardev?.write(taken);
      this.#exports().outputDrained(this.device.state);
    }
    if (this.#isInputBlocked && this.#exports().receiveSpace(this.device.state) > 0) {
      this.#isInputBlocked = false;
      this.#chardev?.acceptInput();
    }
  }

  /** Bytes in the ring, without taking them: for the state image. */
  pendingOutput(): Uint8Array {
    const head = Atomics.load(this.#words, RING_HEAD >> 2);
    const count = (Atomics.load(this.#words, RING_TAIL >> 2) - head) >>> 0;
    return Uint8Array.from({ length: count }, (_, index) => this.#bytes[(head + index) & (RING_CAPACITY_BYTES - 1)]!);
  }

  /** Puts saved output back into the empty ring, as if the guest had just written it. */
  restoreOutput(pending: Uint8Array): void {
    const count = Math.min(pending.length, RING_CAPACITY_BYTES);
    this.#bytes.set(pending.subarray(0, count));
    Atomics.store(this.#words, RING_HEAD >> 2, 0);
    Atomics.store(this.#words, RING_TAIL >> 2, count);
  }

  #take(limit: number): Uint8Array {
    if (limit <= 0) return new Uint8Array(0);
    const pending = this.pendingOutput().subarray(0, limit);
    const head = Atomics.load(this.#words, RING_HEAD >> 2);
    Atomics.store(this.#words, RING_HEAD >> 2, (head + pending.length) | 0);
    return pending;
  }
}
