// SPDX-License-Identifier: Apache-2.0
// Power-on state of a VM, taken from a scratch VM that never runs: the state a reset goes back to, and what this host's
// KVM can save at all.
import { KVM_CAP_TSC_DEADLINE_TIMER } from "../../../ffi/kvm/abi.ts";
import type { KvmSystem, KvmVm } from "../../../ffi/kvm/kvm.ts";
import { StateReader } from "../../state/reader.ts";
import { bindAll, StateWriter } from "../../state/writer.ts";
import { type CpuTopology, guestCpuid } from "./cpuid.ts";
import { TSC_SECTION, TSC_SECTION_VERSION } from "./tsc.ts";
import { planVcpu, probeVcpu, VCPU_SECTION, VCPU_SECTION_VERSION, type VcpuProfile } from "./vcpu-state.ts";
import { IRQCHIP_SECTION, KVMCLOCK_SECTION, PIT_SECTION, planVm, VM_SECTION_VERSION } from "./vm-state.ts";

/** The sections of a state image that KVM itself owns, and the versions that this Baton reads. */
export const KVM_SECTIONS: Readonly<Record<string, number>> = {
  [VCPU_SECTION]: VCPU_SECTION_VERSION,
  [IRQCHIP_SECTION]: VM_SECTION_VERSION,
  [PIT_SECTION]: VM_SECTION_VERSION,
  [KVMCLOCK_SECTION]: VM_SECTION_VERSION,
  [TSC_SECTION]: TSC_SECTION_VERSION,
};

/** CPUIDs of all vCPUs of a VM. */
export function cpuidsFor(system: KvmSystem, topology: CpuTopology, features: Record<string, boolean>): Uint8Array[] {
  const supported = system.supportedCpuid();
  const hasTscDeadline = system.checkExtension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  const cpuCount = topology.sockets * topology.cores * topology.threads;
  return Array.from({ length: cpuCount }, (_, index) =>
    guestCpuid(supported, index, { topology, features, hasTscDeadline }),
  );
}

/**
 * Builds the kernel's side of a VM without memory: interrupt controllers, PIT. Memory slots must be set before this:
 * after the interrupt controllers a slot waits for an SRCU grace period, 5 to 10 ms.
 */
export function createIrqchips(vm: KvmVm): void {
  vm.createIrqchip();
  vm.createPit2();
}

export interface PowerOnState {
  profile: VcpuProfile;
  reader: StateReader;
}

export function capturePowerOnState(system: KvmSystem, cpuids: readonly Uint8Array[]): PowerOnState {
  const vm = system.createVm();
  const vcpus = [];
  try {
    createIrqchips(vm);
    const writer = new StateWriter();
    const sections = [planVm(writer, vm)];
    let profile: VcpuProfile | undefined;
    for (const [index, cpuid] of cpuids.entries()) {
      const vcpu = vm.createVcpu(index);
      vcpus.push(vcpu);
      vcpu.setCpuid2(cpuid);
      profile ??= probeVcpu(system, vcpu);
      sections.push(planVcpu(writer, vcpu, index, profile, cpuid));
    }
    writer.lay();
    bindAll(sections)()();
    return { profile: profile!, reader: new StateReader(writer.seal(), KVM_SECTIONS) };
  } finally {
    for (const vcpu of vcpus) vcpu.close();
    vm.close();
  }
}
