// SPDX-License-Identifier: Apache-2.0
import { Worker } from "node:worker_threads";
import { getAffinity, getSchedulingPolicy, getTid, SCHED_BATCH, SCHED_OTHER } from "../../../ffi/process.ts";
import { cpusOf, GuestFirst, isCpuNumber, threadIds } from "../../../src/runtime/guest-first.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("src/runtime/guest-first");

const everywhere = getAffinity(0)!;
const cpus = [...everywhere].flatMap((byte, index) =>
  Array.from({ length: 8 }, (_, bit) => index * 8 + bit).filter((cpu) => (byte >> (cpu & 7)) & 1),
);
const needsTwo = cpus.length < 2 ? "this process may use one CPU only" : undefined;

function without(cpu: number): Uint8Array {
  const affinity = everywhere.slice();
  affinity[cpu >> 3]! &= ~(1 << (cpu & 7));
  return affinity;
}

test.skipIf(needsTwo, "all threads make way, the calling one hurries, and everything ends", () => {
  const own = getTid();
  const [first] = cpus;
  const before = new Map(threadIds().map((tid) => [tid, getSchedulingPolicy(tid)]));
  const others = [...before].filter(([tid, policy]) => tid !== own && policy === SCHED_OTHER).map(([tid]) => tid);
  assert.ok(others.length > 0, "the runtime has threads");
  const [exempt, ...rest] = others;
  const guestFirst = GuestFirst.begin([first!], [exempt!]);
  for (const tid of [own, ...rest]) {
    const policy = getSchedulingPolicy(tid);
    // Not every thread lives that long.
    if (policy === undefined) continue;
    assert.is(policy, SCHED_BATCH, `thread ${tid}`);
    assert.equal(getAffinity(tid), without(first!), `thread ${tid}`);
  }
  assert.is(getSchedulingPolicy(exempt!), SCHED_OTHER);
  assert.equal(getAffinity(exempt!), everywhere);
  guestFirst.hurry();
  assert.is(getSchedulingPolicy(own), SCHED_OTHER);
  assert.equal(getAffinity(own), everywhere);
  guestFirst.makeWay();
  assert.is(getSchedulingPolicy(own), SCHED_BATCH);
  assert.equal(getAffinity(own), without(first!));
  guestFirst.end();
  for (const tid of threadIds()) {
    assert.is(getSchedulingPolicy(tid), before.get(tid) ?? SCHED_OTHER, `thread ${tid}`);
    assert.equal(getAffinity(tid), everywhere, `thread ${tid}`);
  }
});

test.skipIf(needsTwo, "threads that are started for the guest are scheduled as it is", async () => {
  const guestFirst = GuestFirst.begin([cpus[0]!]);
  const before = threadIds();
  let worker: Worker | undefined;
  await guestFirst.startThreads(async () => {
    worker = new Worker("setInterval(() => {}, 1000)", { eval: true });
    await new Promise((resolve) => worker!.once("online", resolve));
  });
  const started = threadIds().filter((tid) => !before.includes(tid));
  assert.ok(started.length > 0);
  for (const tid of started) {
    assert.is(getSchedulingPolicy(tid), SCHED_OTHER);
    assert.equal(getAffinity(tid), everywhere);
  }
  await worker!.terminate();
  guestFirst.end();
  assert.is(getSchedulingPolicy(), SCHED_OTHER);
});

test.skipIf(needsTwo, "two who hurry at the same time can have a CPU each", async () => {
  const [first, second] = cpus;
  const guestFirst = GuestFirst.begin([first!]);
  assert.not(guestFirst.isEverywhere);
  guestFirst.hurry({ on: second! });
  assert.equal(cpusOf([getTid()]), [second]);
  guestFirst.hurry({ off: second! });
  assert.equal(getAffinity(0), without(second!));
  assert.is(getSchedulingPolicy(), SCHED_OTHER);
  // A thread that a runtime starts meanwhile has the same: it is not kept off that CPU for ever.
  const before = threadIds();
  const worker = new Worker("setInterval(() => {}, 1000)", { eval: true });
  await new Promise((resolve) => worker.once("online", resolve));
  const started = threadIds().filter((tid) => !before.includes(tid));
  assert.ok(started.some((tid) => getAffinity(tid)?.join() === without(second!).join()));
  guestFirst.end();
  for (const tid of [0, ...started]) assert.equal(getAffinity(tid) ?? everywhere, everywhere, `thread ${tid}`);
  await worker.terminate();
});

test("CPUs are shared where the guest has all of them", () => {
  const guestFirst = GuestFirst.begin(cpus);
  assert.ok(guestFirst.isEverywhere);
  assert.is(getSchedulingPolicy(), SCHED_BATCH);
  assert.equal(getAffinity(0), everywhere);
  guestFirst.end();
  assert.is(getSchedulingPolicy(), SCHED_OTHER);
});

test.skipIf(needsTwo, "of several at once the latest decides, and the last to end undoes it all, in any order", () => {
  const [first, second] = cpus;
  for (const firstEndsFirst of [true, false]) {
    const one = GuestFirst.begin([first!]);
    const other = GuestFirst.begin([second!]);
    assert.equal(getAffinity(0), without(second!));
    const [earlier, later, left] = firstEndsFirst ? [one, other, second!] : [other, one, first!];
    earlier.end();
    earlier.end();
    assert.equal(getAffinity(0), without(left));
    assert.is(getSchedulingPolicy(), SCHED_BATCH);
    later.end();
    for (const tid of threadIds()) {
      assert.equal(getAffinity(tid), everywhere);
      assert.is(getSchedulingPolicy(tid), SCHED_OTHER);
    }
  }
});

test("it is known which CPUs threads run on", () => {
  const [cpu, ...others] = cpusOf([getTid()]);
  assert.ok(cpus.includes(cpu!));
  assert.equal(others, []);
  assert.equal(cpusOf([]), []);
  assert.equal(cpusOf([0, 0x3fffff]), [], "a vCPU whose thread is not there yet, or not any more");
});

test("numbers of CPUs are told from others", () => {
  for (const number of [0, 1, 8191]) assert.ok(isCpuNumber(number));
  for (const other of [-1, 8192, 0.5, "0", null, undefined, Number.NaN]) assert.not(isCpuNumber(other));
});

test.run();
