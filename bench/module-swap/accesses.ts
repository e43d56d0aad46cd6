// SPDX-License-Identifier: Apache-2.0
// Swaps without a VM: two threads, a device, and nothing that interprets a guest.
import { DEVICE_BASE, MODULE_BYTES_BASE, MODULE_MAX_SIZE_BYTES, WASM_PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { DeviceSet } from "../../src/machine/device-set.ts";
import type { DeviceInstance } from "../../src/machine/device-table.ts";
import { ModuleSwapper } from "../../src/machine/module-swap.ts";
import type { AccessOrder } from "./access-worker.ts";

const UART: DeviceInstance = {
  ...{ module: "uart16550" as const, instance: 0, state: DEVICE_BASE, ioBase: 0x3f8, ioSizeBytes: 8 },
  ...{ ring: 0, chardev: null },
};
const MEMORY_PAGES = (MODULE_BYTES_BASE + MODULE_MAX_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES;
const SETTLE_MS = 20;

/** How long accesses took that met one of `count` swaps, in ms. The first swap, whose code is new, is not among them. */
export async function measureAccesses(path: string, count: number): Promise<number[]> {
  const memory = new WebAssembly.Memory({ initial: MEMORY_PAGES, maximum: MEMORY_PAGES, shared: true });
  const devices = new DeviceSet(memory, [UART], () => {});
  devices.reset();
  const control = new Int32Array(new SharedArrayBuffer(12));
  const accessesMs = new Float64Array(new SharedArrayBuffer(8 * (count + 1)));
  const swapper = new ModuleSwapper(memory, devices, {
    report: () => {},
    isRunning: () => false,
    vcpuThreadIds: () => [Atomics.load(control, 2)],
    refuse: () => {},
  });
  const worker = new Worker(new URL("./access-worker.ts", import.meta.url).href, { type: "module" });
  worker.postMessage({ memory, device: UART, control, accessesMs } satisfies AccessOrder);
  for (let swap = 0; swap <= count; swap++) {
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    await swapper.swap(UART, path);
    while (Atomics.load(control, 1) <= swap) Atomics.wait(control, 1, swap);
  }
  Atomics.store(control, 0, 1);
  return [...accessesMs.subarray(1)];
}
