// SPDX-License-Identifier: Apache-2.0
// What a VM is made of once it is built, and what is done with all of that at once. Knows no run state: vm.ts does.
import type { AcceleratedVm } from "../accel/types.ts";
import { describeError } from "../errors.ts";
import { type MappedRam, releaseRam } from "../memory/ram.ts";
import type { DeviceSet } from "./device-set.ts";

export interface VmParts {
  memory: WebAssembly.Memory;
  ram: MappedRam;
  accel: AcceleratedVm;
  devices: DeviceSet;
}

/** Has the guest stand. @throws VmmError "vcpu-stuck" when a vCPU has not parked within `timeoutMs`: all run on then */
export function parkParts({ accel, devices }: VmParts, timeoutMs?: number): void {
  try {
    accel.park(() => devices.freezeOutput(), timeoutMs);
  } catch (error) {
    devices.thawOutput();
    throw error;
  }
  devices.stopTimers();
}

/** Has the guest run. */
export function runParts({ accel, devices }: VmParts): void {
  devices.thawOutput();
  accel.run();
  devices.armTimers();
}

/** Gives the consoles what the guest has written. */
export function flushOutput({ devices }: VmParts): void {
  for (const port of devices.serialPorts) {
    try {
      port.flush();
    } catch (error) {
      process.stderr.write(`baton: ${describeError(error)}\n`);
    }
  }
}

/** Gives all of it back, RAM too. */
export async function releaseParts({ memory, ram, accel, devices }: VmParts): Promise<void> {
  devices.stopTimers();
  await accel.close();
  releaseRam(memory, ram);
}
