// SPDX-License-Identifier: Apache-2.0
// How a vCPU is made to leave KVM_RUN: by a signal that is blocked but in there, and by a flag for when it is not in there.
import { KVM_RUN_IMMEDIATE_EXIT_U8 } from "../../../ffi/kvm/abi.ts";
import { getTid } from "../../../ffi/process.ts";
import { blockKickSignal, consumeKickSignal, kickThread } from "../../../ffi/signal.ts";
import { makeParkingRehearsal } from "../parking.ts";
import type { VcpuControl } from "../vcpu-control.ts";

/** `run` is a struct kvm_run. */
export function leaveKvmRun(control: VcpuControl, run: Uint8Array): void {
  run[KVM_RUN_IMMEDIATE_EXIT_U8] = 1;
  kickThread(control.tid);
}

/** The kicked thread of the vCPU is the calling one. */
export function makeKickRehearsal(): () => void {
  const rehearsePark = makeParkingRehearsal((_, control) => {
    control.tid = getTid();
    const run = new Uint8Array(KVM_RUN_IMMEDIATE_EXIT_U8 + 1);
    return () => leaveKvmRun(control, run);
  });
  return () => {
    blockKickSignal();
    rehearsePark();
    consumeKickSignal();
  };
}
