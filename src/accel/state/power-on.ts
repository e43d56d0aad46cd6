// SPDX-License-Identifier: Apache-2.0
// Power-on state of a VM, taken from a scratch machine that never runs: the state a reset goes back to, and what can be
// saved at all.
import { StateReader } from "../../state/reader.ts";
import { bindAll, StateWriter } from "../../state/writer.ts";
import { ACCELERATOR_SECTIONS } from "./sections.ts";
import type { ScratchMachine } from "./types.ts";
import { planVcpu, probeVcpu, type VcpuProfile } from "./vcpu-state.ts";
import { planVm } from "./vm-state.ts";

export interface PowerOnState {
  profile: VcpuProfile;
  reader: StateReader;
}

/** Closes the machine. */
export function capturePowerOnState(machine: ScratchMachine): PowerOnState {
  try {
    const writer = new StateWriter();
    const sections = [planVm(writer, machine.vm)];
    const profile = probeVcpu(machine.system, machine.vcpus[0]!);
    for (const [index, vcpu] of machine.vcpus.entries()) {
      sections.push(planVcpu(writer, vcpu, index, profile, machine.cpuids[index]!));
    }
    writer.lay();
    bindAll(sections)()();
    return { profile, reader: new StateReader(writer.seal(), ACCELERATOR_SECTIONS) };
  } finally {
    machine.close();
  }
}
