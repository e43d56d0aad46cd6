// SPDX-License-Identifier: Apache-2.0
// The CPUID of guests: a made-up host's table, changed for each vCPU.

import { KvmSystem } from "../../../../ffi/kvm/kvm.ts";
import { guestCpuid } from "../../../../src/accel/cpuid.ts";
import { cpuidsFor } from "../../../../src/accel/kvm/power-on.ts";
import { missingFeatures, refuseMissingFeatures } from "../../../../src/accel/missing-features.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";

const test = describe("guest CPUID");

type Leaf = { function: number; index?: number; eax?: number; ebx?: number; ecx?: number; edx?: number };

/** A struct kvm_cpuid2. */
function encode(leaves: readonly Leaf[]): Uint8Array {
  const bytes = new Uint8Array(8 + 40 * leaves.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, leaves.length, true);
  for (const [position, leaf] of leaves.entries()) {
    const { function: number, index = 0, eax = 0, ebx = 0, ecx = 0, edx = 0 } = leaf;
    for (const [field, value] of [number, index, 0, eax, ebx, ecx, edx].entries()) {
      view.setUint32(8 + 40 * position + 4 * field, value, true);
    }
  }
  return bytes;
}

function find(cpuid: Uint8Array, leaf: number, index = 0): Required<Leaf> {
  const view = new DataView(cpuid.buffer, cpuid.byteOffset);
  for (let entry = 8; entry < cpuid.length; entry += 40) {
    if (view.getUint32(entry, true) !== leaf || view.getUint32(entry + 4, true) !== index) continue;
    const [eax, ebx, ecx, edx] = [12, 16, 20, 24].map((offset) => view.getUint32(entry + offset, true));
    return { function: leaf, index, eax: eax!, ebx: ebx!, ecx: ecx!, edx: edx! };
  }
  throw new Error(`no leaf 0x${leaf.toString(16)}.${index}`);
}

const HOST = encode([
  { function: 0, eax: 0x1f, ebx: 0x756e_6547 },
  { function: 1, ebx: 0xff10_0800, ecx: (1 << 21) | (1 << 28), edx: 0x0fff_ffff },
  { function: 4, index: 0, eax: 0xffff_c121 | 0 },
  { function: 7, index: 0, ebx: 1 << 5 },
  { function: 0xb, index: 0, edx: 77 },
  { function: 0xb, index: 1, edx: 77 },
  { function: 0x4000_0001, eax: 1 << 3 },
  { function: 0x8000_0008, ecx: 0xf0ff },
]);

function guest(index: number, more: Partial<Parameters<typeof guestCpuid>[2]> = {}): Uint8Array {
  return guestCpuid(HOST, index, {
    topology: { sockets: 1, cores: 4, threads: 1 },
    features: {},
    hasTscDeadline: true,
    ...more,
  });
}

test("each vCPU has its own APIC id, and all the same topology", () => {
  for (let index = 0; index < 4; index++) {
    const cpuid = guest(index);
    assert.is(find(cpuid, 1).ebx >>> 24, index);
    assert.is((find(cpuid, 1).ebx >>> 16) & 0xff, 4);
    for (const level of [0, 1]) assert.is(find(cpuid, 0xb, level).edx, index);
    assert.equal([find(cpuid, 0xb, 0).eax, find(cpuid, 0xb, 0).ebx], [0, 1]);
    assert.equal([find(cpuid, 0xb, 1).eax, find(cpuid, 0xb, 1).ebx], [2, 4]);
  }
});

test("threads and cores have levels of their own", () => {
  const cpuid = guest(5, { topology: { sockets: 2, cores: 2, threads: 2 } });
  assert.equal([find(cpuid, 0xb, 0).eax, find(cpuid, 0xb, 0).ebx], [1, 2]);
  assert.equal([find(cpuid, 0xb, 1).eax, find(cpuid, 0xb, 1).ebx], [2, 4]);
  assert.is(find(cpuid, 1).ebx >>> 24, 5);
});

test("a topology that APIC ids without gaps cannot show is refused", async () => {
  for (const topology of [
    { sockets: 2, cores: 3, threads: 1 },
    { sockets: 1, cores: 2, threads: 3 },
  ]) {
    const error = await rejection(() => guest(0, { topology }));
    assert.is((error as VmmError).code, "cpu-topology");
    assert.match(error.message, `sockets=${topology.sockets},cores=${topology.cores},threads=${topology.threads}`);
  }
});

