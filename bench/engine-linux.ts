// SPDX-License-Identifier: Apache-2.0
// Linux on the CPU engine: from the start of the VMM to init, and jobs in the guest; beside QEMU's TCG.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { installedBusybox } from "../src/image/busybox.ts";
import { installedKernel } from "../src/image/kernel.ts";
import { cacheDir, readImage } from "../src/image/store.ts";
import { buildJobsInitramfs, JOBS } from "./engine/linux-guest.ts";
import { BootTimeout, type LinuxRun, runLinux } from "./engine/linux-run.ts";
import { findQemu, RUNTIME_NAMES, RUNTIMES } from "./engine/others.ts";
import { ratioOf } from "./ratio.ts";
import type { Metric, Ratio, Subject, SubjectOptions, SubjectResult } from "./types.ts";

/** The path of a kernel; when there is none, the one that `baton image` has made ready, or else this machine's own. */
const KERNEL_VARIABLE = "BATON_KERNEL";

const BATON = fileURLToPath(new URL("../src/cli/main.ts", import.meta.url));

function findKernel(): string | undefined {
  return process.env[KERNEL_VARIABLE] ?? readImage(cacheDir())?.kernel ?? installedKernel()?.path;
}

interface Runner {
  id: string;
  label: string;
  command: readonly string[];
  isBaton: boolean;
  boot: Metric;
  bootWall: Metric;
  bootMips: Metric;
  jobs: Metric[];
}

function makeRunner(id: string, label: string, command: readonly string[], isBaton: boolean): Runner {
  return {
    id,
    label,
    command,
    isBaton,
    boot: { id: `boot/${id}`, label: `start to init: ${label}`, unit: "s", samples: [] },
    bootWall: { id: `boot-wall/${id}`, label: `start to init: ${label}, by the wall's clock`, unit: "s", samples: [] },
    bootMips: { id: `boot-mips/${id}`, label: `start to init: ${label}`, unit: "MIPS", samples: [] },
    jobs: JOBS.map((job) => ({ id: `${job.id}/${id}`, label: `${job.label}: ${label}`, unit: "s", samples: [] })),
  };
}

function findRunners(peer: string | undefined, notes: string[]): Runner[] {
  const runners = RUNTIME_NAMES.map((runtime) =>
    makeRunner(runtime, `Baton on ${runtime}`, [...RUNTIMES[runtime], BATON, "-accel", "wasm"], true),
  );
  const qemu = findQemu(peer, notes);
  if (qemu !== undefined) runners.push(makeRunner("tcg", "QEMU TCG", [qemu, "-accel", "tcg"], false));
  return runners;
}

async function run({ quick, progress, peer }: SubjectOptions): Promise<SubjectResult> {
  const notes = [
    "CPU time of all threads of the VMM, its own start and its compilers included. MIPS: instructions until init by that",
  ];
  const kernel = findKernel();
  if (kernel === undefined) {
    const note = `No kernel to boot: \`baton image\` fetches one, or ${KERNEL_VARIABLE} names one`;
    return { metrics: [], ratios: [], charts: [], notes: [note] };
  }
  const runners = findRunners(peer, notes);
  const dir = mkdtempSync(join(tmpdir(), "baton-linux-"));
  try {
    const initrd = join(dir, "initrd");
    writeFileSync(initrd, buildJobsInitramfs(installedBusybox().bytes));
    const rounds = quick ? 1 : 5;
    for (let round = 1; round <= rounds; round++) {
      for (const { label, command, isBaton, boot, bootWall, bootMips, jobs } of runners) {
        progress.update(`engine-linux: ${label}, ${round} of ${rounds}`);
        let result: LinuxRun;
        try {
          result = await runLinux({ command, kernel, initrd, isBaton });
        } catch (error) {
          // On a busy machine QEMU's guest now and then stops early, when it measures its clocks.
          if (isBaton || !(error instanceof BootTimeout)) throw error;
          notes.push(`In round ${round} ${label} has not come to init: it has a sample less`);
          continue;
        }
        const { bootWallMs, bootMs, bootInstructions, jobMs } = result;
        bootWall.samples.push(bootWallMs / 1000);
        boot.samples.push(bootMs / 1000);
        if (bootInstructions !== undefined) bootMips.samples.push(bootInstructions / bootMs / 1000);
        for (const [index, job] of JOBS.entries()) jobs[index]!.samples.push(jobMs[job.id]! / 1000);
      }
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  const metrics = runners.flatMap(({ boot, bootWall, bootMips, jobs }) => [bootWall, boot, bootMips, ...jobs]);
  return { metrics: metrics.filter(({ samples }) => samples.length > 0), ratios: ratios(runners), charts: [], notes };
}

function ratios(runners: readonly Runner[]): Ratio[] {
  const timesOf = ({ boot, jobs }: Runner): [id: string, label: string, metric: Metric][] => [
    ["boot", "start to init", boot],
    ...JOBS.map(({ id, label }, index): [string, string, Metric] => [id, label, jobs[index]!]),
  ];
  const [bun, deno, tcg] = runners as [Runner, Runner, Runner | undefined];
  return timesOf(bun).flatMap(([id, label, ofBun], index) => {
    const ofDeno = timesOf(deno)[index]![2];
    const all = [ratioOf(`${id}/deno-bun`, `${label}: Deno / Bun`, "lower", ofDeno, ofBun)];
    if (tcg !== undefined && tcg.boot.samples.length > 0) {
      all.push(ratioOf(`${id}/bun-tcg`, `${label}: Bun / QEMU TCG`, "lower", ofBun, timesOf(tcg)[index]![2]));
    }
    return all;
  });
}

export const subject: Subject = {
  description: "Linux on the CPU engine: boot and jobs, beside QEMU's TCG",
  run,
};
