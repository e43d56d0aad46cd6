// SPDX-License-Identifier: Apache-2.0
// A VM that waits for its guest: from `-incoming` or `migrate-incoming` to "guest runs", or to a clear failure.
import { close } from "../../ffi/fd.ts";
import { incomingSpec } from "../config/carried-spec.ts";
import type { MachineSpec, MigrationAddress, WantedSpec } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { buildParts, type Inherited, withAccelerator } from "../machine/build.ts";
import type { Vm } from "../machine/vm.ts";
import { clearRam } from "../memory/ram.ts";
import { formatMigrationUri } from "../qmp/migration-address.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { SocketAddress } from "../qmp/schema/migration.ts";
import { StateReader } from "../state/reader.ts";
import type { TlsTunnels } from "./channel/tls.ts";
import type { ReceivedConnections } from "./connection-handover.ts";
import { IncomingTransfer } from "./cpr-transfer-incoming.ts";
import { GUEST_SECTIONS, readCpuids, readMachine } from "./guest-image.ts";
import type { GuestPast } from "./pause-history.ts";
import { SPARE_BITMAP } from "./precopy.ts";
import type { MigrationProgress } from "./progress.ts";
import { pageChecks, readRam } from "./ram/ram-file.ts";
import { checkSamples, type FilePages, type RamInFile, readPages, readRamLocation } from "./ram-section.ts";
import { restoreRetained } from "./retained-ram.ts";
import { type FileAddress, openStateFile, type StateFile } from "./state-file.ts";
import { receiveStream } from "./stream-incoming.ts";

/** How many threads read RAM from a file. */
const LOADING_THREADS = 2;

export interface IncomingOptions {
  vm: Vm;
  progress: MigrationProgress;
  /** The command line that waits: with all defaults, and only what it says. */
  own: MachineSpec;
  wanted: WantedSpec;
  /** The VM has its parts now: connects them with the world. */
  onBuilt(): void;
  /** The guest has come, with what it has lived through. `events`: there are clients who want that capability. */
  onArrived(past: GuestPast, events: boolean): void;
  /** Others were connected to it where it comes from: they are this VM's from now on, and wait until `thaw` is called. */
  adopt(connections: ReceivedConnections): { thaw(): void };
  /** The guest only passes through: hands it on, as part of the migration that it came by. */
  passOn?: (() => void) | undefined;
}

/** What a way in has brought. */
interface Arrived extends Partial<GuestPast> {
  runState: RunState;
  /** It runs already. */
  isRunning?: boolean;
  connections?: ReceivedConnections | undefined;
}

export class Incoming {
  readonly #options: IncomingOptions;
  readonly #transfer: IncomingTransfer | undefined;
  #abort = new AbortController();
  /** The guest is here, though perhaps not all of its RAM. */
  #hasGuest = false;
  /** Resolves when nothing is under way. */
  #settled: Promise<void> = Promise.resolve();

  constructor(options: IncomingOptions) {
    this.#options = options;
    const cpr = options.own.incoming.find(({ channel }) => channel === "cpr");
    if (cpr !== undefined && "address" in cpr) {
      const build = (spec: MachineSpec, inherited: Inherited): Promise<void> => this.#build(spec, inherited);
      this.#transfer = new IncomingTransfer(cpr.address, { vm: options.vm, build });
    }
  }

  /** Listens on the cpr channel, if there is one. @throws VmmError when that is impossible */
  async listen(): Promise<void> {
    await this.#transfer?.listen();
  }

  /** Gives back what waits. */
  async close(): Promise<void> {
    this.cancel();
    await this.#settled;
    await this.#transfer?.close();
  }

