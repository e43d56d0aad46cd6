// SPDX-License-Identifier: Apache-2.0
// Starting worker threads, on Bun, on Deno and in the compiled binary.
import { VmmError } from "../errors.ts";

/** Where `bun build --compile` puts its entry points: their paths below the folder they have in common, `src/`. */
const EMBEDDED_ROOT = "/$bunfs/root/";

/**
 * In the compiled binary `import.meta.url` must not be used: with `--bytecode` it is the path of the source file on the
 * machine that built it.
 */
export function entryUrl(path: string): string {
  const { Bun: bun } = globalThis as { Bun?: { main: string } };
  if (bun?.main.startsWith(EMBEDDED_ROOT)) return `file://${EMBEDDED_ROOT}${path}`;
  return new URL(`../${path}`, import.meta.url).href;
}

/**
 * Starts the worker whose file is `path` below `src/` (`backends/poll-worker.ts`); tools/build.ts must list it as an
 * entry point. `onDeath` hears of an error that the worker did not catch; a worker that closes itself is no death.
 */
export function spawnWorker(path: string, onDeath: (error: VmmError) => void): Worker {
  const worker = new Worker(entryUrl(path), { type: "module" });
  worker.addEventListener("error", (event) => {
    // Unless it is prevented, Deno raises the error again in this thread.
    event.preventDefault();
    onDeath(new VmmError("worker-died", `Worker ${path} died: ${event.message}`));
  });
  return worker;
}
