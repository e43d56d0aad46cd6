// SPDX-License-Identifier: Apache-2.0
// What a guest's earlier updates took, and what was predicted of them. The list goes with the guest.
import { check } from "../qmp/schema/check.ts";
import { type MigMode, PastPause } from "../qmp/schema/migration.ts";
import { arrayOf } from "../qmp/schema/types.ts";
import type { Timeline } from "./timeline.ts";

/** Older ones tell little of a host that has changed since. */
const MAX_LENGTH = 16;
/** Whatever happened before, a prediction is worth something. */
const LEAST_FACTOR = 0.5;
const GREATEST_FACTOR = 2;

export type PauseHistory = readonly PastPause[];

/** What a guest brings along of its life before. */
export interface GuestPast {
  /** Updates that it has lived through. */
  generation: number;
  history?: PauseHistory | undefined;
  /** Of the pause in which it came: what was predicted, and what it was. */
  predictedUs?: number | undefined;
  timeline?: Timeline | undefined;
}

/** With one more at its end. */
export function remember(history: PauseHistory, pause: PastPause): PauseHistory {
  return [...history, pause].slice(-MAX_LENGTH);
}

/** A prediction, by as much longer or shorter as the pauses in that mode were than what was predicted of them (median). */
export function correct(history: PauseHistory, mode: MigMode, predictedUs: number): number {
  const factors: number[] = [];
  for (const past of history) {
    const before = past["predicted-downtime-us"];
    if (past.mode === mode && before !== undefined && before > 0) factors.push(past["downtime-us"] / before);
  }
  if (factors.length === 0) return predictedUs;
  const median = factors.sort((a, b) => a - b)[factors.length >> 1]!;
  return Math.round(predictedUs * Math.min(GREATEST_FACTOR, Math.max(LEAST_FACTOR, median)));
}

/** A list that another program has sent along; none when it makes no sense, as no guest may be refused for it. */
export function readHistory(value: unknown): PauseHistory {
  try {
    return check(arrayOf(PastPause), value ?? []).slice(-MAX_LENGTH);
  } catch {
    return [];
  }
}
