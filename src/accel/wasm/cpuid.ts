// SPDX-License-Identifier: Apache-2.0
// The CPUID of a guest on the engine, and of one on KVM that is to be able to go there (`-cpu baton64`): an AMD CPU of the
// Zen family (whose kernels need no page table isolation), with KVM's signature for its clock, and exactly the features that
// assembly/cpu/ has. But for SERIALIZE, which CPUs of AMD do not have: a guest could not leave the engine for one.
// AMD APM volume 3, appendix E; https://docs.kernel.org/virt/kvm/x86/cpuid.html
//
// An entry point of its own: no update needs it.
import { KVM_CPUID_ENTRY2_SIZE_BYTES, KVM_CPUID2_HEADER_SIZE_BYTES } from "../../../ffi/kvm/abi.ts";
import { type CpuTopology, guestCpuid } from "../cpuid.ts";

const bits = (...numbers: number[]): number => numbers.reduce((mask, number) => (mask | (1 << number)) >>> 0, 0);

/** Family 17h, model 1, stepping 2. */
const SIGNATURE = 0x80_0f12;
/** "AuthenticAMD" in EBX, EDX, ECX. */
const VENDOR = { ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 };
const CLFLUSH_UNITS = 8;
/** Of 8 bytes, as CLFLUSH has it in leaf 1. */
const LEAF_1_EBX = CLFLUSH_UNITS << 8;
const BRAND = "Baton CPU engine";
const PHYSICAL_ADDRESS_BITS = 46;
const LINEAR_ADDRESS_BITS = 48;
/** FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, MTRR, PGE, CMOV, PAT, PSE36, MMX, FXSR: leaf 1 and 0x8000_0001. */
const COMMON_EDX = bits(0, 2, 3, 4, 5, 6, 8, 9, 12, 13, 15, 16, 17, 23, 24);

interface Leaf {
  function: number;
  eax?: number;
  ebx?: number;
  ecx?: number;
  edx?: number;
}

function leaves(cpuCount: number): Leaf[] {
  const brand = new Uint32Array(new TextEncoder().encode(BRAND.padEnd(48, "\0")).buffer);
  // SSE3, PCLMULQDQ, SSSE3, SSE4.1, SSE4.2, X2APIC, POPCNT, AES; TSC deadline and hypervisor are added for all accelerators.
  let features = bits(0, 1, 9, 19, 20, 21, 23, 25);
  // CMPXCHG16B is no atomic access to other vCPUs.
  if (cpuCount === 1) features |= bits(13);
  return [
    { function: 0, eax: 0xd, ...VENDOR },
    // CLFLUSH, SSE, SSE2.
    { function: 1, eax: SIGNATURE, ebx: LEAF_1_EBX, ecx: features, edx: COMMON_EDX | bits(19, 25, 26) },
    { function: 7 },
    { function: 0x4000_0000, eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d },
    // Clock, no delays for I/O, clock by the newer MSRs, clock is the same on all vCPUs.
    { function: 0x4000_0001, eax: bits(0, 1, 3, 24) },
    { function: 0x8000_0000, eax: 0x8000_001e, ...VENDOR },
    // LAHF, legacy CMP, topology extensions; SYSCALL, NX, pages of 1 GiB, long mode.
    {
      function: 0x8000_0001,
      eax: SIGNATURE,
      ecx: bits(0, 22) | (cpuCount > 1 ? bits(1) : 0),
      edx: COMMON_EDX | bits(11, 20, 26, 29),
    },
    ...[0, 1, 2].map((index) => ({
      function: 0x8000_0002 + index,
      eax: brand[index * 4]!,
      ebx: brand[index * 4 + 1]!,
      ecx: brand[index * 4 + 2]!,
      edx: brand[index * 4 + 3]!,
    })),
    // Invariant TSC.
    { function: 0x8000_0007, edx: bits(8) },
    { function: 0x8000_0008, eax: (LINEAR_ADDRESS_BITS << 8) | PHYSICAL_ADDRESS_BITS },
    { function: 0x8000_001e },
  ];
}

/** struct kvm_cpuid2 with what the engine can give a guest of so many vCPUs. */
export function engineCpuid(cpuCount: number): Uint8Array {
  const entries = leaves(cpuCount);
  const cpuid = new Uint8Array(KVM_CPUID2_HEADER_SIZE_BYTES + entries.length * KVM_CPUID_ENTRY2_SIZE_BYTES);
  const view = new DataView(cpuid.buffer);
  view.setUint32(0, entries.length, true);
  for (const [index, { function: leaf, eax = 0, ebx = 0, ecx = 0, edx = 0 }] of entries.entries()) {
    const place = KVM_CPUID2_HEADER_SIZE_BYTES + index * KVM_CPUID_ENTRY2_SIZE_BYTES;
    view.setUint32(place, leaf, true);
    for (const [position, value] of [eax, ebx, ecx, edx].entries()) {
      view.setUint32(place + 12 + position * 4, value, true);
    }
  }
  return cpuid;
}

/** CPUIDs of all vCPUs of a VM. @throws VmmError "cpu-topology", "cpu-feature" */
export function engineCpuids(topology: CpuTopology, features: Record<string, boolean>): Uint8Array[] {
  const cpuCount = topology.sockets * topology.cores * topology.threads;
  const supported = engineCpuid(cpuCount);
  return Array.from({ length: cpuCount }, (_, index) =>
    guestCpuid(supported, index, { topology, features, hasTscDeadline: true, owner: "Baton's CPU engine" }),
  );
}
