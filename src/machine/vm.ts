// SPDX-License-Identifier: Apache-2.0
// A running VM: what the guest asks of the machine, what the operator asks of it, and the run state between them.
import {
  CONTROL_DOORBELL,
  CONTROL_EVENTS,
  EVENT_CHARDEV,
  EVENT_DEBUG_EXIT,
  EVENT_MODULE_REFUSED,
  EVENT_RESET,
  EVENT_SHUTDOWN,
  EVENT_SUSPEND,
  EVENT_TIMER,
  EVENT_VCPU_ERROR,
} from "../../assembly/layout.ts";
import type { AcceleratedVm } from "../accel/types.ts";
import type { MachineSpec } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { type MappedRam, releaseRam } from "../memory/ram.ts";
import type { HeldRam } from "../migration/held-ram.ts";
import { QmpEventSource } from "../qmp/events.ts";
import type { RunState, ShutdownCause } from "../qmp/schema/machine.ts";
import { importEntry } from "../runtime/entry.ts";
import type { DeviceSet } from "./device-set.ts";
import { FdTable } from "./fd-table.ts";
import { guestRequest } from "./guest-request.ts";
import { Lifeline } from "./lifeline.ts";

/** How a VM ended. */
export interface VmExit {
  reason: ShutdownCause;
  /** 0, or what the guest reported through isa-debug-exit. */
  exitCode: number;
}

/** What a VM is made of once it is built. */
export interface VmParts {
  memory: WebAssembly.Memory;
  ram: MappedRam;
  accel: AcceleratedVm;
  devices: DeviceSet;
}

/** Events that end or change the run state: the vCPU that raised one expects it to be served. */
const GUEST_REQUESTS = EVENT_DEBUG_EXIT | EVENT_RESET | EVENT_SHUTDOWN | EVENT_SUSPEND | EVENT_VCPU_ERROR;

/** A reset loads the guest anew, which takes tens of milliseconds. */
const SETTLE_TIMEOUT_MS = 5000;
const SETTLE_POLL_MS = 1;

/** A vCPU leaves the guest within microseconds, unless it waits for what will never come. */
const LOST_PARK_TIMEOUT_MS = 100;

/** Run states from which `cont` may not start the guest, with the reason. */
const CANNOT_RUN: Partial<Record<RunState, string>> = {
  "finish-migrate": "Migration is not finalized yet",
  "internal-error": "Resetting the Virtual Machine is required",
  "guest-panicked": "Resetting the Virtual Machine is required",
  shutdown: "Resetting the Virtual Machine is required",
};

const guestStart = (): Promise<typeof import("./guest-start.ts")> => importEntry("machine/guest-start.ts");

function report(message: string): void {
  process.stderr.write(`baton: ${message}\n`);
}

const openVms = new Set<Vm>();

/** How many VMs of this process have not ended. */
export function runningVmCount(): number {
  return [...openVms].filter(({ state }) => state !== "shutdown").length;
}

export class Vm {
  readonly events = new QmpEventSource();
  #spec: MachineSpec;
  /** What it was made with; while it is built for a guest that comes, `#spec` is the guest's. */
  readonly #ownSpec: MachineSpec;
  #parts: VmParts | undefined;
  #controlWords: Int32Array | undefined;
  /** Fds that an operator has given to this VM; a migration to `fd:NAME` takes its own out of here. */
  readonly fds = new FdTable();
  readonly #exit = Promise.withResolvers<VmExit>();
  #state: RunState;
  /** While `inmigrate`: whether the guest is to run when it has come, as `-S`, `stop` and `cont` say. */
  #startsWhenComplete: boolean;
  /** Why the guest may not run in this process any more. */
  #fence: string | undefined;
  #lossReason: string | undefined;
  #failure: string | undefined;
  #lives = 1;
  /** RAM of a guest that has been saved, when it ends with this process. */
  #held: HeldRam | undefined;
  /** What that guest has written and no console has got, of each serial port: it is in its state, too. */
  #heldOutput: Uint8Array[] = [];
  #lifeline: Lifeline | undefined;
  #isClosed = false;
  /** Resets, ends and sleeps that are being carried out. */
  #changesUnderWay = 0;
  /** Set by `quit`: the end waits for the reply that announces it. */
  #pendingExit: VmExit | undefined;

