// SPDX-License-Identifier: Apache-2.0
// When each phase of an update ended, on CLOCK_MONOTONIC, stitched over both processes.

/** In order. The guest stands from the start of `quiesce` to the end of `resume`. */
export const PHASES = ["quiesce", "save", "carry", "exec", "boot", "kvm", "restore", "resume"] as const;
/** Of a transfer, which has no program to start. */
export const TRANSFER_PHASES = ["quiesce", "save", "carry", "restore", "resume"] as const;
/** Of a migration over a stream, as its old side sees it. */
export const STREAM_PHASES = ["quiesce", "ram", "save", "restore", "resume"] as const;
export type Phase = (typeof PHASES)[number] | "ram";

/** What the old process knows: start of the pause, and the end of its phases. The rest is added by the new one. */
export const CARRIED_STAMPS = 4;

/** Stamps in ms: `stamps[0]` is the start, `stamps[n]` the end of the phase `n - 1`. */
export class Timeline {
  readonly stamps: number[];
  readonly #phases: readonly Phase[];

  constructor(stamps: readonly number[] = [], phases: readonly Phase[] = PHASES) {
    this.stamps = [...stamps];
    this.#phases = phases;
  }

  /** From the start of the pause to its end. */
  get downtimeMs(): number {
    return this.stamps.at(-1)! - this.stamps[0]!;
  }

  phases(): { phase: Phase; durationMs: number }[] {
    return this.#phases.slice(0, this.stamps.length - 1).map((phase, index) => ({
      phase,
      durationMs: this.stamps[index + 1]! - this.stamps[index]!,
    }));
  }
}
