// SPDX-License-Identifier: Apache-2.0
// A VM on KVM: builds the kernel's side, starts the vCPU workers, stops and starts them, saves and restores their state.
import {
  CONTROL_DIRTY_RING_ENTRIES,
  CONTROL_RAM_PAGES,
  DIRTY_RING_BASE,
  DIRTY_RING_STRIDE_BYTES,
  KVM_RUN_BASE,
  KVM_RUN_STRIDE_BYTES,
  PAGE_SIZE_BYTES,
  VCPU_STATE_GONE,
  VCPU_STATE_PARKED,
} from "../../../assembly/layout.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import { KvmSystem, type KvmVcpu, type KvmVm } from "../../../ffi/kvm/kvm.ts";
import { mapAnonymousOver } from "../../../ffi/mmap.ts";
import { getTid } from "../../../ffi/process.ts";
import { blockKickSignal, consumeKickSignal } from "../../../ffi/signal.ts";
import { describeError, VmmError } from "../../errors.ts";
import { KVM_IDENTITY_MAP_GPA, KVM_TSS_GPA } from "../../machine/board.ts";
import type { InitialVcpuState } from "../../machine/boot/types.ts";
import type { RestoreOptions } from "../../machine/clock-origin.ts";
import { busOnDemand } from "../../machine/io-bus.ts";
import { importEntry } from "../../runtime/entry.ts";
import type { StateReader } from "../../state/reader.ts";
import type { BindSection, StateWriter } from "../../state/writer.ts";
import { refuseMissingFeatures } from "../missing-features.ts";
import { setBootState } from "../state/boot-state.ts";
import { capturePowerOnState, type PowerOnState } from "../state/power-on.ts";
import { createRehearsal } from "../state/rehearsal.ts";
import { VmState } from "../state/saved-state.ts";
import { writeTsc } from "../state/tsc.ts";
import { restoreVcpu, VCPU_SECTION } from "../state/vcpu-state.ts";
import { restoreVm } from "../state/vm-state.ts";
import type { AcceleratedVm, AcceleratorOptions, DirtyTracker, Rehearsal } from "../types.ts";
import { START_TIMEOUT_MS, VcpuThreads } from "../vcpu-threads.ts";
import type { VcpuWorker } from "../vcpu-worker-handle.ts";
import { leaveKvmRun, makeKickRehearsal } from "./kick.ts";
import { cpuidsFor, createIrqchips, createScratch } from "./power-on.ts";
import { VcpuRunner } from "./run-loop.ts";
import type { VcpuWorkerStart } from "./vcpu-worker.ts";

/** How long the guest runs on the main thread before that starts the first vCPU's own. */
const FIRST_SLICE_MS = 2;

export interface KvmVmOptions extends AcceleratorOptions {
  /** CPUIDs to give the vCPUs: an update carries them. Made for this host when absent. */
  cpuids?: readonly Uint8Array[];
  /** The CPUIDs were made by another host, or before this one booted: what it lacks of them is refused. */
  isFromElsewhere?: boolean;
  /** Workers of the accelerator that is wanted first, started beforehand, by vCPU. */
  workers?: readonly (VcpuWorker | undefined)[];
}

export class KvmAcceleratedVm implements AcceleratedVm {
  readonly name = "kvm";
  // Debian's kernels, in the lab: 1.2 to 1.6 times slower, xz four times; and the kernel's own unpacking has KASLR.
  readonly prefersUnpackedKernel = false;
  readonly #options: KvmVmOptions;
  readonly #system: KvmSystem;
  readonly #vm: KvmVm;
  readonly #memory: Uint8Array;
  readonly #vcpus: KvmVcpu[] = [];
  readonly #threads: VcpuThreads;
  readonly #runSizeBytes: number;
  readonly #cpuids: readonly Uint8Array[];
  readonly #state: VmState;
  #powerOn: PowerOnState | undefined;
  /** The vCPUs have had another state than that of power-on. */
  #hasRestored = false;
  /** The first vCPU's thread is there already, and waits for the vCPU to be offered. */
  #awaitsOffer = false;
  /** Runs the first vCPU on the main thread: see `runLent`. */
  #lender: VcpuRunner | undefined;
  #tracker: DirtyTracker | undefined;

