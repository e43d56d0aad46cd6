// SPDX-License-Identifier: Apache-2.0
// What an accelerator is to the rest of the VMM: it runs vCPUs and gives their state in KVM's own structs.
import type { CpuModel } from "../config/types.ts";
import type { InitialVcpuState } from "../machine/boot/types.ts";
import type { RestoreOptions } from "../machine/clock-origin.ts";
import type { DeviceInstance } from "../machine/device-table.ts";
import type { StateReader } from "../state/reader.ts";
import type { BindSection, StateWriter } from "../state/writer.ts";

export interface AcceleratorOptions {
  memory: WebAssembly.Memory;
  /** Where guest physical 0 is in `memory`. */
  ramBase: number;
  ramSizeBytes: number;
  cpuCount: number;
  cpu: {
    /** Default: what the accelerator has. */
    model?: CpuModel;
    topology: { sockets: number; cores: number; threads: number };
    features: Record<string, boolean>;
  };
  devices: readonly DeviceInstance[];
  /** KVM: entries of each vCPU's dirty ring, a power of two. Absent or 0: dirty log. */
  dirtyRingEntries?: number;
  /** A vCPU stopped for good: what happened, for the log and for `internal-error`. */
  onVcpuError(index: number, message: string): void;
}

/** A VM that never runs, to try saving and restoring on. */
export interface Rehearsal {
  /** Does all that parking takes, but nobody is stopped. */
  park(): void;
  /** Adds the sections that the real VM would, with power-on values. */
  planState(writer: StateWriter): BindSection;
  restoreState(reader: StateReader, options?: RestoreOptions): void;
  close(): void;
}

/** Finds the pages of guest RAM that were written. Bitmaps have the form of assembly/dirty/scan.ts. */
export interface DirtyTracker {
  readonly isOn: boolean;
  /** Starts with a clean slate. May take the time of a walk over all page tables: never call it in a pause. */
  start(): void;
  /**
   * Adds the pages written since the last call to the bitmap at `bitmap`, an address in the linear memory, and begins anew. A
   * page that is written while, or after, it is read by the caller is found by the next call. The first call after
   * `start` may report all of RAM.
   */
  collect(bitmap: number): void;
  stop(): void;
  /** The VMM has written guest RAM by itself, and has finished doing so. */
  markDirty(gpa: number, sizeBytes: number): void;
}

/** A VM on one accelerator: the vCPUs, the interrupt controllers and the clocks. */
export interface AcceleratedVm {
  readonly name: "kvm" | "wasm";
  /** A compressed Linux kernel runs sooner here when the VMM unpacks it than when it does that itself. */
  readonly prefersUnpackedKernel: boolean;
  /** Linux thread ids of the vCPUs, for query-cpus-fast. */
  vcpuThreadIds(): number[];
  /** vCPUs that stopped for good, and what the accelerator said of it. */
  failures(): string[];
  setIrqLine(gsi: number, level: number): void;
  /** Power-on state for all vCPUs and interrupt controllers; vCPU 0 starts as `boot` says. The vCPUs must be parked. */
  reset(boot: InitialVcpuState): void;
  /** Lets all vCPUs run. */
  run(): void;
  /** Whether every vCPU has begun to run since `run`: on a host that has much to do its thread may have to wait for a CPU first. */
  allRun(): boolean;
  /**
   * The first `run` of a restored VM: the guest runs before its threads are up, because the main thread stands in for
   * one of them. Blocks for that long: a few milliseconds, at most a minute on a machine that starves the thread.
   */
  runLent(): void;
  /**
   * Parks all vCPUs and waits until none runs. `onRequested` is called in between, to let go of a vCPU that waits for
   * the main thread. @throws VmmError "vcpu-stuck" after `timeoutMs`, 5 s by default; the request is taken back then.
   */
  park(onRequested?: () => void, timeoutMs?: number): void;
  /**
   * Has all vCPUs park, and waits `timeoutMs` for each: one that has not parked by then is held up inside of the accelerator, and
   * will park as soon as it is not. No error.
   */
  parkSoon(timeoutMs: number): void;
  /** The VM's tracker, made at the first call. */
  dirtyTracker(): Promise<DirtyTracker>;
  /** To be called after every write to guest RAM that is not the guest's own. Costs nothing while nobody tracks. */
  markDirty(gpa: number, sizeBytes: number): void;
  /** Keeps all vCPUs from running for `percent` (0 to 99) of their time, so that they write less. They still park at once. */
  throttle(percent: number): void;
  /** Adds the sections of this accelerator to a state image. */
  planState(writer: StateWriter): BindSection;
  /** Takes over saved state. The vCPUs must be parked and not have run yet. @throws VmmError "state-refused" */
  restoreState(reader: StateReader, options?: RestoreOptions): void;
  /** A VM of the same make to rehearse on. */
  rehearse(): Rehearsal;
  /** Does all that `runLent` would have to do but for the state: threads are there when it is called. */
  prepareToRun(): Promise<void>;
  /** Ends the workers and releases the accelerator. */
  close(): Promise<void>;
}
