// SPDX-License-Identifier: Apache-2.0
// What the options of the machine itself say: -machine, -accel, -cpu, -smp, -m, -object, -device.
import { MAX_VCPUS, PAGE_SIZE_BYTES, RAM_ALIGNMENT_BYTES } from "../../assembly/layout.ts";
import type { Draft } from "./draft.ts";
import { readTlsCredentials, refuseOtherTls } from "./interpret-tls.ts";
import { describeValue, formatSize, type Properties, parseSwitch, shorten } from "./qemu-options.ts";
import { didYouMean } from "./suggest.ts";
import type { AcceleratorName, CpuModel, MachineType, MemoryBackendSpec } from "./types.ts";
import { UsageError } from "./usage.ts";

const MACHINE_TYPES: readonly MachineType[] = ["microvm", "q35", "pc"];
const CPU_MODELS: readonly string[] = ["host", "max", "baton64"] satisfies CpuModel[];
const BACKEND_TYPES: readonly MemoryBackendSpec["qomType"][] = [
  "memory-backend-memfd",
  "memory-backend-file",
  "memory-backend-ram",
];
const OBJECT_TYPES = [...BACKEND_TYPES, "tls-creds-x509"] as const;
const MIB = 1024 * 1024;
/** KVM keeps some hundred entries in reserve; more than the maximum there is no room for. */
const DIRTY_RING_MIN_ENTRIES = 1024;
const DIRTY_RING_MAX_ENTRIES = 65536;
/** As QEMU rounds `-m`. */
const RAM_SIZE_UNIT_BYTES = 8192;

export function interpretMachine(draft: Draft, properties: Properties): void {
  const machine = { ...draft.wanted.machine };
  const type = properties.choice("type", MACHINE_TYPES);
  if (type !== undefined) machine.type = type;
  const memoryBackend = properties.identifier("memory-backend");
  if (memoryBackend !== undefined) machine.memoryBackend = memoryBackend;
  const auxRamShare = properties.switch("aux-ram-share");
  if (auxRamShare !== undefined) machine.auxRamShare = auxRamShare;
  const unpackKernel = properties.switch("x-unpack-kernel");
  if (unpackKernel !== undefined) draft.wanted.unpackKernel = unpackKernel;
  const accelerators = properties.nonEmpty("accel");
  properties.refuseOthers();
  if (accelerators !== undefined) {
    draft.machineAccelerators = accelerators.split(":").map((name) => accelerator(properties, name));
  }
  draft.wanted.machine = machine;
}

export function interpretAccel(draft: Draft, properties: Properties): void {
  const name = properties.text("accel");
  const ringEntries = properties.integer("dirty-ring-size", 0, DIRTY_RING_MAX_ENTRIES);
  properties.refuseOthers();
  if (name === undefined) properties.fail("Parameter 'accel' is missing; accepted: kvm, wasm");
  // As -machine accel= has it: the first that will do.
  const chosen = name.split(":").map((each) => accelerator(properties, each));
  draft.wanted.accelerators = [...(draft.wanted.accelerators ?? []), ...chosen];
  if (ringEntries === undefined) return;
  if (!chosen.includes("kvm")) properties.fail("Parameter 'dirty-ring-size' is KVM's: -accel kvm,dirty-ring-size=N");
  if (ringEntries !== 0 && (ringEntries < DIRTY_RING_MIN_ENTRIES || !Number.isInteger(Math.log2(ringEntries)))) {
    const range = `${DIRTY_RING_MIN_ENTRIES} to ${DIRTY_RING_MAX_ENTRIES}`;
    properties.fail(`Parameter 'dirty-ring-size' must be a power of two from ${range}, or 0, got ${ringEntries}`);
  }
  draft.wanted.dirtyRingEntries = ringEntries;
}

function accelerator(properties: Properties, name: string): AcceleratorName {
  if (name === "kvm" || name === "wasm") return name;
  if (name === "tcg") properties.fail("Accelerator 'tcg' is QEMU's own; Baton's CPU engine is called wasm");
  properties.fail(`Invalid accelerator '${shorten(name)}'${didYouMean(name, ["kvm", "wasm"])}; accepted: kvm, wasm`);
}

