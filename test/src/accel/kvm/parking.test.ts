// SPDX-License-Identifier: Apache-2.0
import {
  VCPU_REQUEST_PARK,
  VCPU_REQUEST_RUN,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
} from "../../../../assembly/layout.ts";
import { KVM_RUN_IMMEDIATE_EXIT_U8 } from "../../../../ffi/kvm/abi.ts";
import { getTid } from "../../../../ffi/process.ts";
import { blockKickSignal, consumeKickSignal } from "../../../../ffi/signal.ts";
import { leaveKvmRun, makeKickRehearsal } from "../../../../src/accel/kvm/kick.ts";
import { park } from "../../../../src/accel/parking.ts";
import { VcpuControl } from "../../../../src/accel/vcpu-control.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("accel/kvm/parking");

function memory(): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: 32, maximum: 32, shared: true });
}

test("a vCPU that runs is kicked, one that stands is not, and the wait ends with the last that parks", () => {
  const shared = memory();
  const vcpus = [VCPU_STATE_RUNNING, VCPU_STATE_PARKED].map((state, index) => {
    const control = new VcpuControl(shared, index);
    control.tid = getTid();
    control.request = VCPU_REQUEST_RUN;
    control.state = state;
    const run = new Uint8Array(KVM_RUN_IMMEDIATE_EXIT_U8 + 1);
    return { index, control, run, leaveGuest: () => leaveKvmRun(control, run) };
  });
  const [running, standing] = vcpus;
  blockKickSignal();
  let requested = 0;
  park(shared, vcpus, () => {
    requested++;
    for (const { control } of vcpus) assert.is(control.request, VCPU_REQUEST_PARK);
    running!.control.state = VCPU_STATE_PARKED;
  });
  consumeKickSignal();
  assert.is(requested, 1);
  assert.is(running!.run[KVM_RUN_IMMEDIATE_EXIT_U8], 1);
  assert.is(standing!.run[KVM_RUN_IMMEDIATE_EXIT_U8], 0);
});

test("one that does not park in time is left to run, and so are the others", () => {
  const shared = memory();
  const vcpus = [VCPU_STATE_PARKED, VCPU_STATE_RUNNING].map((state, index) => {
    const control = new VcpuControl(shared, index);
    control.tid = getTid();
    control.state = state;
    const run = new Uint8Array(KVM_RUN_IMMEDIATE_EXIT_U8 + 1);
    return { index, control, leaveGuest: () => leaveKvmRun(control, run) };
  });
  blockKickSignal();
  assert.throws(() => park(shared, vcpus, undefined, 1), /vCPU 1 did not stop within 1 ms; the guest runs on/);
  consumeKickSignal();
  for (const { control } of vcpus) assert.is(control.request, VCPU_REQUEST_RUN);
});

test("nobody is waited for when there is nobody", () => {
  park(memory(), []);
});

test("a rehearsal leaves no kick behind, which would end this process", async () => {
  const rehearse = makeKickRehearsal();
  for (let round = 0; round < 100; round++) rehearse();
  await new Promise((resolve) => setTimeout(resolve, 5));
  rehearse();
  await new Promise((resolve) => setTimeout(resolve, 5));
});

test.run();
