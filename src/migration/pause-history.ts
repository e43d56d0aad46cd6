// SPDX-License-Identifier: Apache-2.0
// What a guest's earlier updates took, and what was predicted of them. The list goes with the guest.
import { check } from "../qmp/schema/check.ts";
import { type MigMode, PastPause } from "../qmp/schema/migration.ts";
import { arrayOf } from "../qmp/schema/types.ts";
import type { Timeline } from "./timeline.ts";

/** Older ones tell little of a host that has changed since. */
const MAX_LENGTH = 16;
const MAX_PAUSE_US = 3_600_000_000;
/** Whatever happened before, a prediction is worth something. */
const LEAST_FACTOR = 0.5;
const GREATEST_FACTOR = 2;

export type PauseHistory = readonly PastPause[];

/** What a guest brings along of its life before. */
export interface GuestPast {
  /** Updates that it has lived through. */
  generation: number;
  history?: PauseHistory | undefined;
  /** Of the pause in which it came: what was predicted, that without what history added, and what it was. */
  predictedUs?: number | undefined;
  estimateUs?: number | undefined;
  timeline?: Timeline | undefined;
}

/** With one more at its end. */
export function remember(history: PauseHistory, pause: PastPause): PauseHistory {
  return [...history, pause].slice(-MAX_LENGTH);
}

/** An estimate, by as much longer or shorter as the pauses in that mode were than what was estimated of them (median). */
export function correct(history: PauseHistory, mode: MigMode, estimateUs: number): number {
  const factors: number[] = [];
  for (const past of history) {
    const before = past["predicted-downtime-us"];
    if (past.mode === mode && before !== undefined && before > 0) factors.push(past["downtime-us"] / before);
  }
  if (factors.length === 0) return estimateUs;
  const median = factors.sort((a, b) => a - b)[factors.length >> 1]!;
  return Math.round(estimateUs * Math.min(GREATEST_FACTOR, Math.max(LEAST_FACTOR, median)));
}

/** A list that another program has sent along; none when it makes no sense, as no guest may be refused for it. */
export function readHistory(value: unknown): PauseHistory {
  try {
    const history = check(arrayOf(PastPause), value ?? []);
    return history.every(isPossible) ? history.slice(-MAX_LENGTH) : [];
  } catch {
    return [];
  }
}

/** Integers of the schema may be bigints. */
function isPossible({ "downtime-us": us, "predicted-downtime-us": predictedUs = 0 }: PastPause): boolean {
  return isDuration(us) && isDuration(predictedUs);
}

/** Whether it may be a guest's pause in µs. */
export function isDuration(us: unknown): us is number {
  return Number.isInteger(us) && (us as number) >= 0 && (us as number) <= MAX_PAUSE_US;
}
