// SPDX-License-Identifier: Apache-2.0
// One outgoing migration, whatever its mode: what the mode's procedure may use, and what happens when it does not succeed.
//
// Before the mode's point of no return every failure leaves the guest running here.
import { describeError, VmmError } from "../errors.ts";
import type { Connections } from "../machine/connections.ts";
import { guestRequest } from "../machine/guest-request.ts";
import type { Vm } from "../machine/vm.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { MigrationCapability, MigrationParameters } from "../qmp/schema/migration.ts";
import type { MigrationProgress } from "./progress.ts";

/** How often a guest is stopped anew that asks for something in the moment before it stands. */
const MAX_ATTEMPTS = 3;

export interface OutgoingOptions {
  vm: Vm;
  connections: Connections;
  progress: MigrationProgress;
  /** As they are now: some take effect while the migration is under way. */
  parameters(): MigrationParameters;
  capabilities: Readonly<Record<MigrationCapability, boolean>>;
  /** Guest and RAM go to another VMM over a stream, so that the one may go before the other. */
  allowsPostcopy: boolean;
  /** Throws what forbids the migration now, though it did not when it was asked for. */
  refuseBlocked(): void;
}

export class Outgoing {
  readonly vm: Vm;
  readonly connections: Connections;
  readonly progress: MigrationProgress;
  readonly capabilities: Readonly<Record<MigrationCapability, boolean>>;
  readonly #parameters: () => MigrationParameters;
  readonly #refuseBlocked: () => void;
  readonly #allowsPostcopy: boolean;
  readonly #abort = new AbortController();
  readonly #atEnd: (() => void)[] = [];
  readonly #onFailure: (() => void)[] = [];
  readonly #ended = Promise.withResolvers<void>();
  #onParameters: (() => void) | undefined;
  /** The run state that the guest goes on in, here or there; undefined while it has not been stopped. */
  #stateBefore: RunState | undefined;
  #isCommitted = false;
  #isPostcopyWanted = false;
  /** What to do when post-copy is asked for; undefined while it cannot be done yet, and when it is too late. */
  #onPostcopy: (() => void) | undefined;
  /** One that had failed before can be moved, for somebody to look at. */
  readonly #hadFailed: boolean;

  constructor(options: OutgoingOptions) {
    this.vm = options.vm;
    this.#hadFailed = options.vm.state === "internal-error";
    this.connections = options.connections;
    this.progress = options.progress;
    this.#parameters = options.parameters;
    this.capabilities = options.capabilities;
    this.#refuseBlocked = options.refuseBlocked;
    this.#allowsPostcopy = options.allowsPostcopy;
  }

  get parameters(): MigrationParameters {
    return this.#parameters();
  }

  /** Calls `action` when the operator has changed a parameter. */
  onParameters(action: () => void): void {
    this.#onParameters = action;
  }

  /** A parameter was changed. */
  parametersChanged(): void {
    this.#onParameters?.();
  }

