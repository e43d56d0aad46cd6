// SPDX-License-Identifier: Apache-2.0
// Every command of the human monitor. https://www.qemu.org/docs/master/system/monitor.html
import { parseSize } from "../config/qemu-options.ts";
import { cont, wakeup } from "../qmp/commands/machine.ts";
import { migrate } from "../qmp/commands/migration.ts";
import { QmpError } from "../qmp/errors.ts";
import { parseMigrationUri } from "../qmp/migration-address.ts";
import { check } from "../qmp/schema/check.ts";
import { DeviceModuleSwap } from "../qmp/schema/machine.ts";
import { MigrateSetParameters, MigrationCapability } from "../qmp/schema/migration.ts";
import type { MaybePromise, QmpTarget } from "../qmp/target.ts";
import type { HmpArgument, HmpArguments } from "./arguments.ts";
import { INFO_COMMANDS } from "./info.ts";

/** Whom a command answers. */
export interface HmpContext {
  readonly target: QmpTarget;
  /** The CPU that is marked as current. */
  readonly cpuIndex: number;
  /** Lines end with `\n` here; the monitor's owner makes `\r\n` of it. */
  print(text: string): void;
  /** Holds the prompt back until `promise` settles; absent where nobody can wait. */
  wait?(promise: Promise<void>): Promise<void>;
}

export interface HmpCommand {
  /** All names, the full one first. */
  names: readonly string[];
  flags?: readonly string[];
  arguments?: readonly HmpArgument[];
  /** The arguments as `help` shows them. */
  usage: string;
  help: string;
  /** Subcommands: the rest of the line is a line of its own. */
  subcommands?: readonly HmpCommand[];
  run(context: HmpContext, args: HmpArguments): MaybePromise<void>;
}

export const HMP_COMMANDS: readonly HmpCommand[] = [
  {
    names: ["cont", "c"],
    usage: "",
    help: "resume emulation",
    run: ({ target }) => cont(target),
  },
  {
    names: ["device_module_swap"],
    arguments: [
      { name: "device", kind: "word" },
      { name: "filename", kind: "word" },
      { name: "instance", kind: "word", optional: true },
    ],
    usage: "device filename [instance]",
    help: "replace the Wasm module that models a device",
    run: swapDeviceModule,
  },
  {
    names: ["help", "?"],
    arguments: [{ name: "name", kind: "rest", optional: true }],
    usage: "[cmd]",
    help: "show the help",
    run: ({ print }, { values }) => showHelp(print, values.name),
  },
  {
    names: ["info"],
    usage: "[subcommand]",
    help: "show various information about the system state",
    subcommands: INFO_COMMANDS,
    run: ({ print }) => showHelp(print, "info"),
  },
  {
    names: ["migrate"],
    flags: ["d"],
    arguments: [{ name: "uri", kind: "word" }],
    usage: "[-d] uri",
    help: "migrate to URI (using -d to not wait for completion)",
    run: startMigration,
  },
  {
    names: ["migrate_cancel"],
    usage: "",
    help: "cancel the current VM migration",
    run: ({ target }) => target.migration.cancel(),
  },
  {
    names: ["migrate_incoming"],
    arguments: [{ name: "uri", kind: "word" }],
    usage: "uri",
    help: "Continue an incoming migration from an -incoming defer",
    run: ({ target }, { values }) => target.migration.incoming(parseMigrationUri(values.uri!), { exitOnError: true }),
  },
  {
    names: ["migrate_set_capability"],
    arguments: [
      { name: "capability", kind: "word" },
      { name: "state", kind: "switch" },
    ],
    usage: "capability state",
    help: "Enable/Disable the usage of a capability for migration",
    run({ target }, { values }) {
      const capability = values.capability as MigrationCapability;
      if (!MigrationCapability.values.includes(capability)) {
        throw new QmpError(`invalid parameter value: ${capability}`);
      }
      return target.migration.setCapabilities({ [capability]: values.state === "on" });
    },
  },
  {
    names: ["migrate_set_parameter"],
    arguments: [
      { name: "parameter", kind: "word" },
      { name: "value", kind: "rest" },
    ],
    usage: "parameter value",
    help: "Set the parameter for migration",
    run: ({ target }, { values }) => setParameter(target, values.parameter!, values.value!),
  },
  {
    names: ["migrate_start_postcopy"],
    usage: "",
    help: "let the guest of the migration in progress go on over there before all of its RAM is there (capability postcopy-ram)",
    run: ({ target }) => target.migration.startPostcopy(),
  },
  {
    names: ["quit", "q"],
    usage: "",
    help: "quit the emulator",
    run: ({ target }) => target.quit(),
  },
  {
    names: ["stop", "s"],
    usage: "",
    help: "stop emulation",
    run: ({ target }) => target.stop(),
  },
  {
    names: ["system_powerdown"],
    usage: "",
    help: "send system power down event",
    run: ({ target }) => target.powerdown(),
  },
  {
    names: ["system_reset"],
    usage: "",
    help: "reset the system",
    run: ({ target }) => target.reset(),
  },
  {
    names: ["system_wakeup"],
    usage: "",
    help: "wakeup guest from suspend",
    run: ({ target }) => wakeup(target),
  },
];

