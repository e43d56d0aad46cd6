// SPDX-License-Identifier: Apache-2.0
// The main thread's end of a serial port: moves bytes between the UART's output ring, its receiver and a chardev.
import { HOST_DROPPED_BYTES, RING_RESERVE_BYTES } from "../../assembly/devices/uart16550/layout.ts";
import { RING_CAPACITY_BYTES, RING_DATA, RING_HEAD, RING_TAIL } from "../../assembly/layout.ts";
import { OutputQueue } from "../backends/chardev/output-queue.ts";
import type { Chardev } from "../backends/chardev/types.ts";
import type { Uart16550Exports } from "./device-module.ts";
import { type DeviceInstance, ringAddress } from "./device-table.ts";
import { emptyRingHere } from "./io-bus.ts";

/** What the chardev may owe the host before the port stops emptying the ring, and the guest has to wait. */
const MAX_QUEUED_BYTES = 64 * 1024;

export class SerialPort {
  readonly device: DeviceInstance;
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #exports: () => Uart16550Exports;
  readonly #dropped: Uint32Array;
  /** Taken from the ring when there was no chardev yet, or none that may be used; older than what is in the ring. */
  readonly #backlog = new OutputQueue();
  #chardev: Chardev | undefined;
  #isHeld = false;
  #isInputBlocked = false;

  /** `exports` gives this thread's instance of the UART module, made when it is first needed. */
  constructor(memory: WebAssembly.Memory, device: DeviceInstance, exports: () => Uart16550Exports) {
    const ring = ringAddress(device.ring!);
    this.device = device;
    this.#words = new Int32Array(memory.buffer, ring, RING_DATA / 4);
    this.#bytes = new Uint8Array(memory.buffer, ring + RING_DATA, RING_CAPACITY_BYTES);
    this.#exports = exports;
    this.#dropped = new Uint32Array(memory.buffer, device.state + HOST_DROPPED_BYTES, 1);
    emptyRingHere(memory, device.state, () => this.#emptyRing());
  }

  /** Bytes that vCPUs wrote while they were being parked and the ring had no room left at all. */
  get droppedBytes(): number {
    return Atomics.load(this.#dropped, 0);
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
    if (!this.#isHeld) this.#writeBacklog();
    this.renewReserve();
  }

  /** Gives the chardev nothing more, whatever the guest writes: it is kept here, as part of the device's state. */
  hold(): void {
    this.#isHeld = true;
  }

  /** Undoes `hold`: the chardev, which may be another one by now, gets what was kept. */
  release(): void {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    this.#writeBacklog();
    this.flush();
  }

  #writeBacklog(): void {
    if (this.#backlog.byteLength > 0) this.#chardev?.write(this.#backlog.peek().slice());
    this.#backlog.clear();
  }

  /**
   * Each parking may use some of the ring's reserve, which must be there for the next one even when the console does not
   * read: gives the chardev as much as it takes, whatever it has queued already. Its queue is part of its saved state.
   */
  renewReserve(): void {
    const missing = RING_RESERVE_BYTES - (RING_CAPACITY_BYTES - this.#ringBytes);
    if (missing <= 0 || this.#chardev === undefined) return;
    if (this.#isHeld) this.#backlog.push(this.#take(missing));
    else this.#chardev.write(this.#take(missing));
  }

  /** Gives what the guest has written to the chardev, and asks for input if the receiver has room again. */
  flush(): void {
    if (this.#isHeld) return;
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

  /** What `pendingOutput` can become while this thread does not run a vCPU. */
  get maxPendingBytes(): number {
    return this.#backlog.byteLength + RING_CAPACITY_BYTES;
  }

  /** What the chardev has not got yet, without taking it: for the state image. */
  pendingOutput(): Uint8Array {
    const ring = this.#peekRing();
    if (this.#backlog.byteLength === 0) return ring;
    const pending = new Uint8Array(this.#backlog.byteLength + ring.length);
    pending.set(this.#backlog.peek());
    pending.set(ring, this.#backlog.byteLength);
    return pending;
  }

  /** Forgets what `pendingOutput` has given: another process has it now. */
  discardOutput(): void {
    this.#backlog.clear();
    Atomics.store(this.#words, RING_HEAD >> 2, Atomics.load(this.#words, RING_TAIL >> 2));
  }

  /** Puts saved output back into the empty ring, as if the guest had just written it. */
  restoreOutput(pending: Uint8Array): void {
    const excess = Math.max(0, pending.length - RING_CAPACITY_BYTES);
    this.#backlog.clear();
    this.#backlog.push(pending.subarray(0, excess));
    this.#bytes.set(pending.subarray(excess));
    Atomics.store(this.#words, RING_HEAD >> 2, 0);
    Atomics.store(this.#words, RING_TAIL >> 2, pending.length - excess);
  }

  /**
   * For a vCPU that this thread runs: nobody else would take anything from the full ring. That is so only for moments
   * after an update, so all of it is kept.
   */
  #emptyRing(): void {
    const taken = this.#take(RING_CAPACITY_BYTES);
    if (this.#chardev !== undefined && !this.#isHeld) this.#chardev.write(taken);
    else if (this.chardevId !== null) this.#backlog.push(taken);
    // Other vCPUs may wait for the room, each in its own thread.
    Atomics.notify(this.#words, RING_HEAD >> 2);
  }

  get #ringBytes(): number {
    return (Atomics.load(this.#words, RING_TAIL >> 2) - Atomics.load(this.#words, RING_HEAD >> 2)) >>> 0;
  }

  #peekRing(): Uint8Array {
    const start = Atomics.load(this.#words, RING_HEAD >> 2) & (RING_CAPACITY_BYTES - 1);
    const pending = new Uint8Array(this.#ringBytes);
    const first = this.#bytes.subarray(start, start + pending.length);
    pending.set(first);
    pending.set(this.#bytes.subarray(0, pending.length - first.length), first.length);
    return pending;
  }

  #take(limit: number): Uint8Array {
    if (limit <= 0) return new Uint8Array(0);
    const pending = this.#peekRing().subarray(0, limit);
    const head = Atomics.load(this.#words, RING_HEAD >> 2);
    Atomics.store(this.#words, RING_HEAD >> 2, (head + pending.length) | 0);
    return pending;
  }
}
