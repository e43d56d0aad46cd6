// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { checkBudgets, compareBaseline, exitCode } from "../../bench/baseline.ts";
import { parseOptions } from "../../bench/options.ts";
import { machineFacts, parseReport, type Report, reportText, subjectReport, table } from "../../bench/report.ts";
import type { Ratio } from "../../bench/types.ts";
import { format } from "../../src/meter/format.ts";
import { assert, describe, rejection } from "../harness.ts";

const test = describe("report");

function reportWith(...ratios: Partial<Ratio>[]): Report {
  const full = ratios.map((ratio): Ratio => ({ id: "a", label: "A", value: 1, better: "lower", noise: 0, ...ratio }));
  const metrics = [{ id: "m", label: "Metric", unit: "ms" as const, samples: [1, 2, 3] }];
  const subject = subjectReport("test", { metrics, ratios: full, charts: [], notes: ["a note"] });
  return { version: 1, machine: machineFacts(), isQuick: false, subjects: [subject] };
}

test("checkBudgets compares with min and max, and NaN is never within", () => {
  const verdict = (value: number, budget: { min?: number; max?: number }): boolean[] =>
    checkBudgets(reportWith({ value }), { "test/a": budget }).map(({ isBad }) => isBad);
  assert.equal(verdict(0.4, { min: 0.4 }), [false]);
  assert.equal(verdict(0.39, { min: 0.4 }), [true]);
  assert.equal(verdict(2, { min: 1, max: 1.5 }), [false, true]);
  assert.equal(verdict(Number.NaN, { max: 1 }), [true]);
  assert.equal(checkBudgets(reportWith({}), { "test/b": { max: 0 } }), []);
});

test("compareBaseline allows for 10 % or three times the noise, in the ratio's own direction", () => {
  const isWorse = (now: Partial<Ratio>, before: Partial<Ratio>): boolean =>
    compareBaseline(reportWith(now), reportWith(before))[0]!.isBad;
  assert.is(isWorse({ value: 1.09 }, {}), false);
  assert.is(isWorse({ value: 1.11 }, {}), true);
  assert.is(isWorse({ value: 1.11, noise: 0.05 }, {}), false);
  assert.is(isWorse({ value: 1.11 }, { noise: 0.05 }), false);
  assert.is(isWorse({ value: 0.1 }, {}), false);
  assert.is(isWorse({ value: 0.85, better: "higher" }, { better: "higher" }), true);
  assert.is(isWorse({ value: 5, better: "higher" }, { better: "higher" }), false);
  assert.equal(compareBaseline(reportWith({ id: "new" }), reportWith({})), []);
});

test("exitCode prefers the broken budget to the regression", () => {
  const [good, bad] = [false, true].map((isBad) => [{ key: "k", value: 1, limit: 1, isBad }]);
  assert.equal(
    [exitCode(good!, good!), exitCode(good!, bad!), exitCode(bad!, good!), exitCode(bad!, bad!)],
    [0, 3, 4, 4],
  );
});

test("every budget is of a subject that exists, and is a bound", () => {
  const file = new URL("../../bench/budgets.json", import.meta.url);
  for (const [key, budget] of Object.entries(JSON.parse(readFileSync(file, "utf8")) as Record<string, object>)) {
    assert.match(key, /^[a-z-]+\/[a-z0-9/-]+$/);
    assert.ok(
      Object.keys(budget).length > 0 && Object.keys(budget).every((bound) => bound === "min" || bound === "max"),
    );
  }
});

test("a report survives JSON and names the machine", () => {
  const report = reportWith({});
  assert.equal(parseReport(JSON.stringify(report)), report);
  const { cpu, kernel, runtime, cores } = report.machine;
  assert.ok(cpu !== "" && cores > 0);
  assert.match(kernel, /^Linux \d/);
  assert.match(runtime, /^(Bun|Deno) \d/);
});

test("parseReport refuses what is not a report", async () => {
  for (const text of ["null", "[]", "{}", '{"version":99,"subjects":[]}', "nonsense"]) {
    await rejection(() => parseReport(text));
  }
});

test("reportText shows metrics, ratios, notes and verdicts", () => {
  const report = reportWith({ value: 0.5 });
  const text = reportText({ ...report, isQuick: true }, checkBudgets(report, { "test/a": { max: 0.4 } }), []);
  for (const part of ["## test", "Metric", "lower is better", "a note", "BAD", "Quick run"]) {
    assert.ok(text.includes(part), part);
  }
});

test("format keeps three digits and table aligns its columns", () => {
  assert.equal([1234.5, 12.345, 1.2345, 0.012345, 0, 4e-13].map(format), ["1235", "12.3", "1.23", "0.0123", "0", "0"]);
  assert.is(
    table([
      ["a", "b"],
      ["long", "1"],
      ["x", "23"],
    ]),
    "a      b\nlong   1\nx     23",
  );
});

test("parseOptions reads subjects and options and refuses others", async () => {
  const options = parseOptions(["pause", "dirty", "--json", "a.json", "--quick", "--baseline", "b.json"]);
  assert.equal(options.subjects, ["pause", "dirty"]);
  assert.equal([options.json, options.baseline, options.svg, options.quick], ["a.json", "b.json", undefined, true]);
  await rejection(() => parseOptions(["--nope"]));
  await rejection(() => parseOptions(["--json"]));
});

test.run();