  /** Resolves when it is over, however it ended. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  /** Aborted by `migrate_cancel`. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** `migrate_cancel`: heeded until the point of no return. */
  cancel(): void {
    if (this.#isCommitted || this.signal.aborted) return;
    this.progress.enter("cancelling");
    this.#abort.abort(new VmmError("cancelled", "The migration was cancelled"));
  }

  /** `migrate-start-postcopy`. @throws VmmError "postcopy" when there is no such thing in this migration, or not any more */
  startPostcopy(): void {
    if (!this.capabilities["postcopy-ram"]) {
      throw new VmmError("postcopy", "Post-copy needs the capability postcopy-ram, set before the migration starts");
    }
    if (!this.#allowsPostcopy) {
      throw new VmmError("postcopy", "Only a migration of mode normal that is no file can go on by post-copy");
    }
    if (this.#isPostcopyWanted) return;
    if (this.progress.status !== "setup" && this.#onPostcopy === undefined) {
      throw new VmmError("postcopy", "It is too late for post-copy: the guest is being handed over already");
    }
    this.#isPostcopyWanted = true;
    this.#onPostcopy?.();
  }

  /** Allows post-copy from now on; `action` is called when it is asked for, at once if it has been. */
  allowPostcopy(action: () => void): void {
    this.#onPostcopy = action;
    if (this.#isPostcopyWanted) action();
  }

  /** Whether the migration goes on by post-copy; afterwards that cannot change. */
  decidePostcopy(): boolean {
    this.#onPostcopy = undefined;
    return this.#isPostcopyWanted;
  }

  /** Runs `action` when the migration is over and everybody has been told, however it ended. */
  atEnd(action: () => void): void {
    this.#atEnd.push(action);
  }

  /** Runs `action` when the migration fails, before the guest runs again: undo what would be in its way. */
  onFailure(action: () => void): void {
    this.#onFailure.push(action);
  }

  /** What may have changed since `migrate` was accepted. @throws VmmError */
  refuseToGoOn(): void {
    this.signal.throwIfAborted();
    if (this.vm.state === "shutdown") throw new VmmError("vm-ended", "The VM has ended");
    if (this.vm.state === "internal-error" && !this.#hadFailed) {
      throw new VmmError("vm-failed", "The VM has failed meanwhile: its state and its RAM may not fit together");
    }
    this.#refuseBlocked();
  }

  /** The point of no return lies behind. */
  get isCommitted(): boolean {
    return this.#isCommitted;
  }

  /** This migration has stopped the guest. */
  get hasStopped(): boolean {
    return this.#stateBefore !== undefined;
  }

  /** The run state of the guest that is handed over: the one before this migration stopped it. */
  get guestState(): RunState {
    return this.#stateBefore ?? this.vm.state;
  }

  /**
   * Parks the guest and says so; one that is paused or asleep stays what it is, for the other side. A guest that asks for
   * a reset, say, in the moment before it stands gets it first. @throws VmmError "guest-busy", "guest-request"
   */
  async stopGuest(): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      await this.vm.whenSettled();
      this.refuseToGoOn();
      this.stopGuestNow();
      if (!this.vm.hasGuestRequest) return;
      this.resumeGuest();
      if (attempt === MAX_ATTEMPTS) {
        throw guestRequest();
      }
    }
  }

  /** Parks the guest and says so. What it asks for at this very moment is the caller's to look at: `vm.hasGuestRequest`. */
  stopGuestNow(): void {
    this.noteStop();
    if (this.#stateBefore === "running") this.vm.pauseFor("finish-migrate");
    else this.vm.assumeState("finish-migrate");
  }

  /** The guest is about to be stopped by the procedure itself. */
  noteStop(): void {
    this.#stateBefore = this.vm.state;
  }

  /** What stopped the guest is over: it runs again, or is what it was. */
  resumeGuest(): void {
    const before = this.#stateBefore;
    if (before === undefined || this.vm.state === "shutdown") return;
    this.#stateBefore = undefined;
    if (before === "running") this.vm.resumeFrom();
    else this.vm.assumeState(before);
  }

  /**
   * The point of no return: the guest is somebody else's. With a `fence` it never runs here again, and that is the reason
   * `cont` gives.
   */
  commit(fence?: string): void {
    this.#isCommitted = true;
    if (fence !== undefined) this.vm.fence(fence);
    this.vm.assumeState("postmigrate");
  }

  /** Carries out a mode's procedure, which returns when it has succeeded. Never throws. */
  async run(procedure: (run: Outgoing) => Promise<void>): Promise<void> {
    try {
      await procedure(this);
      this.progress.enter("completed");
    } catch (error) {
      this.#fail(error);
    }
    for (const action of this.#atEnd) action();
    this.#ended.resolve();
  }

  #fail(error: unknown): void {
    const isCancelled = this.signal.aborted && !this.#isCommitted;
    if (!isCancelled) this.progress.enter("failing");
    let description = describeError(error);
    for (const undo of this.#onFailure) {
      try {
        undo();
      } catch (undoError) {
        description += `; ${describeError(undoError)}`;
      }
    }
    if (!this.#isCommitted) {
      try {
        this.resumeGuest();
      } catch (resumeError) {
        description += `; and the guest could not be resumed: ${describeError(resumeError)}`;
      }
    }
    if (isCancelled) this.progress.enter("cancelled");
    else this.progress.fail(description);
  }
}
