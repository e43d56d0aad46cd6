// SPDX-License-Identifier: Apache-2.0
// Runs garbage in a thread of its own: a case that does not come back can be told from outside.
import { parentPort, workerData } from "node:worker_threads";
import { Fuzzer, type Statistics } from "./fuzz.ts";

export interface FuzzWorkerData {
  seed: number;
  durationMs: number;
  /** i32: the case that is running. */
  progress: SharedArrayBuffer;
}

export interface FuzzResult {
  statistics?: Statistics;
  error?: string;
}

function fuzz({ seed, durationMs, progress }: FuzzWorkerData): FuzzResult {
  const current = new Int32Array(progress);
  try {
    const fuzzer = new Fuzzer(seed);
    const end = performance.now() + durationMs;
    let number = 0;
    for (; performance.now() < end; number++) {
      Atomics.store(current, 0, number);
      fuzzer.runCase(number);
    }
    fuzzer.check(number);
    return { statistics: fuzzer.statistics };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

parentPort!.postMessage(fuzz(workerData as FuzzWorkerData));
