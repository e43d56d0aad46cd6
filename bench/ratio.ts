// SPDX-License-Identifier: Apache-2.0
// Quotients of two metrics of one run, with the uncertainty that their spread gives them.
import { summarize } from "./stats.ts";
import type { Metric, Ratio } from "./types.ts";

/** median(numerator) / median(denominator). */
export function ratioOf(
  id: string,
  label: string,
  better: Ratio["better"],
  numerator: Metric,
  denominator: Metric,
): Ratio {
  const [top, bottom] = [summarize(numerator.samples), summarize(denominator.samples)];
  return {
    id,
    label,
    better,
    value: top.median / bottom.median,
    noise: top.mad / top.median + bottom.mad / bottom.median,
  };
}
