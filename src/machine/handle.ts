// SPDX-License-Identifier: Apache-2.0
// A running VM for its owner: the CLI, or a program that embeds Baton.
import type { Migration } from "../migration/migration.ts";
import type { QmpEvent } from "../qmp/events.ts";
import { parseMigrationUri } from "../qmp/migration-address.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { MigrateSetParameters, MigrationInfo } from "../qmp/schema/migration.ts";
import { removePrivateDir } from "../sandbox/state.ts";
import type { Connections } from "./connections.ts";
import { removePidfile } from "./pidfile.ts";
import type { VmTarget } from "./target.ts";
import type { Vm, VmExit } from "./vm.ts";

export class VmHandle implements AsyncDisposable {
  readonly #vm: Vm;
  readonly #target: VmTarget;
  readonly #migration: Migration;
  readonly #connections: Connections;
  #closed: Promise<void> | undefined;

  constructor(vm: Vm, target: VmTarget, migration: Migration, connections: Connections) {
    this.#vm = vm;
    this.#target = target;
    this.#migration = migration;
    this.#connections = connections;
  }

  get status(): RunState {
    return this.#vm.state;
  }

  /** Guest RAM: byte `a` of the view is guest physical address `a`. The guest changes it at any time. */
  get ram(): Uint8Array {
    return this.#vm.ramView();
  }

  /** Resolves when the VM has ended: the guest powered off, or somebody quit. */
  get exited(): Promise<VmExit> {
    return this.#vm.exited;
  }

  stop(): void {
    this.#vm.stop();
  }

  cont(): void {
    this.#vm.cont();
  }

  /** Ends the VM as QMP's `quit` does. @throws VmmError "ram-retained" the first time, when that would lose the guest */
  quit(): void {
    this.#target.quit();
  }

  powerdown(): void {
    this.#vm.powerdown();
  }

  reset(): Promise<void> {
    return this.#target.reset();
  }

  /** As QMP's `migrate-set-parameters`. */
  setMigrationParameters(parameters: MigrateSetParameters): void {
    this.#migration.setParameters(parameters);
  }

  /**
   * As QMP's `migrate`: starts what the parameters say, and returns at once. With mode `cpr-exec` this process is
   * replaced, unless that fails: `migrationStatus()` tells why then.
   */
  migrate(uri?: string): void {
    this.#migration.migrate(uri === undefined ? undefined : { main: parseMigrationUri(uri) });
  }

  migrationStatus(): MigrationInfo {
    return this.#migration.query();
  }

  /** All QMP events from now on. Ends when the VM does. */
  async *events(): AsyncGenerator<QmpEvent, void, void> {
    const queue: QmpEvent[] = [];
    let wake = (): void => {};
    const unsubscribe = this.#vm.events.subscribe((event) => {
      queue.push(event);
      wake();
    });
    let isOver = false;
    void this.#vm.exited.then(() => {
      isOver = true;
      wake();
    });
    try {
      while (!isOver || queue.length > 0) {
        const event = queue.shift();
        if (event !== undefined) yield event;
        else if (!isOver) await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      unsubscribe();
    }
  }

  /** Ends the VM if it still runs, and gives everything back. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#vm.state !== "shutdown") this.#vm.quit("host-signal");
    await this.#connections.drain(100);
    this.#vm.finishQuit();
    await this.#migration.close();
    await this.#vm.close();
    await this.#connections.close();
    removePidfile(this.#vm.spec);
    if (this.#vm.spec.sandbox !== undefined) removePrivateDir();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
