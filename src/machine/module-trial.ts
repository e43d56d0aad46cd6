// SPDX-License-Identifier: Apache-2.0
// Worker in which a device module is tried before it may come near a VM: in a memory of its own, where its line is
// nobody's, by a thread that nobody waits for without end.
import { DEVICE_BASE, DEVICE_STRIDE_BYTES, WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { getTid } from "../../ffi/process.ts";
import { describeError, VmmError } from "../errors.ts";
import { convertDevice, parseFields } from "./device-fields.ts";
import { type DeviceExports, type DeviceHost, instantiateModule } from "./device-module.ts";

export interface TrialOrder {
  bytes: Uint8Array<ArrayBuffer>;
  /** A state page with nothing but the host's words. */
  page: Uint8Array;
  ioSizeBytes: number;
  /** Of the module that is tried. */
  fields: string;
  /** What it is to take over. */
  saved: Uint8Array;
  savedFields: string;
  /** Its clocks stand still. */
  monotonicNs: bigint;
  realtimeNs: bigint;
}

export type TrialAnswer =
  | { kind: "begun"; tid: number }
  /** The state page after `reset`. */
  | { kind: "passed"; powerOn: Uint8Array }
  | { kind: "failed"; when: string; message: string };

/** Up to the end of the rings, which devices look into: the rest of a VM's memory no device knows. */
const MEMORY_PAGES = 0x10_0000 / WASM_PAGE_SIZE_BYTES;

/** The lock is the last word of a state page (assembly/lock.ts). */
const LOCK_OFFSET = DEVICE_STRIDE_BYTES - 4;

class Trial {
  readonly #memory = new WebAssembly.Memory({ initial: MEMORY_PAGES, maximum: MEMORY_PAGES, shared: true });
  readonly #page = new Uint8Array(this.#memory.buffer, DEVICE_BASE, DEVICE_STRIDE_BYTES);
  readonly #lock = new Int32Array(this.#memory.buffer, DEVICE_BASE + LOCK_OFFSET, 1);
  readonly #order: TrialOrder;

  constructor(order: TrialOrder) {
    this.#order = order;
  }

  run(): TrialAnswer {
    const { bytes, page, fields, saved, savedFields, monotonicNs, realtimeNs } = this.#order;
    let when = "when it is instantiated";
    try {
      const host: DeviceHost = {
        setIrq: () => {},
        signal: () => {},
        monotonicNs: () => monotonicNs,
        realtimeNs: () => realtimeNs,
        takeOutput: () => 0,
      };
      const instance = instantiateModule(new WebAssembly.Module(bytes), this.#memory, host);
      when = "at power-on";
      this.#page.set(page);
      instance.reset(DEVICE_BASE);
      const powerOn = this.#page.slice();
      this.#exercise(instance);
      when = "on the state of the device";
      this.#page.set(powerOn);
      convertDevice(this.#memory, DEVICE_BASE, {
        fields: parseFields(fields)!,
        powerOn,
        saved,
        savedFields: parseFields(savedFields)!,
      });
      this.#exercise(instance);
      return { kind: "passed", powerOn };
    } catch (error) {
      return { kind: "failed", when, message: describeError(error) };
    }
  }

  /** Reads all registers, and asks for the deadline. */
  #exercise(instance: DeviceExports): void {
    for (let offset = 0; offset < this.#order.ioSizeBytes; offset++) {
      // The next call would wait for ever.
      this.#expectUnlocked();
      instance.read(DEVICE_BASE, offset, 1);
    }
    this.#expectUnlocked();
    instance.nextDeadlineNs?.(DEVICE_BASE);
    this.#expectUnlocked();
  }

  #expectUnlocked(): void {
    if (Atomics.load(this.#lock, 0) !== 0) throw new VmmError("module-refused", "It keeps the lock of its state page");
  }
}

const scope = globalThis as unknown as {
  onmessage: (event: { data: TrialOrder }) => void;
  postMessage(answer: TrialAnswer): void;
  close(): void;
};
scope.onmessage = ({ data }) => {
  scope.postMessage({ kind: "begun", tid: getTid() });
  scope.postMessage(new Trial(data).run());
  scope.close();
};