  /** Starts waiting at `main`; failures are told by `query-migrate`, and end the VM with `exitOnError`. @throws VmmError */
  begin(main: MigrationAddress, { exitOnError, tls }: { exitOnError: boolean; tls?: TlsTunnels | undefined }): void {
    const { vm, progress } = this.#options;
    if (vm.state !== "inmigrate" || progress.isBusy) {
      throw new VmmError("incoming-started", "The incoming migration has already been started");
    }
    const receive = this.#procedure(main, tls);
    this.#abort = new AbortController();
    progress.start();
    progress.enter("setup");
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#settled = promise;
    // The reply to `migrate-incoming` goes out first.
    setTimeout(() => void this.#run(main, receive, exitOnError).finally(resolve), 0);
  }

  /** `migrate_cancel`: this side gives up waiting, and can begin anew. */
  cancel(): void {
    this.#abort.abort(new VmmError("cancelled", "The incoming migration was cancelled"));
  }

  #procedure(main: MigrationAddress, tls: TlsTunnels | undefined): (signal: AbortSignal) => Promise<Arrived> {
    const transfer = this.#transfer;
    if (transfer !== undefined) {
      if (main.transport === "file") throw new VmmError("channel", "Migration requires streamable transport (eg unix)");
      if (main.transport === "socket" && main.type === "inet" && Number(main.port) === 0) {
        throw new VmmError(
          "channel",
          "The main channel of cpr-transfer needs a port that the other side can be told: not 0",
        );
      }
      return (signal) => transfer.receive(main, signal, (address) => (this.#options.progress.socketAddress = address));
    }
    if (main.transport === "file") return (signal) => this.#loadFile(main, signal);
    const { vm, progress } = this.#options;
    const build = (spec: MachineSpec, inherited: Inherited): Promise<void> => this.#build(spec, inherited);
    const onListening = (address: SocketAddress | undefined): void => {
      progress.socketAddress = address;
    };
    const onActive = (): void => progress.enter("active");
    const onRunning = (arrived: Arrived): void => {
      this.#goOn(arrived);
      progress.enter("postcopy-active");
    };
    const host = { vm, build, onListening, onActive, onRunning, tls };
    const receive = async (signal: AbortSignal): Promise<Arrived> => {
      try {
        return await receiveStream(host, main, signal);
      } catch (error) {
        if (!this.#hasGuest) await vm.disassemble();
        throw error;
      }
    };
    return tls === undefined ? receive : (signal) => tls.explain(() => receive(signal));
  }

  async #run(
    main: MigrationAddress,
    receive: (signal: AbortSignal) => Promise<Arrived>,
    exitOnError: boolean,
  ): Promise<void> {
    const { vm, progress } = this.#options;
    let arrived: Arrived;
    try {
      arrived = await receive(this.#abort.signal);
    } catch (error) {
      if (this.#hasGuest) {
        // Post-copy failed, and has stopped the guest.
        progress.enter("failing");
        progress.fail(describeError(error));
        return;
      }
      // It ends, and nobody waits for a guest any more.
      if (vm.state === "shutdown") return;
      if (this.#abort.signal.aborted) {
        progress.enter("cancelling");
        progress.enter("cancelled");
        return;
      }
      const description = `load of migration failed: ${describeError(error)}`;
      progress.enter("failing");
      progress.fail(description);
      process.stderr.write(`baton: -incoming ${formatMigrationUri(main)}: ${description}\n`);
      if (exitOnError) vm.giveUp();
      return;
    }
    const adopted = this.#hasGuest ? undefined : this.#goOn(arrived);
    const { passOn } = this.#options;
    if (passOn === undefined) progress.enter("completed");
    adopted?.thaw();
    passOn?.();
  }

  /** From now on it is this process that has the guest. Returns the connections that came along, still frozen. */
  #goOn({ runState, isRunning = false, connections, generation = 0, ...past }: Arrived): { thaw(): void } | undefined {
    const { vm, progress, onArrived, adopt } = this.#options;
    const { timeline } = past;
    this.#hasGuest = true;
    onArrived({ ...past, generation }, connections?.events ?? false);
    vm.serve();
    vm.flushOutput();
    if (connections !== undefined) {
      progress.start(connections.startedMs);
      progress.setupDone(connections.setupMs);
    }
    if (timeline !== undefined) progress.setTimeline(timeline);
    progress.predictedUs = past.predictedUs;
    if (progress.status === "setup") progress.enter("active");
    // Not earlier: those clients have been told of all this by the other side.
    const adopted = connections === undefined ? undefined : adopt(connections);
    if (isRunning) vm.runsOn();
    else if (runState === "running" && vm.startsWhenComplete) vm.resumeFrom();
    else vm.assumeState(runState === "running" ? "paused" : runState);
    return adopted;
  }

  async #loadFile(address: FileAddress, signal: AbortSignal): Promise<Arrived> {
    const { vm, progress } = this.#options;
    const file = openStateFile(address);
    try {
      progress.enter("active");
      const reader = new StateReader(file.image, GUEST_SECTIONS);
      const { spec, runState } = readMachine(reader);
      const location = readRamLocation(reader, spec.memorySizeBytes);
      const cpuids = readCpuids(reader, spec.cpuCount);
      if (location.where === "retained") {
        const ownSpec = this.#specFor(spec, { inheritsRam: true });
        const build = (ramFd: number): Promise<void> => this.#build(spec, { cpuids, ramFd, isFromElsewhere: true });
        await restoreRetained({ vm, spec: ownSpec, cpuids, reader, location, build });
        return { runState };
      }
      await this.#build(spec, { cpuids, isFromElsewhere: true, ramIsInPlace: location.where === "in-place" });
      if (location.where === "in-place") checkSamples(vm.memory, vm.ram, location);
      else if (location.where === "in-file") await this.#loadRam(file, reader, location, signal);
      else throw new VmmError("state-refused", "The state is that of a stream, and its RAM is not in the file");
      signal.throwIfAborted();
      vm.devices.restoreState(reader);
      vm.accel.restoreState(reader);
      return { runState };
    } catch (error) {
      await vm.disassemble();
      throw error;
    } finally {
      close(file.fd);
    }
  }

  /** Reads RAM from behind the image. */
  async #loadRam(
    file: StateFile,
    reader: StateReader,
    { offset, sizeBytes }: RamInFile,
    signal: AbortSignal,
  ): Promise<void> {
    const { memory, ram } = this.#options.vm;
    const pages: FilePages = { present: SPARE_BITMAP, checks: pageChecks(sizeBytes) };
    readPages(reader, memory, sizeBytes, pages);
    clearRam(memory, ram);
    await readRam(
      {
        memory,
        ramBase: ram.base,
        ramSizeBytes: sizeBytes,
        fd: file.fd,
        fileOffset: file.offset + offset,
        streams: LOADING_THREADS,
        checks: pages.checks,
        signal,
      },
      pages.present,
    );
  }

  /** Builds the machine of the guest that comes. @throws VmmError when the command line contradicts it */
  async #build(carried: MachineSpec, inherited: Inherited): Promise<void> {
    const { vm, onBuilt } = this.#options;
    const spec = this.#specFor(carried, { inheritsRam: inherited.ramFd !== undefined });
    const parts = await buildParts(spec, (index, message) => vm.vcpuFailed(index, message), inherited);
    vm.assemble(withAccelerator(spec, parts), parts);
    onBuilt();
  }

  #specFor(carried: MachineSpec, options: { inheritsRam: boolean }): MachineSpec {
    return incomingSpec(carried, this.#options.own, this.#options.wanted, options);
  }
}
