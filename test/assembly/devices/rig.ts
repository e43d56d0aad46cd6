// SPDX-License-Identifier: Apache-2.0
// One device on a bench: its module in a small memory, with a host whose clocks and observations belong to the test.
import {
  DEVICE_BASE,
  RING_BASE,
  RING_CAPACITY_BYTES,
  RING_DATA,
  RING_HEAD,
  RING_TAIL,
} from "../../../assembly/layout.ts";
import type { DeviceName } from "../../../build/devices.ts";
import { type DeviceField, restoreDevice, saveDevice } from "../../../src/machine/device-fields.ts";
import { type DeviceHost, type ExportsOf, instantiateDevice } from "../../../src/machine/device-module.ts";
import { assert } from "../../harness.ts";

export class DeviceRig<Name extends DeviceName> {
  readonly memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
  readonly state = DEVICE_BASE;
  readonly device: ExportsOf<Name>;
  readonly fields: readonly DeviceField[];
  monotonicNs = 1_000_000_000_000n;
  realtimeNs = 1_700_000_000_000_000_000n;
  irqLevel = 0;
  /** Makes room in the output ring, as a consumer that is the producer too; absent: somebody else does. */
  takeOutput: (() => boolean) | undefined;
  /** Every level the line took, in order. */
  irqHistory: number[] = [];
  #events = 0;

  constructor(name: Name, fields: readonly DeviceField[]) {
    const host: DeviceHost = {
      setIrq: (state, level) => {
        assert.is(state, this.state);
        assert.is.not(level, this.irqLevel, "setIrq without a change");
        this.irqLevel = level;
        this.irqHistory.push(level);
      },
      signal: (event) => {
        this.#events |= event;
      },
      monotonicNs: () => this.monotonicNs,
      realtimeNs: () => this.realtimeNs,
      takeOutput: () => (this.takeOutput === undefined ? 0 : Number(this.takeOutput())),
    };
    this.fields = fields;
    this.device = instantiateDevice(name, this.memory, host);
    this.device.reset(this.state);
    this.takeEvents();
  }

  read(offset: number, sizeBytes = 1): number {
    return this.device.read(this.state, offset, sizeBytes) >>> 0;
  }

  write(offset: number, value: number, sizeBytes = 1): void {
    this.device.write(this.state, offset, sizeBytes, value);
  }

  advance(ns: bigint): void {
    this.monotonicNs += ns;
    this.realtimeNs += ns;
  }

  /** The `EVENT_*` bits since the last call. */
  takeEvents(): number {
    const events = this.#events;
    this.#events = 0;
    return events;
  }

  takeIrqHistory(): number[] {
    return this.irqHistory.splice(0);
  }

  save(): Uint8Array {
    return saveDevice(this.memory, this.state, this.fields);
  }

  /** Makes this rig go on where `other` is: clocks, line and state, but nothing the state page has beside its fields. */
  restoreFrom(other: DeviceRig<Name>): void {
    this.monotonicNs = other.monotonicNs;
    this.realtimeNs = other.realtimeNs;
    this.irqLevel = other.irqLevel;
    restoreDevice(this.memory, this.state, this.fields, other.save());
  }
}

/** The consumer's end of ring 0. */
export class OutputRing {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;

  constructor(memory: WebAssembly.Memory) {
    this.#words = new Int32Array(memory.buffer, RING_BASE, RING_DATA / 4);
    this.#bytes = new Uint8Array(memory.buffer, RING_BASE + RING_DATA, RING_CAPACITY_BYTES);
  }

  get #head(): number {
    return Atomics.load(this.#words, RING_HEAD >> 2);
  }

  get #tail(): number {
    return Atomics.load(this.#words, RING_TAIL >> 2);
  }

  get roomBytes(): number {
    return RING_CAPACITY_BYTES - ((this.#tail - this.#head) >>> 0);
  }

  /** Starts over with `roomBytes` free, indices about to wrap. */
  fillUpTo(roomBytes: number): void {
    Atomics.store(this.#words, RING_HEAD >> 2, -8);
    Atomics.store(this.#words, RING_TAIL >> 2, (RING_CAPACITY_BYTES - roomBytes - 8) | 0);
  }

  take(limit = RING_CAPACITY_BYTES): number[] {
    const head = this.#head;
    const count = Math.min((this.#tail - head) >>> 0, limit);
    const taken = Array.from({ length: count }, (_, at) => this.#bytes[(head + at) & (RING_CAPACITY_BYTES - 1)]!);
    Atomics.store(this.#words, RING_HEAD >> 2, (head + count) | 0);
    return taken;
  }

  copyFrom(other: OutputRing): void {
    this.#words.set(other.#words);
    this.#bytes.set(other.#bytes);
  }
}
