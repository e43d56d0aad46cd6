// SPDX-License-Identifier: Apache-2.0
// Worker of one vCPU on KVM: it gets one message, and from then on heeds only the shared control block.
import { VCPU_STATE_GONE } from "../../../assembly/layout.ts";
import { KvmVcpu, KvmVm } from "../../../ffi/kvm/kvm.ts";
import { blockKickSignal, ignoreKickSignal } from "../../../ffi/signal.ts";
import type { DeviceInstance } from "../../machine/device-table.ts";
import { IoBus } from "../../machine/io-bus.ts";
import { VcpuControl } from "../vcpu-control.ts";
import { DirtyRings } from "./dirty-ring.ts";
import { VcpuRunner } from "./run-loop.ts";

export interface VcpuWorkerStart {
  memory: WebAssembly.Memory;
  index: number;
  vcpuFd: number;
  vmFd: number;
  devices: readonly DeviceInstance[];
  /** The main thread runs the vCPU until this worker takes over. */
  isLent: boolean;
  /** Device modules are compiled before the vCPU may run, not at its first exit. */
  isWarm: boolean;
}

function serve({ memory, index, vcpuFd, vmFd, devices, isLent, isWarm }: VcpuWorkerStart): void {
  ignoreKickSignal();
  blockKickSignal();
  const vm = new KvmVm(vmFd);
  const control = new VcpuControl(memory, index);
  let bus: IoBus | undefined;
  const getBus = (): IoBus => {
    bus ??= new IoBus(memory, devices, (gsi, level) => vm.setIrqLine(gsi, level));
    return bus;
  };
  let rings: DirtyRings | undefined;
  const emptyRing = (): void => {
    rings ??= new DirtyRings(memory, vm);
    rings.empty([index]);
  };
  try {
    const runner = new VcpuRunner(new KvmVcpu(vcpuFd), index, memory, control, getBus, emptyRing);
    if (isWarm) getBus();
    if (isLent) runner.takeOver();
    runner.serve();
  } catch (error) {
    // Nobody may wait for this vCPU to park; the main thread hears of the error itself.
    control.state = VCPU_STATE_GONE;
    throw error;
  }
}

const scope = globalThis as unknown as { onmessage: (event: { data: VcpuWorkerStart }) => void; close(): void };
scope.onmessage = ({ data }) => {
  serve(data);
  scope.close();
};
