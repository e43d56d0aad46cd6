// SPDX-License-Identifier: Apache-2.0
// Holds the ratios of a run against budgets.json and against an earlier run. Exit codes: bench/README.md.
import budgetsJson from "./budgets.json" with { type: "json" };
import type { Report } from "./report.ts";
import type { Ratio } from "./types.ts";

/** A ratio has regressed when it is worse by more than this share, or by three times its own noise if that is more. */
const TOLERANCE = 0.1;

export const EXIT_REGRESSED = 3;
export const EXIT_OVER_BUDGET = 4;

export interface Budget {
  min?: number;
  max?: number;
}

/** Key: `subject/ratio`, or `subject/metric` for a median in the metric's unit. */
export type Budgets = Record<string, Budget>;

export const budgets: Budgets = budgetsJson;

export interface Verdict {
  key: string;
  value: number;
  /** What it was compared with: the budget or the baseline's value. */
  limit: number;
  isBad: boolean;
}

function ratiosOf(report: Report): [string, Ratio][] {
  return report.subjects.flatMap(({ name, ratios }) =>
    ratios.map((ratio): [string, Ratio] => [`${name}/${ratio.id}`, ratio]),
  );
}

function mediansOf(report: Report): [string, number][] {
  return report.subjects.flatMap(({ name, metrics }) =>
    metrics.map(({ id, summary }): [string, number] => [`${name}/${id}`, summary.median]),
  );
}

/** One verdict for each measured ratio or metric that has a budget. */
export function checkBudgets(report: Report, limits: Budgets = budgets): Verdict[] {
  const ratios = ratiosOf(report).map(([key, { value }]): [string, number] => [key, value]);
  return [...ratios, ...mediansOf(report)].flatMap(([key, value]) => {
    const { min, max } = limits[key] ?? {};
    const verdicts: Verdict[] = [];
    // Negated comparisons, so that a NaN is bad.
    if (min !== undefined) verdicts.push({ key, value, limit: min, isBad: !(value >= min) });
    if (max !== undefined) verdicts.push({ key, value, limit: max, isBad: !(value <= max) });
    return verdicts;
  });
}

/** One verdict for each ratio that both runs measured. */
export function compareBaseline(report: Report, baseline: Report): Verdict[] {
  const earlier = new Map(ratiosOf(baseline));
  return ratiosOf(report).flatMap(([key, ratio]) => {
    const before = earlier.get(key);
    if (before === undefined) return [];
    const allowed = Math.max(TOLERANCE, 3 * Math.max(ratio.noise, before.noise));
    const isBad =
      ratio.better === "lower"
        ? !(ratio.value <= before.value * (1 + allowed))
        : !(ratio.value >= before.value / (1 + allowed));
    return [{ key, value: ratio.value, limit: before.value, isBad }];
  });
}

/** A budget is a promise, a baseline only a comparison: the budget's code wins. */
export function exitCode(budgetVerdicts: readonly Verdict[], baselineVerdicts: readonly Verdict[]): number {
  if (budgetVerdicts.some((verdict) => verdict.isBad)) return EXIT_OVER_BUDGET;
  if (baselineVerdicts.some((verdict) => verdict.isBad)) return EXIT_REGRESSED;
  return 0;
}
