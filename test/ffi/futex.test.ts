// SPDX-License-Identifier: Apache-2.0
import { Worker } from "node:worker_threads";
import { sleep, waitForChange, wakeWaiters } from "../../ffi/futex.ts";
import { assert, describe } from "../harness.ts";

const FOREVER_MS = 3_600_000;

const test = describe("futex");

function sharedWords(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(16));
}

test("waitForChange() returns at once when the word is another", () => {
  const words = sharedWords();
  words[2] = -1;
  waitForChange(words, 2, 0, FOREVER_MS);
});

test("waitForChange() returns when the time is over", () => {
  const words = sharedWords();
  waitForChange(words, 1, 0, 20);
  waitForChange(words, 1, 0, 0);
});

test("waitForChange() takes negative values for what they are", () => {
  const words = sharedWords();
  words[0] = -5;
  waitForChange(words, 0, -5, 1);
});

test("sleep() returns", () => {
  sleep(1);
});

test("wakeWaiters() ends the waits of other threads, in memory of WebAssembly, too", async () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  for (const buffer of [new SharedArrayBuffer(16), memory.buffer]) {
    const words = new Int32Array(buffer);
    const worker = new Worker(new URL("futex-worker.ts", import.meta.url), { workerData: buffer });
    const woken = new Promise<void>((resolve, reject) => {
      worker.once("error", reject);
      worker.once("exit", () => resolve());
    });
    // Word 0 says that it is about to wait for word 1. Who comes a moment too early comes again.
    const timer = setInterval(() => {
      if (Atomics.load(words, 0) === 0) return;
      Atomics.store(words, 1, 1);
      wakeWaiters(words, 1);
    }, 5);
    await woken;
    clearInterval(timer);
    assert.is(Atomics.load(words, 2), 1);
  }
});

test.run();
