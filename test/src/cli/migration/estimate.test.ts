// SPDX-License-Identifier: Apache-2.0
import { type Course, estimateRemainingMs } from "../../../../src/cli/migration/estimate.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("estimate of a migration's end");

const MIB = 2 ** 20;
/** 100 MiB to go at 100 MiB/s. */
const COURSE: Course = {
  remainingBytes: 100 * MIB,
  roundMs: 0,
  bytesPerMs: (100 * MIB) / 1000,
  dirtyBytesPerMs: 0,
  downtimeLimitMs: 300,
};

function estimate(changes: Partial<Course> = {}): number | undefined {
  return estimateRemainingMs({ ...COURSE, ...changes });
}

/** The same played through page by page of time. */
function simulate({ remainingBytes, roundMs, bytesPerMs, dirtyBytesPerMs, downtimeLimitMs }: Course): number {
  let [left, written, ms] = [remainingBytes, dirtyBytesPerMs * roundMs, 0];
  for (let before = Number.POSITIVE_INFINITY; ; ) {
    for (; left > 0; ms++) {
      left -= bytesPerMs;
      written += dirtyBytesPerMs;
    }
    const isWorthwhile = written < before * 0.7;
    if (written / bytesPerMs <= downtimeLimitMs && (written <= 64 * 4096 || !isWorthwhile)) {
      return ms + written / bytesPerMs;
    }
    [before, left, written] = [written, written, 0];
  }
}

test("a guest that writes nothing takes what its RAM takes", () => {
  assert.is(estimate(), 1000);
  assert.is(estimate({ remainingBytes: 0 }), 0);
});

test("it is what the rounds take", () => {
  for (const dirtyShare of [0.01, 0.1, 0.3, 0.5, 0.8, 0.9]) {
    const course = { ...COURSE, dirtyBytesPerMs: COURSE.bytesPerMs * dirtyShare };
    const [estimated, simulated] = [estimateRemainingMs(course)!, simulate(course)];
    assert.ok(Math.abs(estimated - simulated) <= simulated * 0.15, `${dirtyShare}: ${estimated} for ${simulated}`);
  }
});

test("it grows with what is left, with what the guest writes and with what it has written, and shrinks with bandwidth", () => {
  const grows = (what: string, times: (number | undefined)[]): void => {
    const sorted = [...times].sort((a, b) => a! - b!);
    assert.equal(times, sorted, what);
    assert.ok(times[0]! < times.at(-1)!, what);
  };
  const writing = { dirtyBytesPerMs: COURSE.bytesPerMs / 3 };
  grows(
    "left",
    [1, 2, 3].map((n) => estimate({ ...writing, remainingBytes: n * 50 * MIB })),
  );
  grows(
    "dirty",
    [0, 0.2, 0.4, 0.6].map((share) => estimate({ dirtyBytesPerMs: COURSE.bytesPerMs * share })),
  );
  grows(
    "written",
    [0, 500, 1000].map((roundMs) => estimate({ ...writing, roundMs })),
  );
  grows(
    "bandwidth",
    [4, 3, 2].map((n) => estimate({ dirtyBytesPerMs: 1, bytesPerMs: COURSE.bytesPerMs * n })),
  );
});

test("no end is in sight of a guest that writes as fast as its RAM moves, unless the pause may be that long", () => {
  assert.is(estimate({ dirtyBytesPerMs: COURSE.bytesPerMs }), undefined);
  assert.is(estimate({ dirtyBytesPerMs: COURSE.bytesPerMs, downtimeLimitMs: 1000 }), 2000);
  assert.is(estimate({ bytesPerMs: 0 }), undefined);
});

test.run();
