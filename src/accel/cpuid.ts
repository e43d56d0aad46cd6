// SPDX-License-Identifier: Apache-2.0
// The CPUID that a guest sees: what the host's KVM supports, with this vCPU's APIC id and topology.
//
// Leaves: Intel SDM vol. 2A "CPUID", AMD APM vol. 3 appendix E, https://docs.kernel.org/virt/kvm/x86/cpuid.html
import { KVM_CPUID_ENTRY2_SIZE_BYTES, KVM_CPUID2_HEADER_SIZE_BYTES } from "../../ffi/kvm/abi.ts";
import { VmmError } from "../errors.ts";

export type Register = "eax" | "ebx" | "ecx" | "edx";
/** struct kvm_cpuid_entry2: u32 function, index, flags, eax, ebx, ecx, edx, padding[3]. */
const OFFSET: Record<Register | "function" | "index", number> = {
  function: 0,
  index: 4,
  eax: 12,
  ebx: 16,
  ecx: 20,
  edx: 24,
};

const FLAGS_OFFSET = 8;
const REGISTERS: readonly Register[] = ["eax", "ebx", "ecx", "edx"];
/** <asm/kvm.h>, the kernel's spelling. */
const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1;

/**
 * Features that `-cpu host,NAME=on|off` may name: QEMU's names with `-` for `.` and `_`, and where CPUID has the bit. Made
 * when asked for: an update does not ask, and the table would lengthen its pause.
 */
const features = (): Record<string, readonly [leaf: number, subleaf: number, register: Register, bit: number]> => ({
  sse3: [1, 0, "ecx", 0],
  pclmulqdq: [1, 0, "ecx", 1],
  ssse3: [1, 0, "ecx", 9],
  fma: [1, 0, "ecx", 12],
  cx16: [1, 0, "ecx", 13],
  pcid: [1, 0, "ecx", 17],
  "sse4-1": [1, 0, "ecx", 19],
  "sse4-2": [1, 0, "ecx", 20],
  x2apic: [1, 0, "ecx", 21],
  movbe: [1, 0, "ecx", 22],
  popcnt: [1, 0, "ecx", 23],
  "tsc-deadline": [1, 0, "ecx", 24],
  aes: [1, 0, "ecx", 25],
  xsave: [1, 0, "ecx", 26],
  avx: [1, 0, "ecx", 28],
  f16c: [1, 0, "ecx", 29],
  rdrand: [1, 0, "ecx", 30],
  hypervisor: [1, 0, "ecx", 31],
  fsgsbase: [7, 0, "ebx", 0],
  bmi1: [7, 0, "ebx", 3],
  avx2: [7, 0, "ebx", 5],
  smep: [7, 0, "ebx", 7],
  bmi2: [7, 0, "ebx", 8],
  erms: [7, 0, "ebx", 9],
  invpcid: [7, 0, "ebx", 10],
  avx512f: [7, 0, "ebx", 16],
  rdseed: [7, 0, "ebx", 18],
  adx: [7, 0, "ebx", 19],
  smap: [7, 0, "ebx", 20],
  "sha-ni": [7, 0, "ebx", 29],
  umip: [7, 0, "ecx", 2],
  pku: [7, 0, "ecx", 3],
  la57: [7, 0, "ecx", 16],
  "lahf-lm": [0x8000_0001, 0, "ecx", 0],
  rdtscp: [0x8000_0001, 0, "edx", 27],
  pdpe1gb: [0x8000_0001, 0, "edx", 26],
  invtsc: [0x8000_0007, 0, "edx", 8],
  kvmclock: [0x4000_0001, 0, "eax", 3],
  "kvm-steal-time": [0x4000_0001, 0, "eax", 5],
  "kvm-pv-eoi": [0x4000_0001, 0, "eax", 6],
  "kvm-asyncpf": [0x4000_0001, 0, "eax", 4],
});

