// SPDX-License-Identifier: Apache-2.0
// Robust statistics: pauses are not normally distributed, so medians and MADs, never means.

export interface Summary {
  count: number;
  min: number;
  median: number;
  /** Nearest rank, so a value that was really seen; of fewer than 100 samples it is the maximum. */
  p99: number;
  max: number;
  /** Median absolute deviation from the median. */
  mad: number;
  /** (max - min) / median: 0.1 means that all samples lie within 10 % of each other. */
  spread: number;
}

function sorted(samples: readonly number[]): number[] {
  if (samples.length === 0) throw new RangeError("No samples");
  return [...samples].sort((a, b) => a - b);
}

function medianOfSorted(values: readonly number[]): number {
  const middle = values.length >> 1;
  return values.length % 2 === 1 ? values[middle]! : (values[middle - 1]! + values[middle]!) / 2;
}

export function median(samples: readonly number[]): number {
  return medianOfSorted(sorted(samples));
}

/** The smallest sample that is not exceeded by `share` (0…1) of all samples. */
export function quantile(samples: readonly number[], share: number): number {
  const values = sorted(samples);
  return values[Math.min(values.length - 1, Math.max(0, Math.ceil(share * values.length) - 1))]!;
}

export function summarize(samples: readonly number[]): Summary {
  const values = sorted(samples);
  const middle = medianOfSorted(values);
  const [min, max] = [values[0]!, values.at(-1)!];
  return {
    count: values.length,
    min,
    median: middle,
    p99: quantile(values, 0.99),
    max,
    mad: median(values.map((value) => Math.abs(value - middle))),
    spread: middle === 0 ? 0 : (max - min) / Math.abs(middle),
  };
}