  /** Without `parts` it waits for a guest from elsewhere (`inmigrate`), whose topology it will have: see `assemble`. */
  constructor(spec: MachineSpec, parts?: VmParts) {
    this.#spec = this.#ownSpec = spec;
    this.#state = parts === undefined ? "inmigrate" : "prelaunch";
    this.#startsWhenComplete = !spec.startPaused;
    if (parts !== undefined) this.#take(parts);
    openVms.add(this);
    void this.exited.then(({ exitCode }) => this.#lifeline?.tellEnd(exitCode));
  }

  /** The guest has come with it, or this process was started with it: process 1 of a container watches over this VM. */
  holdLifeline(fd: number): void {
    this.#lifeline?.close();
    this.#lifeline = new Lifeline(fd);
  }

  get lifelineFd(): number | undefined {
    return this.#lifeline?.fd;
  }

  /** Who has the guest now has the lifeline, too. */
  leaveLifeline(): void {
    this.#lifeline?.close();
    this.#lifeline = undefined;
  }

  /** Gives a VM that waits for a guest its parts; `spec` is the machine that comes. */
  assemble(spec: MachineSpec, parts: VmParts): void {
    this.#spec = spec;
    this.#take(parts);
  }

  /** Other back ends are connected with the same machine. */
  assumeSpec(spec: MachineSpec): void {
    this.#spec = spec;
  }

  /** Takes the parts away again: the guest did not come. No error when there are none. */
  async disassemble(): Promise<void> {
    const parts = this.#parts;
    if (parts === undefined) return;
    this.#parts = undefined;
    this.#spec = this.#ownSpec;
    parts.devices.stopTimers();
    await parts.accel.close();
    releaseRam(parts.memory, parts.ram);
  }

  #take(parts: VmParts): void {
    this.#parts = parts;
    this.#controlWords = new Int32Array(parts.memory.buffer);
  }

  get spec(): MachineSpec {
    return this.#spec;
  }

  /** @throws VmmError "inmigrate" while there is no guest */
  get #built(): VmParts {
    if (this.#parts === undefined) throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    return this.#parts;
  }

