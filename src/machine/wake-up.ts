// SPDX-License-Identifier: Apache-2.0
// Where a guest goes on when it is woken from S3 (ACPI 6.5, 16.3.1.2).
import { VmmError } from "../errors.ts";
import { FACS_FIRMWARE_WAKING_VECTOR, FACS_GPA } from "./acpi/tables.ts";
import type { InitialVcpuState } from "./boot/types.ts";
import { wakeState } from "./boot/vcpu-state.ts";

/** State of vCPU 0 at the vector that the guest left in the FACS. @throws VmmError "no-waking-vector" */
export function stateAtWakingVector(ram: Uint8Array): InitialVcpuState {
  const view = new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  const vector = view.getUint32(FACS_GPA + FACS_FIRMWARE_WAKING_VECTOR, true);
  if (vector === 0) {
    throw new VmmError("no-waking-vector", "Unable to wake up: the guest has set no waking vector in its FACS");
  }
  return wakeState(vector);
}
