// SPDX-License-Identifier: Apache-2.0
// A vCPU that only writes THR: sends the 128 bytes from `firstByte` up, `rounds` times.
import { workerData } from "node:worker_threads";
import { instantiateDevice } from "../../../src/machine/device-module.ts";

export interface UartWorkerData {
  memory: WebAssembly.Memory;
  state: number;
  firstByte: number;
  rounds: number;
}

const { memory, state, firstByte, rounds } = workerData as UartWorkerData;
const uart = instantiateDevice("uart16550", memory, {
  setIrq: () => {},
  signal: () => {},
  monotonicNs: () => 0n,
  realtimeNs: () => 0n,
  takeOutput: () => 0,
});
for (let round = 0; round < rounds; round++) {
  for (let byte = 0; byte < 128; byte++) uart.write(state, 0, 1, firstByte + byte);
}
