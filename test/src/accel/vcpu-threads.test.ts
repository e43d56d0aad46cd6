// SPDX-License-Identifier: Apache-2.0
// What the main thread does with vCPU threads. Their part is played here: by whoever is kicked, started or told to end.
import {
  VCPU_REQUEST_EXIT,
  VCPU_REQUEST_PARK,
  VCPU_REQUEST_RUN,
  VCPU_STATE_ABSENT,
  VCPU_STATE_GONE,
  VCPU_STATE_PARKED,
  VCPU_STATE_RUNNING,
} from "../../../assembly/layout.ts";
import { VcpuThreads } from "../../../src/accel/vcpu-threads.ts";
import type { VcpuWorker, WorkerStart } from "../../../src/accel/vcpu-worker-handle.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("accel/vcpu-threads");

const CPU_COUNT = 3;

/** Threads that park, or end, as soon as they are kicked; but for one that is held up. */
function createThreads(heldUp = -1) {
  const events: string[] = [];
  const worker = (index: number) => ({
    onDeath: () => {},
    start: () => events.push(`start ${index}`),
    terminate: () => events.push(`terminate ${index}`),
  });
  const threads = new VcpuThreads({
    accelerator: "wasm",
    memory: new WebAssembly.Memory({ initial: 32, maximum: 32, shared: true }),
    cpuCount: CPU_COUNT,
    workers: Array.from({ length: CPU_COUNT }, (_, index) => worker(index) as unknown as VcpuWorker),
    onVcpuError: () => {},
    makeKick: (control, index) => () => {
      events.push(`kick ${index}`);
      if (index === heldUp) return;
      if (control.request === VCPU_REQUEST_PARK) control.state = VCPU_STATE_PARKED;
      if (control.request === VCPU_REQUEST_EXIT) control.state = VCPU_STATE_GONE;
    },
  });
  const controls = Array.from({ length: CPU_COUNT }, (_, index) => threads.control(index));
  const start = (from = 0): void => threads.start((index) => ({ index }) as WorkerStart, { from });
  return { threads, controls, events, start };
}

function createRunning(heldUp?: number) {
  const created = createThreads(heldUp);
  created.threads.requestRun();
  created.start();
  for (const control of created.controls) control.state = VCPU_STATE_RUNNING;
  created.events.length = 0;
  return created;
}

test("each is started once, the first one later than the others if need be", () => {
  const { events, start } = createThreads();
  start(1);
  start();
  start();
  assert.equal(events, ["start 1", "start 2", "start 0"]);
});

test("they are ready when they are parked, or wait to be offered their vCPU", async () => {
  const { threads, controls, start } = createThreads();
  start();
  let isReady = false;
  const ready = threads.whenReady().then(() => (isReady = true));
  for (const control of controls) control.state = VCPU_STATE_PARKED;
  controls[1]!.state = VCPU_STATE_ABSENT;
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.not(isReady);
  controls[1]!.state = VCPU_STATE_PARKED;
  await ready;
});

test("before the first run nobody is waited for", () => {
  const { threads, events, start } = createThreads();
  threads.park();
  start();
  threads.park();
  assert.equal(events, ["start 0", "start 1", "start 2"]);
});

test("the dead and those that were never started are not waited for", () => {
  const { threads, controls, events, start } = createThreads();
  threads.requestRun();
  start(1);
  controls[1]!.state = VCPU_STATE_RUNNING;
  controls[2]!.state = VCPU_STATE_GONE;
  threads.park();
  assert.equal(events.slice(2), ["kick 1"]);
  assert.is(controls[1]!.state, VCPU_STATE_PARKED);
});

test("who is held up is left to park later", () => {
  const { threads, controls } = createRunning(1);
  threads.parkSoon(1);
  assert.equal(
    controls.map(({ state }) => state),
    [VCPU_STATE_PARKED, VCPU_STATE_RUNNING, VCPU_STATE_PARKED],
  );
  for (const control of controls) assert.is(control.request, VCPU_REQUEST_PARK);
});

test("only parked vCPUs are told that the guest was stopped", () => {
  const { threads, controls } = createRunning();
  controls[1]!.state = VCPU_STATE_PARKED;
  const noted: number[] = [];
  threads.notePause(controls.map((_, index) => ({ notePause: () => void noted.push(index) })));
  threads.requestRun();
  assert.equal(noted, [1]);
  for (const control of controls) assert.is(control.request, VCPU_REQUEST_RUN);
});

test("all run when each runs or has died", () => {
  const { threads, controls } = createRunning();
  controls[0]!.state = VCPU_STATE_GONE;
  assert.ok(threads.allRun());
  controls[1]!.state = VCPU_STATE_PARKED;
  assert.not(threads.allRun());
});

test("who runs looks at a new throttle at once; one of 100 percent would never end", async () => {
  const { threads, controls, events } = createRunning();
  controls[1]!.state = VCPU_STATE_PARKED;
  threads.throttle(20.7);
  assert.equal(events, ["kick 0", "kick 2"]);
  for (const control of controls) assert.is(control.throttlePercent, 20);
  for (const percent of [-1, 100, Number.NaN]) {
    assert.instance(await rejection(() => threads.throttle(percent)), RangeError);
  }
});

test("each is waited for before its worker is ended, and who waits for the main thread is let go first", () => {
  const { threads, controls, events } = createRunning();
  controls[2]!.state = VCPU_STATE_ABSENT;
  threads.end(() => {
    events.push("requested");
    controls[2]!.state = VCPU_STATE_GONE;
  });
  assert.equal(events, ["kick 0", "kick 1", "requested", "terminate 0", "terminate 1", "terminate 2"]);
  for (const control of controls) assert.is(control.request, VCPU_REQUEST_EXIT);
});

test("those that were never started are ended without a wait", () => {
  const { threads, controls, events } = createThreads();
  for (const index of controls.keys()) {
    threads.control(index).waitForState = () => events.push(`wait ${index}`) > 0;
  }
  threads.end();
  assert.equal(events, ["terminate 0", "terminate 1", "terminate 2"]);
});

test.run();
