// SPDX-License-Identifier: Apache-2.0
// The VM's run state where an operator cannot bring it about at will.
import { resolveConfig } from "../../../src/config/resolve.ts";
import { buildVm } from "../../../src/machine/build.ts";
import { readReport } from "../../../src/payload/report.ts";
import { accelerator } from "../../accelerator.ts";
import { payloadFile, until } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("machine/vm");

test("resumes vCPUs that were never parked, as after an update that failed early", async () => {
  const kernel = payloadFile({ touchBytes: 3 << 20, serial: false });
  const vm = await buildVm(resolveConfig({ accel: accelerator, m: "16M", kernel, nodefaults: true }));
  await vm.powerOn();
  vm.serve();
  vm.cont();
  const counter = (): bigint => readReport(vm.ramView())?.counters[0] ?? 0n;
  await until("the guest to count", () => counter() > 0n);
  // Its vCPU is in KVM_RUN and has no reason to leave it: nothing here may wait for that.
  vm.resumeFrom();
  const before = counter();
  await until("the guest to go on", () => counter() > before);
  vm.stop();
  assert.is(vm.state, "paused");
  await vm.close();
});

test.run();