/** A feature's name for people: `avx2`, or where its bit is. */
export function featureName(leaf: number, subleaf: number, register: Register, bit: number): string {
  const known = Object.entries(features()).find(
    ([, place]) => String(place) === String([leaf, subleaf, register, bit]),
  );
  return known?.[0] ?? `CPUID 0x${leaf.toString(16)}.${subleaf} ${register} bit ${bit}`;
}

/** A struct kvm_cpuid2. */
export class CpuidTable {
  readonly #view: DataView;
  readonly #count: number;

  constructor(cpuid: Uint8Array) {
    this.#view = new DataView(cpuid.buffer, cpuid.byteOffset, cpuid.byteLength);
    this.#count = this.#view.getUint32(0, true);
  }

  /** Offsets of all entries. */
  *all(): Generator<number> {
    for (let position = 0; position < this.#count; position++) {
      yield KVM_CPUID2_HEADER_SIZE_BYTES + position * KVM_CPUID_ENTRY2_SIZE_BYTES;
    }
  }

  *entries(leaf: number): Generator<number> {
    for (const entry of this.all()) if (this.get(entry, "function") === leaf) yield entry;
  }

  /** A register of a leaf; 0 where there is no such leaf, as a CPU gives for most. */
  find(leaf: number, subleaf: number, register: Register): number {
    for (const entry of this.entries(leaf)) if (this.get(entry, "index") === subleaf) return this.get(entry, register);
    return 0;
  }

  get(entry: number, field: keyof typeof OFFSET): number {
    return this.#view.getUint32(entry + OFFSET[field], true);
  }

  set(entry: number, register: Register, value: number): void {
    this.#view.setUint32(entry + OFFSET[register], value >>> 0, true);
  }
}

export interface CpuTopology {
  sockets: number;
  cores: number;
  threads: number;
}

export interface CpuidOptions {
  topology: CpuTopology;
  features: Record<string, boolean>;
  /** The host's in-kernel LAPIC has TSC-deadline mode; KVM leaves announcing it to the VMM. */
  hasTscDeadline: boolean;
  /** Whose features these are, for errors. Default: "this host's KVM". */
  owner?: string;
}

/** Bits of an APIC id that tell `count` things apart. */
function idBits(count: number): number {
  return Math.ceil(Math.log2(count));
}

/**
 * CPUID of vCPU `index`, whose APIC id is `index` too.
 * @throws VmmError "cpu-topology" when ids without gaps cannot show the topology, "cpu-feature" for a feature that is
 * unknown, or asked for and not to be had on this host
 */
export function guestCpuid(supported: Uint8Array, index: number, options: CpuidOptions): Uint8Array {
  const { sockets, cores, threads } = options.topology;
  const threadBits = idBits(threads);
  const packageBits = threadBits + idBits(cores);
  const perPackage = cores * threads;
  const hasGaps = (sockets > 1 && perPackage !== 1 << packageBits) || (cores > 1 && threads !== 1 << threadBits);
  if (hasGaps) {
    throw new VmmError(
      "cpu-topology",
      `-smp sockets=${sockets},cores=${cores},threads=${threads}: threads and, with several sockets, cores must be powers of two`,
    );
  }
  const cpuid = supported.slice();
  const table = new CpuidTable(cpuid);
  const update = (leaf: number, register: Register, change: (value: number, entry: number) => number): void => {
    for (const entry of table.entries(leaf)) table.set(entry, register, change(table.get(entry, register), entry));
  };
  update(1, "ebx", (value) => (value & 0x0000_ffff) | (perPackage << 16) | (index << 24));
  update(1, "edx", (value) => (perPackage > 1 ? value | (1 << 28) : value & ~(1 << 28)));
  if (options.hasTscDeadline) update(1, "ecx", (value) => value | (1 << 24));
  // Guests look for the leaves from 0x40000000 on, kvmclock among them, only when this bit is set.
  update(1, "ecx", (value) => value | (1 << 31));
  update(4, "eax", (value) => (value & 0x03ff_ffff) | ((cores - 1) << 26));
  hideUnsaved(update);
  update(0x8000_0008, "ecx", (value) => (value & ~0xf0ff) | (perPackage - 1) | (packageBits << 12));
  update(0x8000_001e, "eax", () => index);
  // Core id and threads per core - 1; node id.
  update(0x8000_001e, "ebx", (value) => (value & ~0xffff) | ((threads - 1) << 8) | (index >> threadBits));
  update(0x8000_001e, "ecx", (value) => (value & ~0xff) | (index >> packageBits));
  for (const [name, isOn] of Object.entries(options.features)) applyFeature(table, name, isOn, options.owner);
  // Level type in bits 15:8: 1 is SMT, 2 is core.
  return withTopology(cpuid, [
    { eax: threadBits, ebx: threads, ecx: 0x100, edx: index },
    { eax: packageBits, ebx: perPackage, ecx: 0x201, edx: index },
    { eax: 0, ebx: 0, ecx: 2, edx: index },
  ]);
}

