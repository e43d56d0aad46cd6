// SPDX-License-Identifier: Apache-2.0
// Makes samples of the marks that the guest of loops.ts writes.
import { FIRST_MARK, instructionsOf, LOOPS, type Loop } from "./loops.ts";

/** MIPS by the loop's id; all have about as many samples. */
export type LoopSamples = Record<string, number[]>;

export class LoopSampler {
  readonly samples: LoopSamples = Object.fromEntries(LOOPS.map(({ id }) => [id, []]));
  readonly #millionInstructions: number;
  readonly #warmUpMs: number;
  #firstMs: number | undefined;
  #isWarm = false;
  #loop: Loop | undefined;
  #startMs = 0;

  /** Rounds that begin in the first `warmUpMs` do not count. */
  constructor(millionInstructions: number, warmUpMs: number) {
    this.#millionInstructions = millionInstructions;
    this.#warmUpMs = warmUpMs;
  }

  /** Whole rounds that count. */
  get rounds(): number {
    return this.samples[LOOPS.at(-1)!.id]!.length;
  }

  get isWarm(): boolean {
    return this.#isWarm;
  }

  /** The loop that ran, if one did, has ended. */
  end(ms: number): Loop | undefined {
    const loop = this.#loop;
    this.#loop = undefined;
    if (loop === undefined || !this.#isWarm) return loop;
    const instructions = instructionsOf(loop, this.#millionInstructions);
    this.samples[loop.id]!.push(instructions / (ms - this.#startMs) / 1000);
    return loop;
  }

  /** The loop of this mark begins. */
  begin(mark: number, ms: number): Loop {
    const loop = LOOPS[mark - FIRST_MARK];
    if (loop === undefined) throw new RangeError(`${mark} is no loop's mark`);
    this.#firstMs ??= ms;
    if (loop === LOOPS[0]) this.#isWarm = ms - this.#firstMs >= this.#warmUpMs;
    this.#loop = loop;
    this.#startMs = ms;
    return loop;
  }

  /** A mark of which nothing is known but when it came. */
  mark(mark: number, ms: number): void {
    this.end(ms);
    this.begin(mark, ms);
  }
}