/** Finds a command, or with `info NAME` one of its subcommands; the rest of the line is what follows its name. */
export function findCommand(line: string): { command: HmpCommand; path: string; rest: string } | { unknown: string } {
  let commands = HMP_COMMANDS;
  let path = "";
  let rest = line.trim();
  for (;;) {
    const name = /^\S+/.exec(rest)?.[0] ?? "";
    const command = commands.find(({ names }) => names.includes(name));
    if (command === undefined) return { unknown: path + name };
    rest = rest.slice(name.length).trimStart();
    if (command.subcommands === undefined || rest === "") return { command, path, rest };
    commands = command.subcommands;
    path = `${path}${name} `;
  }
}

function showHelp(print: HmpContext["print"], name: string | undefined): void {
  if (name === undefined) {
    for (const command of HMP_COMMANDS) print(describe(command, ""));
    return;
  }
  const found = findCommand(name);
  if ("unknown" in found) {
    print(`unknown command: '${found.unknown}'\n`);
  } else if (found.command.subcommands === undefined) {
    print(describe(found.command, found.path));
  } else {
    for (const command of found.command.subcommands) print(describe(command, `${found.command.names[0]} `));
  }
}

function describe(command: HmpCommand, path: string): string {
  return `${path}${command.names.join("|")} ${command.usage} -- ${command.help}\n`;
}

async function startMigration(context: HmpContext, { flags, values }: HmpArguments): Promise<void> {
  const { target, print, wait } = context;
  const isDetached = flags.has("d") || wait === undefined;
  const end = isDetached ? undefined : watchMigration(target);
  try {
    await migrate(target.migration, { uri: values.uri! });
    if (!flags.has("d") && wait === undefined) {
      print("terminal does not allow synchronous migration, continuing detached\n");
    }
    if (end === undefined) return;
    await wait!(end.promise);
    const error = target.migration.query()["error-desc"];
    if (error !== undefined) print(`Error: ${error}\n`);
  } finally {
    end?.dispose();
  }
}

function watchMigration(target: QmpTarget): { promise: Promise<void>; dispose(): void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  const dispose = target.subscribe((event) => {
    if (event.event !== "MIGRATION") return;
    const { status } = event.data;
    if (status === "completed" || status === "failed" || status === "cancelled") resolve();
  });
  return { promise, dispose };
}

async function swapDeviceModule({ target, print }: HmpContext, { values }: HmpArguments): Promise<void> {
  const { device, filename, instance = "0" } = values;
  const swap = check(DeviceModuleSwap, { device, filename, instance }, "", { keyval: true });
  const { "closed-us": closedUs } = await target.swapDeviceModule(swap);
  print(`${device} ${instance}: accesses waited for ${closedUs} us\n`);
}

function setParameter(target: QmpTarget, name: string, text: string): MaybePromise<void> {
  const { members } = MigrateSetParameters;
  const member = Object.hasOwn(members, name) ? members[name] : undefined;
  if (member === undefined) throw new QmpError(`invalid parameter value: ${name}`);
  const isList = member.meta === "optional" && member.type.meta === "array";
  const value = isList ? text.trim().split(/\s+/) : name === "max-bandwidth" ? parseBandwidth(text) : text;
  return target.migration.setParameters(check(MigrateSetParameters, { [name]: value }, "", { keyval: true }));
}

/** Bytes per second; without a suffix it is MiB, here but not in QMP. */
function parseBandwidth(text: string): number {
  const bytesPerSecond = parseSize(text, 2 ** 20);
  if (bytesPerSecond === undefined) throw new QmpError(`Invalid size ${text}`);
  return bytesPerSecond;
}
