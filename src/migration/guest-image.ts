// SPDX-License-Identifier: Apache-2.0
// The state image of a guest that goes to a file or to another process: its machine, vCPUs, clocks and devices. What an
// update by exec carries beside that is in carried.ts.
import { ACCELERATOR_SECTIONS } from "../accel/state/sections.ts";
import { VCPU_SECTION } from "../accel/state/vcpu-state.ts";
import type { AcceleratedVm } from "../accel/types.ts";
import { checkCarriedSpec } from "../config/carried-spec.ts";
import type { MachineSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { DEVICE_SECTIONS } from "../machine/device-set.ts";
import type { Vm } from "../machine/vm.ts";
import { RunState } from "../qmp/schema/machine.ts";
import type { StateReader } from "../state/reader.ts";
import { bindAll, StateWriter } from "../state/writer.ts";
import { type CarriedMachine, MACHINE_SECTION } from "./carried.ts";
import { RAM_SECTION, RAM_SECTION_VERSION } from "./ram-section.ts";

/** Every section of such an image that this Baton reads, with the highest version it reads. */
export const GUEST_SECTIONS: Readonly<Record<string, number>> = {
  ...ACCELERATOR_SECTIONS,
  ...DEVICE_SECTIONS,
  [MACHINE_SECTION]: 1,
  [RAM_SECTION]: RAM_SECTION_VERSION,
};

export interface PlannedGuest {
  sizeBytes: number;
  /**
   * Takes the state of the vCPUs, which must be parked, and of the devices, and gives the finished image.
   * @param onProgress see `StateWriter`; for a guest planned with `isFixed`
   */
  take(onProgress?: StateWriter["onProgress"]): Uint8Array;
}

/**
 * Lays out the image of a VM; `accel` is the VM's own, or a rehearsal's. `addSections` plans what else is to be in it; what it
 * returns is called once all have their places, and what that returns fills them in.
 * @param isFixed see `StateWriter.lay`
 */
export function planGuest(
  vm: Vm,
  runState: RunState,
  accel: Pick<AcceleratedVm, "planState">,
  addSections: (writer: StateWriter) => () => () => void,
  { isFixed = false } = {},
): PlannedGuest {
  const writer = new StateWriter();
  const machine: CarriedMachine = { spec: vm.spec, runState };
  writer.addJson({ id: MACHINE_SECTION, version: 1 }, machine);
  // The vCPUs take longest: whoever reads along has the rest by then.
  const bind = bindAll([vm.devices.planState(writer), accel.planState(writer), addSections(writer)]);
  const sizeBytes = writer.lay({ isFixed });
  const fill = bind();
  return {
    sizeBytes,
    take: (onProgress) => {
      writer.onProgress = onProgress;
      fill();
      return writer.seal();
    },
  };
}

/** The machine of the guest in an image, and the run state it was in. @throws VmmError "state-refused" */
export function readMachine(reader: StateReader): { spec: MachineSpec; runState: RunState } {
  const { spec } = (reader.section(MACHINE_SECTION).json() ?? {}) as Partial<CarriedMachine>;
  return { spec: checkCarriedSpec(spec), runState: readRunState(reader) };
}

/** The run state that the guest in an image was in. @throws VmmError "state-refused" */
export function readRunState(reader: StateReader): RunState {
  const section = reader.section(MACHINE_SECTION);
  const { runState } = (section.json() ?? {}) as Partial<CarriedMachine>;
  if (!RunState.values.includes(runState!)) {
    throw new VmmError("state-refused", `State section ${section.title} has the run state ${JSON.stringify(runState)}`);
  }
  return runState!;
}

/** The CPUIDs of the vCPUs in an image. @throws VmmError "state-refused" */
export function readCpuids(reader: StateReader, cpuCount: number): Uint8Array[] {
  return Array.from({ length: cpuCount }, (_, index) => reader.section(VCPU_SECTION, index).part("cpuid"));
}
