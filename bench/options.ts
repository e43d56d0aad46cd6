// SPDX-License-Identifier: Apache-2.0
// The command line of bench/main.ts.
import { parseArgs } from "node:util";

export interface BenchOptions {
  /** Names as given; none means all. */
  subjects: string[];
  json?: string;
  svg?: string;
  baseline?: string;
  /** Path of a QEMU to measure beside Baton. */
  peer?: string;
  quick: boolean;
  help: boolean;
}

export const USAGE = `Usage: bun run bench/main.ts [SUBJECT…] [options]

  --json FILE      write the figures with all samples
  --svg FILE       draw the charts
  --baseline FILE  compare the ratios with an earlier --json; exit code 3 when one has regressed
  --peer FILE      measure this qemu-system-x86_64 (10.2 or later) beside Baton
  --quick          fewer samples: for a look only
  --help

Exit code 4: a ratio exceeds its budget (bench/budgets.json).`;

/** A mistake of whoever has started the run: told without a stack, exit code 2. */
export class UsageError extends Error {}

/** @throws TypeError for an option that does not exist or lacks its value */
export function parseOptions(args: string[]): BenchOptions {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      json: { type: "string" },
      svg: { type: "string" },
      baseline: { type: "string" },
      peer: { type: "string" },
      quick: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  return { ...values, quick: values.quick ?? false, help: values.help ?? false, subjects: positionals };
}
