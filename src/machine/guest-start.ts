// SPDX-License-Identifier: Apache-2.0
// How a guest starts: from power-on, and from S3. An entry point of its own, because no update needs it.
import type { MachineSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { FACS_FIRMWARE_WAKING_VECTOR, FACS_GPA } from "./acpi/tables.ts";
import { lowRamEndGpa } from "./board.ts";
import { openImage } from "./boot/image.ts";
import { buildMachineImage } from "./boot/machine-image.ts";
import { placeWrites } from "./boot/placement.ts";
import type { InitialVcpuState } from "./boot/types.ts";
import { wakeState } from "./boot/vcpu-state.ts";

/** Loads kernel, initrd, command line and ACPI tables into RAM; says how vCPU 0 starts. @throws VmmError */
export function loadGuest(spec: MachineSpec, ram: Uint8Array, options: { unpacksKernel: boolean }): InitialVcpuState {
  using kernel = spec.kernel === undefined ? undefined : openImage(spec.kernel);
  using initrd = spec.initrd === undefined ? undefined : openImage(spec.initrd);
  using bios = spec.bios === undefined ? undefined : openImage(spec.bios);
  const plan = buildMachineImage(spec, { kernel, initrd, bios }, options);
  placeWrites(ram.subarray(0, lowRamEndGpa(spec.memorySizeBytes)), plan.writes);
  return plan.vcpu;
}

/**
 * State of vCPU 0 at the vector that the guest left in the FACS (ACPI 6.5, 16.3.1.2).
 * @throws VmmError "no-waking-vector"
 */
export function stateAtWakingVector(ram: Uint8Array): InitialVcpuState {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  const vector = view.getUint32(FACS_GPA + FACS_FIRMWARE_WAKING_VECTOR, true);
  if (vector === 0) {
    throw new VmmError("no-waking-vector", "Unable to wake up: the guest has set no waking vector in its FACS");
  }
  return wakeState(vector);
}
