// SPDX-License-Identifier: Apache-2.0
// When no vCPU ran: vCPUs that share a CPU stand in turns, which is no pause of the guest.
import type { MeterWindow } from "../../src/meter/pause-meter.ts";

/** On CLOCK_MONOTONIC. */
export interface Interval {
  startNs: number;
  endNs: number;
}

/** The times at which all counters of a window stood still, in order. */
export function standstillsOfAll({ perCounter }: Pick<MeterWindow, "perCounter">): Interval[] {
  const [first, ...others] = perCounter.map(({ standstills }): Interval[] =>
    standstills.map(({ startNs, endNs }) => ({ startNs, endNs })),
  );
  return others.reduce(intersect, first ?? []);
}

function intersect(left: readonly Interval[], right: readonly Interval[]): Interval[] {
  return left.flatMap((one) =>
    right.flatMap((other) => {
      const startNs = Math.max(one.startNs, other.startNs);
      const endNs = Math.min(one.endNs, other.endNs);
      return startNs < endNs ? [{ startNs, endNs }] : [];
    }),
  );
}

/** The longest of the intervals that have something in common with `span`. */
export function longestOverlap(intervals: readonly Interval[], span: Interval): Interval | undefined {
  let longest: Interval | undefined;
  for (const interval of intervals) {
    if (interval.startNs >= span.endNs || interval.endNs <= span.startNs) continue;
    const isLonger = longest === undefined || interval.endNs - interval.startNs > longest.endNs - longest.startNs;
    if (isLonger) longest = interval;
  }
  return longest;
}
