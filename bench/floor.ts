// SPDX-License-Identifier: Apache-2.0
// The exec floor: from execve to the first line of JavaScript in the same runtime. No update that execs can be faster.
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { ratioOf } from "./ratio.ts";
import { machineFacts } from "./report.ts";
import { summarize } from "./stats.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";

const run = promisify(execFile);
const root = fileURLToPath(new URL("..", import.meta.url));
const program = fileURLToPath(new URL("./floor-program.ts", import.meta.url));
const binary = (name: string): string => join(root, "node_modules/.bin", name);

/** Flags of `bun build` in tools/build.ts: the floor must be that of the release. */
const COMPILE_FLAGS = [
  "--compile",
  "--minify",
  "--bytecode",
  "--no-compile-autoload-dotenv",
  "--no-compile-autoload-bunfig",
];

const ROUNDS_IN_A_ROW = 10;

/** What floor-program.ts prints. */
interface FloorSamples {
  firstLineMs: number[];
  koffiMs: number[];
}

async function sample(command: string, args: string[], rounds: number): Promise<FloorSamples> {
  const { stdout } = await run(command, args, { cwd: root, env: { ...process.env, FLOOR_ROUNDS: String(rounds) } });
  return JSON.parse(stdout) as FloorSamples;
}

/**
 * Execs the bare program `rounds` times in each of its forms.
 *
 * `progress` is told now and then. The metrics are `<form>/first-line` and `<form>/koffi` (koffi is loaded too) of
 * the forms `compiled`, `bun-run` and `deno-run`.
 */
export async function measureFloor(rounds: number, progress?: (form: string) => void): Promise<Metric[]> {
  const dir = mkdtempSync(join(tmpdir(), "baton-floor-"));
  try {
    const compiled = join(dir, "floor");
    await run(binary("bun"), ["build", ...COMPILE_FLAGS, program, "--outfile", compiled], { cwd: root });
    const forms: [form: string, label: string, command: string, args: string[]][] = [
      ["compiled", "compiled binary", compiled, []],
      ["bun-run", "bun run", binary("bun"), ["run", program]],
      ["deno-run", "deno run", binary("deno"), ["run", "-A", "--quiet", program]],
    ];
    const metrics = forms.flatMap(([form, label]): Metric[] => [
      { id: `${form}/first-line`, label: `${label}: first line`, unit: "ms", samples: [] },
      { id: `${form}/koffi`, label: `${label}: koffi loaded`, unit: "ms", samples: [] },
    ]);
    // In turns, so that a disturbance of the machine meets all forms and not one.
    for (let done = 0; done < rounds; done += ROUNDS_IN_A_ROW) {
      for (const [index, [form, , command, args]] of forms.entries()) {
        progress?.(`${form}, ${done} of ${rounds}`);
        const { firstLineMs, koffiMs } = await sample(command, args, Math.min(ROUNDS_IN_A_ROW, rounds - done));
        metrics[2 * index]!.samples.push(...firstLineMs);
        metrics[2 * index + 1]!.samples.push(...koffiMs);
      }
    }
    return metrics;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function runSubject({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const metrics = await measureFloor(quick ? 20 : 60, (form) => progress.update(`floor: ${form}`));
  const metric = (id: string): Metric => metrics.find((candidate) => candidate.id === id)!;
  const { cpu, kernel, date } = machineFacts();
  return {
    metrics,
    ratios: [
      ratioOf(
        "compiled",
        "compiled / bun run, first line",
        "lower",
        metric("compiled/first-line"),
        metric("bun-run/first-line"),
      ),
      ratioOf(
        "koffi",
        "koffi loaded / first line, compiled",
        "lower",
        metric("compiled/koffi"),
        metric("compiled/first-line"),
      ),
    ],
    charts: [
      {
        kind: "bars",
        title: "Exec to first line of JavaScript",
        subtitle: `${cpu}, ${kernel}, ${date.slice(0, 10)}; median, whisker to the 99th percentile`,
        unit: "ms",
        scale: "linear",
        groups: [
          {
            label: "",
            bars: metrics.map(({ id, label, samples }) => {
              const { median, p99 } = summarize(samples);
              return { label, median, p99, series: id.endsWith("/koffi") ? 1 : 0 };
            }),
          },
        ],
      },
    ],
    notes: ["The program execs itself; its memory is small, so next to nothing of this is the teardown of the old one"],
  };
}

export const subject: Subject = {
  description: "execve to the first line of JavaScript: compiled, bun run, deno run",
  run: runSubject,
};