  /** @throws VmmError "cpu-features", "kvm-unavailable" when /dev/kvm cannot be used, SysError when the kernel refuses a step */
  constructor(options: KvmVmOptions) {
    this.#options = options;
    this.#memory = new Uint8Array(options.memory.buffer);
    this.#system = openKvm();
    this.#runSizeBytes = this.#system.vcpuMmapSizeBytes();
    this.#cpuids = options.cpuids ?? cpuidsFor(this.#system, options.cpu.topology, options.cpu.features);
    if (options.isFromElsewhere) this.#refuseMissingFeatures();
    this.#vm = this.#system.createVm();
    this.#vm.setUserMemoryRegion(0, 0, options.ramSizeBytes, this.#memory, options.ramBase);
    this.#vm.setTssAddr(KVM_TSS_GPA);
    this.#vm.setIdentityMapAddr(KVM_IDENTITY_MAP_GPA);
    createIrqchips(this.#vm);
    const ringSizeBytes = this.#enableDirtyRing();
    for (let index = 0; index < options.cpuCount; index++) {
      const vcpu = this.#vm.createVcpu(index);
      vcpu.setCpuid2(this.#cpuids[index]!);
      vcpu.mapRun(this.#memory, KVM_RUN_BASE + index * KVM_RUN_STRIDE_BYTES, this.#runSizeBytes);
      if (ringSizeBytes > 0) {
        vcpu.mapDirtyRing(this.#memory, DIRTY_RING_BASE + index * DIRTY_RING_STRIDE_BYTES, ringSizeBytes);
      }
      vcpu.unblockSignalsInRun();
      this.#vcpus.push(vcpu);
    }
    this.#threads = new VcpuThreads({
      ...options,
      accelerator: "kvm",
      makeKick: (control, index) => {
        const run = this.#memory.subarray(KVM_RUN_BASE + index * KVM_RUN_STRIDE_BYTES);
        return () => leaveKvmRun(control, run);
      },
    });
    this.#state = new VmState({
      system: this.#system,
      vm: this.#vm,
      vcpus: this.#vcpus,
      cpuids: this.#cpuids,
      tscOrigin: "host",
    });
  }

  #refuseMissingFeatures(): void {
    try {
      const hasTscDeadline = this.#system.checkExtension(abi.KVM_CAP_TSC_DEADLINE_TIMER) > 0;
      refuseMissingFeatures(this.#cpuids[0]!, this.#system.supportedCpuid(), hasTscDeadline);
    } catch (error) {
      this.#system.close();
      throw error;
    }
  }

