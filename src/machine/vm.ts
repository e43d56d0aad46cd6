// SPDX-License-Identifier: Apache-2.0
// A running VM: what the guest asks of the machine, what the operator asks of it, and the run state between them.
import {
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
import type { MappedRam } from "../memory/ram.ts";
import type { HeldRam } from "../migration/held-ram.ts";
import { QmpEventSource } from "../qmp/events.ts";
import type { RunState, ShutdownCause } from "../qmp/schema/machine.ts";
import { importEntry } from "../runtime/entry.ts";
import type { DeviceSet } from "./device-set.ts";
import { FdTable } from "./fd-table.ts";
import { guestRequest } from "./guest-request.ts";
import { GUEST_REQUESTS, GuestSignals } from "./guest-signals.ts";
import { Lifeline } from "./lifeline.ts";
import { Ownership } from "./ownership.ts";
import { flushOutput, parkParts, releaseParts, runParts, type VmParts } from "./parts.ts";

/** How a VM ended. */
export interface VmExit {
  reason: ShutdownCause;
  /** 0, or what the guest reported through isa-debug-exit. */
  exitCode: number;
}

/** What there is once the guest is here, or about to come. */
interface Built extends VmParts {
  signals: GuestSignals;
}

/** A vCPU leaves the guest within microseconds, unless it waits for what will never come. */
const LOST_PARK_TIMEOUT_MS = 100;

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
  #parts: Built | undefined;
  /** Fds that an operator has given to this VM; a migration to `fd:NAME` takes its own out of here. */
  readonly fds = new FdTable();
  readonly #exit = Promise.withResolvers<VmExit>();
  #state: RunState;
  /** While `inmigrate`: whether the guest is to run when it has come, as `-S`, `stop` and `cont` say. */
  #startsWhenComplete: boolean;
  readonly #ownership = new Ownership();
  #failure: string | undefined;
  #lives = 1;
  #lifeline: Lifeline | undefined;
  #isClosed = false;
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
    await releaseParts(parts);
  }

  #take(parts: VmParts): void {
    this.#parts = { ...parts, signals: new GuestSignals(parts.memory) };
  }

  get spec(): MachineSpec {
    return this.#spec;
  }

  /** @throws VmmError "inmigrate" while there is no guest */
  get #built(): Built {
    if (this.#parts === undefined) throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    return this.#parts;
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
    return this.#parts?.signals.hasRequest ?? false;
  }

  /** @throws VmmError "guest-request" */
  refuseRequested(): void {
    if (this.hasGuestRequest) throw guestRequest();
  }

  /** Resolves when the guest has got what it asked for. @throws VmmError "guest-busy" when that takes too long */
  async whenSettled(): Promise<void> {
    await this.#parts?.signals.whenSettled(() => this.#state === "shutdown");
  }

  /** Guest RAM, from guest physical address 0. */
  ramView(): Uint8Array {
    return new Uint8Array(this.memory.buffer, this.ram.base, this.spec.memorySizeBytes);
  }

  /** Starts heeding what the guest and its devices signal. Called once, when the guest may run. */
  serve(): void {
    void this.#built.signals.serve((events) => this.#serveEvents(events));
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
    this.#ownership.fence(reason, this.devices.serialPorts);
  }

  /** Part of the guest will never be here: what there is is kept to be looked at, and never runs again. */
  lose(reason: string): void {
    this.#ownership.lose(reason, this.devices.serialPorts);
    report(reason);
    this.#state = "internal-error";
    this.devices.freezeOutput();
    this.accel.parkSoon(LOST_PARK_TIMEOUT_MS);
    this.devices.stopTimers();
    this.events.emit("STOP");
  }

  /** @throws VmmError "lost" after `lose` */
  refuseLost(): void {
    this.#ownership.refuseLost();
  }

  /** The guest has been saved, but its RAM is here until the kernel is replaced; `cont` takes it back. */
  holdRam(held: HeldRam): void {
    this.#ownership.hold(held, this.devices.serialPorts);
  }

  /** @throws VmmError "ram-retained" the first time, when the end of this process would lose the guest */
  refuseToLoseRam(): void {
    this.#ownership.refuseToLoseRam();
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
    this.#ownership.refuseToRun(this.#state);
    this.#ownership.takeBack(this.devices.serialPorts);
    this.resumeFrom();
  }

  /** Parks the vCPUs, without a change of state or an event. */
  park(timeoutMs?: number): void {
    parkParts(this.#built, timeoutMs);
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
      runParts(this.#built);
    }
  }

  /** Gives the consoles what the guest has written. */
  flushOutput(): void {
    flushOutput(this.#built);
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
    runParts(this.#built);
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
    this.#ownership.refuseToChange(this.#state);
    this.park();
    if (this.spec.noReboot) {
      this.#end({ reason, exitCode: 0 }, isByGuest);
      return;
    }
    const { signals } = this.#built;
    signals.forgetRequests();
    await signals.whileChanging(() => this.powerOn());
    this.events.emit("RESET", { guest: isByGuest, reason });
    // Read now: somebody may have stopped or ended the VM while the guest was loaded.
    if (["running", "suspended", "internal-error"].includes(this.#state)) {
      this.#state = "running";
      runParts(this.#built);
    }
  }

  powerdown(): void {
    this.#ownership.refuseToChange(this.#state);
    this.events.emit("POWERDOWN");
    this.devices.powerButton();
  }

  async wakeup(): Promise<void> {
    const { stateAtWakingVector } = await guestStart();
    if (this.#state !== "suspended") return;
    this.#ownership.refuseToChange(this.#state);
    const boot = stateAtWakingVector(this.ramView());
    this.#lives++;
    this.devices.reset();
    this.devices.wakeUp();
    this.accel.reset(boot);
    this.events.emit("WAKEUP");
    this.#state = "running";
    runParts(this.#built);
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
    this.#ownership.release();
    if (!this.isBuilt) return;
    this.devices.stopTimers();
    this.#built.signals.close();
    await this.accel.close();
  }

  #end(exit: VmExit, isByGuest: boolean): void {
    this.#state = "shutdown";
    if (this.isBuilt) this.devices.stopTimers();
    this.events.emit("SHUTDOWN", { guest: isByGuest, reason: exit.reason });
    this.#exit.resolve(exit);
  }

  async #serveEvents(events: number): Promise<void> {
    if ((events & EVENT_CHARDEV) !== 0) this.flushOutput();
    try {
      if ((events & EVENT_MODULE_REFUSED) !== 0) this.devices.settleModules?.();
      if ((events & EVENT_TIMER) !== 0 && this.isRunning) this.devices.armTimers();
    } catch (error) {
      report(describeError(error));
    }
    if ((events & GUEST_REQUESTS) === 0) return;
    try {
      await this.#built.signals.whileChanging(() => this.#serveGuestRequests(events));
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