test("TSC deadline mode is announced where the host's LAPIC has it", () => {
  assert.is((find(guest(0), 1).ecx >>> 24) & 1, 1);
  assert.is((find(guest(0, { hasTscDeadline: false }), 1).ecx >>> 24) & 1, 0);
});

test("features are switched off, and on where the host has them", async () => {
  const off = guest(0, { features: { avx: false, avx2: false, kvmclock: false } });
  assert.is((find(off, 1).ecx >>> 28) & 1, 0);
  assert.is((find(off, 7).ebx >>> 5) & 1, 0);
  assert.is((find(off, 0x4000_0001).eax >>> 3) & 1, 0);
  assert.is((find(guest(0, { features: { avx: true } }), 1).ecx >>> 28) & 1, 1);
  const missing = await rejection(() => guest(0, { features: { smap: true } }));
  assert.is(missing.message, "CPU feature smap is not supported by this host's KVM");
  const unknown = await rejection(() => guest(0, { features: { toString: true } }));
  assert.match(unknown.message, /^CPU feature toString is not known; known are /);
});

test("the host's table is left as it is", () => {
  const before = HOST.slice();
  guest(3, { features: { avx: false } });
  assert.equal(HOST, before);
});

test.skipIf(kvmMissing(), "KVM takes the CPUID of every vCPU", () => {
  const system = new KvmSystem();
  const vm = system.createVm();
  try {
    vm.createIrqchip();
    for (const [index, cpuid] of cpuidsFor(system, { sockets: 1, cores: 4, threads: 2 }, {}).entries()) {
      const vcpu = vm.createVcpu(index);
      vcpu.setCpuid2(cpuid);
      vcpu.close();
    }
  } finally {
    vm.close();
    system.close();
  }
});

test("a host that has all that a guest may use runs it, topology and what the guest set itself aside", () => {
  assert.equal(missingFeatures(guest(0), HOST, true), []);
  // OSXSAVE and OSPKE follow the guest's CR4.
  const running = encode([
    { function: 0, ebx: 0x756e_6547 },
    { function: 1, ecx: 1 << 27, edx: 1 << 28 },
    { function: 7, ecx: 1 << 4 },
  ]);
  assert.equal(missingFeatures(running, HOST, true), []);
});

test("what a host lacks is listed, by name where it has one", () => {
  const from = encode([
    { function: 0, ebx: 0x756e_6547 },
    { function: 1, ecx: (1 << 24) | (1 << 28), edx: 1 },
    { function: 7, index: 0, ebx: (1 << 5) | (1 << 16) },
    { function: 7, index: 1, eax: 1 << 4 },
    { function: 0xd, index: 0, eax: 1 << 5 },
    { function: 0x8000_0007, edx: 1 << 8 },
  ]);
  assert.equal(missingFeatures(from, HOST, false), [
    "tsc-deadline",
    "avx512f",
    "CPUID 0x7.1 eax bit 4",
    "CPUID 0xd.0 eax bit 5",
    "invtsc",
  ]);
  assert.equal(missingFeatures(from, from, true), []);
});

test("a CPU of another vendor is refused", () => {
  const amd = encode([{ function: 0, ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163 }]);
  const intel = encode([{ function: 0, ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e }]);
  assert.equal(missingFeatures(amd, intel, true), ["a CPU of AuthenticAMD (this one is of GenuineIntel)"]);
});

test.skipIf(kvmMissing(), "this host runs its own guests, and refuses one that could use more", async () => {
  const system = new KvmSystem();
  try {
    const [cpuid] = cpuidsFor(system, { sockets: 1, cores: 1, threads: 1 }, {});
    refuseMissingFeatures(cpuid!, system.supportedCpuid(), true);
    const view = new DataView(cpuid!.buffer, cpuid!.byteOffset);
    for (let entry = 8; entry < cpuid!.length; entry += 40) {
      // Bit 10 of leaf 1's EDX is reserved: no CPU has it.
      if (view.getUint32(entry, true) === 1)
        view.setUint32(entry + 24, view.getUint32(entry + 24, true) | (1 << 10), true);
    }
    const refused = (await rejection(() => refuseMissingFeatures(cpuid!, system.supportedCpuid(), true))) as VmmError;
    assert.is(refused.code, "cpu-features");
    assert.match(refused.message, /does not have: CPUID 0x1\.0 edx bit 10\. Move it/);
  } finally {
    system.close();
  }
});

test.run();
