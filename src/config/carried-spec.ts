// SPDX-License-Identifier: Apache-2.0
// The machine of a guest that comes from elsewhere: its topology is the guest's, its back ends are those of the command
// line that waits for it.
import { RAM_MAX_SIZE_BYTES } from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";
import { check } from "../qmp/schema/check.ts";
import { any, arrayOf, bool, enumOf, optional, str, struct, uint } from "../qmp/schema/types.ts";
import { machineDifferences, OWN_VALUES, refuseDifferences } from "./same-machine.ts";
import type { AcceleratorName, ChardevSpec, MachineSpec, MonitorSpec, WantedSpec } from "./types.ts";

const MAX_CPUS = 8;
const MAX_SERIAL_PORTS = 4;
const DIRTY_RING_MAX_ENTRIES = 65536;

const MemoryBackend = struct({
  qomType: enumOf("memory-backend-memfd", "memory-backend-file", "memory-backend-ram"),
  id: str,
  sizeBytes: uint,
  share: bool,
  memPath: optional(str),
  hugetlb: optional(bool),
  hugetlbSizeBytes: optional(uint),
  prealloc: optional(bool),
  seal: optional(bool),
});

/** `MachineSpec` as it travels. What belongs to the other side alone (chardevs, monitors, …) is not looked into. */
const CarriedSpec = struct({
  name: optional(str),
  uuid: optional(str),
  machine: struct({ type: enumOf("microvm", "q35", "pc"), memoryBackend: optional(str), auxRamShare: bool }),
  accelerators: arrayOf(any),
  dirtyRingEntries: optional(uint),
  memoryBackends: arrayOf(MemoryBackend),
  memorySizeBytes: uint,
  tlsCredentials: optional(any),
  sandbox: optional(any),
  cpuCount: uint,
  cpuTopology: optional(struct({ sockets: uint, cores: uint, threads: uint })),
  cpu: struct({ model: str, features: any }),
  kernel: optional(str),
  initrd: optional(str),
  append: optional(str),
  bios: optional(str),
  unpackKernel: optional(bool),
  chardevs: arrayOf(any),
  serials: arrayOf(any),
  debugExit: optional(struct({ ioBase: uint, ioSizeBytes: optional(uint) })),
  monitors: arrayOf(any),
  noReboot: bool,
  startPaused: bool,
  pidfile: optional(str),
  incoming: arrayOf(any),
});

function isRingSize(entries: number): boolean {
  return entries === 0 || (entries <= DIRTY_RING_MAX_ENTRIES && Number.isInteger(Math.log2(entries)));
}

/** A machine spec out of a state image, which may hold anything. @throws VmmError "state-refused" naming the member */
export function checkCarriedSpec(value: unknown): MachineSpec {
  let spec: MachineSpec;
  try {
    spec = check(CarriedSpec, value, "machine") as unknown as MachineSpec;
  } catch (cause) {
    throw new VmmError("state-refused", "The machine in the state is none that this version knows", { cause });
  }
  const { cpuCount, cpuTopology, dirtyRingEntries = 0, memorySizeBytes, serials } = spec;
  const { sockets, cores, threads } = cpuTopology ?? { sockets: 1, cores: cpuCount, threads: 1 };
  const refuse = (what: string): VmmError => new VmmError("state-refused", `The machine in the state has ${what}`);
  if (cpuCount < 1 || cpuCount > MAX_CPUS) throw refuse(`${cpuCount} CPUs; 1 to ${MAX_CPUS} are possible`);
  if (sockets * cores * threads !== cpuCount) throw refuse(`${cpuCount} CPUs in ${sockets}×${cores}×${threads}`);
  if (memorySizeBytes < 2 ** 20 || memorySizeBytes > RAM_MAX_SIZE_BYTES || memorySizeBytes % 4096 !== 0) {
    throw refuse(`RAM of ${memorySizeBytes} bytes`);
  }
  if (!isRingSize(dirtyRingEntries)) throw refuse(`dirty rings of ${dirtyRingEntries} entries`);
  if (serials.length > MAX_SERIAL_PORTS)
    throw refuse(`${serials.length} serial ports; ${MAX_SERIAL_PORTS} are possible`);
  if (!spec.memoryBackends.some(({ id }) => id === spec.machine.memoryBackend)) throw refuse("no back end for its RAM");
  return spec;
}

/**
 * The machine to build for `carried`, the spec of a guest that comes to a VM with the command line `wanted`, which is
 * `own` with all defaults. `inheritsRam`: RAM comes as an fd and is what it is, instead of in a back end of one's own.
 *
 * @throws VmmError "machine-differs" when the command line contradicts the guest's topology
 */
