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
  VCPU_REQUEST_EXIT,
  VCPU_REQUEST_RUN,
  VCPU_STATE_GONE,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
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
import { IoBus } from "../../machine/io-bus.ts";
import { importEntry } from "../../runtime/entry.ts";
import type { StateReader } from "../../state/reader.ts";
import type { BindSection, StateWriter } from "../../state/writer.ts";
import { refuseMissingFeatures } from "../missing-features.ts";
import { kick, PARK_TIMEOUT_MS, type ParkableVcpu, park, requestParking } from "../parking.ts";
import { encodeRegs, patchSregs } from "../state/boot-state.ts";
import { capturePowerOnState, type PowerOnState } from "../state/power-on.ts";
import { createRehearsal } from "../state/rehearsal.ts";
import { VmState } from "../state/saved-state.ts";
import { writeTsc } from "../state/tsc.ts";
import { restoreVcpu, VCPU_SECTION } from "../state/vcpu-state.ts";
import { restoreVm } from "../state/vm-state.ts";
import type { AcceleratedVm, AcceleratorOptions, DirtyTracker, Rehearsal } from "../types.ts";
import { VcpuControl } from "../vcpu-control.ts";
import { VcpuWorker } from "../vcpu-worker-handle.ts";
import { leaveKvmRun, makeKickRehearsal } from "./kick.ts";
import { cpuidsFor, createIrqchips, createScratch } from "./power-on.ts";
import { VcpuRunner } from "./run-loop.ts";

const FIRST_SLICE_MS = 2;
/** A worker starts in 3 ms, but on a machine with more important things to do it may take seconds. The guest runs. */
const LEND_TIMEOUT_MS = 60_000;

