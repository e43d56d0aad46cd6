// SPDX-License-Identifier: Apache-2.0
// The main thread's hold on a vCPU worker. Started as early as possible, told later what to run.
import type { AcceleratorName } from "../config/types.ts";
import type { VmmError } from "../errors.ts";
import { spawnWorker } from "../runtime/entry.ts";
import type { VcpuWorkerStart } from "./kvm/vcpu-worker.ts";
import type { EngineWorkerStart } from "./wasm/vcpu-worker.ts";

/** What a worker is told to run. */
export type WorkerStart = VcpuWorkerStart | EngineWorkerStart;

export class VcpuWorker {
  readonly #worker: Worker;
  #death: VmmError | undefined;
  #onDeath: ((error: VmmError) => void) | undefined;

  constructor(accelerator: AcceleratorName) {
    this.#worker = spawnWorker(`accel/${accelerator}/vcpu-worker.ts`, (error) => {
      this.#death = error;
      this.#onDeath?.(error);
    });
  }

  /** Calls `handler` when the worker dies, at once when it is dead already. */
  onDeath(handler: (error: VmmError) => void): void {
    this.#onDeath = handler;
    if (this.#death !== undefined) handler(this.#death);
  }

  start(message: WorkerStart): void {
    this.#worker.postMessage(message);
  }

  terminate(): void {
    this.#worker.terminate();
  }
}