  get #words(): Int32Array {
    return this.#controlWords!;
  }

  /** False while the VM waits for a guest. Then `memory`, `ram`, `accel` and `devices` throw. */
  get isBuilt(): boolean {
    return this.#parts !== undefined;
  }

  get memory(): WebAssembly.Memory {
    return this.#built.memory;
  }

  get ram(): MappedRam {
    return this.#built.ram;
  }

  get accel(): AcceleratedVm {
    return this.#built.accel;
  }

  get devices(): DeviceSet {
    return this.#built.devices;
  }

  get state(): RunState {
    return this.#state;
  }

  get isRunning(): boolean {
    return this.#state === "running";
  }

  /** Changes with each reset and each wake-up: what was true of the guest's clocks before need not be after it. */
  get lives(): number {
    return this.#lives;
  }

  /** What made the state `internal-error`, the last time. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Resolves when the VM has ended: by the guest, by an operator or by an error. */
  get exited(): Promise<VmExit> {
    return this.#exit.promise;
  }

  /** The guest has asked for its end, a reset or sleep, and has not got it yet. */
  get hasGuestRequest(): boolean {
    if (!this.isBuilt) return false;
    return this.#changesUnderWay > 0 || (Atomics.load(this.#words, CONTROL_EVENTS >> 2) & GUEST_REQUESTS) !== 0;
  }

  /** @throws VmmError "guest-request" */
  refuseRequested(): void {
    if (this.hasGuestRequest) throw guestRequest();
  }

  /** Resolves when the guest has got what it asked for. @throws VmmError "guest-busy" when that takes too long */
  async whenSettled(): Promise<void> {
    const deadlineMs = performance.now() + SETTLE_TIMEOUT_MS;
    while (this.hasGuestRequest && this.#state !== "shutdown") {
      if (performance.now() > deadlineMs) {
        throw new VmmError(
          "guest-busy",
          `The guest's reset, end or sleep was not done within ${SETTLE_TIMEOUT_MS} ms: try again after it`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, SETTLE_POLL_MS));
    }
  }

  /** Guest RAM, from guest physical address 0. */
  ramView(): Uint8Array {
    return new Uint8Array(this.memory.buffer, this.ram.base, this.spec.memorySizeBytes);
  }

  /** Starts heeding what the guest and its devices signal. Called once, when the guest may run. */
  serve(): void {
    void this.#serveDoorbell();
  }

  /** Power-on: loads the guest and resets everything. */
  async powerOn(): Promise<void> {
    const { loadGuest } = await guestStart();
    const unpacksKernel = this.spec.unpackKernel ?? this.accel.prefersUnpackedKernel;
    const boot = loadGuest(this.spec, this.ramView(), { unpacksKernel });
    this.#lives++;
    this.devices.reset();
    this.accel.reset(boot);
  }

  /** The state that a restored VM takes over from the one it was saved from, without acting on it. */
  assumeState(state: RunState): void {
    this.#state = state;
  }

  /** What `-S`, `stop` and `cont` have said while the VM waited for its guest. */
  get startsWhenComplete(): boolean {
    return this.#startsWhenComplete;
  }

  /**
   * The guest belongs to somebody else from now on: it never runs here again, for the reason given. What it has written
   * and no console has got yet went along with it. To be called before anything else of this process runs.
   */
  fence(reason: string): void {
    this.#fence = reason;
    for (const port of this.devices.serialPorts) port.discardOutput();
  }

  /** Part of the guest will never be here: what there is is kept to be looked at, and never runs again. */
  lose(reason: string): void {
    this.#lossReason = reason;
    this.fence(reason);
    report(reason);
    this.#state = "internal-error";
    this.devices.freezeOutput();
    this.accel.parkSoon(LOST_PARK_TIMEOUT_MS);
    this.devices.stopTimers();
    this.events.emit("STOP");
  }

  /** @throws VmmError "lost" after `lose` */
  refuseLost(): void {
    if (this.#lossReason !== undefined) throw new VmmError("lost", this.#lossReason);
  }

  /** The guest has been saved, but its RAM is here until the kernel is replaced; `cont` takes it back. */
  holdRam(held: HeldRam): void {
    this.#held = held;
    this.#heldOutput = this.devices.serialPorts.map((port) => port.pendingOutput());
    for (const port of this.devices.serialPorts) port.discardOutput();
  }

  /** @throws VmmError "ram-retained" the first time, when the end of this process would lose the guest */
  refuseToLoseRam(): void {
    this.#held?.refuseFirstQuit();
  }

  #takeRamBack(): void {
    if (this.#held === undefined) return;
    this.#held.release();
    this.#held = undefined;
    for (const [index, port] of this.devices.serialPorts.entries()) {
      port.restoreOutput(this.#heldOutput[index]!);
      port.flush();
    }
  }

  stop(): void {
    if (this.#state === "inmigrate") {
      this.#startsWhenComplete = false;
    } else if (this.#state === "running") {
      this.pauseFor("paused");
    } else if (this.#state === "prelaunch") {
      this.#state = "paused";
    }
  }

  cont(): void {
    // A guest that sleeps goes on where it wants to be woken, not where it fell asleep: system_wakeup does that.
    if (this.#state === "running" || this.#state === "suspended") return;
    if (this.#state === "inmigrate") {
      this.#startsWhenComplete = true;
      return;
    }
    const reason = this.#fence ?? CANNOT_RUN[this.#state];
    if (reason !== undefined) throw new VmmError("cannot-run", reason);
    this.#takeRamBack();
    this.#refuseFenced();
    this.resumeFrom();
  }

  /** @throws VmmError when the guest is on its way to or from somebody, or is somebody else's */
  #refuseFenced(): void {
    if (this.#fence !== undefined) throw new VmmError("fenced", this.#fence);
    if (this.#held !== undefined) throw new VmmError("ram-retained", this.#held.reason);
    if (this.#state === "inmigrate") throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    if (this.#state === "finish-migrate") throw new VmmError("cannot-run", "Migration is not finalized yet");
  }

  /** Parks the vCPUs, without a change of state or an event. */
  park(timeoutMs?: number): void {
    try {
      this.accel.park(() => this.devices.freezeOutput(), timeoutMs);
    } catch (error) {
      this.devices.thawOutput();
      throw error;
    }
    this.devices.stopTimers();
  }

  /**
   * Has the guest stand while `action` looks at it, without a change of state or an event.
   * @throws VmmError "guest-request" when it is being reset, say, "vcpu-stuck" when a vCPU has not stopped within `parkTimeoutMs`,
   * and what `action` throws: the guest runs on
   */
  inspect<Result>(action: () => Result, { parkTimeoutMs }: { parkTimeoutMs?: number } = {}): Result {
    this.refuseRequested();
    if (!this.isRunning) return action();
    this.park(parkTimeoutMs);
    try {
      this.refuseRequested();
      return action();
    } finally {
      this.#run();
    }
  }

  /** Gives the consoles what the guest has written. */
  flushOutput(): void {
    for (const port of this.devices.serialPorts) {
      try {
        port.flush();
      } catch (error) {
        report(describeError(error));
      }
    }
  }

  #run(): void {
    this.devices.thawOutput();
    this.accel.run();
    this.devices.armTimers();
  }

  /** Parks the vCPUs and says so. */
  pauseFor(state: RunState): void {
    this.park();
    this.#state = state;
    this.events.emit("STOP");
  }

  /** Runs the vCPUs and says so. */
  resumeFrom(): void {
    this.#state = "running";
    this.#run();
    this.events.emit("RESUME");
  }

  /** The first run of a guest that has come with everything, after `prepareToRun`. `runsOn` does the rest. */
  runArrived(): void {
    this.#state = "running";
    this.accel.runLent();
  }

  /** What is left to be done for a guest that runs already. */
  runsOn(): void {
    this.devices.armTimers();
    this.events.emit("RESUME");
  }

  async reset(reason: ShutdownCause, isByGuest: boolean): Promise<void> {
    this.#refuseFenced();
    this.park();
    if (this.spec.noReboot) {
      this.#end({ reason, exitCode: 0 }, isByGuest);
      return;
    }
    // What the guest asked for before it stopped, it asked for in its former life.
    Atomics.and(this.#words, CONTROL_EVENTS >> 2, ~GUEST_REQUESTS);
    await this.#whileChanging(() => this.powerOn());
    this.events.emit("RESET", { guest: isByGuest, reason });
    // Read now: somebody may have stopped or ended the VM while the guest was loaded.
    if (["running", "suspended", "internal-error"].includes(this.#state)) {
      this.#state = "running";
      this.#run();
    }
  }

  /** RAM and registers do not fit together while this runs: no update may start. */
  async #whileChanging(change: () => Promise<void>): Promise<void> {
    this.#changesUnderWay++;
    try {
      await change();
    } finally {
      this.#changesUnderWay--;
    }
  }

  powerdown(): void {
    this.#refuseFenced();
    this.events.emit("POWERDOWN");
    this.devices.powerButton();
  }

  async wakeup(): Promise<void> {
    const { stateAtWakingVector } = await guestStart();
    if (this.#state !== "suspended") return;
    this.#refuseFenced();
    const boot = stateAtWakingVector(this.ramView());
    this.#lives++;
    this.devices.reset();
    this.devices.wakeUp();
    this.accel.reset(boot);
    this.events.emit("WAKEUP");
    this.#state = "running";
    this.#run();
  }

  /** Ends the VM for an operator. The end itself waits for `finishQuit`, so that the reply can still be written. */
  quit(reason: ShutdownCause): void {
    if (this.#state === "running") this.park();
    this.events.emit("SHUTDOWN", { guest: false, reason });
    this.#pendingExit = { reason, exitCode: 0 };
    this.#state = "shutdown";
  }

  /** Carries out a `quit` that is pending. */
  finishQuit(): void {
    if (this.#pendingExit !== undefined) this.#exit.resolve(this.#pendingExit);
  }

  /** Ends a VM whose guest did not come. */
  giveUp(): void {
    this.#end({ reason: "host-error", exitCode: 1 }, false);
  }

  /** Ends here without a word: the guest, and everybody who would want to hear of it, is another process's. */
  leave(): void {
    this.#state = "shutdown";
    this.#exit.resolve({ reason: "none", exitCode: 0 });
  }

  /** A vCPU's thread died. */
  vcpuFailed(index: number, message: string): void {
    if (this.#isClosed) return;
    this.#failInternally(`vCPU ${index} failed: ${message}`);
  }

  /** Releases vCPUs and timers. Does not end `exited` by itself. */
  async close(): Promise<void> {
    this.#isClosed = true;
    openVms.delete(this);
    this.fds.closeAll();
    this.leaveLifeline();
    this.#held?.release();
    if (!this.isBuilt) return;
    this.devices.stopTimers();
    this.#ring();
    await this.accel.close();
  }

  #end(exit: VmExit, isByGuest: boolean): void {
    this.#state = "shutdown";
    if (this.isBuilt) this.devices.stopTimers();
    this.events.emit("SHUTDOWN", { guest: isByGuest, reason: exit.reason });
    this.#exit.resolve(exit);
  }

  #ring(): void {
    Atomics.add(this.#words, CONTROL_DOORBELL >> 2, 1);
    Atomics.notify(this.#words, CONTROL_DOORBELL >> 2);
  }

  async #serveDoorbell(): Promise<void> {
    const words = this.#words;
    while (!this.#isClosed) {
      const seen = Atomics.load(words, CONTROL_DOORBELL >> 2);
      await this.#serveEvents(Atomics.exchange(words, CONTROL_EVENTS >> 2, 0));
      const { async, value } = Atomics.waitAsync(words, CONTROL_DOORBELL >> 2, seen);
      if (async) await value;
    }
  }

  async #serveEvents(events: number): Promise<void> {
    if (events === 0) return;
    if ((events & EVENT_CHARDEV) !== 0) this.flushOutput();
    try {
      if ((events & EVENT_MODULE_REFUSED) !== 0) this.devices.settleModules?.();
      if ((events & EVENT_TIMER) !== 0 && this.isRunning) this.devices.armTimers();
    } catch (error) {
      report(describeError(error));
    }
    if ((events & GUEST_REQUESTS) === 0) return;
    try {
      await this.#whileChanging(() => this.#serveGuestRequests(events));
    } catch (error) {
      this.#failInternally(describeError(error));
    }
  }

  async #serveGuestRequests(events: number): Promise<void> {
    if ((events & EVENT_DEBUG_EXIT) !== 0) {
      this.park();
      this.#end({ reason: "guest-shutdown", exitCode: this.devices.debugExitCode() }, true);
    } else if ((events & EVENT_SHUTDOWN) !== 0) {
      this.park();
      this.#end({ reason: "guest-shutdown", exitCode: 0 }, true);
    } else if ((events & EVENT_RESET) !== 0) {
      await this.reset("guest-reset", true);
    } else if ((events & EVENT_SUSPEND) !== 0) {
      this.park();
      this.#state = "suspended";
      this.events.emit("SUSPEND");
    } else if ((events & EVENT_VCPU_ERROR) !== 0) {
      this.#failInternally(this.accel.failures().join("; "));
    }
  }

  /** Keeps the guest as it is, for somebody to look at. */
  #failInternally(message: string): void {
    report(message);
    this.#failure = message;
    this.#state = "internal-error";
    try {
      this.park();
    } catch (error) {
      report(describeError(error));
    }
    this.events.emit("STOP");
  }
}
