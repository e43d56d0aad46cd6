// SPDX-License-Identifier: Apache-2.0
// A thread as that of a vCPU, which does nothing but accesses to a device: how long those take that meet a swap.
import {
  DEVICE_BASE,
  DEVICE_STRIDE_BYTES,
  MODULE_BASE,
  MODULE_GENERATION,
  MODULE_STRIDE_BYTES,
} from "../../assembly/layout.ts";
import { getTid } from "../../ffi/process.ts";
import type { DeviceInstance } from "../../src/machine/device-table.ts";
import { IoBus } from "../../src/machine/io-bus.ts";

export interface AccessOrder {
  memory: WebAssembly.Memory;
  device: DeviceInstance;
  /** i32s: not 0 ends the thread; swaps that have been met; the thread's id. */
  control: Int32Array;
  /** Longest access around each swap, in ms. */
  accessesMs: Float64Array;
}

function serve({ memory, device, control, accessesMs }: AccessOrder): void {
  const slot = (device.state - DEVICE_BASE) / DEVICE_STRIDE_BYTES;
  const words = new Int32Array(memory.buffer);
  const generation = (MODULE_BASE + slot * MODULE_STRIDE_BYTES + MODULE_GENERATION) >> 2;
  const bus = new IoBus(memory, [device], () => {});
  Atomics.store(control, 2, getTid());
  let before = Atomics.load(words, generation);
  /** The three latest: the one that met the swap is the one after which it shows, or its neighbour. */
  let [olderMs, lastMs] = [0, 0];
  let isMet = false;
  while (Atomics.load(control, 0) === 0) {
    const startMs = performance.now();
    bus.read(device.ioBase + device.ioSizeBytes - 1, 1);
    const accessMs = performance.now() - startMs;
    if (isMet) {
      accessesMs[Atomics.load(control, 1)] = Math.max(olderMs, lastMs, accessMs);
      Atomics.add(control, 1, 1);
      Atomics.notify(control, 1);
    }
    const now = Atomics.load(words, generation);
    isMet = now !== before;
    before = now;
    olderMs = lastMs;
    lastMs = accessMs;
  }
}

const scope = globalThis as unknown as { onmessage: (event: { data: AccessOrder }) => void; close(): void };
scope.onmessage = ({ data }) => {
  serve(data);
  scope.close();
};
