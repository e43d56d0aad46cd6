// SPDX-License-Identifier: Apache-2.0
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { assert, describe } from "../../harness.ts";
import {
  COUNTERS,
  type DeliveryWorkerData,
  EDGE_PIN,
  EDGE_VECTOR,
  EDGES_SEEN,
  EDGES_SENT,
  LEVEL_PIN,
  LEVEL_VECTOR,
  LEVELS_SERVED,
  LOST,
  PINGS_SERVED,
  PONGS_SERVED,
} from "./delivery-worker.ts";
import { apicBytes, Machine } from "./rig.ts";

const test = describe("interrupts between threads");

const ROUNDS = 5000;
const FLOOD_ROUNDS = 300_000;
const LEVEL = 0x8000;

async function runAll(machine: Machine, roles: DeliveryWorkerData["role"][], rounds: number): Promise<Int32Array> {
  const workers = roles.map((role) => {
    const workerData: DeliveryWorkerData = { memory: machine.memory, apicBytes, role, rounds };
    return new Worker(new URL("./delivery-worker.ts", import.meta.url), { workerData });
  });
  await Promise.all(workers.map((worker) => once(worker, "message")));
  await Promise.all(workers.map((worker) => worker.terminate()));
  return new Int32Array(machine.memory.buffer, COUNTERS, 16);
}

test("two devices and another vCPU deliver at once: nothing is lost, no halted vCPU sleeps on", async () => {
  const machine = new Machine(2);
  for (const cpu of machine.cpus) {
    cpu.enable();
    cpu.write(0x350, 0x1_0000);
  }
  machine.redirect(EDGE_PIN, EDGE_VECTOR);
  machine.redirect(LEVEL_PIN, LEVEL | LEVEL_VECTOR);
  const counters = await runAll(machine, ["first", "second", "edges", "levels"], ROUNDS);
  assert.is(counters[LOST], 0);
  assert.ok(counters[EDGES_SENT]! > 0);
  assert.is(counters[EDGES_SEEN], counters[EDGES_SENT]);
  assert.is(counters[LEVELS_SERVED], ROUNDS);
  assert.is(counters[PINGS_SERVED], ROUNDS);
  assert.is(counters[PONGS_SERVED], ROUNDS);
  for (const cpu of machine.cpus) {
    assert.equal(cpu.vectors(0x100), []);
    assert.equal(cpu.vectors(0x200), []);
  }
  assert.is(machine.redirection(LEVEL_PIN), LEVEL | LEVEL_VECTOR, "no remote IRR");
});

test("two vCPUs that interrupt a third at once do not undo each other's", async () => {
  const machine = new Machine(3);
  for (const cpu of machine.cpus) cpu.enable();
  const counters = await runAll(machine, ["flood-40", "flood-41"], FLOOD_ROUNDS);
  assert.is(counters[LOST], 0);
  assert.equal(machine.cpu.vectors(0x200), []);
});

test.run();
