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
} from "../../../assembly/layout.ts";
import { KVM_RUN_IMMEDIATE_EXIT_U8 } from "../../../ffi/kvm/abi.ts";
import { getTid } from "../../../ffi/process.ts";
import { blockKickSignal, consumeKickSignal, kickThread } from "../../../ffi/signal.ts";
import { VmmError } from "../../errors.ts";
import { VcpuControl, waitForStandstill } from "../vcpu-control.ts";

/** A vCPU leaves the guest within microseconds; one that does not in this time never will. */
export const PARK_TIMEOUT_MS = 5000;

export interface ParkableVcpu {
  index: number;
  control: VcpuControl;
  /** struct kvm_run */
  run: Uint8Array;
}

/** Has a vCPU that runs leave the guest. */
export function kick({ control, run }: ParkableVcpu): void {
  if (control.state !== VCPU_STATE_RUNNING) return;
  run[KVM_RUN_IMMEDIATE_EXIT_U8] = 1;
  kickThread(control.tid);
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

/** Parks a vCPU that is nothing but a control block; its thread is the calling one. */
export function makeParkingRehearsal(): () => void {
  const pages = Math.ceil((VCPU_BASE + MAX_VCPUS * VCPU_STRIDE_BYTES) / WASM_PAGE_SIZE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const control = new VcpuControl(memory, 0);
  control.tid = getTid();
  const vcpu: ParkableVcpu = { index: 0, control, run: new Uint8Array(KVM_RUN_IMMEDIATE_EXIT_U8 + 1) };
  return () => {
    blockKickSignal();
    control.state = VCPU_STATE_RUNNING;
    park(memory, [vcpu], () => {
      control.state = VCPU_STATE_PARKED;
    });
    consumeKickSignal();
  };
}