/** `-cpu` has a grammar of its own: `+feature` and `-feature` beside `feature=on`. */
export function interpretCpu(draft: Draft, value: string | Readonly<Record<string, unknown>>, origin: string): void {
  const fail = (text: string): never => {
    throw new UsageError(`${origin}: ${text}`);
  };
  const [model, words] =
    typeof value === "string" ? [value.split(",")[0], value.split(",").slice(1)] : [value.model, Object.keys(value)];
  if (typeof model !== "string" || !CPU_MODELS.includes(model)) {
    const hint = typeof model === "string" ? didYouMean(model, CPU_MODELS) : "";
    fail(`Unable to find CPU model ${describeValue(model)}${hint}; accepted: ${CPU_MODELS.join(", ")}`);
  }
  const features = new Map<string, boolean>();
  for (const word of words) {
    if (typeof value !== "string" && word === "model") continue;
    const match =
      typeof value === "string" ? /^([+-]?)([A-Za-z0-9._-]+?)(?:=(.*))?$/.exec(word) : ([word, "", word, ""] as const);
    if (match === null || (match[1] !== "" && match[3] !== undefined)) {
      fail(`Expected +FEATURE, -FEATURE or FEATURE=on|off, got '${shorten(word)}'`);
      continue;
    }
    // QEMU takes `_` for `-` in the names of features.
    const name = match[2]!.toLowerCase().replaceAll("_", "-");
    const written = typeof value === "string" ? (match[3] ?? match[1] !== "-") : value[word];
    const enabled = parseSwitch(written);
    if (enabled === undefined)
      fail(`CPU feature '${shorten(name)}' expects 'on' or 'off', got ${describeValue(written)}`);
    else features.set(name, enabled);
  }
  draft.wanted.cpu = { model: model as CpuModel, features: Object.fromEntries(features) };
}

const TOPOLOGY_LEVELS = ["cpus", "sockets", "cores", "threads", "maxcpus"] as const;

export function interpretSmp(draft: Draft, properties: Properties): void {
  const numbers = { ...draft.smp?.numbers };
  for (const level of TOPOLOGY_LEVELS) {
    const count = properties.integer(level, 1, 65535);
    if (count !== undefined) numbers[level] = count;
  }
  // Levels that other machines have: one of each is no statement.
  for (const level of ["dies", "clusters", "modules"]) properties.integer(level, 1, 1);
  properties.refuseOthers();
  draft.smp = { numbers, properties };
}

/** Completes a topology as QEMU does since 6.2: what was left out goes to the cores first, then to the sockets. */
export function finishSmp(draft: Draft): void {
  if (draft.smp === undefined) return;
  const { properties, numbers } = draft.smp;
  const total = numbers.maxcpus ?? numbers.cpus;
  let { sockets, cores, threads } = numbers;
  if (total === undefined || cores !== undefined) {
    cores ??= 1;
    if (total !== undefined && sockets !== undefined) threads ??= Math.max(1, Math.floor(total / (sockets * cores)));
    threads ??= 1;
    sockets ??= total === undefined ? 1 : Math.max(1, Math.floor(total / (cores * threads)));
  } else {
    sockets ??= 1;
    threads ??= 1;
    cores = Math.max(1, Math.floor(total / (sockets * threads)));
  }
  const product = sockets * cores * threads;
  const maximum = total ?? product;
  const cpuCount = numbers.cpus ?? maximum;
  if (maximum < cpuCount) {
    properties.fail(`Invalid CPU topology: maxcpus (${maximum}) must be equal to or greater than cpus (${cpuCount})`);
  }
  if (product !== maximum) {
    properties.fail(
      "Invalid CPU topology: product of the hierarchy must match maxcpus: " +
        `sockets (${sockets}) * cores (${cores}) * threads (${threads}) != maxcpus (${maximum})`,
    );
  }
  if (maximum > cpuCount) {
    properties.fail(`Parameter 'maxcpus' must equal cpus (${cpuCount}), got ${maximum}: there is no CPU hot-plug yet`);
  }
  if (cpuCount > MAX_VCPUS) properties.fail(`A machine has 1 to ${MAX_VCPUS} CPUs, got ${cpuCount}`);
  draft.wanted.cpuCount = cpuCount;
  // The default arrangement stays unsaid, so that saying it makes no difference.
  if (sockets === 1 && threads === 1) delete draft.wanted.cpuTopology;
  else draft.wanted.cpuTopology = { sockets, cores, threads };
}

export function interpretMemory(draft: Draft, properties: Properties): void {
  const sizeBytes = properties.size("size", MIB);
  const reason = "there is no memory hot-plug yet";
  properties.refuseOthers({ slots: reason, maxmem: reason });
  if (sizeBytes === undefined) return;
  // QEMU: `-m 0` asks for the default.
  if (sizeBytes === 0) delete draft.wanted.memorySizeBytes;
  else draft.wanted.memorySizeBytes = Math.ceil(sizeBytes / RAM_SIZE_UNIT_BYTES) * RAM_SIZE_UNIT_BYTES;
}

export function interpretObject(draft: Draft, properties: Properties): void {
  const { memoryBackends = [], tlsCredentials = [] } = draft.wanted;
  refuseOtherTls(properties);
  const qomType = properties.choice("qom-type", OBJECT_TYPES);
  if (qomType === undefined) properties.fail(`Parameter 'qom-type' is missing; accepted: ${OBJECT_TYPES.join(", ")}`);
  const id = properties.identifier("id");
  if (id === undefined) properties.fail("Parameter 'id' is missing");
  if ([...memoryBackends, ...tlsCredentials].some((other) => other.id === id)) {
    properties.fail(`Duplicate ID '${id}' for object`);
  }
  if (qomType === "tls-creds-x509") {
    draft.wanted.tlsCredentials = [...tlsCredentials, readTlsCredentials(properties, id)];
  } else {
    draft.wanted.memoryBackends = [...memoryBackends, readMemoryBackend(properties, qomType, id)];
  }
}

