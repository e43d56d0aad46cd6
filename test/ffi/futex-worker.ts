// SPDX-License-Identifier: Apache-2.0
// Waits for word 1 to change, and says so in word 2.
import { workerData } from "node:worker_threads";
import { waitForChange } from "../../ffi/futex.ts";

const words = new Int32Array(workerData);
Atomics.store(words, 0, 1);
while (Atomics.load(words, 1) === 0) waitForChange(words, 1, 0, 3_600_000);
Atomics.store(words, 2, 1);
