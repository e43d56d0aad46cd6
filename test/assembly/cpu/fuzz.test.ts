// SPDX-License-Identifier: Apache-2.0
// A guest that executes garbage ends in a triple fault or goes on. It never harms the engine. For more of it: fuzz/main.ts, or
// BATON_FUZZ_SECONDS.
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { assert, describe } from "../../harness.ts";
import type { FuzzResult, FuzzWorkerData } from "./fuzz/fuzz-worker.ts";
import { MODES } from "./fuzz/guest.ts";

const test = describe("guests that execute garbage");

const SEED = 20_260;
const DURATION_MS = Number(process.env.BATON_FUZZ_SECONDS ?? 10) * 1000;
/** Looks without progress until a case is said to hang: no case takes as much as one. */
const MAX_IDLE_LOOKS = 30;
const LOOK_MS = 1000;

test("every run ends after its budget, and nothing is written but what is the guest's", async () => {
  const progress = new SharedArrayBuffer(4);
  const workerData: FuzzWorkerData = { seed: SEED, durationMs: DURATION_MS, progress };
  const worker = new Worker(new URL("./fuzz/fuzz-worker.ts", import.meta.url), { workerData });
  const current = new Int32Array(progress);
  let idleLooks = 0;
  let last = -1;
  let watch: ReturnType<typeof setInterval> | undefined;
  const hang = new Promise<FuzzResult>((resolve) => {
    watch = setInterval(() => {
      const now = Atomics.load(current, 0);
      idleLooks = now === last ? idleLooks + 1 : 0;
      last = now;
      if (idleLooks >= MAX_IDLE_LOOKS) resolve({ error: `Case ${now} of seed ${SEED} does not come back` });
    }, LOOK_MS);
  });
  const end = once(worker, "message").then(([result]) => result as FuzzResult);
  const { error, statistics } = await Promise.race([end, hang]);
  clearInterval(watch);
  await worker.terminate();
  assert.is(error, undefined, error);
  for (const mode of MODES) assert.ok(statistics!.modes[mode] > 0, `no case of mode ${mode}`);
  assert.ok(statistics!.instructions > 0n);
});

test.run();
