// SPDX-License-Identifier: Apache-2.0
// A VM like the real one, without memory, that never runs: saving and restoring are tried on it until their code is warm.
import type { KvmSystem } from "../../../ffi/kvm/kvm.ts";
import type { BindSection, StateWriter } from "../../state/writer.ts";
import type { Rehearsal } from "../types.ts";
import { makeParkingRehearsal } from "./parking.ts";
import { createIrqchips, type PowerOnState } from "./power-on.ts";
import { VmState } from "./saved-state.ts";

export function createRehearsal(
  system: KvmSystem,
  cpuids: readonly Uint8Array[],
  { profile, reader: powerOn }: PowerOnState,
): Rehearsal {
  const vm = system.createVm();
  createIrqchips(vm);
  const vcpus = cpuids.map((cpuid, index) => {
    const vcpu = vm.createVcpu(index);
    vcpu.setCpuid2(cpuid);
    return vcpu;
  });
  const state = new VmState(system, vm, vcpus, cpuids);
  return {
    park: makeParkingRehearsal(),
    planState: (writer: StateWriter): BindSection => state.plan(writer, profile),
    restoreState: (reader, options): void => state.restore(reader, options, powerOn),
    close: () => {
      for (const vcpu of vcpus) vcpu.close();
      vm.close();
    },
  };
}
