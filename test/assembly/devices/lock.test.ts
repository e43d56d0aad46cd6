// SPDX-License-Identifier: Apache-2.0
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import * as layout from "../../../assembly/devices/port92/layout.ts";
import { DEVICE_STRIDE_BYTES } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import type { LockWorkerData } from "./lock-worker.ts";
import { DeviceRig } from "./rig.ts";

const test = describe("lock");

test("the main thread may wait for a lock, and a lock freed without a notify is found", async () => {
  const rig = new DeviceRig("port92", deviceFields(layout));
  const lockAddress = rig.state + DEVICE_STRIDE_BYTES - 4;
  const words = new Int32Array(rig.memory.buffer);
  const workerData: LockWorkerData = { memory: rig.memory, lockAddress };
  const worker = new Worker(new URL("./lock-worker.ts", import.meta.url), { workerData });
  await once(worker, "message");
  assert.is(Atomics.load(words, lockAddress >> 2), 1);
  assert.is(rig.read(0), 0x02);
  assert.is(Atomics.load(words, lockAddress >> 2), 0);
  await worker.terminate();
});

test("every access gives the lock back", () => {
  const rig = new DeviceRig("port92", deviceFields(layout));
  const words = new Int32Array(rig.memory.buffer);
  rig.write(0, 0x03);
  rig.read(0);
  rig.device.reset(rig.state);
  assert.is(words[(rig.state + DEVICE_STRIDE_BYTES - 4) >> 2], 0);
});

test.run();
