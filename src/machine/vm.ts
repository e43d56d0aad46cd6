// SPDX-License-Identifier: Apache-2.0
// A running VM: what the guest asks of the machine, what the operator asks of it, and the run state between them.
import {
  CONTROL_DOORBELL,
  CONTROL_EVENTS,
  EVENT_CHARDEV,
  EVENT_DEBUG_EXIT,
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
import { QmpEventSource } from "../qmp/events.ts";
import type { RunState, ShutdownCause } from "../qmp/schema/machine.ts";
import { importEntry } from "../runtime/entry.ts";
import type { DeviceSet } from "./device-set.ts";
import { FdTable } from "./fd-table.ts";

/** How a VM ended. */
export interface VmExit {
  reason: ShutdownCause;
  /** 0, or what the guest reported through isa-debug-exit. */
  exitCode: number;
}

export interface VmParts {
  spec: MachineSpec;
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

/** Run states from which `cont` may not start the guest, with the reason. */
const CANNOT_RUN: Partial<Record<RunState, string>> = {
  "finish-migrate": "Migration is not finalized yet",
  postmigrate: "The guest has moved to another process and may not run here again",
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
  readonly spec: MachineSpec;
  readonly memory: WebAssembly.Memory;
  readonly ram: MappedRam;
  readonly accel: AcceleratedVm;
  readonly devices: DeviceSet;
  readonly events = new QmpEventSource();
  /** Fds that an operator has given to this VM; a migration to `fd:NAME` takes its own out of here. */
  readonly fds = new FdTable();
  readonly #words: Int32Array;
  readonly #exit = Promise.withResolvers<VmExit>();
  #state: RunState = "prelaunch";
  #isClosed = false;
  /** Resets, ends and sleeps that are being carried out. */
  #changesUnderWay = 0;
  /** Set by `quit`: the end waits for the reply that announces it. */
  #pendingExit: VmExit | undefined;

  constructor(parts: VmParts) {
    this.spec = parts.spec;
    this.memory = parts.memory;
    this.ram = parts.ram;
    this.accel = parts.accel;
    this.devices = parts.devices;
    this.#words = new Int32Array(parts.memory.buffer);
    openVms.add(this);
  }

  get state(): RunState {
    return this.#state;
  }

  get isRunning(): boolean {
    return this.#state === "running";
  }

  /** Resolves when the VM has ended: by the guest, by an operator or by an error. */
  get exited(): Promise<VmExit> {
    return this.#exit.promise;
  }

  /** The guest has asked for its end, a reset or sleep, and has not got it yet. */
  get hasGuestRequest(): boolean {
    return this.#changesUnderWay > 0 || (Atomics.load(this.#words, CONTROL_EVENTS >> 2) & GUEST_REQUESTS) !== 0;
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
    const boot = loadGuest(this.spec, this.ramView());
    this.devices.reset();
    this.accel.reset(boot);
  }

  /** The state that a restored VM takes over from the one it was saved from, without acting on it. */
  assumeState(state: RunState): void {
    this.#state = state;
  }

  stop(): void {
    if (this.#state === "running") {
      this.pauseFor("paused");
    } else if (this.#state === "prelaunch") {
      this.#state = "paused";
    }
  }

  cont(): void {
    // A guest that sleeps goes on where it wants to be woken, not where it fell asleep: system_wakeup does that.
    if (this.#state === "running" || this.#state === "suspended") return;
    const reason = CANNOT_RUN[this.#state];
    if (reason !== undefined) throw new VmmError("cannot-run", reason);
    this.resumeFrom();
  }

  /** Parks the vCPUs, without a change of state or an event. */
  park(): void {
    try {
      this.accel.park(() => this.devices.freezeOutput());
    } catch (error) {
      this.devices.thawOutput();
      throw error;
    }
    this.devices.stopTimers();
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

  async reset(reason: ShutdownCause, isByGuest: boolean): Promise<void> {
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
    this.events.emit("POWERDOWN");
    this.devices.powerButton();
  }

  async wakeup(): Promise<void> {
    const { stateAtWakingVector } = await guestStart();
    if (this.#state !== "suspended") return;
    const boot = stateAtWakingVector(this.ramView());
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

  /** A vCPU's thread died. */
  vcpuFailed(index: number, message: string): void {
    if (this.#isClosed) return;
    this.#failInternally(`vCPU ${index} failed: ${message}`);
  }

  /** Releases vCPUs and timers. Does not end `exited` by itself. */
  async close(): Promise<void> {
    this.#isClosed = true;
    openVms.delete(this);
    this.devices.stopTimers();
    this.#ring();
    this.fds.closeAll();
    await this.accel.close();
  }

  #end(exit: VmExit, isByGuest: boolean): void {
    this.#state = "shutdown";
    this.devices.stopTimers();
    this.events.emit("SHUTDOWN", { guest: isByGuest, reason: exit.reason });
    this.#exit.resolve(exit);
  }

  #ring(): void {
    Atomics.add(this.#words, CONTROL_DOORBELL >> 2, 1);
    Atomics.notify(this.#words, CONTROL_DOORBELL >> 2);
  }

  async #serveDoorbell(): Promise<void> {
    while (!this.#isClosed) {
      const seen = Atomics.load(this.#words, CONTROL_DOORBELL >> 2);
      await this.#serveEvents(Atomics.exchange(this.#words, CONTROL_EVENTS >> 2, 0));
      const { async, value } = Atomics.waitAsync(this.#words, CONTROL_DOORBELL >> 2, seen);
      if (async) await value;
    }
  }

  async #serveEvents(events: number): Promise<void> {
    if (events === 0) return;
    try {
      if ((events & EVENT_CHARDEV) !== 0) for (const port of this.devices.serialPorts) port.flush();
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
    this.#state = "internal-error";
    try {
      this.park();
    } catch (error) {
      report(describeError(error));
    }
    this.events.emit("STOP");
  }
}
