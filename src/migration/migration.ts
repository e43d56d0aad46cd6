// SPDX-License-Identifier: Apache-2.0
// Migration and update control of one VM: parameters, status, and carrying out what `migrate` asks for.
//
//   none ── migrate ─▶ setup ─▶ active ─▶ device ─▶ (new image) completed
//                        │        └────────┴──▶ failing ─▶ failed, the guest runs on
//                        ├─ migrate_cancel ─▶ cancelling ─▶ cancelled
//                        └─▶ failing ─▶ failed
//
// A guest that asks for a reset in the moment before it stands gets it, and the update goes back from device to active.
import { monotonicMs } from "../../ffi/clock.ts";
import type { MigrationAddress } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import type { Connections } from "../machine/connections.ts";
import type { Vm } from "../machine/vm.ts";
import type { MigrationChannels } from "../qmp/migration-address.ts";
import type {
  MigMode,
  MigrateSetParameters,
  MigrationBlocker,
  MigrationCapability,
  MigrationInfo,
  MigrationParameters,
  MigrationStatus,
} from "../qmp/schema/migration.ts";
import type { MigrationTarget } from "../qmp/target.ts";
import { warmUp } from "../runtime/program.ts";
import { findBlockers } from "./blockers.ts";
import type { Timeline } from "./timeline.ts";

/** How often an update starts its pause again when the guest asks for a reset, say, in the moment before it. */
const MAX_ATTEMPTS = 3;

function isGuestRequest(error: unknown): boolean {
  return error instanceof VmmError && error.code === "guest-request";
}

export class Migration implements MigrationTarget {
  readonly #vm: Vm;
  readonly #connections: () => Connections;
  readonly #startsBaton: boolean;
  readonly #capabilities: Record<MigrationCapability, boolean> = { events: false };
  #parameters: MigrationParameters = { mode: "normal", "cpr-exec-command": [] };
  #status: MigrationStatus = "none";
  #errorDescription: string | undefined;
  #startedMs = 0;
  #setupMs = 0;
  #endedMs = 0;
  #timeline: Timeline | undefined;
  /** Updates that this guest has lived through. */
  #generation = 0;

  /** `startsBaton` says that what an update executes can be expected to be Baton, and not a program that embeds it. */
  constructor(vm: Vm, connections: () => Connections, { startsBaton }: { startsBaton: boolean }) {
    this.#vm = vm;
    this.#startsBaton = startsBaton;
    this.#connections = connections;
  }

  parameters(): MigrationParameters {
    return this.#parameters;
  }

