// SPDX-License-Identifier: Apache-2.0
// How long a migration still takes: its rounds played through beforehand, as src/migration/precopy.ts will do them.

/** What is known in the middle of a round. Bytes are those of RAM, not of the wire. */
export interface Course {
  /** What this round still has to move. */
  remainingBytes: number;
  /** How long this round has lasted. */
  roundMs: number;
  bytesPerMs: number;
  /** How fast the guest writes; 0 when it stands. */
  dirtyBytesPerMs: number;
  downtimeLimitMs: number;
}

/** A round that leaves more than this share of what the one before left gains nothing. */
const WORTHWHILE = 0.7;
/** So little takes less than a pause does anyway. */
const LITTLE_BYTES = 64 * 4096;
/** Shrinking by less than this in each round takes longer than anybody waits for. */
const MAX_ROUNDS = 1000;

/** In ms, with the pause at the end; undefined when no end is in sight, because the guest writes as fast as RAM moves. */
export function estimateRemainingMs(course: Course): number | undefined {
  const { bytesPerMs, dirtyBytesPerMs, downtimeLimitMs } = course;
  if (bytesPerMs <= 0) return undefined;
  const firstMs = course.remainingBytes / bytesPerMs;
  let totalMs = firstMs;
  // What will be written until the round ends, and what has been since it began.
  let leftBytes = dirtyBytesPerMs * (course.roundMs + firstMs);
  /** What a round leaves of what the one before left. */
  const shrinkage = dirtyBytesPerMs / bytesPerMs;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const leftMs = leftBytes / bytesPerMs;
    if (leftMs <= downtimeLimitMs && (leftBytes <= LITTLE_BYTES || shrinkage >= WORTHWHILE)) return totalMs + leftMs;
    if (shrinkage >= 1) return undefined;
    totalMs += leftMs;
    leftBytes = dirtyBytesPerMs * leftMs;
  }
  return undefined;
}
