// SPDX-License-Identifier: Apache-2.0
// The guest that has the engine compiled does what it is there for, and the real one's memory is left alone.
import { CPU_EXCEPTION, CPU_INSTRUCTIONS, NO_EXCEPTION } from "../../../../assembly/cpu/layout.ts";
import {
  MAX_VCPUS,
  VCPU_BASE,
  VCPU_REQUEST,
  VCPU_REQUEST_PARK,
  VCPU_REQUEST_RUN,
  VCPU_STRIDE_BYTES,
  WASM_PAGE_SIZE_BYTES,
} from "../../../../assembly/layout.ts";
import { VcpuControl } from "../../../../src/accel/vcpu-control.ts";
import { createSmallGuest, warmUp } from "../../../../src/accel/wasm/warm-up.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("accel/wasm/warm-up");
const ROUNDS = 3;
const BUDGET = 4096;
const COUNTER = 0x8000;

function vcpu(request: number): { control: VcpuControl; bytes: Uint8Array } {
  const pages = Math.ceil((VCPU_BASE + MAX_VCPUS * VCPU_STRIDE_BYTES) / WASM_PAGE_SIZE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const control = new VcpuControl(memory, 0);
  control.request = request;
  return { control, bytes: new Uint8Array(memory.buffer) };
}

test("the small guest runs, and returns from its interrupts", () => {
  const { runner, page, ram } = createSmallGuest();
  for (let round = 0; round < ROUNDS; round++) runner.rehearse(BUDGET);
  assert.equal(page.getUint32(CPU_EXCEPTION, true), NO_EXCEPTION);
  // A budget is for all that takes time, not for instructions alone.
  assert.ok(page.getBigUint64(CPU_INSTRUCTIONS, true) > BigInt((ROUNDS * BUDGET) / 2));
  // Each turn of its outer loop adds 64, and has an interrupt in it.
  assert.ok(ram.getBigUint64(COUNTER, true) > 2n * 64n);
});

for (const request of [VCPU_REQUEST_PARK, VCPU_REQUEST_RUN]) {
  test(`nothing of the vCPU's memory changes while its request is ${request}`, () => {
    const { control, bytes } = vcpu(request);
    warmUp(control);
    const changed = bytes.findIndex((byte, place) => byte !== 0 && place !== VCPU_BASE + VCPU_REQUEST);
    assert.equal(changed, -1);
    assert.equal(control.request, request);
  });
}

test.run();
