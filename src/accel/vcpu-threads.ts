// SPDX-License-Identifier: Apache-2.0
// The main thread's hold on all vCPU threads of a VM: has them start, run, park, slow down and end. It does so by the control
// blocks (vcpu-control.ts), which are the same on every accelerator; how a vCPU leaves the guest, and what its
// thread has to know, is the accelerator's.
import {
  VCPU_REQUEST_EXIT,
  VCPU_REQUEST_RUN,
  VCPU_STATE_GONE,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
} from "../../assembly/layout.ts";
import type { AcceleratorName } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { kick, PARK_TIMEOUT_MS, type ParkableVcpu, park, requestParking } from "./parking.ts";
import type { AcceleratorOptions } from "./types.ts";
import { VcpuControl } from "./vcpu-control.ts";
import { VcpuWorker, type WorkerStart } from "./vcpu-worker-handle.ts";

/** A worker starts in some milliseconds, but on a machine with more important things to do it may take seconds. */
export const START_TIMEOUT_MS = 60_000;
const START_POLL_MS = 1;

export interface VcpuThreadsOptions extends Pick<AcceleratorOptions, "memory" | "cpuCount" | "onVcpuError"> {
  accelerator: AcceleratorName;
  /** Workers that were made beforehand, by vCPU. */
  workers?: readonly (VcpuWorker | undefined)[];
  /** Gives what has a vCPU that runs leave the guest and look at its request. */
  makeKick(control: VcpuControl, index: number): () => void;
}

interface VcpuThread extends ParkableVcpu {
  worker: VcpuWorker | undefined;
  /** The worker has been told what to run. */
  isStarted: boolean;
}

export class VcpuThreads {
  readonly #options: VcpuThreadsOptions;
  readonly #threads: VcpuThread[] = [];
  #hasRun = false;

  /** Without threads yet: see `start`. */
  constructor(options: VcpuThreadsOptions) {
    this.#options = options;
    for (let index = 0; index < options.cpuCount; index++) {
      const control = new VcpuControl(options.memory, index);
      control.clear();
      const leaveGuest = options.makeKick(control, index);
      this.#threads.push({ index, control, leaveGuest, worker: options.workers?.[index], isStarted: false });
    }
  }

  control(index: number): VcpuControl {
    return this.#threads[index]!.control;
  }

  /** Linux thread ids. */
  ids(): number[] {
    return this.#threads.map(({ control }) => control.tid);
  }

  /** Starts those from vCPU `from` on that have not been started, each with what `makeStart` gives for it. */
  start(makeStart: (index: number) => WorkerStart, { from = 0 } = {}): void {
    const { accelerator, onVcpuError } = this.#options;
    for (let index = from; index < this.#threads.length; index++) {
      const thread = this.#threads[index]!;
      if (thread.isStarted) continue;
      thread.isStarted = true;
      thread.worker ??= new VcpuWorker(accelerator);
      thread.worker.onDeath((error) => onVcpuError(index, describeError(error)));
      thread.worker.start(makeStart(index));
    }
  }

  /** Resolves when all have come as far as they can before the guest may run. @throws VmmError "vcpu-stuck" */
  async whenReady(): Promise<void> {
    const deadlineMs = performance.now() + START_TIMEOUT_MS;
    const isReady = ({ control }: VcpuThread): boolean => control.state === VCPU_STATE_PARKED || control.isOfferAwaited;
    while (!this.#threads.every(isReady)) {
      if (performance.now() > deadlineMs) {
        throw new VmmError("vcpu-stuck", `A vCPU's thread did not start within ${START_TIMEOUT_MS / 1000} s`);
      }
      await new Promise((resolve) => setTimeout(resolve, START_POLL_MS));
    }
  }

  /** Tells the guest's watchdogs that it was stopped for as long as it was: `vcpus` are the accelerator's. Before `requestRun`. */
  notePause(vcpus: readonly { notePause(): void }[]): void {
    // Only of parked vCPUs: KVM's ioctl would wait for one that runs until it leaves the guest by itself.
    for (const { index, control } of this.#threads) if (control.state === VCPU_STATE_PARKED) vcpus[index]!.notePause();
  }

  /** Lets all vCPUs run. Threads that are started later look at it then. */
  requestRun(): void {
    for (const { control } of this.#threads) control.request = VCPU_REQUEST_RUN;
    this.#hasRun = true;
  }

  /** See `AcceleratedVm.allRun`. */
  allRun(): boolean {
    return this.#threads.every(({ control: { state } }) => state === VCPU_STATE_RUNNING || state === VCPU_STATE_GONE);
  }

  /** See `AcceleratedVm.park`. */
  park(onRequested?: () => void, timeoutMs?: number): void {
    // Before the first run nobody is in the guest, and a thread that died will never answer.
    const vcpus: VcpuThread[] = [];
    for (const thread of this.#threads) {
      if (this.#hasRun && thread.isStarted && thread.control.state !== VCPU_STATE_GONE) vcpus.push(thread);
    }
    park(this.#options.memory, vcpus, onRequested, timeoutMs);
  }

  /** See `AcceleratedVm.parkSoon`. */
  parkSoon(timeoutMs: number): void {
    requestParking(this.#threads);
    for (const { control } of this.#threads) {
      if (control.state === VCPU_STATE_RUNNING) control.waitForState(VCPU_STATE_PARKED, timeoutMs);
    }
  }

  /** See `AcceleratedVm.throttle`. */
  throttle(percent: number): void {
    if (!(percent >= 0 && percent <= 99))
      throw new RangeError(`A vCPU is throttled by 0 to 99 percent, not ${percent}`);
    for (const thread of this.#threads) {
      thread.control.throttlePercent = Math.floor(percent);
      // One that runs without exits would not look.
      kick(thread);
    }
  }

  /**
   * Ends all threads and waits for that: what they use must not become something else before. `onRequested` is called in
   * between, to let go of one that waits for the main thread.
   */
  end(onRequested?: () => void): void {
    for (const { control } of this.#threads) control.request = VCPU_REQUEST_EXIT;
    for (const thread of this.#threads) kick(thread);
    onRequested?.();
    for (const { control, worker, isStarted } of this.#threads) {
      if (isStarted) control.waitForState(VCPU_STATE_GONE, PARK_TIMEOUT_MS);
      worker?.terminate();
    }
  }
}
