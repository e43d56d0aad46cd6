// SPDX-License-Identifier: Apache-2.0
// Migration and update control of one VM: parameters, status, and who carries out what `migrate` asks for.
//
//   none ── migrate ─▶ setup ─▶ active ─▶ device ─▶ completed
//                        │        │         │
//                        ├────────┴─────────┴─ migrate_cancel ─▶ cancelling ─▶ cancelled, the guest runs on
//                        └────────┴─────────┴─▶ failing ─▶ failed, the guest runs on
//
// By post-copy it goes from active to postcopy-active, in which nothing can be cancelled, and to completed, or to failed:
// then the guest is lost.
//
// The other side goes from none (or setup, after `-incoming defer`) to active and completed, or to failed.
import type { MigrationAddress, TlsEndpoint } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import type { Connections } from "../machine/connections.ts";
import { writePidfile } from "../machine/pidfile.ts";
import type { Vm } from "../machine/vm.ts";
import type { MigrationChannels } from "../qmp/migration-address.ts";
import type {
  MigMode,
  MigrateSetParameters,
  MigrationBlocker,
  MigrationCapability,
  MigrationInfo,
  MigrationParameters,
} from "../qmp/schema/migration.ts";
import type { MigrationTarget } from "../qmp/target.ts";
import { Reactor } from "../runtime/reactor.ts";
import { findBlockers } from "./blockers.ts";
import type { TlsTunnels } from "./channel/tls.ts";
import { isInetOrUnix } from "./channel/transport.ts";
import { type TransferChannels, transfer } from "./cpr-transfer.ts";
import { DryRun, type Prediction } from "./dry-run.ts";
import { ExecImage } from "./exec-image.ts";
import { type ExecUpdateOptions, updateByExec } from "./exec-update.ts";
import type { Incoming } from "./incoming.ts";
import { Outgoing } from "./outgoing.ts";
import { defaultCapabilities, defaultParameters, mergeParameters } from "./parameters.ts";
import { type GuestPast, type PauseHistory, readHistory, remember } from "./pause-history.ts";
import { MigrationProgress } from "./progress.ts";
import { passOn, type RelayTask, relay } from "./relay.ts";
import { saveToFile } from "./save.ts";
import { migrateStream } from "./stream.ts";
import type { Timeline } from "./timeline.ts";
import { tlsOf } from "./tls-policy.ts";

export class Migration implements MigrationTarget {
  readonly #vm: Vm;
  readonly #connections: () => Connections;
  readonly #startsBaton: boolean;
  readonly #capabilities = defaultCapabilities();
  #parameters = defaultParameters();
  readonly progress: MigrationProgress;
  /** For the channels of outgoing migrations. */
  readonly #reactor = new Reactor();
  #outgoing: Outgoing | undefined;
  #incoming: Incoming | undefined;
  #dryRun: DryRun | undefined;
  /** Updates that this guest has lived through. */
  #generation = 0;
  #history: PauseHistory = [];

  /** `startsBaton` says that what an update executes can be expected to be Baton, and not a program that embeds it. */
  constructor(vm: Vm, connections: () => Connections, { startsBaton }: { startsBaton: boolean }) {
    this.#vm = vm;
    this.#startsBaton = startsBaton;
    this.#connections = connections;
    this.progress = new MigrationProgress(vm.events);
  }

  parameters(): MigrationParameters {
    return this.#parameters;
  }

