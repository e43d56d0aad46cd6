// SPDX-License-Identifier: Apache-2.0
// Puts a VM together: from a machine spec, or around the state of a running guest.
import { createAccelerated } from "../accel/create.ts";
import type { KvmVmOptions } from "../accel/kvm/vm.ts";
import type { MachineSpec } from "../config/types.ts";
import { createMemory, mapRam, ramBackend } from "../memory/ram.ts";
import { DeviceSet } from "./device-set.ts";
import { deviceTable } from "./device-table.ts";
import type { VmParts } from "./parts.ts";
import { Vm } from "./vm.ts";

/** What a restored VM takes over instead of making it. */
export type Inherited = Pick<KvmVmOptions, "cpuids" | "isFromElsewhere" | "workers"> & {
  ramFd?: number;
  /** The back end has the guest's RAM: it must be there. */
  ramIsInPlace?: boolean;
};

/**
 * Builds the VM with its vCPUs parked and its RAM as the back end has it: empty, or the running guest's.
 * @throws VmmError naming the part that cannot be built
 */
export async function buildVm(spec: MachineSpec, inherited?: Inherited): Promise<Vm> {
  const parts = await buildParts(spec, (index, message) => vm.vcpuFailed(index, message), inherited);
  const vm: Vm = new Vm(withAccelerator(spec, parts), parts);
  return vm;
}

/** The machine as it was built: whoever takes its guest over has the same accelerator, unless he wants another. */
export function withAccelerator(spec: MachineSpec, { accel }: VmParts): MachineSpec {
  return spec.accelerators.length === 1 ? spec : { ...spec, accelerators: [accel.name] };
}

/** Builds the parts of a VM; `onVcpuError` hears of vCPU threads that die. @throws VmmError as `buildVm` does */
export async function buildParts(
  spec: MachineSpec,
  onVcpuError: (index: number, message: string) => void,
  inherited?: Inherited,
): Promise<VmParts> {
  const memory = createMemory(spec.memorySizeBytes);
  const ram = mapRam(memory, ramBackend(spec), inherited?.ramFd ?? (inherited?.ramIsInPlace ? "in-place" : undefined));
  const table = deviceTable(spec);
  const accel = await createAccelerated(spec.accelerators, {
    memory,
    ramBase: ram.base,
    ramSizeBytes: spec.memorySizeBytes,
    cpuCount: spec.cpuCount,
    cpu: {
      model: spec.cpu.model,
      topology: spec.cpuTopology ?? { sockets: 1, cores: spec.cpuCount, threads: 1 },
      features: spec.cpu.features,
    },
    devices: table,
    ...(spec.dirtyRingEntries === undefined ? {} : { dirtyRingEntries: spec.dirtyRingEntries }),
    ...(inherited?.cpuids === undefined ? {} : { cpuids: inherited.cpuids }),
    ...(inherited?.isFromElsewhere === undefined ? {} : { isFromElsewhere: inherited.isFromElsewhere }),
    ...(inherited?.workers === undefined ? {} : { workers: inherited.workers }),
    onVcpuError,
  });
  const devices = new DeviceSet(memory, table, (gsi, level) => accel.setIrqLine(gsi, level));
  return { memory, ram, accel, devices };
}
