// SPDX-License-Identifier: Apache-2.0
// Chance that is the same each time.

/** sfc32 with a seed for each case: cases do not depend on those before them. */
export class Chance {
  #a: number;
  #b: number;
  #c = 0x9e37_79b9;
  #counter = 1;

  constructor(seed: number, number: number) {
    this.#a = seed | 0;
    this.#b = number | 0;
    for (let round = 0; round < 12; round++) this.word();
  }

  /** 32 bits, unsigned. */
  word(): number {
    const sum = (this.#a + this.#b + this.#counter++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    return sum >>> 0;
  }

  below(limit: number): number {
    return this.word() % limit;
  }

  /** True in one of `count` cases. */
  oneIn(count: number): boolean {
    return this.below(count) === 0;
  }

  oneOf<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }

  quad(): bigint {
    return (BigInt(this.word()) << 32n) | BigInt(this.word());
  }
}
