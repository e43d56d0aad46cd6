// SPDX-License-Identifier: Apache-2.0
// The CPUID that a guest sees: what the host's KVM supports, with this vCPU's APIC id and topology.
//
// Leaves: Intel SDM vol. 2A "CPUID", AMD APM vol. 3 appendix E, https://docs.kernel.org/virt/kvm/x86/cpuid.html
import { KVM_CPUID_ENTRY2_SIZE_BYTES, KVM_CPUID2_HEADER_SIZE_BYTES } from "../../../ffi/kvm/abi.ts";
import { VmmError } from "../../errors.ts";

type Register = "eax" | "ebx" | "ecx" | "edx";
/** struct kvm_cpuid_entry2: u32 function, index, flags, eax, ebx, ecx, edx, padding[3]. */
const OFFSET: Record<Register | "function" | "index", number> = {
  function: 0,
  index: 4,
  eax: 12,
  ebx: 16,
  ecx: 20,
  edx: 24,
};

/** Features that `-cpu host,NAME=on|off` may name: QEMU's names, where CPUID has the bit. */
const FEATURES: Record<string, readonly [leaf: number, subleaf: number, register: Register, bit: number]> = {
  sse3: [1, 0, "ecx", 0],
  pclmulqdq: [1, 0, "ecx", 1],
  ssse3: [1, 0, "ecx", 9],
  fma: [1, 0, "ecx", 12],
  pcid: [1, 0, "ecx", 17],
  "sse4.1": [1, 0, "ecx", 19],
  "sse4.2": [1, 0, "ecx", 20],
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
  rdtscp: [0x8000_0001, 0, "edx", 27],
  pdpe1gb: [0x8000_0001, 0, "edx", 26],
  svm: [0x8000_0001, 0, "ecx", 2],
  kvmclock: [0x4000_0001, 0, "eax", 3],
  "kvm-steal-time": [0x4000_0001, 0, "eax", 5],
  "kvm-pv-eoi": [0x4000_0001, 0, "eax", 6],
  "kvm-asyncpf": [0x4000_0001, 0, "eax", 4],
};

class CpuidTable {
  readonly #view: DataView;
  readonly #count: number;

  constructor(cpuid: Uint8Array) {
    this.#view = new DataView(cpuid.buffer, cpuid.byteOffset, cpuid.byteLength);
    this.#count = this.#view.getUint32(0, true);
  }

  *entries(leaf: number): Generator<number> {
    for (let position = 0; position < this.#count; position++) {
      const entry = KVM_CPUID2_HEADER_SIZE_BYTES + position * KVM_CPUID_ENTRY2_SIZE_BYTES;
      if (this.#view.getUint32(entry + OFFSET.function, true) === leaf) yield entry;
    }
  }

  get(entry: number, field: keyof typeof OFFSET): number {
    return this.#view.getUint32(entry + OFFSET[field], true);
  }

  set(entry: number, register: Register, value: number): void {
    this.#view.setUint32(entry + OFFSET[register], value >>> 0, true);
  }
}

/** APIC id bits that the package level shifts by: enough for `cpuCount` ids. */
function apicIdBits(cpuCount: number): number {
  return Math.ceil(Math.log2(Math.max(cpuCount, 1)));
}

/**
 * CPUID of vCPU `index`: one package with `cpuCount` cores of one thread.
 * @throws VmmError "cpu-feature" for a feature that is unknown, or asked for and not to be had on this host
 */
export function guestCpuid(
  supported: Uint8Array,
  index: number,
  cpuCount: number,
  options: { features: Record<string, boolean>; hasTscDeadline: boolean },
): Uint8Array {
  const cpuid = supported.slice();
  const table = new CpuidTable(cpuid);
  const update = (leaf: number, register: Register, change: (value: number, entry: number) => number): void => {
    for (const entry of table.entries(leaf)) table.set(entry, register, change(table.get(entry, register), entry));
  };
  update(1, "ebx", (value) => (value & 0x0000_ffff) | (cpuCount << 16) | (index << 24));
  update(1, "edx", (value) => (cpuCount > 1 ? value | (1 << 28) : value & ~(1 << 28)));
  // KVM leaves this bit to the VMM, which knows whether the LAPIC is in the kernel.
  if (options.hasTscDeadline) update(1, "ecx", (value) => value | (1 << 24));
  update(4, "eax", (value) => (value & 0x03ff_ffff) | ((cpuCount - 1) << 26));
  for (const leaf of [0xb, 0x1f]) {
    update(leaf, "edx", () => index);
    update(leaf, "eax", (value, entry) => {
      const subleaf = table.get(entry, "index");
      return subleaf === 0 ? 0 : subleaf === 1 ? apicIdBits(cpuCount) : value;
    });
    update(leaf, "ebx", (value, entry) => {
      const subleaf = table.get(entry, "index");
      return subleaf === 0 ? 1 : subleaf === 1 ? cpuCount : value;
    });
    update(leaf, "ecx", (_, entry) => {
      const subleaf = table.get(entry, "index");
      // Level type in bits 15:8: 1 is SMT, 2 is core.
      return subleaf < 2 ? subleaf | ((subleaf + 1) << 8) : subleaf;
    });
  }
  update(0x8000_0008, "ecx", (value) => (value & ~0xf0ff) | (cpuCount - 1) | (apicIdBits(cpuCount) << 12));
  update(0x8000_001e, "eax", () => index);
  update(0x8000_001e, "ebx", (value) => (value & ~0xffff) | index);
  for (const [name, isOn] of Object.entries(options.features)) applyFeature(table, name, isOn);
  return cpuid;
}

function applyFeature(table: CpuidTable, name: string, isOn: boolean): void {
  const feature = Object.hasOwn(FEATURES, name) ? FEATURES[name] : undefined;
  if (feature === undefined) {
    throw new VmmError(
      "cpu-feature",
      `CPU feature ${name} is not known; known are ${Object.keys(FEATURES).join(", ")}`,
    );
  }
  const [leaf, subleaf, register, bit] = feature;
  for (const entry of table.entries(leaf)) {
    if (table.get(entry, "index") !== subleaf) continue;
    const value = table.get(entry, register);
    if (!isOn) table.set(entry, register, value & ~(1 << bit));
    else if ((value & (1 << bit)) === 0) {
      throw new VmmError("cpu-feature", `CPU feature ${name} is not supported by this host's KVM`);
    }
  }
}
