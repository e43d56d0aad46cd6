// SPDX-License-Identifier: Apache-2.0
// Programs within the program: what is loaded only when it is needed, and worker threads; on Bun, on Deno and in the
// compiled binary.
//
// What an update must load before the guest runs again is in `cli/main.ts` and what it imports; the time that takes
// grows with its size, by about 0.5 ms for 100 KB. Everything else is reached from there through `importEntry`.
import { VmmError } from "../errors.ts";

/**
 * The entry points, as paths below `src/`. In the compiled binary each is a bundle that has its own copy of the modules
 * it imports: a class of one is not the class of the other (no `instanceof` across them), and neither is a module's
 * state.
 */
export const ENTRIES = [
  "cli/main.ts",
  "cli/run.ts",
  "cli/demo.ts",
  "cli/dry-run.ts",
  "cli/guard.ts",
  "cli/image.ts",
  "cli/init.ts",
  "cli/migrate.ts",
  "cli/state.ts",
  "cli/status.ts",
  "cli/update.ts",
  "machine/guest-start.ts",
  "machine/module-trial.ts",
  "migration/command-line.ts",
  "sandbox/enter.ts",
  "migration/ram/worker.ts",
  "migration/channel/tls-worker.ts",
  "accel/kvm/dirty.ts",
  "accel/kvm/vcpu-worker.ts",
  "accel/wasm/cpuid.ts",
  "accel/wasm/vm.ts",
  "accel/wasm/vcpu-worker.ts",
  "backends/poll-worker.ts",
  "meter/worker.ts",
] as const;
export type Entry = (typeof ENTRIES)[number];

/** Where `bun build --compile` puts its entry points: their paths below `src/`, the `--root` of tools/build.ts. */
const EMBEDDED_ROOT = "/$bunfs/root/";

/** Whether this is the compiled binary, and not a runtime with a script. */
export function isCompiled(): boolean {
  const { Bun: bun } = globalThis as { Bun?: { main: string } };
  return bun?.main.startsWith(EMBEDDED_ROOT) === true;
}

/**
 * In the compiled binary `import.meta.url` must not be used: with `--bytecode` it is the path of the source file on the
 * machine that built it.
 */
export function entryUrl(path: Entry): string {
  if (isCompiled()) return `file://${EMBEDDED_ROOT}${path}`;
  return new URL(`../${path}`, import.meta.url).href;
}

/** `import(path)` of a module that is an entry point. `Module` is `typeof import(path)`. */
export function importEntry<Module>(path: Entry): Promise<Module> {
  return import(entryUrl(path));
}

/**
 * Starts the worker whose file is `path`. `onDeath` hears of an error that the worker did not catch; a worker that
 * closes itself is no death.
 */
export function spawnWorker(path: Entry, onDeath: (error: VmmError) => void): Worker {
  const worker = new Worker(entryUrl(path), { type: "module" });
  worker.addEventListener("error", (event) => {
    // Unless it is prevented, Deno raises the error again in this thread.
    event.preventDefault();
    onDeath(new VmmError("worker-died", `Worker ${path} died: ${event.message}`));
  });
  return worker;
}
