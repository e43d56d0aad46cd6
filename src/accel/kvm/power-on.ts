// SPDX-License-Identifier: Apache-2.0
// How the kernel's side of a VM is made: CPUIDs, interrupt controllers, and scratch VMs that never run.
import { KVM_CAP_TSC_DEADLINE_TIMER } from "../../../ffi/kvm/abi.ts";
import type { KvmSystem, KvmVcpu, KvmVm } from "../../../ffi/kvm/kvm.ts";
import { type CpuTopology, guestCpuid } from "../cpuid.ts";
import type { ScratchMachine } from "../state/types.ts";

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

/** A VM without memory. */
export function createScratch(system: KvmSystem, cpuids: readonly Uint8Array[]): ScratchMachine {
  const vm = system.createVm();
  const vcpus: KvmVcpu[] = [];
  const close = (): void => {
    for (const vcpu of vcpus) vcpu.close();
    vm.close();
  };
  try {
    createIrqchips(vm);
    for (const [index, cpuid] of cpuids.entries()) {
      const vcpu = vm.createVcpu(index);
      vcpus.push(vcpu);
      vcpu.setCpuid2(cpuid);
    }
  } catch (error) {
    close();
    throw error;
  }
  return { system, vm, vcpus, cpuids, tscOrigin: "host", close };
}
