// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { StandstillTracker } from "../../../src/meter/standstill.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("standstill");

/** Feeds samples of a counter that changes at the given times; each sample reads it in the middle of its interval. */
function track(changeTimes: number[], clockReadings: number[], threshold = 5): StandstillTracker {
  const tracker = new StandstillTracker(threshold);
  for (let index = 1; index < clockReadings.length; index++) {
    const [before, after] = [clockReadings[index - 1]!, clockReadings[index]!];
    const read = (before + after) / 2;
    tracker.observe(changeTimes.filter((time) => time <= read).length, before, after);
  }
  tracker.finish();
  return tracker;
}

test("StandstillTracker bounds a standstill between evenly spaced samples", () => {
  const samples = Array.from({ length: 31 }, (_, time) => time);
  const tracker = track([1, 2, 3, 4, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29], samples);
  assert.equal(tracker.longest, { start: 5, end: 13, atLeast: 8, atMost: 12 });
  assert.is(tracker.longestPossible, 12);
  assert.equal(tracker.listed, [tracker.longest]);
});

test("StandstillTracker does not take a gap of the sampler for a standstill", () => {
  const everyHalf = Array.from({ length: 100 }, (_, index) => index / 2);
  const tracker = track(everyHalf, [0, 1, 2, 3, 4, 30, 31, 32, 33, 34, 35]);
  assert.ok(tracker.longest.atLeast <= 0);
  assert.ok(tracker.longestPossible >= 26);
});

test("StandstillTracker proves a standstill across a gap of the sampler", () => {
  const tracker = track([1, 2, 3, 40, 41, 42], [0, 1, 2, 3, 4, 5, 6, 35, 36, 37, 38, 39, 40, 41, 42]);
  assert.ok(tracker.longest.atLeast >= 34);
});

test("StandstillTracker counts a standstill that has not ended, and forgets on reset", () => {
  const tracker = track([1], [0, 1, 2, 3, 20, 21]);
  assert.equal([tracker.longest.start, tracker.longest.end, tracker.changes], [2, 20, 1]);
  tracker.reset();
  tracker.finish();
  assert.equal(
    [tracker.longest.atLeast, tracker.longestPossible, tracker.changes, tracker.listed.length],
    [0, 0, 0, 0],
  );
});

test("StandstillTracker keeps 64 standstills and counts the rest", () => {
  const changes = Array.from({ length: 80 }, (_, index) => index * 10);
  const samples = Array.from({ length: 800 }, (_, time) => time);
  const tracker = track(changes, samples, 6);
  assert.is(tracker.listed.length, 64);
  assert.is(tracker.listed.length + tracker.unlisted, 80);
});

test("StandstillTracker's bounds enclose the truth for any samples", () => {
  const steps = fc.array(fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 200 })), {
    minLength: 2,
    maxLength: 80,
  });
  const cumulate = (list: number[]): number[] => {
    let time = 0;
    return list.map((step) => (time += step));
  };
  fc.assert(
    fc.property(steps, steps, (changeSteps, sampleSteps) => {
      // Odd and even, so that no change falls on a reading.
      const changes = cumulate(changeSteps).map((time) => time * 4 + 1);
      const samples = cumulate(sampleSteps).map((time) => time * 4);
      const tracker = track(changes, samples);
      const [first, last] = [samples[0]!, samples.at(-1)!];
      const edges = [first, ...changes.filter((time) => time > first && time < last), last];
      const truth = Math.max(...edges.slice(1).map((time, index) => time - edges[index]!));
      assert.ok(tracker.longest.atLeast <= truth, `${tracker.longest.atLeast} proven of ${truth}`);
      assert.ok(tracker.longestPossible >= truth, `${tracker.longestPossible} of ${truth}`);
    }),
  );
});

test.run();
