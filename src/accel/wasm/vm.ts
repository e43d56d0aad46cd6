// SPDX-License-Identifier: Apache-2.0
// A VM on Baton's own CPU engine: starts the vCPU workers, stops and starts them, saves and restores their state. What KVM is
// asked for in other VMs, assembly/cpu/ and assembly/irqchip/ do here. An entry point of its own: no update of a VM on KVM
// needs it.
import { CACHE_CPUID, CPU_PENDING, CPU_PENDING_REQUEST, CPUID_MAX_SIZE_BYTES } from "../../../assembly/cpu/layout.ts";
import {
  CPU_CACHES_BASE,
  CPU_CACHES_STRIDE_BYTES,
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  VCPU_STATE_GONE,
  VCPU_STATE_RUNNING,
} from "../../../assembly/layout.ts";
import { VmmError } from "../../errors.ts";
import type { InitialVcpuState } from "../../machine/boot/types.ts";
import type { RestoreOptions } from "../../machine/clock-origin.ts";
import type { StateReader } from "../../state/reader.ts";
import type { BindSection, StateWriter } from "../../state/writer.ts";
import { makeParkingRehearsal } from "../parking.ts";
import { setBootState } from "../state/boot-state.ts";
import { capturePowerOnState, type PowerOnState } from "../state/power-on.ts";
import { createRehearsal } from "../state/rehearsal.ts";
import { VmState } from "../state/saved-state.ts";
import type { AcceleratedVm, AcceleratorOptions, DirtyTracker, Rehearsal } from "../types.ts";
import { START_TIMEOUT_MS, VcpuThreads } from "../vcpu-threads.ts";
import type { VcpuWorker } from "../vcpu-worker-handle.ts";
import { engineCpuid, engineCpuids } from "./cpuid.ts";
import { EngineDirtyTracker, PageFlags } from "./dirty.ts";
import { refuseOtherCpus, refuseSmpOfOtherHosts } from "./features.ts";
import { createMachine, createScratch, type EngineMachine, powerOn } from "./machine.ts";
import { setPending } from "./sleep.ts";

export interface EngineVmOptions extends AcceleratorOptions {
  /** CPUIDs to give the vCPUs: an update carries them. The engine's own when absent. */
  cpuids?: readonly Uint8Array[];
  /** Workers that were started beforehand, by vCPU. */
  workers?: readonly (VcpuWorker | undefined)[];
}

export class EngineVm implements AcceleratedVm {
  readonly name = "wasm";
  readonly prefersUnpackedKernel = true;
  readonly #options: EngineVmOptions;
  readonly #cpuids: readonly Uint8Array[];
  readonly #machine: EngineMachine;
  readonly #state: VmState;
  readonly #pageFlags: PageFlags;
  readonly #threads: VcpuThreads;
  #powerOn: PowerOnState | undefined;
  #tracker: EngineDirtyTracker | undefined;

