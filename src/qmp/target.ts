// SPDX-License-Identifier: Apache-2.0
// What the monitors (QMP and HMP) need of a VM: the border between control and machine.
import type { MigrationAddress } from "../config/types.ts";
import type { QmpEventListener } from "./events.ts";
import type { MigrationChannels } from "./migration-address.ts";
import type {
  AcceleratorInfo,
  ChardevInfo,
  CpuInfoFast,
  DeviceModuleInfo,
  DeviceModuleSwap,
  DeviceModuleSwapped,
  Memdev,
  MemoryInfo,
  RunState,
  SandboxInfo,
} from "./schema/machine.ts";
import type {
  MigrateSetParameters,
  MigrationBlocker,
  MigrationCapability,
  MigrationInfo,
  MigrationParameters,
} from "./schema/migration.ts";

export type MaybePromise<T> = T | Promise<T>;

/**
 * A VM under control. Every method may throw: a `QmpError` reaches the client as it is, any other error as
 * `GenericError` with the messages of its whole cause chain. A promise delays the reply, and the later commands of that
 * client with it, but nobody else's.
 */
export interface QmpTarget {
  /** Baton's version, `"0.1.0"`. */
  readonly version: string;
  readonly name: string | undefined;
  readonly uuid: string | undefined;

  status(): RunState;
  /** Pauses the vCPUs; no error if they are paused. While `inmigrate`: do not start when the state has come. */
  stop(): MaybePromise<void>;
  /** Starts the vCPUs; no error if they run. Refuses with a reason what may not run (`postmigrate`, `guest-panicked`). */
  cont(): MaybePromise<void>;
  reset(): MaybePromise<void>;
  /** Presses the power button. */
  powerdown(): MaybePromise<void>;
  /** Wakes a guest whose status is `suspended`; not called in any other status. */
  wakeup(): MaybePromise<void>;
  /**
   * Ends the VM for reason `host-qmp-quit`: emits SHUTDOWN before it returns, but leaves the process alive until the
   * reply that follows has been written.
   * @throws VmmError "ram-retained" the first time, when that would lose the guest
   */
  quit(): MaybePromise<void>;

  cpus(): CpuInfoFast[];
  chardevs(): ChardevInfo[];
  memdevs(): Memdev[];
  memory(): MemoryInfo;
  accelerators(): AcceleratorInfo;
  sandbox(): MaybePromise<SandboxInfo>;

  deviceModules(): MaybePromise<DeviceModuleInfo[]>;
  /** Replaces the Wasm module of one device. When it throws, the device goes on with the module that it has. */
  swapDeviceModule(swap: DeviceModuleSwap): MaybePromise<DeviceModuleSwapped>;

  readonly migration: MigrationTarget;
  readonly fds: NamedFds;

  /** All events, including MIGRATION and MIGRATION_PASS, which the monitors filter by the capability `events`. */
  subscribe(listener: QmpEventListener): () => void;
}

/** Fds that clients have handed over. */
export interface NamedFds {
  /** Takes over an fd; another one of that name is closed. */
  set(name: string, fd: number): void;
  /** False when there is none of that name. */
  close(name: string): boolean;
}

/** Migration and update control. Channels and modes have been checked against each other before `migrate` is called. */
export interface MigrationTarget {
  parameters(): MigrationParameters;
  /** Takes over the given ones, all or none. */
  setParameters(changes: MigrateSetParameters): MaybePromise<void>;
  capabilities(): Record<MigrationCapability, boolean>;
  setCapabilities(changes: Partial<Record<MigrationCapability, boolean>>): MaybePromise<void>;
  /**
   * Starts an outgoing migration in the mode of `parameters()`. Returns as soon as it is under way: the rest is told by
   * `query()` and by MIGRATION events. Throws, with nothing changed, what forbids it (a blocker, a migration in progress).
   * Only mode `cpr-exec` may go without channels.
   */
  migrate(channels: MigrationChannels | undefined): MaybePromise<void>;
  /**
   * Starts to find out whether an update in the mode of `parameters()` would work, with what `cpr-exec-command` says. Nothing is
   * updated. Returns as soon as it is under way: the rest is told by `query()`. Throws what forbids even that.
   */
  dryRun(): MaybePromise<void>;
  /** Starts the incoming migration of a VM that was begun with `-incoming defer`. */
  incoming(main: MigrationAddress, options: { exitOnError: boolean }): MaybePromise<void>;
  /** Has the migration in progress go on by post-copy. */
  startPostcopy(): MaybePromise<void>;
  /** No error if there is nothing to cancel. */
  cancel(): MaybePromise<void>;
  query(): MigrationInfo;
  /** Everything that forbids moving the VM now, in every mode. */
  blockers(): MigrationBlocker[];
}