interface VcpuThread extends ParkableVcpu {
  vcpu: KvmVcpu;
  /** Made with the first run. */
  worker: VcpuWorker | undefined;
}

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
  readonly #threads: VcpuThread[] = [];
  readonly #runSizeBytes: number;
  readonly #cpuids: readonly Uint8Array[];
  readonly #state: VmState;
  #powerOn: PowerOnState | undefined;
  #areWorkersStarted = false;
  /** The vCPUs have had another state than that of power-on. */
  #hasRestored = false;
  /** All workers are there already: that of the first vCPU waits for it to be offered, the others are parked. */
  #isPrepared = false;
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
    const vcpus: KvmVcpu[] = [];
    const ringSizeBytes = this.#enableDirtyRing();
    for (let index = 0; index < options.cpuCount; index++) {
      const vcpu = this.#vm.createVcpu(index);
      vcpu.setCpuid2(this.#cpuids[index]!);
      vcpu.mapRun(this.#memory, KVM_RUN_BASE + index * KVM_RUN_STRIDE_BYTES, this.#runSizeBytes);
      if (ringSizeBytes > 0) {
        vcpu.mapDirtyRing(this.#memory, DIRTY_RING_BASE + index * DIRTY_RING_STRIDE_BYTES, ringSizeBytes);
      }
      vcpu.unblockSignalsInRun();
      const control = new VcpuControl(options.memory, index);
      control.clear();
      const run = this.#memory.subarray(KVM_RUN_BASE + index * KVM_RUN_STRIDE_BYTES);
      const leaveGuest = (): void => leaveKvmRun(control, run);
      this.#threads.push({ index, vcpu, control, leaveGuest, worker: options.workers?.[index] });
      vcpus.push(vcpu);
    }
    this.#state = new VmState({ system: this.#system, vm: this.#vm, vcpus, cpuids: this.#cpuids, tscOrigin: "host" });
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
    return this.#threads
      .filter(({ control }) => control.failure !== 0)
      .map(
        ({ index, control }) => `vCPU ${index}: KVM exit reason ${control.failure}, detail ${control.failureDetail}`,
      );
  }

  vcpuThreadIds(): number[] {
    return this.#threads.map(({ control }) => control.tid);
  }

  setIrqLine(gsi: number, level: number): void {
    this.#vm.setIrqLine(gsi, level);
  }

  reset(boot: InitialVcpuState): void {
    this.#hasRestored = true;
    const { reader } = this.#getPowerOn();
    restoreVm(reader, this.#vm);
    for (const [index, { vcpu }] of this.#threads.entries()) {
      restoreVcpu(vcpu, reader.section(VCPU_SECTION, index));
      // The offset was that of a TSC at the host's frequency.
      if (this.#state.scaledTscKhz !== undefined) writeTsc(vcpu, 0n);
    }
    const first = this.#threads[0]!.vcpu;
    const sregs = new Uint8Array(abi.KVM_SREGS_SIZE_BYTES);
    first.transfer("KVM_GET_SREGS", abi.KVM_GET_SREGS, sregs);
    patchSregs(sregs, boot.sregs);
    first.transfer("KVM_SET_SREGS", abi.KVM_SET_SREGS, sregs);
    first.transfer("KVM_SET_REGS", abi.KVM_SET_REGS, encodeRegs(boot.regs));
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
    if (!(percent >= 0 && percent <= 99))
      throw new RangeError(`A vCPU is throttled by 0 to 99 percent, not ${percent}`);
    for (const thread of this.#threads) {
      thread.control.throttlePercent = Math.floor(percent);
      // One that runs without exits would not look.
      kick(thread);
    }
  }

  run(): void {
    // Tells the guest's watchdogs that it was stopped for as long as it was. Only of parked vCPUs: the ioctl would wait for
    // one that runs until it leaves the guest by itself.
    for (const { vcpu, control } of this.#threads) if (control.state === VCPU_STATE_PARKED) vcpu.notePause();
    for (const { control } of this.#threads) control.request = VCPU_REQUEST_RUN;
    if (this.#areWorkersStarted) return;
    if (this.#isPrepared) this.#offerFirst();
    else for (const index of this.#threads.keys()) this.#startWorker(index);
    this.#areWorkersStarted = true;
  }

  allRun(): boolean {
    return this.#threads.every(({ control: { state } }) => state === VCPU_STATE_RUNNING || state === VCPU_STATE_GONE);
  }

  /** The first vCPU's worker, which waits for the main thread to have run it, gets it without that. */
  #offerFirst(): void {
    const { control } = this.#threads[0]!;
    control.state = VCPU_STATE_PARKED;
    control.offer();
  }

  runLent(): void {
    const { control } = this.#threads[0]!;
    this.#lender ??= this.#makeLender();
    for (const { control } of this.#threads) control.request = VCPU_REQUEST_RUN;
    if (!this.#isPrepared) for (let index = 1; index < this.#threads.length; index++) this.#startWorker(index);
    try {
      // Making a worker takes the main thread 0.5 ms. The guest has stood long enough: it runs for a moment first. One that is
      // late takes the vCPU, parked by then, when it comes; one that dies reports that itself.
      this.#lender.lend(FIRST_SLICE_MS, LEND_TIMEOUT_MS, () => {
        this.#areWorkersStarted = true;
        if (!this.#isPrepared) this.#startWorker(0, { isLent: true, isWarm: true });
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
    const { vcpu, control } = this.#threads[0]!;
    control.tid = getTid();
    let bus: IoBus | undefined;
    return new VcpuRunner(vcpu, 0, memory, control, () => {
      bus ??= new IoBus(memory, devices, (gsi, level) => this.#vm.setIrqLine(gsi, level));
      return bus;
    });
  }

  park(onRequested?: () => void, timeoutMs?: number): void {
    // Before the first run there are no threads, and one that died will never answer.
    const vcpus: VcpuThread[] = [];
    for (const thread of this.#threads) {
      if (this.#areWorkersStarted && thread.control.state !== VCPU_STATE_GONE) vcpus.push(thread);
    }
    park(this.#options.memory, vcpus, onRequested, timeoutMs);
  }

  parkSoon(timeoutMs: number): void {
    requestParking(this.#threads);
    for (const { control } of this.#threads) {
      if (control.state === VCPU_STATE_RUNNING) control.waitForState(VCPU_STATE_PARKED, timeoutMs);
    }
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
    const [first, ...others] = this.#threads;
    this.#startWorker(0, { isLent: true, isWarm: true });
    for (const { index } of others) this.#startWorker(index, { isWarm: true });
    this.#isPrepared = true;
    this.#lender = this.#makeLender();
    this.#lender.warmUp();
    const deadlineMs = performance.now() + LEND_TIMEOUT_MS;
    const isReady = ({ control }: VcpuThread): boolean => control.state === VCPU_STATE_PARKED;
    while (!first!.control.isOfferAwaited || !others.every(isReady)) {
      if (performance.now() > deadlineMs) {
        throw new VmmError("vcpu-stuck", `A vCPU's thread did not start within ${LEND_TIMEOUT_MS / 1000} s`);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  async close(): Promise<void> {
    for (const thread of this.#threads) {
      kick(thread);
      thread.control.request = VCPU_REQUEST_EXIT;
    }
    if (this.#isPrepared && !this.#areWorkersStarted) this.#offerFirst();
    for (const { control, worker } of this.#threads) {
      // Its fd number and its kvm_run must not become something else while the thread still uses them.
      if (this.#areWorkersStarted || this.#isPrepared) control.waitForState(VCPU_STATE_GONE, PARK_TIMEOUT_MS);
      worker?.terminate();
    }
    this.#lender?.close();
    for (const [index, { vcpu }] of this.#threads.entries()) {
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

  #startWorker(index: number, { isLent = false, isWarm = false } = {}): void {
    const thread = this.#threads[index]!;
    const { memory, devices, onVcpuError } = this.#options;
    thread.worker ??= new VcpuWorker("kvm");
    thread.worker.onDeath((error) => onVcpuError(index, describeError(error)));
    thread.worker.start({ memory, index, vcpuFd: thread.vcpu.fd, vmFd: this.#vm.fd, devices, isLent, isWarm });
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
