// SPDX-License-Identifier: Apache-2.0
// Parking vCPUs: each leaves the guest at once, and does not go back before it is told to.
import {
  MAX_VCPUS,
  VCPU_BASE,
  VCPU_REQUEST_PARK,
  VCPU_REQUEST_RUN,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
  VCPU_STRIDE_BYTES,
  WASM_PAGE_SIZE_BYTES,
} from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";
import { VcpuControl, waitForStandstill } from "./vcpu-control.ts";

/** A vCPU leaves the guest within microseconds; one that does not in this time never will. */
export const PARK_TIMEOUT_MS = 5000;

export interface ParkableVcpu {
  index: number;
  control: VcpuControl;
  /** Has the vCPU, which runs, leave the guest and look at its request. */
  leaveGuest(): void;
}

export function kick(vcpu: ParkableVcpu): void {
  if (vcpu.control.state === VCPU_STATE_RUNNING) vcpu.leaveGuest();
}

export function requestParking(vcpus: readonly ParkableVcpu[]): void {
  for (const { control } of vcpus) control.request = VCPU_REQUEST_PARK;
  for (const vcpu of vcpus) kick(vcpu);
}

/** See `AcceleratedVm.park`. All of `vcpus` have threads that answer. */
export function park(
  memory: WebAssembly.Memory,
  vcpus: readonly ParkableVcpu[],
  onRequested?: () => void,
  timeoutMs = PARK_TIMEOUT_MS,
): void {
  requestParking(vcpus);
  onRequested?.();
  const isParked = ({ control }: ParkableVcpu): boolean => control.state === VCPU_STATE_PARKED;
  if (waitForStandstill(memory, () => vcpus.every(isParked), timeoutMs)) return;
  // The kick that did not help is taken back by the vCPU's thread when it sees this.
  for (const { control } of vcpus) control.request = VCPU_REQUEST_RUN;
  const { index } = vcpus.find((vcpu) => !isParked(vcpu)) ?? vcpus[0]!;
  throw new VmmError("vcpu-stuck", `vCPU ${index} did not stop within ${timeoutMs} ms; the guest runs on`);
}

/** Parks a vCPU that is nothing but its words in a memory of its own. `makeKick` gives what has it leave the guest. */
export function makeParkingRehearsal(
  makeKick: (memory: WebAssembly.Memory, control: VcpuControl) => () => void,
): () => void {
  const pages = Math.ceil((VCPU_BASE + MAX_VCPUS * VCPU_STRIDE_BYTES) / WASM_PAGE_SIZE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const control = new VcpuControl(memory, 0);
  const vcpu: ParkableVcpu = { index: 0, control, leaveGuest: makeKick(memory, control) };
  return () => {
    control.state = VCPU_STATE_RUNNING;
    park(memory, [vcpu], () => {
      control.state = VCPU_STATE_PARKED;
    });
  };
}