type UpdateCpuid = (leaf: number, register: Register, change: (value: number) => number) => void;

/** Features with state that an update does not carry: nested virtualization, and the shadow stack pointer of CET. */
function hideUnsaved(update: UpdateCpuid): void {
  update(1, "ecx", (value) => value & ~(1 << 5)); // VMX
  update(0x8000_0001, "ecx", (value) => value & ~(1 << 2)); // SVM
  update(7, "ecx", (value) => value & ~(1 << 7)); // SHSTK
  update(7, "edx", (value) => value & ~(1 << 20)); // IBT
}

/**
 * Replaces the extended topology leaves, of which KVM gives at most the first subleaf, by these subleaves. 0x1f only where
 * the host has it.
 */
function withTopology(cpuid: Uint8Array, subleaves: readonly Record<Register, number>[]): Uint8Array<ArrayBuffer> {
  const table = new CpuidTable(cpuid);
  const leaves = [0xb, 0x1f].filter((leaf) => leaf === 0xb || [...table.entries(leaf)].length > 0);
  const kept = [...table.all()].filter((entry) => ![0xb, 0x1f].includes(table.get(entry, "function")));
  const count = kept.length + leaves.length * subleaves.length;
  const result = new Uint8Array(KVM_CPUID2_HEADER_SIZE_BYTES + count * KVM_CPUID_ENTRY2_SIZE_BYTES);
  const view = new DataView(result.buffer);
  view.setUint32(0, count, true);
  let position = KVM_CPUID2_HEADER_SIZE_BYTES;
  for (const entry of kept) {
    result.set(cpuid.subarray(entry, entry + KVM_CPUID_ENTRY2_SIZE_BYTES), position);
    position += KVM_CPUID_ENTRY2_SIZE_BYTES;
  }
  for (const leaf of leaves) {
    for (const [index, registers] of subleaves.entries()) {
      view.setUint32(position + OFFSET.function, leaf, true);
      view.setUint32(position + OFFSET.index, index, true);
      view.setUint32(position + FLAGS_OFFSET, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, true);
      for (const register of REGISTERS) view.setUint32(position + OFFSET[register], registers[register], true);
      position += KVM_CPUID_ENTRY2_SIZE_BYTES;
    }
  }
  return result;
}

function applyFeature(table: CpuidTable, name: string, isOn: boolean, owner = "this host's KVM"): void {
  const key = name.replaceAll(".", "-");
  const known = features();
  const feature = Object.hasOwn(known, key) ? known[key] : undefined;
  if (feature === undefined) {
    throw new VmmError("cpu-feature", `CPU feature ${name} is not known; known are ${Object.keys(known).join(", ")}`);
  }
  const [leaf, subleaf, register, bit] = feature;
  for (const entry of table.entries(leaf)) {
    if (table.get(entry, "index") !== subleaf) continue;
    const value = table.get(entry, register);
    if (!isOn) table.set(entry, register, value & ~(1 << bit));
    else if ((value & (1 << bit)) === 0) {
      throw new VmmError("cpu-feature", `CPU feature ${name} is not supported by ${owner}`);
    }
  }
}
