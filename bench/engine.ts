// SPDX-License-Identifier: Apache-2.0
// The CPU engine on loops of known length, in both runtimes, by a fixed loop of Wasm; and beside QEMU's TCG and v86.
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { format } from "../src/meter/format.ts";
import type { LoopSamples } from "./engine/loop-sampler.ts";
import { LOOPS } from "./engine/loops.ts";
import { findQemu, findV86, RUNTIME_NAMES, RUNTIMES, type RuntimeName } from "./engine/others.ts";
import { sampleTcg } from "./engine/tcg-loops.ts";
import { ratioOf } from "./ratio.ts";
import { summarize } from "./stats.ts";
import type { Metric, Ratio, Subject, SubjectOptions, SubjectResult } from "./types.ts";

const execute = promisify(execFile);

const program = (name: string): string => fileURLToPath(new URL(`./engine/${name}.ts`, import.meta.url));

/** One of those that run the loops. */
interface Runner {
  id: string;
  label: string;
  sample(rounds: number): Promise<LoopSamples>;
}

async function runProgram(runtime: RuntimeName, name: string, args: readonly string[]): Promise<LoopSamples> {
  const [command, ...options] = RUNTIMES[runtime];
  const { stdout } = await execute(command, [...options, program(name), ...args]);
  // v86 has lines of its own before it.
  return JSON.parse(stdout.trim().split("\n").at(-1)!) as LoopSamples;
}

function findRunners(peer: string | undefined, notes: string[]): Runner[] {
  const runners = RUNTIME_NAMES.map(
    (runtime): Runner => ({
      id: runtime,
      label: `on ${runtime}`,
      sample: (rounds) => runProgram(runtime, "loops-program", [String(rounds)]),
    }),
  );
  const qemu = findQemu(peer, notes);
  if (qemu !== undefined) {
    runners.push({ id: "tcg", label: "QEMU TCG", sample: (rounds) => sampleTcg(qemu, rounds) });
  }
  const v86 = findV86(notes);
  if (v86 === undefined) return runners;
  for (const mode of ["interpreter", "jit"]) {
    for (const runtime of RUNTIME_NAMES) {
      runners.push({
        id: `v86-${mode}-${runtime}`,
        label: `v86 ${mode}, ${runtime}`,
        sample: (rounds) => runProgram(runtime, "v86-program", [v86, String(rounds), mode]),
      });
    }
  }
  return runners;
}

async function run({ quick, progress, peer }: SubjectOptions): Promise<SubjectResult> {
  const notes = ["MIPS: million guest instructions in a second of CPU time. v86 runs the 32-bit twins of the loops"];
  const runners = findRunners(peer, notes);
  const metrics = new Map<string, Metric>();
  for (const { id, label } of LOOPS) {
    for (const runner of runners) {
      const key = `${id}/${runner.id}`;
      metrics.set(key, { id: key, label: `${label}: ${runner.label}`, unit: "MIPS", samples: [], isDetail: true });
    }
  }
  for (const runtime of RUNTIME_NAMES) {
    const key = `wasm/${runtime}`;
    metrics.set(key, { id: key, label: `fixed Wasm loop on ${runtime}`, unit: "M/s", samples: [] });
  }
  // In turns, so that a disturbance of the machine meets all and not one.
  const turns = quick ? 1 : 5;
  for (let turn = 1; turn <= turns; turn++) {
    for (const runner of runners) {
      progress.update(`engine: ${runner.label}, ${turn} of ${turns}`);
      const samples = await runner.sample(quick ? 3 : 5);
      for (const [id, values] of Object.entries(samples)) metrics.get(`${id}/${runner.id}`)!.samples.push(...values);
    }
  }
  const metric = (id: string): Metric => metrics.get(id)!;
  const ratios: Ratio[] = [];
  for (const { id, label } of LOOPS) {
    const [bun, deno] = [metric(`${id}/bun`), metric(`${id}/deno`)];
    ratios.push(
      ratioOf(`${id}/wasm-bun`, `${label}: Bun / fixed Wasm loop`, "higher", bun, metric("wasm/bun")),
      ratioOf(`${id}/wasm-deno`, `${label}: Deno / fixed Wasm loop`, "higher", deno, metric("wasm/deno")),
      ratioOf(`${id}/deno-bun`, `${label}: Deno / Bun`, "higher", deno, bun),
    );
    const tcg = metrics.get(`${id}/tcg`);
    if (tcg !== undefined) ratios.push(ratioOf(`${id}/bun-tcg`, `${label}: Bun / QEMU TCG`, "higher", bun, tcg));
  }
  const cell = (id: string): string => {
    const { median, spread } = summarize(metric(id).samples);
    return `${format(median)} (${format(spread * 100)} %)`;
  };
  const title = "MIPS: median, and how far the samples lie apart";
  const head = ["", ...runners.map(({ label }) => label)];
  const rows = LOOPS.map(({ id, label }) => [label, ...runners.map((runner) => cell(`${id}/${runner.id}`))]);
  return { metrics: [...metrics.values()], ratios, charts: [], tables: [{ title, rows: [head, ...rows] }], notes };
}

export const subject: Subject = {
  description: "the CPU engine's speed on small loops, beside QEMU's TCG and v86",
  run,
};