export function incomingSpec(
  carried: MachineSpec,
  own: MachineSpec,
  wanted: WantedSpec,
  { inheritsRam }: { inheritsRam: boolean },
): MachineSpec {
  const { memoryBackends, machine, ...others } = wanted;
  const { memoryBackend, auxRamShare, ...ownMachine } = machine ?? {};
  refuseDifferences(machineDifferences(carried, inheritsRam ? wanted : { ...others, machine: ownMachine }));
  const hasOwnRam = !inheritsRam && (memoryBackend !== undefined || memoryBackends !== undefined || auxRamShare);
  const ram = hasOwnRam ? own : carried;
  const backend = ram.memoryBackends.find(({ id }) => id === ram.machine.memoryBackend)!;
  if (backend.sizeBytes !== carried.memorySizeBytes) {
    throw new VmmError(
      "machine-differs",
      `RAM back end '${backend.id}' has ${backend.sizeBytes} bytes, the guest's RAM ${carried.memorySizeBytes}`,
    );
  }
  const unconnected: ChardevSpec[] = [];
  const serials = carried.serials.map((serial, port) => {
    if (serial === null) return null;
    const chardev = own.serials[port];
    if (chardev !== undefined && chardev !== null) return chardev;
    const id = `unconnected-serial${port}`;
    unconnected.push({ backend: "null", id });
    return id;
  });
  const { pidfile: _, tlsCredentials: __, sandbox: ___, ...carriedMachine } = carried;
  return {
    ...carriedMachine,
    ...pick(wanted, OWN_VALUES),
    accelerators: stayingFirst(carried.accelerators, wanted.accelerators ?? carried.accelerators),
    ...pick(own, ["tlsCredentials", "sandbox"]),
    machine: { ...carried.machine, ...pick(ram.machine, ["memoryBackend", "auxRamShare"]) },
    memoryBackends: ram.memoryBackends,
    chardevs: [...own.chardevs, ...unconnected],
    serials,
    monitors: own.monitors,
    startPaused: own.startPaused,
    incoming: [],
  };
}

/** Who leaves the choice has the guest stay where it is, if that can be had: nothing is measured while it is on its way. */
function stayingFirst(carried: readonly AcceleratorName[], wanted: AcceleratorName[]): AcceleratorName[] {
  const own = wanted.find((name) => name === carried[0]);
  return own === undefined ? wanted : [own, ...wanted.filter((name) => name !== own)];
}

function pick<T extends object, K extends keyof T>(from: T, keys: readonly K[]): Pick<T, K> {
  return Object.fromEntries(keys.filter((key) => from[key] !== undefined).map((key) => [key, from[key]])) as Pick<T, K>;
}

/** Connections that come to a machine from another process of the same guest, as specs. */
export interface ArrivingConnections {
  chardevs: readonly ChardevSpec[];
  monitors: readonly { spec: MonitorSpec; chardev: ChardevSpec }[];
  /** The other process's serial ports: ids of chardevs, some of which come. */
  serials: readonly (string | null)[];
}

export interface ConnectedSpec {
  spec: MachineSpec;
  /** What the chardevs that come are called here, where that is another name. */
  names: ReadonlyMap<string, string>;
  /** The ports that have a chardev that came. */
  ports: ReadonlySet<number>;
  /** Chardevs that these ports had. */
  replaced: readonly string[];
}

/** The machine with the connections of another process in addition to its own; its serial ports have that one's. */
export function withConnections(
  spec: MachineSpec,
  { chardevs, monitors, serials }: ArrivingConnections,
): ConnectedSpec {
  const arriving = new Set(chardevs.map(({ id }) => id));
  const ports = new Set<number>();
  for (const [port, id] of serials.entries()) {
    if (id !== null && arriving.has(id) && spec.serials[port] != null) ports.add(port);
  }
  const replaced = spec.serials.filter((id, port): id is string => id !== null && ports.has(port));
  const own = spec.chardevs.filter(({ id }) => !replaced.includes(id));
  const taken = new Set(own.map(({ id }) => id));
  const names = new Map<string, string>();
  const named = <Chardev extends ChardevSpec>(chardev: Chardev): Chardev => {
    const id = freeName(chardev.id, taken);
    taken.add(id);
    if (id !== chardev.id) names.set(chardev.id, id);
    return { ...chardev, id };
  };
  const others = [...chardevs, ...monitors.map(({ chardev }) => chardev)].map(named);
  const nameOf = (id: string): string => names.get(id) ?? id;
  return {
    spec: {
      ...spec,
      chardevs: [...own, ...others],
      serials: spec.serials.map((id, port) => (ports.has(port) ? nameOf(serials[port]!) : id)),
      monitors: [...spec.monitors, ...monitors.map((m) => ({ ...m.spec, chardev: nameOf(m.spec.chardev) }))],
    },
    names,
    ports,
    replaced,
  };
}

/** `id`, or `id.1`, `id.2`, … */
function freeName(id: string, taken: ReadonlySet<string>): string {
  let name = id;
  for (let number = 1; taken.has(name); number++) name = `${id}.${number}`;
  return name;
}
