// SPDX-License-Identifier: Apache-2.0
import { pauseBetween } from "../../bench/migrate/hop.ts";
import type { CounterWindow, MeteredStandstill, MeterWindow } from "../../src/meter/protocol.ts";
import { StandstillTracker } from "../../src/meter/standstill.ts";
import { assert, describe } from "../harness.ts";

const test = describe("migrate");

const MS = 1e6;
const standstill = (startMs: number, endMs: number, slackMs = 0.1): MeteredStandstill => ({
  startNs: startMs * MS,
  endNs: endMs * MS,
  atLeastNs: (endMs - startMs) * MS,
  atMostNs: (endMs - startMs + slackMs) * MS,
});

function windowOf(startMs: number, counter: Partial<CounterWindow>): MeterWindow {
  return {
    startNs: startMs * MS,
    endNs: 1000 * MS,
    samples: 100,
    meterGapNs: 0.2 * MS,
    longestStandstillNs: 0,
    longestPossibleNs: 0,
    isDisturbed: false,
    perCounter: [counter as CounterWindow],
  };
}

/** The counter stops at 500 ms; a guest that was slowed down had stood still for longer before. */
const left = windowOf(0, { last: standstill(500, 1000), longest: standstill(100, 400) });

test("a pause lasts from the last step here to the first step there", () => {
  // Rounds bring the counter at 300, 450 and, the last one, at 501 ms; a busy guest stands still again later.
  const standstills = [standstill(300, 450), standstill(450, 501), standstill(501, 502.5), standstill(510, 530)];
  const { pauseMs, atMostMs } = pauseBetween(left, windowOf(200, { standstills }));
  assert.is(pauseMs, 2.5);
  assert.ok(Math.abs(atMostMs - 2.8) < 1e-6);
});

test("a meter that came too late tells nothing", () => {
  const standstills = [standstill(501, 502.5)];
  assert.is(pauseBetween(left, windowOf(500.5, { standstills })).pauseMs, undefined);
  assert.is(pauseBetween(left, windowOf(200, { standstills: [] })).pauseMs, undefined);
});

test("the standstill that has not ended is told from the longest", () => {
  const tracker = new StandstillTracker(1);
  for (const [value, at] of [
    [1, 0],
    [1, 50],
    [2, 51],
    [3, 60],
    [3, 70],
  ] as const) {
    tracker.observe(value, at, at + 0.5);
  }
  tracker.finish();
  assert.equal(tracker.last, { start: 60.5, end: 70, atLeast: 9.5, atMost: 19.5 });
  assert.is(tracker.longest.atLeast, 49.5);
  tracker.reset();
  assert.is(tracker.last.end, 0);
});

test.run();