  /** Size of each vCPU's ring, 0 for none. KVM takes it only before there are vCPUs. */
  #enableDirtyRing(): number {
    const { memory, dirtyRingEntries = 0, ramSizeBytes } = this.#options;
    const words = new Uint32Array(memory.buffer);
    words[CONTROL_DIRTY_RING_ENTRIES >> 2] = dirtyRingEntries;
    if (dirtyRingEntries === 0) return 0;
    words[CONTROL_RAM_PAGES >> 2] = ramSizeBytes / PAGE_SIZE_BYTES;
    const sizeBytes = dirtyRingEntries * abi.KVM_DIRTY_GFN_SIZE_BYTES;
    for (const capability of [abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, abi.KVM_CAP_DIRTY_LOG_RING]) {
      const maximumBytes = this.#vm.checkExtension(capability);
      if (maximumBytes === 0) continue;
      if (sizeBytes > maximumBytes) {
        const maximum = maximumBytes / abi.KVM_DIRTY_GFN_SIZE_BYTES;
        throw new VmmError(
          "dirty-ring",
          `dirty-ring-size=${dirtyRingEntries}: this host's KVM takes ${maximum} at most`,
        );
      }
      this.#vm.enableCap(capability, sizeBytes);
      return sizeBytes;
    }
    throw new VmmError(
      "dirty-ring",
      "dirty-ring-size: this host's KVM has no dirty rings (Linux ≥ 5.11 does on Intel and AMD); leave it out",
    );
  }

  failures(): string[] {
    return this.#vcpus.flatMap((_, index) => {
      const { failure, failureDetail } = this.#threads.control(index);
      return failure === 0 ? [] : [`vCPU ${index}: KVM exit reason ${failure}, detail ${failureDetail}`];
    });
  }

  vcpuThreadIds(): number[] {
    return this.#threads.ids();
  }

  setIrqLine(gsi: number, level: number): void {
    this.#vm.setIrqLine(gsi, level);
  }

  reset(boot: InitialVcpuState): void {
    this.#hasRestored = true;
    const { reader } = this.#getPowerOn();
    restoreVm(reader, this.#vm);
    for (const [index, vcpu] of this.#vcpus.entries()) {
      restoreVcpu(vcpu, reader.section(VCPU_SECTION, index));
      // The offset was that of a TSC at the host's frequency.
      if (this.#state.scaledTscKhz !== undefined) writeTsc(vcpu, 0n);
    }
    setBootState(this.#vcpus[0]!, boot);
    // The guest has been loaded anew, all over RAM.
    this.markDirty(0, this.#options.ramSizeBytes);
  }

  async dirtyTracker(): Promise<DirtyTracker> {
    const { openDirtyTracker } = await importEntry<typeof import("./dirty.ts")>("accel/kvm/dirty.ts");
    const { memory, ramBase, ramSizeBytes, cpuCount } = this.#options;
    this.#tracker ??= openDirtyTracker({ vmFd: this.#vm.fd, memory, ramBase, ramSizeBytes, cpuCount });
    return this.#tracker;
  }

  markDirty(gpa: number, sizeBytes: number): void {
    this.#tracker?.markDirty(gpa, sizeBytes);
  }

  throttle(percent: number): void {
    this.#threads.throttle(percent);
  }

  run(): void {
    this.#threads.notePause(this.#vcpus);
    this.#threads.requestRun();
    this.#offerUnlent();
    this.#threads.start((index) => this.#startOf(index));
  }

  allRun(): boolean {
    return this.#threads.allRun();
  }

  /** The first vCPU's thread, if it waits for the main thread to have run the vCPU, gets it without that. */
  #offerUnlent(): void {
    if (!this.#awaitsOffer) return;
    this.#awaitsOffer = false;
    const control = this.#threads.control(0);
    control.state = VCPU_STATE_PARKED;
    control.offer();
  }

  runLent(): void {
    const control = this.#threads.control(0);
    this.#lender ??= this.#makeLender();
    this.#threads.requestRun();
    this.#threads.start((index) => this.#startOf(index), { from: 1 });
    try {
      // Making a worker takes the main thread 0.5 ms. The guest has stood long enough: it runs for a moment first. One that is
      // late takes the vCPU, parked by then, when it comes; one that dies reports that itself.
      this.#lender.lend(FIRST_SLICE_MS, START_TIMEOUT_MS, () => {
        this.#threads.start((index) => this.#startOf(index, { isLent: true, isWarm: true }));
        this.#awaitsOffer = false;
        control.offer();
      });
    } catch (error) {
      control.state = VCPU_STATE_GONE;
      this.#options.onVcpuError(0, describeError(error));
    }
    this.#lender.close();
  }

  /** The first vCPU on the main thread. */
  #makeLender(): VcpuRunner {
    blockKickSignal();
    consumeKickSignal();
    const { memory, devices } = this.#options;
    const control = this.#threads.control(0);
    control.tid = getTid();
    const bus = busOnDemand(memory, devices, (gsi, level) => this.#vm.setIrqLine(gsi, level));
    return new VcpuRunner(this.#vcpus[0]!, 0, memory, control, bus);
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
    // Only where it is known already: finding out takes a VM of its own.
    this.#state.restore(reader, options, this.#hasRestored ? undefined : this.#powerOn?.reader);
    this.#hasRestored = true;
  }

  rehearse(): Rehearsal {
    const scratch = createScratch(this.#system, this.#cpuids);
    return createRehearsal(scratch, this.#getPowerOn(), makeKickRehearsal(), this.#state.scaledTscKhz);
  }

  async prepareToRun(): Promise<void> {
    this.#threads.start((index) => this.#startOf(index, { isLent: index === 0, isWarm: true }));
    this.#awaitsOffer = true;
    this.#lender = this.#makeLender();
    this.#lender.warmUp();
    await this.#threads.whenReady();
  }

  async close(): Promise<void> {
    this.#threads.end(() => this.#offerUnlent());
    this.#lender?.close();
    for (const [index, vcpu] of this.#vcpus.entries()) {
      mapAnonymousOver(this.#memory, KVM_RUN_BASE + index * KVM_RUN_STRIDE_BYTES, this.#runSizeBytes);
      const { dirtyRingEntries = 0 } = this.#options;
      if (dirtyRingEntries > 0) {
        const sizeBytes = dirtyRingEntries * abi.KVM_DIRTY_GFN_SIZE_BYTES;
        mapAnonymousOver(this.#memory, DIRTY_RING_BASE + index * DIRTY_RING_STRIDE_BYTES, sizeBytes);
      }
      vcpu.close();
    }
    this.#vm.close();
    this.#system.close();
  }

  #startOf(index: number, { isLent = false, isWarm = false } = {}): VcpuWorkerStart {
    const { memory, devices } = this.#options;
    return { memory, index, vcpuFd: this.#vcpus[index]!.fd, vmFd: this.#vm.fd, devices, isLent, isWarm };
  }

  #getPowerOn(): PowerOnState {
    this.#powerOn ??= capturePowerOnState(createScratch(this.#system, this.#cpuids));
    return this.#powerOn;
  }
}

function openKvm(): KvmSystem {
  try {
    return new KvmSystem();
  } catch (error) {
    throw new VmmError("kvm-unavailable", "KVM cannot be used on this machine (-accel wasm does without)", {
      cause: error,
    });
  }
}