function readMemoryBackend(
  properties: Properties,
  qomType: MemoryBackendSpec["qomType"],
  id: string,
): MemoryBackendSpec {
  const sizeBytes = properties.size("size");
  if (sizeBytes === undefined) properties.fail("Parameter 'size' is missing");
  const isMemfd = qomType === "memory-backend-memfd";
  const backend: MemoryBackendSpec = { qomType, id, sizeBytes, share: properties.switch("share") ?? isMemfd };
  const prealloc = properties.switch("prealloc");
  if (prealloc !== undefined) backend.prealloc = prealloc;
  let pageSizeBytes = PAGE_SIZE_BYTES;
  if (isMemfd) {
    backend.seal = properties.switch("seal") ?? true;
    const hugetlb = properties.switch("hugetlb");
    const hugetlbSizeBytes = properties.size("hugetlbsize");
    if (hugetlb !== undefined) backend.hugetlb = hugetlb;
    if (hugetlbSizeBytes !== undefined) {
      if (hugetlb !== true) properties.fail("Parameter 'hugetlbsize' needs hugetlb=on");
      if (hugetlbSizeBytes < PAGE_SIZE_BYTES || !Number.isInteger(Math.log2(hugetlbSizeBytes))) {
        properties.fail(`Parameter 'hugetlbsize' expects a power of two such as 2M or 1G, got ${hugetlbSizeBytes}`);
      }
      pageSizeBytes = hugetlbSizeBytes;
      backend.hugetlbSizeBytes = hugetlbSizeBytes;
    }
  } else if (qomType === "memory-backend-file") {
    const memPath = properties.nonEmpty("mem-path");
    if (memPath === undefined) properties.fail("Parameter 'mem-path' is missing");
    backend.memPath = memPath;
    checkAlignment(properties);
  }
  properties.refuseOthers(MEMORY_HINTS);
  if (sizeBytes === 0 || sizeBytes % pageSizeBytes !== 0) {
    properties.fail(`Parameter 'size' must be a multiple of ${formatSize(pageSizeBytes)}, got ${sizeBytes} bytes`);
  }
  return backend;
}

/** QEMU must be told what a DAX device needs; Baton aligns RAM so that all but the largest pages fit, told or not. */
function checkAlignment(properties: Properties): void {
  const alignmentBytes = properties.size("align") ?? 0;
  if (alignmentBytes > RAM_ALIGNMENT_BYTES || (alignmentBytes !== 0 && !Number.isInteger(Math.log2(alignmentBytes)))) {
    properties.fail(`Parameter 'align' expects a power of two of at most 2M, got ${alignmentBytes}`);
  }
}

const NO_SUCH_SETTING = "Baton has no such setting for RAM yet";

/** What QEMU's memory back ends have beyond these properties. */
const MEMORY_HINTS: Readonly<Record<string, string>> = {
  "host-nodes": NO_SUCH_SETTING,
  policy: NO_SUCH_SETTING,
  "prealloc-threads": NO_SUCH_SETTING,
  "prealloc-context": NO_SUCH_SETTING,
  reserve: NO_SUCH_SETTING,
  merge: NO_SUCH_SETTING,
  dump: NO_SUCH_SETTING,
  readonly: NO_SUCH_SETTING,
  rom: NO_SUCH_SETTING,
  pmem: NO_SUCH_SETTING,
  align: NO_SUCH_SETTING,
  offset: NO_SUCH_SETTING,
  "discard-data": NO_SUCH_SETTING,
};

export function interpretDevice(draft: Draft, properties: Properties): void {
  const driver = properties.text("driver");
  if (driver === undefined) properties.fail("Parameter 'driver' is missing; accepted: isa-debug-exit");
  if (driver !== "isa-debug-exit") {
    const hint = didYouMean(driver, ["isa-debug-exit"]);
    properties.fail(`'${shorten(driver)}' is not a valid device model name${hint}; accepted: isa-debug-exit`);
  }
  const ioBase = properties.integer("iobase", 0, 0xffff) ?? 0x501;
  const ioSizeBytes = properties.integer("iosize", 1, 4) ?? 2;
  properties.refuseOthers();
  if (ioSizeBytes === 3) properties.fail("Parameter 'iosize' expects 1, 2 or 4, got '3'");
  if (ioBase + ioSizeBytes > 0x10000) properties.fail("Parameter 'iobase' is beyond the last I/O port, 0xffff");
  if (draft.wanted.debugExit !== undefined) properties.fail("There can be only one isa-debug-exit");
  draft.wanted.debugExit = { ioBase, ioSizeBytes };
}
