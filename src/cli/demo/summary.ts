// SPDX-License-Identifier: Apache-2.0
// The demo's closing words: what the guest saw, and what it did not.
import { existsSync } from "node:fs";
import { medianOf } from "../../meter/format.ts";
import type { MeasuredVm } from "../../meter/measured-vm.ts";
import type { Terminal } from "../terminal.ts";
import type { Row } from "./table.ts";

const SPARKS = "▁▂▃▄▅▆▇█";
const MAX_SPARKS = 60;

export interface DemoOutcome {
  rows: readonly Row[];
  /** What became of the guest's shell, if it has one. */
  shell: string | undefined;
  /** What the guest noticed, as sentences. */
  faults: readonly string[];
}

export function summaryText(terminal: Terminal, vm: MeasuredVm, { rows, shell, faults }: DemoOutcome): string[] {
  const { strong, good, bad } = terminal;
  const pauses = rows.map(({ pauseMs }) => pauseMs);
  const [median, max, min] = [medianOf(pauses), Math.max(...pauses), Math.min(...pauses)].map((ms) => ms.toFixed(2));
  const pid = vm.process.pid;
  const lines = [
    `  ${strong(`median ${median} ms`)}, shortest ${min} ms, longest ${max} ms   ${sparkline(pauses)}`,
    "",
    `  updates      ${rows.length}, each a new program image`,
    `  process      PID ${pid} ${existsSync(`/proc/${pid}`) ? "throughout" : bad("is gone")}`,
    `  QMP          one connection, never dropped, ${vm.replies} replies`,
    `  console      one connection, ${vm.console.lines} numbered lines, none lost`,
  ];
  if (shell !== undefined) lines.push(`  shell        ${shell}`);
  if (vm.guest.checksItself) {
    const { checksRun, errorCount } = vm.guest.report();
    const rounds = checksRun.reduce((sum, count) => sum + count, 0n);
    lines.push(`  self-checks  ${rounds} rounds, ${errorCount === 0 ? good("0 errors") : bad(`${errorCount} errors`)}`);
  }
  if (rows.some(({ isDisturbed }) => isDisturbed)) {
    lines.push(
      "",
      ...indent(terminal, "≥: the meter shared its core at that moment; the pause was at least that long."),
    );
  }
  if (faults.length === 0) return lines;
  return [
    ...lines.filter((line) => !/^ {2}(QMP|console) /.test(line)),
    "",
    ...faults.map((fault) => bad(`  ${fault}`)),
  ];
}

function indent(terminal: Terminal, paragraph: string): string[] {
  return terminal.wrap(paragraph).map((line) => `  ${terminal.soft(line)}`);
}

/** Heights from zero, so that like values look alike. */
export function sparkline(values: readonly number[]): string {
  const max = Math.max(...values);
  return values
    .slice(-MAX_SPARKS)
    .map((value) => SPARKS[Math.min(SPARKS.length - 1, Math.floor((value / max) * SPARKS.length))])
    .join("");
}
