// SPDX-License-Identifier: Apache-2.0
// A vCPU that does nothing but port I/O, of bytes: reads a port again and again and notes what it sees change, or writes
// the numbers from 0 up to a port.
import { workerData } from "node:worker_threads";
import type { DeviceInstance } from "../../../src/machine/device-table.ts";
import { IoBus } from "../../../src/machine/io-bus.ts";

export interface BusWorkerData {
  memory: WebAssembly.Memory;
  devices: readonly DeviceInstance[];
  port: number;
  isWriter: boolean;
  /** i32s: ends the worker when it is not 0; accesses so far; the byte last read; how often that changed. */
  shared: Int32Array;
}

const { memory, devices, port, isWriter, shared } = workerData as BusWorkerData;
const bus = new IoBus(memory, devices, () => {});
let last = -1;
while (Atomics.load(shared, 0) === 0) {
  const count = Atomics.load(shared, 1);
  if (isWriter) {
    bus.write(port, 1, count & 0xff);
  } else {
    const value = bus.read(port, 1) & 0xff;
    if (value !== last) Atomics.add(shared, 3, 1);
    last = value;
    Atomics.store(shared, 2, value);
  }
  Atomics.store(shared, 1, count + 1);
}
