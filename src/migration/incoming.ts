// SPDX-License-Identifier: Apache-2.0
// A VM that waits for its guest: from `-incoming` or `migrate-incoming` to "guest runs", or to a clear failure.
import { close } from "../../ffi/fd.ts";
import { incomingSpec } from "../config/carried-spec.ts";
import type { MachineSpec, MigrationAddress, WantedSpec } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { buildParts, type Inherited } from "../machine/build.ts";
import type { Vm } from "../machine/vm.ts";
import { formatMigrationUri } from "../qmp/migration-address.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import { StateReader } from "../state/reader.ts";
import { GUEST_SECTIONS, readCpuids, readMachine } from "./guest-image.ts";
import type { MigrationProgress } from "./progress.ts";
import { checkSamples, readRamLocation } from "./ram-section.ts";
import { type FileAddress, openStateFile } from "./state-file.ts";

export interface IncomingOptions {
  vm: Vm;
  progress: MigrationProgress;
  /** The command line that waits: with all defaults, and only what it says. */
  own: MachineSpec;
  wanted: WantedSpec;
  /** The VM has its parts now: connects them with the world. */
  onBuilt(): void;
}

export class Incoming {
  readonly #options: IncomingOptions;
  #abort = new AbortController();

  constructor(options: IncomingOptions) {
    this.#options = options;
  }

  /** Starts waiting at `main`; failures are told by `query-migrate`, and end the VM with `exitOnError`. @throws VmmError */
  begin(main: MigrationAddress, { exitOnError }: { exitOnError: boolean }): void {
    const { vm, progress } = this.#options;
    if (vm.state !== "inmigrate" || progress.isBusy) {
      throw new VmmError("incoming-started", "The incoming migration has already been started");
    }
    const receive = this.#procedure(main);
    this.#abort = new AbortController();
    progress.start();
    progress.enter("setup");
    setTimeout(() => void this.#run(main, receive, exitOnError), 0);
  }

  /** `migrate_cancel`: this side gives up waiting, and can begin anew. */
  cancel(): void {
    this.#abort.abort(new VmmError("cancelled", "The incoming migration was cancelled"));
  }

  #procedure(main: MigrationAddress): () => Promise<RunState> {
    if (main.transport === "file") return () => this.#loadFile(main);
    throw new VmmError("channel", `-incoming ${formatMigrationUri(main)} is not in this version of Baton`);
  }

  async #run(main: MigrationAddress, receive: () => Promise<RunState>, exitOnError: boolean): Promise<void> {
    const { vm, progress } = this.#options;
    try {
      this.#goOn(await receive());
      progress.enter("completed");
    } catch (error) {
      await vm.disassemble();
      if (this.#abort.signal.aborted && vm.state === "inmigrate") {
        progress.enter("cancelling");
        progress.enter("cancelled");
        return;
      }
      const description = `load of migration failed: ${describeError(error)}`;
      progress.enter("failing");
      progress.fail(description);
      process.stderr.write(`baton: -incoming ${formatMigrationUri(main)}: ${description}\n`);
      if (exitOnError) vm.giveUp();
    }
  }

  /** The guest is here and whole: from now on it is this process that has it. */
  #goOn(state: RunState): void {
    const { vm } = this.#options;
    vm.serve();
    for (const port of vm.devices.serialPorts) port.flush();
    if (state === "running" && vm.startsWhenComplete) vm.resumeFrom();
    else vm.assumeState(state === "running" ? "paused" : state);
  }

  async #loadFile(address: FileAddress): Promise<RunState> {
    const { vm, progress } = this.#options;
    const file = openStateFile(address);
    try {
      progress.enter("active");
      const reader = new StateReader(file.image, GUEST_SECTIONS);
      const { spec, runState } = readMachine(reader);
      const location = readRamLocation(reader, spec.memorySizeBytes);
      this.#build(spec, { cpuids: readCpuids(reader, spec.cpuCount) });
      if (location.where === "in-place") checkSamples(vm.memory, vm.ram, location);
      else throw new VmmError("mode", "RAM in the state file is not in this version of Baton");
      vm.devices.restoreState(reader);
      vm.accel.restoreState(reader);
      return runState;
    } finally {
      close(file.fd);
    }
  }

  /** Builds the machine of the guest that comes. @throws VmmError when the command line contradicts it */
  #build(carried: MachineSpec, inherited: Inherited): void {
    const { vm, own, wanted, onBuilt } = this.#options;
    const spec = incomingSpec(carried, own, wanted, { inheritsRam: inherited.ramFd !== undefined });
    vm.assemble(
      spec,
      buildParts(spec, (index, message) => vm.vcpuFailed(index, message), inherited),
    );
    onBuilt();
  }
}