  setParameters(changes: MigrateSetParameters): void {
    const parameters = mergeParameters(this.#parameters, changes);
    if (process.pid === 1 && (parameters["guard-timeout"] > 0 || parameters.relay)) {
      throw new VmmError(
        "guard",
        "This VMM is process 1, with which its container ends: nobody can take its guest over here. Set guard-timeout to 0 and relay to false",
      );
    }
    if (parameters["guard-timeout"] > 0 && !this.#startsBaton) {
      throw new VmmError(
        "guard",
        "This VM is part of a program that cannot be started as a guard: set guard-timeout to 0",
      );
    }
    this.#parameters = parameters;
    this.#outgoing?.parametersChanged();
  }

  capabilities(): Record<MigrationCapability, boolean> {
    return { ...this.#capabilities };
  }

  setCapabilities(changes: Partial<Record<MigrationCapability, boolean>>): void {
    // A VM that waits for its guest can still be told what to make of it.
    if (this.#vm.state !== "inmigrate") this.refuseBusy();
    Object.assign(this.#capabilities, changes);
  }

  migrate(channels: MigrationChannels | undefined): void {
    this.#refuseWithoutGuest();
    const { mode } = this.#parameters;
    this.#refuseBlocked(mode);
    const procedure = this.#procedure(mode, channels);
    const handsOver = mode === "cpr-exec" && this.#parameters.relay;
    this.#begin(mode, channels, procedure, { handsOver });
  }

  /** @param handsOver the connections go along, whatever the capability says */
  #begin(
    mode: MigMode,
    channels: MigrationChannels | undefined,
    procedure: (run: Outgoing) => Promise<void>,
    { handsOver }: { handsOver: boolean },
  ): void {
    this.progress.start();
    const capabilities = this.capabilities();
    const outgoing = new Outgoing({
      vm: this.#vm,
      connections: this.#connections(),
      progress: this.progress,
      parameters: () => this.#parameters,
      capabilities: handsOver ? { ...capabilities, "x-handover-connections": true } : capabilities,
      allowsPostcopy: mode === "normal" && channels?.main.transport !== "file",
      refuseBlocked: () => this.#refuseBlocked(mode),
    });
    this.#outgoing = outgoing;
    this.progress.enter("setup");
    // The reply to `migrate` goes out first.
    setTimeout(() => void outgoing.run(procedure), 0);
  }

  dryRun(): void {
    this.#refuseWithoutGuest();
    const { mode, "cpr-exec-command": command } = this.#parameters;
    const blockers = this.blockers().filter((blocker) => blocker.mode === mode);
    const history = this.#history;
    const image = ExecImage.open(this.#vm.fds, this.#parameters);
    this.#dryRun = new DryRun({
      vm: this.#vm,
      mode,
      command,
      image,
      blockers,
      startsBaton: this.#startsBaton,
      history,
    });
  }

  /** What a dry run says of an update by cpr-exec that is under way. @throws VmmError when it would not work */
  async #predict(command: readonly string[], signal: AbortSignal): Promise<Prediction> {
    signal.throwIfAborted();
    const [mode, history] = ["cpr-exec", this.#history] as const;
    const image = ExecImage.open(this.#vm.fds, this.#parameters);
    const startsBaton = this.#startsBaton;
    const dryRun = new DryRun({ vm: this.#vm, mode, command, image, blockers: [], startsBaton, history });
    this.#dryRun = dryRun;
    signal.addEventListener("abort", () => dryRun.cancel(), { once: true });
    await dryRun.ended;
    signal.throwIfAborted();
    const { problems, "error-desc": description } = dryRun.info();
    const [problem] = problems;
    if (problem !== undefined) throw new VmmError(problem.code, problem.text);
    const prediction = dryRun.predictionOf("cpr-exec", command, image?.sha256 ?? "");
    if (prediction === undefined) throw new VmmError("dry-run", `The pause cannot be predicted: ${description}`);
    return prediction;
  }

  #refuseWithoutGuest(): void {
    this.refuseBusy();
    if (this.#vm.state === "inmigrate") throw new VmmError("inmigrate", "Guest is waiting for an incoming migration");
    if (this.#vm.state === "postmigrate") {
      throw new VmmError("postmigrate", "Can't migrate the vm that was paused due to previous migration");
    }
    this.#vm.refuseLost();
  }

  /** What a mode does with these channels. @throws VmmError when it can do nothing with them; nothing has changed then */
  #procedure(mode: MigMode, channels: MigrationChannels | undefined): (run: Outgoing) => Promise<void> {
    const main = channels?.main;
    const tls = this.#tls("client", main, mode);
    if (mode === "cpr-exec") {
      if (main !== undefined && main.transport !== "file") {
        throw new VmmError(
          "channel",
          "cpr-exec hands the state over in memory: give a file: URI for a copy of it, or no URI at all",
        );
      }
      const command = this.#parameters["cpr-exec-command"];
      if (this.#parameters.relay) return this.#relay(main, command);
      const options: ExecUpdateOptions = {
        startsBaton: this.#startsBaton,
        image: ExecImage.open(this.#vm.fds, this.#parameters),
        generation: this.#generation + 1,
        history: this.#history,
        reactor: this.#reactor,
        prediction: this.#dryRun?.predictionOf(mode, command, this.#parameters["cpr-exec-sha256"]),
        predict: (signal) => this.#predict(command, signal),
      };
      return (run) => updateByExec(run, main, options);
    }
    if (mode === "cpr-transfer") {
      const { main, cpr } = channels as TransferChannels;
      const options = { generation: this.#generation + 1, history: this.#history, reactor: this.#reactor };
      return (run) => transfer(run, { main, cpr }, options);
    }
    const stopFirst = mode === "cpr-reboot";
    const address = main!;
    if (address.transport === "file") return (run) => saveToFile(run, address, { stopFirst });
    if (this.#capabilities["mapped-ram"]) {
      throw new VmmError("channel", "Migration requires seekable transport (e.g. file)");
    }
    if (this.#capabilities.multifd && !isInetOrUnix(address)) {
      throw new VmmError("channel", "Migration requires multi-channel URIs (e.g. tcp)");
    }
    const options = { stopFirst, generation: this.#generation, tls };
    const send = (run: Outgoing): Promise<void> => migrateStream(run, address, options);
    return tls === undefined ? send : (run) => tls.explain(() => send(run));
  }

  #relay(file: MigrationAddress | undefined, command: readonly string[]): (run: Outgoing) => Promise<void> {
    if (file !== undefined) {
      throw new VmmError(
        "channel",
        "With relay the guest's state goes to no file: leave the URI out, or set relay to false",
      );
    }
    if (!this.#startsBaton) {
      throw new VmmError("relay", "This VM is part of a program that cannot be started as a relay: set relay to false");
    }
    const image = ExecImage.open(this.#vm.fds, this.#parameters);
    const options = { image, generation: this.#generation + 1, history: this.#history, reactor: this.#reactor };
    return (run) => relay(run, { command, ...options });
  }

  /** This process is the helper of a relay, and its guest has come: it goes on to where it is to be. */
  passOn(task: RelayTask): void {
    this.#parameters = mergeParameters(this.#parameters, { "pause-limit": task.pauseLimitMs });
    const options = { generation: this.#generation, history: this.#history, reactor: this.#reactor };
    const procedure = (run: Outgoing): Promise<void> => {
      // It stays with this program, which is the old one.
      const isOver = passOn(run, task, options);
      run.onFailure(() => {
        this.#generation--;
        writePidfile(this.#vm.spec);
      });
      return isOver;
    };
    this.#begin("cpr-exec", undefined, procedure, { handsOver: true });
  }

  #tls(endpoint: TlsEndpoint, address: MigrationAddress | undefined, mode: MigMode): TlsTunnels | undefined {
    const { tlsCredentials = [] } = this.#vm.spec;
    return tlsOf({ endpoint, address, mode, tlsCredentials }, this.#parameters, this.#capabilities);
  }

  /** @throws VmmError "migrating" while the guest's state is, or may be, on its way */
  refuseBusy(): void {
    if (this.progress.isBusy) throw new VmmError("migrating", "There's a migration process in progress");
    if (this.#dryRun?.isActive) throw new VmmError("migrating", "There's a dry run in progress");
  }

  #refuseBlocked(mode: MigMode): void {
    const blocker = this.blockers().find((candidate) => candidate.mode === mode);
    if (blocker !== undefined) throw new VmmError(blocker.code, blocker.reason);
  }

  /** Takes note of an update that this image has completed, or taken back when `refusal` says why. */
  assume(past: PastUpdate): void {
    this.#generation = past.refusal === undefined ? past.generation : past.generation - 1;
    this.#capabilities.events = past.events;
    this.progress.start(past.startedMs);
    this.progress.setupDone(past.setupMs);
    this.progress.setTimeline(past.timeline);
    this.progress.predictedUs = past.predictedUs;
    this.#history = readHistory(past.history);
    if (past.refusal === undefined) {
      this.#remember("cpr-exec", past.timeline, past.estimateUs);
      if (past.isRunning) this.#vm.events.emit("RESUME");
      if (past.isOnTrial) this.progress.resume("device");
      else this.progress.enter("completed");
    } else {
      // As after any update that failed, it can be tried again as it was.
      this.#parameters = past.parameters;
      this.progress.enter("failing");
      if (past.isRunning) this.#vm.events.emit("RESUME");
      this.progress.fail(past.refusal);
    }
  }

  /** The guest that was on trial here is well, or stays all the same. */
  proven(): void {
    if (this.progress.isBusy) this.progress.enter("completed");
  }

  #remember(mode: MigMode, timeline: Timeline, estimateUs: number | undefined): void {
    this.#history = remember(this.#history, {
      mode,
      "downtime-us": Math.round(timeline.downtimeMs * 1000),
      ...(estimateUs === undefined ? {} : { "predicted-downtime-us": estimateUs }),
    });
  }

  /** A guest has come that has lived through so many updates; `events` as in `PastUpdate`, `timeline` that of a transfer. */
  arrived({ generation, history = [], estimateUs, timeline }: GuestPast, events: boolean): void {
    this.#generation = generation;
    this.#history = history;
    if (timeline !== undefined) this.#remember("cpr-transfer", timeline, estimateUs);
    this.#capabilities.events ||= events;
  }

  /** Ends what is under way, in either direction. */
  async close(): Promise<void> {
    if (this.progress.isBusy) this.#outgoing?.cancel();
    this.#dryRun?.cancel();
    await this.#dryRun?.ended;
    await this.#outgoing?.ended;
    await this.#incoming?.close();
    await this.#reactor.close();
  }

  /** This VM waits for a guest. */
  await(incoming: Incoming): void {
    this.#incoming = incoming;
  }

  incoming(main: MigrationAddress, { exitOnError }: { exitOnError: boolean }): void {
    if (this.#incoming === undefined) {
      throw new VmmError("not-incoming", "'-incoming' was not specified on the command line");
    }
    const mode = this.#vm.spec.incoming.some(({ channel }) => channel === "cpr") ? "cpr-transfer" : "normal";
    this.#incoming.begin(main, { exitOnError, tls: this.#tls("server", main, mode) });
  }

  cancel(): void {
    if (this.#incoming !== undefined && this.#vm.state === "inmigrate") this.#incoming.cancel();
    else if (this.progress.isBusy) this.#outgoing?.cancel();
    else this.#dryRun?.cancel();
  }

  startPostcopy(): void {
    if (this.#outgoing === undefined || !this.progress.isBusy) {
      throw new VmmError("postcopy", "There is no migration in progress that could go on by post-copy");
    }
    this.#outgoing.startPostcopy();
  }

  query(): MigrationInfo {
    const reasons = this.blockers()
      .filter(({ mode }) => mode === this.#parameters.mode)
      .map(({ reason }) => reason);
    const info = this.progress.info();
    return {
      ...info,
      ...(info.status === undefined ? {} : { updates: this.#generation }),
      ...(info.status === undefined || this.#history.length === 0 ? {} : { history: [...this.#history] }),
      ...(reasons.length > 0 ? { "blocked-reasons": reasons } : {}),
      ...(this.#dryRun === undefined ? {} : { "dry-run": this.#dryRun.info() }),
    };
  }

  blockers(): MigrationBlocker[] {
    return this.#vm.isBuilt ? findBlockers(this.#vm) : [];
  }
}

/** What the new image knows of the update that started it. */
export interface PastUpdate {
  startedMs: number;
  setupMs: number;
  generation: number;
  history?: PauseHistory;
  predictedUs?: number | undefined;
  estimateUs?: number | undefined;
  /** Capability `events`: the clients that wanted them still do. */
  events: boolean;
  parameters: MigrationParameters;
  timeline: Timeline;
  isRunning: boolean;
  refusal: string | undefined;
  /** The update is over when `proven` says so. */
  isOnTrial: boolean;
}
