// SPDX-License-Identifier: Apache-2.0
// Worker of one vCPU on KVM.
import { KvmVcpu, KvmVm } from "../../../ffi/kvm/kvm.ts";
import { blockKickSignal, ignoreKickSignal } from "../../../ffi/signal.ts";
import type { DeviceInstance } from "../../machine/device-table.ts";
import { busOnDemand } from "../../machine/io-bus.ts";
import { serveVcpu } from "../vcpu-worker-scope.ts";
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

serveVcpu<VcpuWorkerStart>(({ memory, index, vcpuFd, vmFd, devices, isLent, isWarm }, control) => {
  ignoreKickSignal();
  blockKickSignal();
  const vm = new KvmVm(vmFd);
  const bus = busOnDemand(memory, devices, (gsi, level) => vm.setIrqLine(gsi, level));
  let rings: DirtyRings | undefined;
  const emptyRing = (): void => {
    rings ??= new DirtyRings(memory, vm);
    rings.empty([index]);
  };
  const runner = new VcpuRunner(new KvmVcpu(vcpuFd), index, memory, control, bus, emptyRing);
  if (isWarm) bus();
  if (isLent) runner.takeOver();
  runner.serve();
});
