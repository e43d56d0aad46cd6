// SPDX-License-Identifier: Apache-2.0
// CPUID from a table in the form of KVM's struct kvm_cpuid_entry2, so that a guest keeps the one it came with.
import { CACHE_CPUID } from "./layout.ts";
import { RAX, RBX, RCX, RDX } from "./registers.ts";
import { caches, cpu } from "./vcpu.ts";

// struct kvm_cpuid2: u32 nent, padding; entries of u32 function, index, flags, eax, ebx, ecx, edx, padding[3].
const ENTRIES_OFFSET = 8;
const ENTRY_SIZE_BYTES = 40;
const FLAG_SIGNIFICANT_INDEX: u32 = 1;

export function execCpuid(): void {
  const leaf = load<u32>(cpu, RAX);
  const index = load<u32>(cpu, RCX);
  const table = caches + CACHE_CPUID;
  const count = load<u32>(table);
  for (let number: u32 = 0; number < count; number++) {
    const entry = table + ENTRIES_OFFSET + number * ENTRY_SIZE_BYTES;
    if (load<u32>(entry) != leaf) continue;
    if (load<u32>(entry, 8) & FLAG_SIGNIFICANT_INDEX && load<u32>(entry, 4) != index) continue;
    setRegisters(load<u32>(entry, 12), load<u32>(entry, 16), load<u32>(entry, 20), load<u32>(entry, 24));
    return;
  }
  // AMD: what is not there is 0.
  setRegisters(0, 0, 0, 0);
}

function setRegisters(eax: u32, ebx: u32, ecx: u32, edx: u32): void {
  store<u64>(cpu, eax, RAX);
  store<u64>(cpu, ebx, RBX);
  store<u64>(cpu, ecx, RCX);
  store<u64>(cpu, edx, RDX);
}
