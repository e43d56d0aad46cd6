// SPDX-License-Identifier: Apache-2.0
// Runs benchmark subjects and reports: `bun run bench/main.ts --help`, and on Deno `deno run -A bench/main.ts`.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { type Chart, renderSvg } from "../src/meter/svg.ts";
import { checkBudgets, compareBaseline, exitCode, type Verdict } from "./baseline.ts";
import { type BenchOptions, parseOptions, USAGE, UsageError } from "./options.ts";
import { Progress } from "./progress.ts";
import { machineFacts, parseReport, REPORT_VERSION, type Report, reportText, subjectReport } from "./report.ts";
import type { Subject } from "./types.ts";

/** Subjects in the order in which all of them run. Each is the file of that name. */
const SUBJECTS = [
  "pause",
  "transfer",
  "dry-run",
  "guard",
  "relay",
  "anonymous",
  "module-swap",
  "migrate",
  "start",
  "floor",
  "dirty",
  "engine",
  "engine-linux",
  "engine-transfer",
  "engine-exec",
].filter((name) => existsSync(new URL(`./${name}.ts`, import.meta.url)));

const EXIT_USAGE = 2;

async function loadSubject(name: string): Promise<Subject> {
  const { subject } = (await import(new URL(`./${name}.ts`, import.meta.url).href)) as { subject: Subject };
  return subject;
}

async function help(): Promise<string> {
  const lines = await Promise.all(
    SUBJECTS.map(async (name) => `  ${name.padEnd(9)} ${(await loadSubject(name)).description}`),
  );
  return `${USAGE}\n\nSubjects (default: all):\n${lines.join("\n")}`;
}

function readBaseline(file: string): Report {
  try {
    return parseReport(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UsageError(`Cannot read the baseline ${file}: ${(error as Error).message}`);
  }
}

function readOptions(args: string[]): BenchOptions {
  try {
    return parseOptions(args);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

async function main(args: string[]): Promise<number> {
  const options = readOptions(args);
  if (options.help) {
    console.log(await help());
    return 0;
  }
  const names = options.subjects.length > 0 ? options.subjects : SUBJECTS;
  const unknown = names.find((name) => !SUBJECTS.includes(name));
  if (unknown !== undefined) throw new UsageError(`No subject ${unknown}; there are ${SUBJECTS.join(", ")}`);
  // Read before the long run, so that a bad file is told at once.
  const baseline = options.baseline === undefined ? undefined : readBaseline(options.baseline);

  const report: Report = { version: REPORT_VERSION, machine: machineFacts(), isQuick: options.quick, subjects: [] };
  const charts: Chart[] = [];
  const progress = new Progress();
  for (const name of names) {
    progress.update(name);
    const subject = await loadSubject(name);
    const result = await subject.run({ quick: options.quick, progress, peer: options.peer });
    report.subjects.push(subjectReport(name, result));
    charts.push(...result.charts);
  }
  progress.clear();

  const budgetVerdicts = checkBudgets(report);
  const baselineVerdicts: Verdict[] = baseline === undefined ? [] : compareBaseline(report, baseline);
  console.log(reportText(report, budgetVerdicts, baselineVerdicts));
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, null, 1)}\n`);
  if (options.svg !== undefined) {
    if (charts.length > 0) writeFileSync(options.svg, renderSvg(charts));
    else process.stderr.write("None of these subjects has a chart; no SVG written\n");
  }
  return exitCode(budgetVerdicts, baselineVerdicts);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = EXIT_USAGE;
}
