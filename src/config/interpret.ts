// SPDX-License-Identifier: Apache-2.0
// What a list of options says, without any default: the step between syntax and meaning.

import type { Draft } from "./draft.ts";
import { interpretChardev, interpretMon, interpretMonitor, interpretSerial } from "./interpret-backends.ts";
import { interpretIncoming } from "./interpret-incoming.ts";
import {
  finishSmp,
  interpretAccel,
  interpretCpu,
  interpretDevice,
  interpretMachine,
  interpretMemory,
  interpretObject,
  interpretSmp,
} from "./interpret-machine.ts";
import { type ConfigFlag, findOption, type RawOption } from "./options.ts";
import { Properties, type Property, parseJsonObject, parseOptionString, shorten } from "./qemu-options.ts";
import type { WantedSpec } from "./types.ts";
import { UsageError } from "./usage.ts";

/**
 * What `options` say. Throws a `UsageError` for what is wrong within one option, and for ids given twice; whether the
 * whole makes a machine is for `resolve` (a new VM) or `mergeSpecs` (an update) to check.
 */
export function interpretOptions(options: readonly RawOption[]): WantedSpec {
  const draft: Draft = { wanted: {}, monitorCount: 0 };
  for (const option of options) INTERPRETERS[option.flag](draft, option);
  finishSmp(draft);
  if (draft.machineAccelerators !== undefined) {
    if (draft.wanted.accelerators !== undefined) {
      throw new UsageError('The -accel and "-machine accel=" options are incompatible');
    }
    draft.wanted.accelerators = draft.machineAccelerators;
  }
  return draft.wanted;
}

const INTERPRETERS: Readonly<Record<ConfigFlag, (draft: Draft, option: RawOption) => void>> = {
  machine: (draft, option) => interpretMachine(draft, propertiesOf(option)),
  accel: (draft, option) => interpretAccel(draft, propertiesOf(option)),
  cpu: (draft, option) => interpretCpu(draft, textOrObject(option), option.origin),
  smp: (draft, option) => interpretSmp(draft, propertiesOf(option)),
  m: (draft, option) => interpretMemory(draft, propertiesOf(option)),
  object: (draft, option) => interpretObject(draft, propertiesOf(option)),
  device: (draft, option) => interpretDevice(draft, propertiesOf(option)),
  chardev: (draft, option) => interpretChardev(draft, propertiesOf(option)),
  serial: (draft, option) => interpretSerial(draft, textOrObject(option), option.origin),
  monitor: (draft, option) => interpretMonitor(draft, textOrObject(option), option.origin, "readline"),
  qmp: (draft, option) => interpretMonitor(draft, textOrObject(option), option.origin, "control"),
  mon: (draft, option) => interpretMon(draft, propertiesOf(option)),
  incoming: (draft, option) => interpretIncoming(draft, textOrObject(option), option.origin),
  name: (draft, option) => interpretName(draft, propertiesOf(option)),
  display: (_, option) => interpretDisplay(propertiesOf(option)),
  uuid: ({ wanted }, option) => set(wanted, "uuid", readUuid(option)),
  kernel: ({ wanted }, option) => set(wanted, "kernel", path(option)),
  initrd: ({ wanted }, option) => set(wanted, "initrd", path(option)),
  bios: ({ wanted }, option) => set(wanted, "bios", path(option)),
  append: ({ wanted }, option) => set(wanted, "append", text(option)),
  pidfile: ({ wanted }, option) => set(wanted, "pidfile", path(option)),
  S: ({ wanted }) => set(wanted, "startPaused", true),
  "no-reboot": ({ wanted }) => set(wanted, "noReboot", true),
  nodefaults: ({ wanted }) => set(wanted, "noDefaults", true),
  sandbox: (draft, option) => interpretSandbox(draft, propertiesOf(option)),
  "no-user-config": () => {},
};

function set<K extends keyof WantedSpec>(wanted: WantedSpec, key: K, value: WantedSpec[K]): void {
  wanted[key] = value;
}

function fail(option: RawOption, message: string, cause?: unknown): never {
  throw new UsageError(`${option.origin}: ${message}`, cause === undefined ? undefined : { cause });
}

function textOrObject(option: RawOption): string | Readonly<Record<string, unknown>> {
  return option.value === true ? fail(option, "Requires a value") : option.value;
}

function text(option: RawOption): string {
  return typeof option.value === "string" ? option.value : fail(option, "Expected a string");
}

function path(option: RawOption): string {
  const value = text(option);
  if (value === "" || value.includes("\0")) fail(option, "Expected the path of a file");
  return value;
}

function propertiesOf(option: RawOption): Properties {
  return new Properties(option.origin, readProperties(option));
}

function readProperties(option: RawOption): Property[] {
  const definition = findOption(option.flag);
  let value = textOrObject(option);
  if (typeof value === "string") {
    if (definition?.json !== true || !value.startsWith("{")) return parseOptionString(value, definition?.impliedKey);
    value = parseJsonObject(value, option.origin);
  }
  return Object.entries(value)
    .filter(([, each]) => each !== undefined)
    .map(([name, each]) => ({ name, value: each, bare: false }));
}

function interpretName(draft: Draft, properties: Properties): void {
  const name = properties.nonEmpty("guest");
  const reason = "threads and the process keep their names";
  properties.refuseOthers({ process: reason, "debug-threads": reason });
  if (name !== undefined) draft.wanted.name = name;
}

/** What QEMU lets be chosen is always denied here, but for what Baton needs for its own threads. */
const ALWAYS_DENIED = ["obsolete", "elevateprivileges", "spawn"] as const;

function interpretSandbox({ wanted }: Draft, properties: Properties): void {
  const isOn = properties.switch("enable") ?? properties.fail("Parameter 'enable' is missing: on or off");
  for (const name of ALWAYS_DENIED) {
    const value = properties.choice(name, ["allow", "deny", ...(name === "elevateprivileges" ? ["children"] : [])]);
    if (value === undefined || value === "deny") continue;
    properties.fail(`Parameter '${name}' must be deny: the sandbox has no other form`);
  }
  if (properties.choice("resourcecontrol", ["allow", "deny"]) === "deny") {
    properties.fail("Parameter 'resourcecontrol' must be allow: Baton sets the scheduling of its own threads");
  }
  const allow = properties.nonEmpty("allow")?.split(":") ?? [];
  for (const path of allow)
    if (path === "") properties.fail("Parameter 'allow' expects directories separated by colons");
  properties.refuseOthers();
  if (isOn) wanted.sandbox = { allow };
  else delete wanted.sandbox;
}

function interpretDisplay(properties: Properties): void {
  properties.choice("type", ["none"]);
  properties.refuseOthers();
}

function readUuid(option: RawOption): string {
  const uuid = text(option);
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(uuid)) {
    fail(option, `Failed to parse UUID string '${shorten(uuid)}': expected 8-4-4-4-12 hexadecimal digits`);
  }
  return uuid.toLowerCase();
}
