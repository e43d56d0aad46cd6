// SPDX-License-Identifier: Apache-2.0
// What a benchmark subject gives back. A subject is bench/<name>.ts and exports `subject`.
import type { Chart } from "../src/meter/svg.ts";
import type { Progress } from "./progress.ts";

export interface SubjectOptions {
  /** Fewer samples: for a look, not for a figure to quote. */
  quick: boolean;
  progress: Progress;
  /** Path of a QEMU to measure beside Baton. */
  peer?: string | undefined;
}

export interface Subject {
  /** One line for `--help`. */
  description: string;
  run(options: SubjectOptions): Promise<SubjectResult>;
}

/** A series of measurements. Its absolute values hold for one machine only. */
export interface Metric {
  /** Stable and unique within the subject: `zero-scan`, `cpr-exec/128-mib`. */
  id: string;
  label: string;
  unit: "s" | "ms" | "µs" | "GB/s" | "MiB" | "MIPS" | "M/s";
  samples: number[];
  /** In the JSON only: one of many. */
  isDetail?: boolean;
}

/** Rows of cells, the first row being the head. */
export interface TextTable {
  title: string;
  rows: string[][];
}

/**
 * A figure that is comparable between machines: the quotient of two metrics of the same run. Baselines apply to
 * ratios only.
 */
export interface Ratio {
  /** Stable and unique within the subject; `subject/id` is its key in budgets.json and in baselines. */
  id: string;
  label: string;
  value: number;
  better: "higher" | "lower";
  /** Its own relative uncertainty, such as 0.05; a baseline comparison allows for three times of it. */
  noise: number;
}

export interface SubjectResult {
  metrics: Metric[];
  ratios: Ratio[];
  charts: Chart[];
  /** What does not fit into the rows of metrics. */
  tables?: TextTable[];
  /** What a reader of the figures must know: disturbed windows, a missing /dev/kvm. */
  notes: string[];
}
