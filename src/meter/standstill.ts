// SPDX-License-Identifier: Apache-2.0
// Finds the standstills of one counter in a series of samples, and bounds each from below and from above.
//
// A sample is a reading of the counter between two readings of the clock, `before` and `after`. A sampler may be
// descheduled anywhere, so a single figure could be its own gap. What the samples prove is this:
//
//        old value        new value first seen        value last seen       next value seen
//   ----[before  after]-----[before  after]--- ... ---[before  after]-----[before  after]----> time
//        |                           |                 |                           |
//        |                           '---- atLeast ----'                           |
//        '------------------------------- atMost ----------------------------------'
//
// The counter stood still for at least `atLeast`: it had the same value at both ends and never runs backwards, so gaps
// inside do not matter. It stood still for at most `atMost`. Without a gap at either end the two differ by a few samples.

/** Times in the unit and on the clock of the samples. */
export interface Standstill {
  /** When the counter last changed before the standstill, at the latest. */
  start: number;
  /** When it was last seen unchanged. */
  end: number;
  /** end - start, which is proven. */
  atLeast: number;
  /** What it may have been at most. */
  atMost: number;
}

/** Standstills kept of one window; the rest are only counted. */
const MAX_LISTED = 64;

export class StandstillTracker {
  changes = 0;
  /** The longest proven standstill. */
  longest: Standstill = { start: 0, end: 0, atLeast: 0, atMost: 0 };
  /** The one that has not ended: known after `finish`. */
  last: Standstill = { start: 0, end: 0, atLeast: 0, atMost: 0 };
  /** Nothing that happened between the first and the last sample stood still for longer than this. */
  longestPossible = 0;
  /** Standstills of at least the threshold in order, without the one that `finish` closes when it is shorter. */
  readonly listed: Standstill[] = [];
  /** Standstills of at least the threshold that `listed` has no room for. */
  unlisted = 0;

  #isFirst = true;
  #value = 0;
  /** `before` of the last reading of the old value. */
  #earliestStart = 0;
  /** `after` of the first reading of the present value. */
  #latestStart = 0;
  #lastBefore = 0;
  #lastAfter = 0;

  readonly #threshold: number;

  constructor(threshold: number) {
    this.#threshold = threshold;
  }

  /** Forgets everything, for a new window. */
  reset(): void {
    this.changes = 0;
    this.longest = { start: 0, end: 0, atLeast: 0, atMost: 0 };
    this.last = { start: 0, end: 0, atLeast: 0, atMost: 0 };
    this.longestPossible = 0;
    this.listed.length = 0;
    this.unlisted = 0;
    this.#isFirst = true;
  }

  /** Takes one sample. Hot: called for every counter every few ten nanoseconds, so it allocates only for a new record. */
  observe(value: number, before: number, after: number): void {
    if (value !== this.#value || this.#isFirst) {
      if (this.#isFirst) {
        this.#isFirst = false;
        this.#earliestStart = before;
      } else {
        this.changes++;
        this.#close(after);
        this.#earliestStart = this.#lastBefore;
      }
      this.#value = value;
      this.#latestStart = after;
    }
    this.#lastBefore = before;
    this.#lastAfter = after;
  }

  /** Counts the standstill that has not ended: a dead guest must not look like a perfect one. */
  finish(): void {
    if (this.#isFirst) return;
    const [start, end] = [this.#latestStart, this.#lastBefore];
    this.last = { start, end, atLeast: end - start, atMost: this.#lastAfter - this.#earliestStart };
    this.#close(this.#lastAfter);
  }

  #close(latestEnd: number): void {
    const atMost = latestEnd - this.#earliestStart;
    if (atMost > this.longestPossible) this.longestPossible = atMost;
    const atLeast = this.#lastBefore - this.#latestStart;
    if (atLeast <= this.longest.atLeast && atLeast < this.#threshold) return;
    const standstill = { start: this.#latestStart, end: this.#lastBefore, atLeast, atMost };
    if (atLeast > this.longest.atLeast) this.longest = standstill;
    if (atLeast < this.#threshold) return;
    if (this.listed.length < MAX_LISTED) this.listed.push(standstill);
    else this.unlisted++;
  }
}
