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
export interface FloorSamples {
  firstLineMs: number[];
  koffiMs: number[];
}

/** The forms in which the program is run, with their names for people. */
export const FLOOR_FORMS = { compiled: "compiled binary", "bun-run": "bun run", "deno-run": "deno run" } as const;
export type FloorForm = keyof typeof FLOOR_FORMS;

/** The bare program, compiled and ready to be sampled. */
export class FloorProgram implements Disposable {
  readonly #dir = mkdtempSync(join(tmpdir(), "baton-floor-"));
  readonly #compiled = join(this.#dir, "floor");

  static async build(): Promise<FloorProgram> {
    const floor = new FloorProgram();
    await run(binary("bun"), ["build", ...COMPILE_FLAGS, program, "--outfile", floor.#compiled], { cwd: root });
    return floor;
  }

  /** Execs it `rounds` times in a row. */
  async sample(form: FloorForm, rounds: number): Promise<FloorSamples> {
    const [command, args] = this.#command(form);
    const { stdout } = await run(command, args, { cwd: root, env: { ...process.env, FLOOR_ROUNDS: String(rounds) } });
    return JSON.parse(stdout) as FloorSamples;
  }

  #command(form: FloorForm): [command: string, args: string[]] {
    switch (form) {
      case "compiled":
        return [this.#compiled, []];
      case "bun-run":
        return [binary("bun"), ["run", program]];
      case "deno-run":
        return [binary("deno"), ["run", "-A", "--quiet", program]];
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

/** Two metrics without samples: `<prefix><form>/first-line` and `<prefix><form>/koffi` (koffi is loaded too). */
export function floorMetrics(form: FloorForm, prefix = ""): [firstLine: Metric, koffi: Metric] {
  const label = FLOOR_FORMS[form];
  return [
    { id: `${prefix}${form}/first-line`, label: `${label}: first line`, unit: "ms", samples: [] },
    { id: `${prefix}${form}/koffi`, label: `${label}: koffi loaded`, unit: "ms", samples: [] },
  ];
}

/**
 * Execs the bare program `rounds` times in each of its forms.
 *
 * `progress` is told now and then. The metrics are those of `floorMetrics`.
 */
export async function measureFloor(rounds: number, progress?: (form: string) => void): Promise<Metric[]> {
  using floor = await FloorProgram.build();
  const forms = (Object.keys(FLOOR_FORMS) as FloorForm[]).map((form) => ({ form, metrics: floorMetrics(form) }));
  // In turns, so that a disturbance of the machine meets all forms and not one.
  for (let done = 0; done < rounds; done += ROUNDS_IN_A_ROW) {
    for (const { form, metrics } of forms) {
      progress?.(`${form}, ${done} of ${rounds}`);
      const { firstLineMs, koffiMs } = await floor.sample(form, Math.min(ROUNDS_IN_A_ROW, rounds - done));
      metrics[0].samples.push(...firstLineMs);
      metrics[1].samples.push(...koffiMs);
    }
  }
  return forms.flatMap(({ metrics }) => metrics);
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
