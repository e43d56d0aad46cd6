// SPDX-License-Identifier: Apache-2.0
// One kind of update on both accelerators in turn: what the engine's pause is by KVM's.
import { kvmProblem } from "../../src/cli/demo/preconditions.ts";
import type { AcceleratorName } from "../../src/config/types.ts";
import type { MigrationInfo } from "../../src/qmp/schema/migration.ts";
import { phasesOf } from "../pause/series.ts";
import { batonProgram } from "../pause.ts";
import { ratioOf } from "../ratio.ts";
import { median } from "../stats.ts";
import type { Metric, SubjectOptions, SubjectResult, TextTable } from "../types.ts";

export interface UpdateSample {
  /** As the meter saw it; undefined when it did not. */
  pauseMs: number | undefined;
  info: MigrationInfo;
}

export interface UpdatedGuest extends AsyncDisposable {
  update(): Promise<UpdateSample>;
  /** What the guest has noticed. */
  faults(): string[];
}

/** Starts a guest of 1 vCPU that has touched all of its RAM. */
export type StartGuest = (command: readonly string[], ramSizeBytes: number) => Promise<UpdatedGuest>;

const ACCELERATORS: readonly AcceleratorName[] = ["kvm", "wasm"];
const RAM_SIZE_BYTES = 128 * 2 ** 20;
/** Guests of each accelerator, in turn: two at once would take each other's CPUs. */
const TURNS = 6;
const QUICK_TURNS = 2;
const UPDATES = 6;

interface Series {
  accelerator: AcceleratorName;
  samples: UpdateSample[];
}

export async function compareAccelerators(
  name: string,
  start: StartGuest,
  { quick, progress }: SubjectOptions,
): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const series = ACCELERATORS.map((accelerator): Series => ({ accelerator, samples: [] }));
  for (let turn = 0; turn < (quick ? QUICK_TURNS : TURNS); turn++) {
    for (const { accelerator, samples } of series) {
      progress.update(`${name}: ${accelerator}: touching RAM`);
      await using guest = await start([batonProgram(), "-accel", accelerator], RAM_SIZE_BYTES);
      for (let update = 0; update < UPDATES; update++) {
        progress.update(`${name}: ${accelerator}: ${samples.length + 1}`);
        samples.push(await guest.update());
      }
      const faults = guest.faults();
      if (faults.length > 0) throw new Error(`${accelerator}: the guest noticed the updates:\n${faults.join("\n")}`);
    }
  }
  return resultOf(series);
}

function resultOf(series: readonly Series[]): SubjectResult {
  const metrics = series.flatMap(({ accelerator, samples }): Metric[] => [
    { id: accelerator, label: accelerator, unit: "ms", samples: samples.flatMap(({ pauseMs }) => pauseMs ?? []) },
    {
      id: `${accelerator}/downtime`,
      label: `${accelerator}: VMM's own figure`,
      unit: "ms",
      samples: samples.map(({ info }) => info["downtime-us"]! / 1000),
    },
  ]);
  const [kvm, , wasm] = metrics as [Metric, Metric, Metric, Metric];
  const unseen = series.flatMap(({ samples }) => samples).filter(({ pauseMs }) => pauseMs === undefined).length;
  return {
    metrics,
    ratios: [ratioOf("wasm-kvm", "pause on the engine / on KVM", "lower", wasm, kvm)],
    tables: [phaseTable(series)],
    charts: [],
    notes: unseen > 0 ? [`${unseen} pauses were not seen: the meter had no core of its own`] : [],
  };
}

function phaseTable(series: readonly Series[]): TextTable {
  const rows = series.map(({ accelerator, samples }) => ({
    accelerator,
    phases: phasesOf(samples.map(({ info }) => ({ info, pauseMs: 0, atMostMs: 0, isDisturbed: false }))),
  }));
  return {
    title: "Phases, medians in ms",
    rows: [
      ["", ...rows[0]!.phases.map(({ phase }) => phase)],
      ...rows.map(({ accelerator, phases }) => [
        accelerator,
        ...phases.map(({ samplesMs }) => median(samplesMs).toFixed(3)),
      ]),
    ],
  };
}
