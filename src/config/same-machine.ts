// SPDX-License-Identifier: Apache-2.0
// An update's command line against the VM that is running: the machine stays, its back ends may change.
//
// What the command line does not mention stays as it is. What it does mention:
//
//   must be equal (kind "machine")         may differ (kind "backend")
//   RAM size, memory back ends             chardevs, by id
//   number, arrangement, model of CPUs     where the serial ports lead
//   devices, number of serial ports        the monitors, as a whole
//   machine type and UUID                  accelerator, dirty-ring-size, name, pidfile, -no-reboot,
//                                          TLS credentials and sandbox, as a whole
//                                          kernel, initrd, append, bios, x-unpack-kernel: from the guest's next reboot on
//
// -S and -incoming speak of the start of the new VMM: they never are inherited. -nodefaults says nothing here, because
// an update adds no defaults.
import { VmmError } from "../errors.ts";
import { checkSpec } from "./check-spec.ts";
import { formatSize } from "./qemu-options.ts";
import type { ChardevSpec, MachineSpec, MemoryBackendSpec, WantedSpec } from "./types.ts";

export interface Difference {
  /** What differs, in words: `RAM size`, `memory back end 'ram0': share`. */
  what: string;
  /** Both values for a person; `none` for what is not there. */
  running: string;
  wanted: string;
  /** A back end may be changed by an update, the machine may not. */
  kind: "backend" | "machine";
}

/** Every difference between the running VM and what a command line (`interpretOptions`) mentions. */
export function compareSpecs(running: MachineSpec, wanted: WantedSpec): Difference[] {
  return [...machineDifferences(running, wanted), ...backendDifferences(running, wanted)];
}

/**
 * The running machine with the back ends that `wanted` mentions.
 *
 * @throws VmmError of code `"machine-differs"` when `wanted` would change the machine, UsageError when the result does
 *   not fit together (two users of stdio, a monitor on a chardev that is not there).
 */
export function mergeSpecs(running: MachineSpec, wanted: WantedSpec): MachineSpec {
  refuseDifferences(machineDifferences(running, wanted));
  const merged = merge(running, wanted);
  checkSpec(merged);
  return merged;
}

/** Options of a single value that the command line of whoever takes the guest over may set anew. */
export const OWN_VALUES = [
  "name",
  "pidfile",
  "kernel",
  "initrd",
  "append",
  "bios",
  "unpackKernel",
  "accelerators",
  "dirtyRingEntries",
  "noReboot",
] as const;

const REPLACEABLE = [...OWN_VALUES, "tlsCredentials", "sandbox"] as const;

/** Where the user writes another word. */
const OPTION_NAMES: Partial<Record<(typeof REPLACEABLE)[number], string>> = {
  dirtyRingEntries: "dirty-ring-size",
  noReboot: "no-reboot",
  unpackKernel: "x-unpack-kernel",
  tlsCredentials: "TLS credentials",
};

function merge(running: MachineSpec, wanted: WantedSpec): MachineSpec {
  const merged: MachineSpec = {
    ...running,
    monitors: wanted.monitors ?? running.monitors,
    serials: running.serials.map((serial, port) => wanted.serials?.[port] ?? serial),
    startPaused: wanted.startPaused ?? false,
    incoming: wanted.incoming ?? [],
  };
  for (const key of REPLACEABLE) replace(merged, wanted, key);
  // A command line that leaves the choice does not ask for another one.
  if (merged.accelerators.includes(running.accelerators[0]!)) merged.accelerators = running.accelerators;
  merged.chardevs = mergeChardevs(running, wanted, merged);
  return merged;
}

function replace<K extends (typeof REPLACEABLE)[number]>(merged: MachineSpec, wanted: WantedSpec, key: K): void {
  const value = (wanted as Partial<MachineSpec>)[key];
  if (value !== undefined) merged[key] = value as MachineSpec[K];
}

/** By id; a chardev whose monitor or serial port now leads elsewhere goes, or it would keep its terminal or socket. */
function mergeChardevs(running: MachineSpec, wanted: WantedSpec, merged: MachineSpec): ChardevSpec[] {
  const usedBefore = usedChardevs(running);
  const usedNow = usedChardevs(merged);
  const said = wanted.chardevs ?? [];
  const kept = running.chardevs
    .filter(({ id }) => usedNow.has(id) || !usedBefore.has(id) || said.some((chardev) => chardev.id === id))
    .map((chardev) => said.find(({ id }) => id === chardev.id) ?? chardev);
  return [...kept, ...said.filter(({ id }) => !kept.some((chardev) => chardev.id === id))];
}

function usedChardevs({ serials, monitors }: MachineSpec): Set<string | null> {
  return new Set([...serials, ...monitors.map(({ chardev }) => chardev)]);
}

/** @throws VmmError "machine-differs" that names all of them, if there are any */
export function refuseDifferences(differences: readonly Difference[]): void {
  if (differences.length === 0) return;
  const list = differences.map(({ what, running, wanted }) => `${what} (running: ${running}, wanted: ${wanted})`);
  throw new VmmError("machine-differs", `An update cannot change the machine: ${list.join("; ")}`);
}

