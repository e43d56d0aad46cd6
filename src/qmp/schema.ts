// SPDX-License-Identifier: Apache-2.0
// Every QMP command and event of Baton. Argument checks, query-commands, query-qmp-schema and the types of the client
// all come from these two tables; what is not here does not exist.
import { ChannelArguments } from "./migration-address.ts";
import { CommandInfo, QmpCapability, SchemaInfo, VersionInfo } from "./schema/control.ts";
import {
  AcceleratorInfo,
  ChardevInfo,
  CpuInfoFast,
  DeviceModuleInfo,
  DeviceModuleSwap,
  DeviceModuleSwapped,
  GuestPanicAction,
  KvmInfo,
  Memdev,
  MemoryInfo,
  NameInfo,
  SandboxInfo,
  ShutdownCause,
  StatusInfo,
  TargetInfo,
  UuidInfo,
} from "./schema/machine.ts";
import {
  MigrateSetParameters,
  MigrationBlocker,
  MigrationCapabilityStatus,
  MigrationInfo,
  MigrationParameters,
  MigrationStatus,
} from "./schema/migration.ts";
import {
  arrayOf,
  bool,
  type CommandSpec,
  type Empty,
  type EventSpec,
  int,
  optional,
  str,
  struct,
} from "./schema/types.ts";

export const COMMANDS = {
  qmp_capabilities: { arguments: struct({ enable: optional(arrayOf(QmpCapability)) }), negotiation: true },
  "query-version": { returns: VersionInfo },
  "query-commands": { returns: arrayOf(CommandInfo) },
  "query-qmp-schema": { returns: arrayOf(SchemaInfo) },
  "human-monitor-command": {
    arguments: struct({ "command-line": str, "cpu-index": optional(int) }),
    returns: str,
  },

  "query-status": { returns: StatusInfo },
  "query-name": { returns: NameInfo },
  "query-uuid": { returns: UuidInfo },
  "query-kvm": { returns: KvmInfo },
  "query-accelerators": { returns: AcceleratorInfo },
  "query-target": { returns: TargetInfo },
  "query-cpus-fast": { returns: arrayOf(CpuInfoFast) },
  "query-chardev": { returns: arrayOf(ChardevInfo) },
  "query-memdev": { returns: arrayOf(Memdev) },
  "query-memory-size-summary": { returns: MemoryInfo },
  "query-sandbox": { returns: SandboxInfo },

  stop: {},
  cont: {},
  quit: {},
  system_reset: {},
  system_powerdown: {},
  system_wakeup: {},

  "query-device-modules": { returns: arrayOf(DeviceModuleInfo) },
  "device-module-swap": { arguments: DeviceModuleSwap, returns: DeviceModuleSwapped },

  getfd: { arguments: struct({ fdname: str }) },
  closefd: { arguments: struct({ fdname: str }) },

  migrate: { arguments: struct({ ...ChannelArguments, resume: optional(bool), "dry-run": optional(bool) }) },
  "migrate-incoming": { arguments: struct({ ...ChannelArguments, "exit-on-error": optional(bool) }) },
  migrate_cancel: {},
  "migrate-start-postcopy": {},
  "migrate-set-parameters": { arguments: MigrateSetParameters },
  "query-migrate-parameters": { returns: MigrationParameters },
  "migrate-set-capabilities": { arguments: struct({ capabilities: arrayOf(MigrationCapabilityStatus) }) },
  "query-migrate-capabilities": { returns: arrayOf(MigrationCapabilityStatus) },
  "query-migrate": { returns: MigrationInfo },
  "query-migrate-blockers": { returns: arrayOf(MigrationBlocker) },
} as const satisfies Record<string, CommandSpec>;

const Cause = struct({ guest: bool, reason: ShutdownCause });

export const EVENTS = {
  STOP: {},
  RESUME: {},
  SHUTDOWN: { data: Cause },
  RESET: { data: Cause },
  POWERDOWN: {},
  SUSPEND: {},
  WAKEUP: {},
  MIGRATION: { data: struct({ status: MigrationStatus }) },
  MIGRATION_PASS: { data: struct({ pass: int }) },
  GUEST_PANICKED: { data: struct({ action: GuestPanicAction }) },
} as const satisfies Record<string, EventSpec>;

export type CommandName = keyof typeof COMMANDS;
export type EventName = keyof typeof EVENTS;

type Commands = typeof COMMANDS;
type Events = typeof EVENTS;

/** The `arguments` of command `K`. */
export type CommandArguments<K extends CommandName> = Commands[K] extends { arguments: { static?: infer A } }
  ? NonNullable<A>
  : Empty;

/** What command `K` returns; commands that tell nothing return `{}`. */
export type CommandResult<K extends CommandName> = Commands[K] extends { returns: { static?: infer R } }
  ? NonNullable<R>
  : Empty;

/** The `data` of event `K`; undefined if it has none. */
export type EventData<K extends EventName> = Events[K] extends { data: { static?: infer D } }
  ? NonNullable<D>
  : undefined;
