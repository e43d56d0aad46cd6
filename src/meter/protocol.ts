// SPDX-License-Identifier: Apache-2.0
// What the pause meter and its sampling worker say to each other.
//
//   meter                        worker
//     | -- MeterSetup ------------> |   opens and maps the memory, warms its loop up
//     | <----------------- ready -- |   (or failed)
//     | COMMAND = SAMPLE, notify    |   sleeps on COMMAND between windows, costs nothing
//     | <----------------- armed -- |   the first sample is taken
//     | COMMAND = IDLE              |   looks at COMMAND between batches of samples
//     | <---------------- window -- |
//     | COMMAND = EXIT, notify      |

/** Index of the i32 command word in the shared control buffer. */
export const COMMAND = 0;
export const CONTROL_SIZE_BYTES = 64;

export const COMMAND_IDLE = 0;
export const COMMAND_SAMPLE = 1;
export const COMMAND_EXIT = 2;

export interface MeterSetup {
  control: SharedArrayBuffer;
  path: string;
  counterOffsets: number[];
  thresholdNs: number;
}

/** One standstill of one counter. All `…Ns` times are CLOCK_MONOTONIC. */
export interface MeteredStandstill {
  /** When the counter last changed before it. */
  startNs: number;
  /** When it was last seen unchanged. */
  endNs: number;
  /** endNs - startNs: proven, whatever happened to the meter meanwhile. */
  atLeastNs: number;
  /** Upper bound of the same standstill. */
  atMostNs: number;
}

export interface CounterWindow {
  /** Byte offset of the counter in the memory file. */
  offset: number;
  /** Samples that found a new value; 0 means that the counter is dead. */
  changes: number;
  longest: MeteredStandstill;
  /** The one that had not ended when the window did: from the last step on. */
  last: MeteredStandstill;
  /** No standstill of this window was longer, the meter's own gaps included. */
  longestPossibleNs: number;
  /** The standstills of at least `thresholdNs`, in order; 64 at most, the rest is counted in `unlisted`. */
  standstills: MeteredStandstill[];
  unlisted: number;
}

/** What was seen between arm and disarm. */
export interface MeterWindow {
  startNs: number;
  endNs: number;
  samples: number;
  /** The longest time between two samples: how long the meter itself was away. */
  meterGapNs: number;
  /** The longest proven standstill of any counter. The true one lies between this and `longestPossibleNs`. */
  longestStandstillNs: number;
  longestPossibleNs: number;
  /** The meter was away at a bad moment, and the bounds are too far apart for a figure: measure again. */
  isDisturbed: boolean;
  perCounter: CounterWindow[];
}

export type MeterMessage =
  | { kind: "ready" }
  | { kind: "failed"; message: string }
  | { kind: "armed" }
  | { kind: "window"; window: MeterWindow };
