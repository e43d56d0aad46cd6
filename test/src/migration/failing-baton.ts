// SPDX-License-Identifier: Apache-2.0
// Baton as a program that fails while it takes over a guest: what an update to a broken binary meets.
//
//   BATON_TEST_FAIL   HOW@MOMENT, for a program that an update has started
//     HOW             exit, segv, kill, stop, term (SIGTERM), term-and-throw, throw-away (executes another program), nap (takes a second), vcpu-error (of vCPU 1, a
//                     moment later), starve (vCPU 1 cannot be stopped in a hurry, as it gets no CPU)
//     MOMENT          start: before the first line; built: the VM is there, without its state; restored: with it; ran: the guest
//                     has run

import { exec, planExec } from "../../../ffi/exec.ts";
import { KvmAcceleratedVm } from "../../../src/accel/kvm/vm.ts";
import type { AcceleratedVm } from "../../../src/accel/types.ts";
import { EngineVm } from "../../../src/accel/wasm/vm.ts";
import { VmmError } from "../../../src/errors.ts";
import { DeviceSet } from "../../../src/machine/device-set.ts";
import { Vm } from "../../../src/machine/vm.ts";

const ACCELERATED_VMS: AcceleratedVm[] = [KvmAcceleratedVm.prototype, EngineVm.prototype];

const FAIL_AFTER_MS = 50;
let vm: Vm | undefined;
const [how, moment] = (process.env.BATON_TEST_FAIL ?? "").split("@");

function fail(): void {
  switch (how) {
    case "exit":
      process.exit(7);
      break;
    case "segv":
      process.kill(process.pid, "SIGSEGV");
      break;
    case "kill":
      process.kill(process.pid, "SIGKILL");
      break;
    case "term":
      process.kill(process.pid, "SIGTERM");
      break;
    case "term-and-throw":
      process.kill(process.pid, "SIGTERM");
      throw new Error("It refuses, and has been told to end");
    case "stop":
      process.kill(process.pid, "SIGSTOP");
      break;
    case "throw-away":
      exec(planExec({ path: "/bin/true" }, ["true"], process.env));
      break;
    case "vcpu-error":
      setTimeout(() => vm!.vcpuFailed(1, "KVM exit reason 9, detail 0"), FAIL_AFTER_MS);
      break;
    case "starve": {
      for (const prototype of ACCELERATED_VMS) {
        const { park } = prototype;
        prototype.park = function (onRequested, timeoutMs) {
          if (timeoutMs === undefined) return park.call(this, onRequested);
          throw new VmmError("vcpu-stuck", `vCPU 1 did not stop within ${timeoutMs} ms; the guest runs on`);
        };
      }
      break;
    }
    case "nap":
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
      break;
    default:
      throw new Error(`BATON_TEST_FAIL asks for '${how}'`);
  }
}

/** Has it fail right after a method. */
function failAfter<T extends object>(prototype: T, name: keyof T): void {
  const method = prototype[name] as (...args: unknown[]) => unknown;
  Object.assign(prototype, {
    [name](this: unknown, ...args: unknown[]) {
      const result = method.apply(this, args);
      fail();
      return result;
    },
  });
}

const { BATON_CPR_EXEC_STATE, BATON_CPR_EXEC_ERROR, BATON_RELAY_HELPER } = process.env;
if ((BATON_CPR_EXEC_STATE !== undefined && BATON_CPR_EXEC_ERROR === undefined) || BATON_RELAY_HELPER !== undefined) {
  const { assumeState } = Vm.prototype;
  Vm.prototype.assumeState = function (this: Vm, state) {
    vm = this;
    assumeState.call(this, state);
  };
  if (moment === "start") fail();
  if (moment === "built") failAfter(DeviceSet.prototype, "restoreState");
  if (moment === "restored") failAfter(Vm.prototype, "assumeState");
  if (moment === "ran") for (const prototype of ACCELERATED_VMS) failAfter(prototype, "runLent");
}
await import("../../../src/cli/main.ts");