  /** @throws VmmError "cpu-features" for a guest that may use what the engine does not have, "smp" for one of several vCPUs */
  constructor(options: EngineVmOptions) {
    const { memory, cpuCount, cpu, ramBase, ramSizeBytes } = options;
    this.#options = options;
    refuseSmpOfOtherHosts(cpuCount);
    if (options.cpuids !== undefined) refuseOtherCpus(options.cpuids[0]!, engineCpuid(cpuCount));
    this.#cpuids = options.cpuids ?? engineCpuids(cpu.topology, cpu.features);
    this.#pageFlags = new PageFlags(memory, ramSizeBytes, cpuCount);
    const noteWrite = (gpa: number): void => this.#pageFlags.note(gpa, 1);
    this.#machine = createMachine(memory, this.#cpuids, { base: ramBase, sizeBytes: ramSizeBytes, noteWrite });
    this.#state = new VmState(this.#machine);
    for (const [index, cpuid] of this.#cpuids.entries()) {
      if (cpuid.length > CPUID_MAX_SIZE_BYTES) throw new VmmError("state-refused", "The guest's CPUID is too long");
      new Uint8Array(memory.buffer).set(cpuid, CPU_CACHES_BASE + index * CPU_CACHES_STRIDE_BYTES + CACHE_CPUID);
    }
    this.#threads = new VcpuThreads({
      ...options,
      accelerator: "wasm",
      makeKick: (_, index) => makeKick(memory, index),
    });
    // Their threads come as far as the guest's first instruction while it gets its state.
    if (options.workers?.length === cpuCount) this.#startThreads();
  }

  failures(): string[] {
    return [];
  }

  vcpuThreadIds(): number[] {
    return this.#threads.ids();
  }

  setIrqLine(gsi: number, level: number): void {
    this.#machine.irqchip.setIrq(gsi, level);
  }

  reset(boot: InitialVcpuState): void {
    powerOn(this.#machine);
    setBootState(this.#machine.vcpus[0]!, boot);
    // The guest has been loaded anew, all over RAM.
    this.markDirty(0, this.#options.ramSizeBytes);
  }

  async dirtyTracker(): Promise<DirtyTracker> {
    const { memory, ramSizeBytes } = this.#options;
    this.#tracker ??= new EngineDirtyTracker(memory, ramSizeBytes, this.#pageFlags);
    return this.#tracker;
  }

  markDirty(gpa: number, sizeBytes: number): void {
    if (sizeBytes > 0) this.#pageFlags.note(gpa, sizeBytes);
  }

  throttle(percent: number): void {
    this.#threads.throttle(percent);
  }

  run(): void {
    this.#threads.notePause(this.#machine.vcpus);
    this.#threads.requestRun();
    this.#startThreads();
  }

  allRun(): boolean {
    return this.#threads.allRun();
  }

  runLent(): void {
    this.run();
    const control = this.#threads.control(0);
    if (!control.waitForState(VCPU_STATE_RUNNING, START_TIMEOUT_MS) && control.state !== VCPU_STATE_GONE) {
      this.#options.onVcpuError(0, `Its thread did not start within ${START_TIMEOUT_MS / 1000} s`);
    }
  }

  park(onRequested?: () => void, timeoutMs?: number): void {
    this.#threads.park(onRequested, timeoutMs);
  }

  parkSoon(timeoutMs: number): void {
    this.#threads.parkSoon(timeoutMs);
  }

  planState(writer: StateWriter): BindSection {
    return this.#state.plan(writer, this.#getPowerOn().profile);
  }

  restoreState(reader: StateReader, options: RestoreOptions = {}): void {
    this.#state.restore(reader, options);
  }

  rehearse(): Rehearsal {
    const rehearsePark = makeParkingRehearsal((memory) => makeKick(memory, 0));
    return createRehearsal(createScratch(this.#cpuids), this.#getPowerOn(), rehearsePark, this.#state.scaledTscKhz);
  }

  async prepareToRun(): Promise<void> {
    this.#startThreads({ hasTime: true });
    await this.#threads.whenReady();
  }

  async close(): Promise<void> {
    this.#threads.end();
  }

  #startThreads({ hasTime = false } = {}): void {
    const { memory, ramBase, ramSizeBytes, devices } = this.#options;
    this.#threads.start((index) => ({ memory, index, ramBase, ramSizeBytes, devices, hasTime }));
  }

  #getPowerOn(): PowerOnState {
    this.#powerOn ??= capturePowerOnState(createScratch(this.#cpuids));
    return this.#powerOn;
  }
}

/** What has a vCPU leave the guest. */
function makeKick(memory: WebAssembly.Memory, index: number): () => void {
  const words = new Int32Array(memory.buffer);
  const pending = (CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES + CPU_PENDING) >> 2;
  return () => setPending(words, pending, CPU_PENDING_REQUEST);
}

/** For those who load this file when they need it. */
export function createEngineVm(options: EngineVmOptions): AcceleratedVm {
  return new EngineVm(options);
}