/** In what the machine that `wanted` mentions differs from the running one. */
export function machineDifferences(running: MachineSpec, wanted: WantedSpec): Difference[] {
  const differences: Difference[] = [];
  const compare = (what: string, left: unknown, right: unknown): void => {
    if (right !== undefined && !isSame(left, right)) {
      differences.push({ what, running: show(left), wanted: show(right), kind: "machine" });
    }
  };
  compare("machine type", running.machine.type, wanted.machine?.type);
  compare("memory-backend of the machine", running.machine.memoryBackend, wanted.machine?.memoryBackend);
  compare("aux-ram-share", running.machine.auxRamShare, wanted.machine?.auxRamShare);
  if (wanted.memorySizeBytes !== undefined && wanted.memorySizeBytes !== running.memorySizeBytes) {
    compare("RAM size", formatSize(running.memorySizeBytes), formatSize(wanted.memorySizeBytes));
  }
  for (const backend of wanted.memoryBackends ?? []) compareMemoryBackend(running, backend, compare);
  compare("number of CPUs", running.cpuCount, wanted.cpuCount);
  if (wanted.cpuCount === running.cpuCount) {
    compare("arrangement of the CPUs", topology(running, running.cpuCount), topology(wanted, wanted.cpuCount));
  }
  compare("CPU model", running.cpu.model, wanted.cpu?.model);
  compare("CPU features", running.cpu.features, wanted.cpu?.features);
  compare("UUID", running.uuid, wanted.uuid);
  compare("isa-debug-exit", running.debugExit, wanted.debugExit);
  for (const [port, serial] of (wanted.serials ?? []).entries()) {
    const presence = (chardev: string | null | undefined): string => (chardev == null ? "absent" : "present");
    compare(`serial port ${port}`, presence(running.serials[port]), presence(serial));
  }
  return differences;
}

type Compare = (what: string, left: unknown, right: unknown) => void;

/** Properties with QEMU's names; all of an `-object` counts as mentioned, with its defaults. */
const MEMORY_PROPERTIES: Readonly<Record<Exclude<keyof MemoryBackendSpec, "id">, string>> = {
  qomType: "type",
  sizeBytes: "size",
  share: "share",
  memPath: "mem-path",
  hugetlb: "hugetlb",
  hugetlbSizeBytes: "hugetlbsize",
  prealloc: "prealloc",
  seal: "seal",
};

function compareMemoryBackend(running: MachineSpec, wanted: MemoryBackendSpec, compare: Compare): void {
  const backend = running.memoryBackends.find(({ id }) => id === wanted.id);
  const what = `memory back end '${wanted.id}'`;
  if (backend === undefined) {
    compare(what, undefined, `${wanted.qomType} of ${formatSize(wanted.sizeBytes)}`);
    return;
  }
  for (const key of Object.keys(MEMORY_PROPERTIES) as (keyof typeof MEMORY_PROPERTIES)[]) {
    // An update makes anonymous RAM shared: whoever started it as private may still say so.
    if (key === "share" && backend.qomType === "memory-backend-ram" && backend.share) continue;
    const value = (spec: MemoryBackendSpec): unknown => {
      const property = spec[key] ?? (key === "memPath" || key === "hugetlbSizeBytes" ? "none" : false);
      return typeof property === "number" ? formatSize(property) : property;
    };
    compare(`${what}: ${MEMORY_PROPERTIES[key]}`, value(backend), value(wanted));
  }
}

function topology({ cpuTopology }: WantedSpec, cpuCount: number): string {
  const { sockets, cores, threads } = cpuTopology ?? { sockets: 1, cores: cpuCount, threads: 1 };
  return `sockets=${sockets},cores=${cores},threads=${threads}`;
}

function backendDifferences(running: MachineSpec, wanted: WantedSpec): Difference[] {
  const merged = merge(running, wanted);
  const differences: Difference[] = [];
  const compare: Compare = (what, left, right) => {
    if (!isSame(left, right)) differences.push({ what, running: show(left), wanted: show(right), kind: "backend" });
  };
  for (const key of REPLACEABLE) compare(OPTION_NAMES[key] ?? key, running[key], merged[key]);
  for (const id of new Set([...running.chardevs, ...merged.chardevs].map((chardev) => chardev.id))) {
    const find = ({ chardevs }: MachineSpec): ChardevSpec | undefined => chardevs.find((chardev) => chardev.id === id);
    compare(`chardev '${id}'`, find(running), find(merged));
  }
  for (const [port, serial] of running.serials.entries()) compare(`serial port ${port}`, serial, merged.serials[port]);
  compare("monitors", running.monitors, merged.monitors);
  return differences;
}

/** JSON with the keys in order, so that equal values have equal text. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([left], [right]) => (left < right ? -1 : 1)))
      : inner,
  );
}

function isSame(left: unknown, right: unknown): boolean {
  return canonical(left) === canonical(right);
}

function show(value: unknown): string {
  if (value === undefined || value === null) return "none";
  if (typeof value === "boolean") return value ? "on" : "off";
  return typeof value === "object" ? canonical(value) : String(value);
}
