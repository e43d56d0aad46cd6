// SPDX-License-Identifier: Apache-2.0
// The loops of loops.ts on QEMU's TCG. Time is the CPU time of the process: it has nothing else to do.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cpuMsOfProcess } from "../../ffi/clock.ts";
import { listen } from "./child.ts";
import { LoopSampler, type LoopSamples } from "./loop-sampler.ts";
import { buildPvhLoops, LOOPS_RAM_SIZE_BYTES } from "./loops.ts";

/** Of each loop in a round: 0.1 to 0.8 s. A mark arrives some 0.1 ms late. */
const MILLION_INSTRUCTIONS = 400;
/** Of one process. */
const TIMEOUT_S = 300;

export async function sampleTcg(qemu: string, rounds: number): Promise<LoopSamples> {
  const dir = mkdtempSync(join(tmpdir(), "baton-loops-"));
  try {
    const kernel = join(dir, "loops.elf");
    writeFileSync(kernel, buildPvhLoops(MILLION_INSTRUCTIONS));
    return await runTcg(qemu, kernel, rounds);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function runTcg(qemu: string, kernel: string, rounds: number): Promise<LoopSamples> {
  const sampler = new LoopSampler(MILLION_INSTRUCTIONS, 0);
  await listen({
    command: [
      ...[qemu, "-accel", "tcg", "-machine", "microvm", "-m", `${LOOPS_RAM_SIZE_BYTES >>> 20}M`],
      ...["-nodefaults", "-no-user-config", "-display", "none", "-debugcon", "stdio", "-kernel", kernel],
    ],
    onOutput(marks, pid) {
      const ms = cpuMsOfProcess(pid);
      if (ms === undefined) throw new Error("It has ended");
      for (const mark of marks) sampler.mark(mark, ms);
      return sampler.rounds >= rounds;
    },
    onSecond(passedSeconds) {
      if (passedSeconds >= TIMEOUT_S)
        throw new Error(`It has done ${sampler.rounds} of ${rounds} rounds in ${TIMEOUT_S} s`);
    },
  });
  return sampler.samples;
}
