// SPDX-License-Identifier: Apache-2.0
// From the start of the VMM to the guest's first visible effect, and the memory that the VMM itself takes.
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { findMemoryFile } from "../src/meter/guest-ram.ts";
import { MeasuredVm } from "../src/meter/measured-vm.ts";
import { RAM_NAME, sleep, VmmProcess } from "../src/meter/vmm-process.ts";
import { HEADER_MAGIC_U64, REPORT_GPA } from "../src/payload/report.ts";
import { FLOOR_FORMS, type FloorForm } from "./floor.ts";
import { ACCELERATOR, batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import { machineFacts } from "./report.ts";
import { ownMemoryKiB } from "./start/memory.ts";
import { summarize } from "./stats.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const RAM_SIZE_BYTES = 128 * 2 ** 20;
const TIMEOUT_MS = 20_000;
/** Updates after which memory is measured again. */
const UPDATES = 3;
/** Between two looks: what a start may seem longer than it is. */
const LOOK_MS = 0.05;
const SETTLE_MS = 300;

const FORMS = Object.keys(FLOOR_FORMS) as FloorForm[];
const nap = new Int32Array(new SharedArrayBuffer(4));

function commands(): Record<FloorForm, readonly string[]> {
  const deno = [`${root}node_modules/.bin/deno`, "run", "-A", "--quiet", `${root}src/cli/main.ts`, ...ACCELERATOR];
  return { ...batonCommands(), "deno-run": deno };
}

/**
 * Milliseconds from the call that starts the program until the payload's magic number is in guest RAM: the guest's
 * first visible effect, some hundred instructions after its first one.
 */
async function measureStart(command: readonly string[]): Promise<number> {
  const vmm = new VmmProcess({ command, ramSizeBytes: RAM_SIZE_BYTES, cpuCount: 1, payload: { touchBytes: 2 ** 24 } });
  try {
    return waitForMagic(vmm, command) - vmm.startedMs;
  } finally {
    vmm.kill();
    await vmm.close();
  }
}

/** Blocks this thread: a timer would be too coarse. Gives back the time at which the number was there. */
function waitForMagic(vmm: VmmProcess, command: readonly string[]): number {
  const magic = Buffer.alloc(8);
  let fd: number | undefined;
  try {
    for (const end = vmm.startedMs + TIMEOUT_MS; performance.now() < end; Atomics.wait(nap, 0, 0, LOOK_MS)) {
      fd ??= openRam(vmm.pid);
      if (fd === undefined) continue;
      readSync(fd, magic, 0, magic.length, REPORT_GPA + HEADER_MAGIC_U64);
      if (magic.toString("latin1") === "BATONRPT") return performance.now();
    }
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
  throw new Error(`${command.join(" ")}: no sign of the guest after ${TIMEOUT_MS / 1000} s`);
}

function openRam(pid: number): number | undefined {
  try {
    const path = findMemoryFile(pid, [RAM_NAME]);
    return path === undefined ? undefined : openSync(path, "r");
  } catch {
    // The process has ended; the time will be up.
    return undefined;
  }
}

/** MiB when the guest has touched all of its RAM, and again after some updates. */
async function measureMemory(command: readonly string[]): Promise<[started: number, updated: number]> {
  await using vm = await MeasuredVm.start({ command, ramSizeBytes: RAM_SIZE_BYTES, cpuCount: 1 });
  const look = async (): Promise<number> => {
    await sleep(SETTLE_MS);
    return ownMemoryKiB(readFileSync(`/proc/${vm.process.pid}/smaps`, "utf8"), RAM_NAME) / 1024;
  };
  const started = await look();
  for (let index = 0; index < UPDATES; index++) {
    await vm.update();
    await sleep(SETTLE_MS);
  }
  return [started, await look()];
}

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const all = commands();
  const starts = FORMS.map((form): Metric => ({ id: form, label: FLOOR_FORMS[form], unit: "ms", samples: [] }));
  const memory = FORMS.map((form): [Metric, Metric] => {
    const label = `${FLOOR_FORMS[form]}: own memory`;
    return [
      { id: `${form}/memory`, label, unit: "MiB", samples: [] },
      { id: `${form}/memory-updated`, label: `${label} after ${UPDATES} updates`, unit: "MiB", samples: [] },
    ];
  });
  const rounds = quick ? 5 : 30;
  for (let round = 0; round < rounds; round++) {
    for (const [index, form] of FORMS.entries()) {
      progress.update(`start: ${form}, ${round} of ${rounds}`);
      starts[index]!.samples.push(await measureStart(all[form]));
    }
  }
  for (let round = 0; round < (quick ? 1 : 3); round++) {
    for (const [index, form] of FORMS.entries()) {
      progress.update(`start: memory of ${form}`);
      const [started, updated] = await measureMemory(all[form]);
      memory[index]![0].samples.push(started);
      memory[index]![1].samples.push(updated);
    }
  }
  const { cpu, kernel, date } = machineFacts();
  return {
    metrics: [...starts, ...memory.flat()],
    ratios: [ratioOf("compiled-to-bun-run", "compiled / bun run", "lower", starts[0]!, starts[1]!)],
    charts: [
      {
        kind: "bars",
        title: "Start of the VMM to the guest's first visible effect",
        subtitle: `${cpu}, ${kernel}, ${date.slice(0, 10)}; median, whisker to the 99th percentile`,
        unit: "ms",
        scale: "linear",
        groups: [
          {
            label: "",
            bars: starts.map(({ label, samples }, series) => {
              const { median, p99 } = summarize(samples);
              return { label, median, p99, series };
            }),
          },
        ],
      },
    ],
    notes: [
      "From the call that starts the program to the payload's magic number in guest RAM; 128 MiB, 1 vCPU, PVH kernel",
      "Own memory: PSS of all mappings but guest RAM. Pages of the program file are shared with others that run it: this benchmark runs on Bun too",
    ],
  };
}

export const subject: Subject = {
  description: "start to the guest's first effect, and the VMM's own memory (needs /dev/kvm)",
  run,
};
