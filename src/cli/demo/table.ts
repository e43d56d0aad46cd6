// SPDX-License-Identifier: Apache-2.0
// One line for each update: the pause that the guest saw, the VMM's own figure, and the phases as a stacked bar.
import { medianOf } from "../../meter/format.ts";
import type { MeasuredUpdate } from "../../meter/measured-vm.ts";
import { linearTicks } from "../../meter/svg.ts";
import { PHASES } from "../../migration/timeline.ts";
import type { Terminal } from "../terminal.ts";

/** What an update was made of. */
export interface Row {
  pauseMs: number;
  isDisturbed: boolean;
  downtimeMs: number;
  phases: { label: string; durationMs: number }[];
}

interface Look {
  label: string;
  /** In plain text a phase is a letter. */
  letter: string;
  colour: number;
  meaning: string;
}

const LOOKS: readonly Look[] = [
  { label: "quiesce", letter: "q", colour: 245, meaning: "vCPUs leave the guest" },
  { label: "save", letter: "s", colour: 37, meaning: "state into an image" },
  { label: "carry", letter: "c", colour: 135, meaning: "image into a memfd" },
  { label: "exec", letter: "e", colour: 33, meaning: "execve to the first line of the new program" },
  { label: "boot", letter: "b", colour: 208, meaning: "new program reads the state" },
  { label: "kvm", letter: "k", colour: 71, meaning: "new VM around the old RAM" },
  { label: "restore", letter: "r", colour: 168, meaning: "state into the new VM" },
  { label: "resume", letter: "R", colour: 178, meaning: "vCPUs enter the guest" },
];
/** The guest's pause is a little longer than what the VMM can see of it. */
const REST: Look = { label: "rest", letter: ".", colour: 240, meaning: "not seen by the VMM" };

/** Columns before the bar. */
const BAR_COLUMN = 33;
const COLUMN_WIDTH = 11;

export class Table {
  readonly rows: Row[] = [];
  readonly #terminal: Terminal;
  readonly #width: number;
  readonly #digits: number;
  /** Milliseconds at the bar's right end. Set by the first row: the bars must not change their scale on the way. */
  #scaleMs = 0;

  constructor(terminal: Terminal, updates: number) {
    this.#terminal = terminal;
    this.#width = terminal.columns - BAR_COLUMN - 2;
    this.#digits = String(updates).length;
  }

  /** The lines that a new update adds; the first brings the head with the scale. */
  add(update: MeasuredUpdate): string[] {
    const row = rowOf(update);
    this.rows.push(row);
    const lines: string[] = [];
    if (this.#scaleMs === 0) {
      this.#scaleMs = linearTicks(Math.max(row.pauseMs, row.downtimeMs) * 1.15).at(-1)!;
      lines.push(this.#head());
    }
    const number = String(this.rows.length).padStart(this.#digits).padStart(8);
    // "≥": the meter lost its core for a moment, and the pause may have been longer.
    const pause = `${row.isDisturbed ? "≥ " : ""}${row.pauseMs.toFixed(2)} ms`.padStart(COLUMN_WIDTH);
    const downtime = `${row.downtimeMs.toFixed(2)} ms`.padStart(COLUMN_WIDTH);
    const { strong, soft } = this.#terminal;
    return [...lines, `${number}${strong(pause)}${soft(downtime)}   ${this.#bar(row)}`.trimEnd()];
  }

  /** What the bars are made of, with medians. */
  legend(): string[] {
    return LOOKS.flatMap((look) => {
      const own = this.rows.flatMap(({ phases }) => phases.filter(({ label }) => label === look.label));
      if (own.length === 0) return [];
      const duration = `${medianOf(own.map(({ durationMs }) => durationMs)).toFixed(2)} ms`;
      return [
        `  ${this.#cells(look, 2)} ${look.label.padEnd(8)} ${duration.padStart(9)}  ${this.#terminal.soft(look.meaning)}`,
      ];
    });
  }

  #head(): string {
    const titles = ["guest saw", "VMM says"].map((title) => title.padStart(COLUMN_WIDTH)).join("");
    const right = `${this.#scaleMs} ms`;
    return this.#terminal.soft(`  update${titles}   0${right.padStart(this.#width - 1)}`);
  }

  #bar({ phases, pauseMs }: Row): string {
    const column = (ms: number): number => Math.min(this.#width, Math.round((ms / this.#scaleMs) * this.#width));
    let bar = "";
    let done = 0;
    let endMs = 0;
    const draw = (look: Look, toMs: number): void => {
      const end = column(toMs);
      if (end > done) bar += this.#cells(look, end - done);
      done = Math.max(done, end);
    };
    for (const { label, durationMs } of phases) {
      endMs += durationMs;
      draw(LOOKS.find((look) => look.label === label) ?? REST, endMs);
    }
    draw(REST, pauseMs);
    const isCut = Math.max(endMs, pauseMs) > this.#scaleMs;
    return isCut ? `${bar}>` : bar;
  }

  #cells({ letter, colour }: Look, count: number): string {
    return this.#terminal.isFancy ? this.#terminal.colour(colour, "█".repeat(count)) : letter.repeat(count);
  }
}

export function rowOf({ pauseMs, isDisturbed, info }: MeasuredUpdate): Row {
  const phases = (info.phases ?? []).map(({ phase, "duration-us": us }) => ({ label: phase, durationMs: us / 1000 }));
  phases.sort((a, b) => order(a.label) - order(b.label));
  return { pauseMs, isDisturbed, downtimeMs: (info["downtime-us"] ?? 0) / 1000, phases };
}

const order = (label: string): number => (PHASES as readonly string[]).indexOf(label);
