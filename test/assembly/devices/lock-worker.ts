// SPDX-License-Identifier: Apache-2.0
// A thread that holds a device's lock until somebody sleeps on it, and then lets go as an update would: silently.
import { parentPort, workerData } from "node:worker_threads";

export interface LockWorkerData {
  memory: WebAssembly.Memory;
  lockAddress: number;
}

const { memory, lockAddress } = workerData as LockWorkerData;
const words = new Int32Array(memory.buffer);
const lock = lockAddress >> 2;
const [FREE, HELD, CONTENDED] = [0, 1, 2];

Atomics.store(words, lock, HELD);
parentPort!.postMessage("held");
// Nobody notifies here: the sleep only spares the processor.
const idle = new Int32Array(new SharedArrayBuffer(4));
while (Atomics.load(words, lock) !== CONTENDED) Atomics.wait(idle, 0, 0, 1);
Atomics.store(words, lock, FREE);