  setParameters(changes: MigrateSetParameters): void {
    const { mode = this.#parameters.mode, "cpr-exec-command": command = this.#parameters["cpr-exec-command"] } =
      changes;
    this.#parameters = { mode, "cpr-exec-command": [...command] };
  }

  capabilities(): Record<MigrationCapability, boolean> {
    return { ...this.#capabilities };
  }

  setCapabilities(changes: Partial<Record<MigrationCapability, boolean>>): void {
    if (this.#isBusy) throw new VmmError("migrating", "There's a migration process in progress");
    Object.assign(this.#capabilities, changes);
  }

  migrate(channels: MigrationChannels | undefined): void {
    if (this.#isBusy) throw new VmmError("migrating", "There's a migration process in progress");
    if (this.#vm.state === "inmigrate") throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    if (this.#vm.state === "postmigrate") {
      throw new VmmError("postmigrate", "Can't migrate the vm that was paused due to previous migration");
    }
    const { mode } = this.#parameters;
    this.#refuseBlocked(mode);
    if (mode !== "cpr-exec") {
      throw new VmmError("mode", `Migration mode '${mode}' is not in this version of Baton; 'cpr-exec' is`);
    }
    const main = channels?.main;
    if (main !== undefined && main.transport !== "file") {
      throw new VmmError(
        "channel",
        "cpr-exec hands the state over in memory: give a file: URI for a copy of it, or no URI at all",
      );
    }
    this.#startedMs = monotonicMs();
    this.#errorDescription = undefined;
    this.#timeline = undefined;
    this.#setStatus("setup");
    // The reply to `migrate` goes out first.
    setTimeout(() => void this.#cprExec(main), 0);
  }

  async #cprExec(file: Extract<MigrationAddress, { transport: "file" }> | undefined): Promise<void> {
    const connections = this.#connections();
    let wasRunning = false;
    let isPaused = false;
    let isFrozen = false;
    let discard = (): void => {};
    try {
      const { allHoldersReaped, prepareCprExec, commitCprExec } = await import("./cpr-exec.ts");
      const prepared = prepareCprExec({
        command: this.#parameters["cpr-exec-command"],
        ...(file === undefined ? {} : { file }),
      });
      discard = prepared.discard;
      if (this.#startsBaton) await warmUp(prepared.program);
      this.#refuseToGoOn();
      isFrozen = true;
      await connections.freeze();
      for (let attempt = 1; ; attempt++) {
        await allHoldersReaped();
        await this.#vm.whenSettled();
        this.#refuseToGoOn();
        // Not before: until the monitors are frozen, somebody may stop or start the guest.
        wasRunning = this.#vm.isRunning;
        this.#setupMs = monotonicMs() - this.#startedMs;
        try {
          commitCprExec(this.#vm, connections, prepared, {
            beforePause: () => {
              // Clients get these when the guest runs again; told now, they would lengthen the pause.
              isPaused = true;
              if (wasRunning) this.#vm.events.emit("STOP");
              this.#setStatus("active");
              this.#vm.events.emit("MIGRATION_PASS", { pass: 2 });
              this.#setStatus("device");
            },
            migration: {
              startedMs: this.#startedMs,
              setupMs: this.#setupMs,
              generation: this.#generation + 1,
              events: this.#capabilities.events,
              parameters: this.#parameters,
            },
          });
        } catch (error) {
          if (!isGuestRequest(error) || attempt === MAX_ATTEMPTS) throw error;
          // What the guest asked for in the moment before it stood is done first.
          if (wasRunning && isPaused) this.#vm.resumeFrom();
          isPaused = false;
        }
      }
    } catch (error) {
      discard();
      if (this.#status === "cancelling") {
        this.#endedMs = monotonicMs();
        this.#setStatus("cancelled");
        if (isFrozen) connections.thaw();
        return;
      }
      this.#setStatus("failing");
      let description = describeError(error);
      try {
        if (wasRunning && isPaused) this.#vm.resumeFrom();
      } catch (resumeError) {
        description += `; and the guest could not be resumed: ${describeError(resumeError)}`;
      }
      this.#fail(description);
      if (isFrozen) connections.thaw();
    }
  }

  /** What may have changed since `migrate` was accepted. */
  #refuseToGoOn(): void {
    if (this.#status === "cancelling") throw new VmmError("cancelled", "The update was cancelled");
    if (this.#vm.state === "shutdown") throw new VmmError("vm-ended", "The VM has ended");
    this.#refuseBlocked("cpr-exec");
  }

  #refuseBlocked(mode: MigMode): void {
    const blocker = this.blockers().find((candidate) => candidate.mode === mode);
    if (blocker !== undefined) throw new VmmError(blocker.code, blocker.reason);
  }

  /** Takes note of an update that this image has completed, or taken back when `refusal` says why. */
  assume(past: PastUpdate): void {
    this.#startedMs = past.startedMs;
    this.#setupMs = past.setupMs;
    this.#generation = past.refusal === undefined ? past.generation : past.generation - 1;
    this.#capabilities.events = past.events;
    this.#timeline = past.timeline;
    this.#status = "device";
    if (past.refusal === undefined) {
      if (past.isRunning) this.#vm.events.emit("RESUME");
      this.#endedMs = monotonicMs();
      this.#setStatus("completed");
    } else {
      // As after any update that failed, it can be tried again as it was.
      this.#parameters = past.parameters;
      this.#setStatus("failing");
      if (past.isRunning) this.#vm.events.emit("RESUME");
      this.#fail(past.refusal);
    }
  }

  incoming(_main: MigrationAddress, _options: { exitOnError: boolean }): void {
    throw new VmmError("not-incoming", "'-incoming' was not specified on the command line");
  }

  cancel(): void {
    // Later than `setup` nobody is heard before the update is over.
    if (this.#status === "setup") this.#setStatus("cancelling");
  }

  query(): MigrationInfo {
    const reasons = this.blockers()
      .filter(({ mode }) => mode === this.#parameters.mode)
      .map(({ reason }) => reason);
    const blocked = reasons.length > 0 ? { "blocked-reasons": reasons } : {};
    if (this.#status === "none") return blocked;
    const isOver = !this.#isBusy;
    return {
      status: this.#status,
      ...(this.#errorDescription === undefined ? {} : { "error-desc": this.#errorDescription }),
      "total-time": Math.round((isOver ? this.#endedMs : monotonicMs()) - this.#startedMs),
      "setup-time": Math.round(this.#setupMs),
      ...(this.#timeline === undefined
        ? {}
        : {
            downtime: Math.round(this.#timeline.downtimeMs),
            "downtime-us": Math.round(this.#timeline.downtimeMs * 1000),
            phases: this.#timeline.phases().map(({ phase, durationMs }) => ({
              phase,
              "duration-us": Math.round(durationMs * 1000),
            })),
          }),
      updates: this.#generation,
      ...blocked,
    };
  }

  blockers(): MigrationBlocker[] {
    return findBlockers(this.#vm);
  }

  get #isBusy(): boolean {
    return !["none", "completed", "failed", "cancelled"].includes(this.#status);
  }

  #fail(description: string): void {
    this.#endedMs = monotonicMs();
    this.#errorDescription = description;
    this.#setStatus("failed");
  }

  #setStatus(status: MigrationStatus): void {
    this.#status = status;
    this.#vm.events.emit("MIGRATION", { status });
  }
}

/** What the new image knows of the update that started it. */
export interface PastUpdate {
  startedMs: number;
  setupMs: number;
  generation: number;
  /** Capability `events`: the clients that wanted them still do. */
  events: boolean;
  parameters: MigrationParameters;
  timeline: Timeline;
  isRunning: boolean;
  refusal: string | undefined;
}
