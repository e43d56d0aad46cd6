// SPDX-License-Identifier: Apache-2.0
// A run as data (for --json and baselines) and as text for a terminal.
import os from "node:os";
import { format } from "../src/meter/format.ts";
import type { Verdict } from "./baseline.ts";
import { type Summary, summarize } from "./stats.ts";
import type { Metric, Ratio, SubjectResult, TextTable } from "./types.ts";

export const REPORT_VERSION = 1;

export interface Machine {
  cpu: string;
  cores: number;
  memoryGiB: number;
  kernel: string;
  runtime: string;
  date: string;
  /** One-minute load average at the start: figures from a busy machine say little. */
  load: number;
}

export interface SubjectReport {
  name: string;
  metrics: (Omit<Metric, "samples"> & { summary: Summary; samples: number[] })[];
  ratios: Ratio[];
  tables?: TextTable[];
  notes: string[];
}

export interface Report {
  version: typeof REPORT_VERSION;
  machine: Machine;
  isQuick: boolean;
  subjects: SubjectReport[];
}

export function machineFacts(): Machine {
  const { bun, deno, v8 } = process.versions as Record<string, string | undefined>;
  return {
    cpu: os.cpus()[0]?.model.trim() ?? "unknown",
    cores: os.cpus().length,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: `Linux ${os.release()}`,
    runtime: bun !== undefined ? `Bun ${bun}` : `Deno ${deno} (V8 ${v8})`,
    date: new Date().toISOString(),
    load: Math.round(os.loadavg()[0]! * 100) / 100,
  };
}

export function subjectReport(name: string, { metrics, ratios, tables, notes }: SubjectResult): SubjectReport {
  return {
    name,
    metrics: metrics.map((metric) => ({ ...metric, summary: summarize(metric.samples) })),
    ratios,
    ...(tables === undefined ? {} : { tables }),
    notes,
  };
}

/** Checks what a baseline file holds as far as the comparison needs it. */
export function parseReport(text: string): Report {
  const value: unknown = JSON.parse(text);
  const report = value as Partial<Report> | null;
  if (typeof report !== "object" || report === null || !Array.isArray(report.subjects)) {
    throw new TypeError("Not a benchmark report");
  }
  if (report.version !== REPORT_VERSION) throw new TypeError(`Report version ${report.version} is not known`);
  return report as Report;
}

/** Columns as wide as their widest cell, the first to the left and the others to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

function subjectText({ name, metrics, ratios, tables, notes }: SubjectReport): string {
  const blocks = [`## ${name}`];
  const shown = metrics.filter(({ isDetail }) => isDetail !== true);
  if (shown.length > 0) {
    const rows = shown.map(({ label, unit, summary: { median, mad, min, p99, max, count } }) => [
      label,
      ...[median, mad, min, p99, max].map(format),
      unit,
      String(count),
    ]);
    blocks.push(table([["", "median", "MAD", "min", "p99", "max", "unit", "n"], ...rows]));
  }
  if (ratios.length > 0) {
    const rows = ratios.map(({ label, value, noise, better }) => [
      label,
      format(value),
      `± ${format(noise * value)}`,
      `${better} is better`,
    ]);
    blocks.push(table(rows));
  }
  for (const { title, rows } of tables ?? []) blocks.push(`${title}\n${table(rows)}`);
  blocks.push(...notes.map((note) => `Note: ${note}`));
  return blocks.join("\n\n");
}

function verdictsText(title: string, verdicts: readonly Verdict[]): string[] {
  if (verdicts.length === 0) return [];
  const rows = verdicts.map(({ key, value, limit, isBad }) => [
    key,
    format(value),
    format(limit),
    isBad ? "BAD" : "ok",
  ]);
  return [table([[title, "now", "limit", ""], ...rows])];
}

export function reportText(report: Report, budgets: readonly Verdict[], baseline: readonly Verdict[]): string {
  const { cpu, cores, memoryGiB, kernel, runtime, date, load } = report.machine;
  const head = `${cpu}, ${cores} cores, ${memoryGiB} GiB · ${kernel} · ${runtime} · ${date} · load ${load}`;
  return [
    report.isQuick ? `${head}\nQuick run: do not quote these figures` : head,
    ...report.subjects.map(subjectText),
    ...verdictsText("Budget", budgets),
    ...verdictsText("Baseline", baseline),
  ].join("\n\n");
}
