// SPDX-License-Identifier: Apache-2.0
// A vCPU that does nothing but port I/O, of bytes: reads a port again and again and tells what it saw change, or writes
// the numbers from 0 up to a port.
import { parentPort, workerData } from "node:worker_threads";
import type { DeviceInstance } from "../../../src/machine/device-table.ts";
import { IoBus } from "../../../src/machine/io-bus.ts";

export interface BusWorkerData {
  memory: WebAssembly.Memory;
  devices: readonly DeviceInstance[];
  port: number;
  isWriter: boolean;
  /** i32s: ends the worker when it is not 0; accesses so far. */
  shared: Int32Array;
}

const { memory, devices, port, isWriter, shared } = workerData as BusWorkerData;
const bus = new IoBus(memory, devices, () => {});
let last: number | undefined;
while (Atomics.load(shared, 0) === 0) {
  const count = Atomics.load(shared, 1);
  if (isWriter) {
    bus.write(port, 1, count & 0xff);
  } else {
    const value = bus.read(port, 1) & 0xff;
    if (value !== last) parentPort!.postMessage(value);
    last = value;
  }
  Atomics.store(shared, 1, count + 1);
}
