// SPDX-License-Identifier: Apache-2.0
// The pause that a guest observes when it goes to another VMM process by cpr-transfer, measured from outside both.
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { phasesOf } from "./pause/series.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import { machineFacts } from "./report.ts";
import { median, summarize } from "./stats.ts";
import { TransferChain, type TransferSample } from "./transfer/chain.ts";
import type { Metric, Ratio, Subject, SubjectOptions, SubjectResult, TextTable } from "./types.ts";

interface Configuration {
  id: string;
  label: string;
  ramMiB: number;
  cpuCount: number;
  /** Of one guest. */
  transfers: number;
}

/** The first one has a 99th percentile that is not simply the longest. */
const CONFIGURATIONS: readonly Configuration[] = [
  { id: "128-mib/1-vcpu", label: "128 MiB, 1 vCPU", ramMiB: 128, cpuCount: 1, transfers: 36 },
  { id: "3-gib/1-vcpu", label: "3 GiB, 1 vCPU", ramMiB: 3072, cpuCount: 1, transfers: 8 },
  { id: "128-mib/4-vcpu", label: "128 MiB, 4 vCPUs", ramMiB: 128, cpuCount: 4, transfers: 8 },
];
/** Guests of each configuration, in turns. */
const TURNS = 4;
const QUICK_TRANSFERS = 8;

interface Series {
  configuration: Configuration;
  samples: TransferSample[];
  stopCont: number[];
}

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const command = batonCommands().compiled;
  const series = CONFIGURATIONS.map((configuration): Series => ({ configuration, samples: [], stopCont: [] }));
  for (let turn = 0; turn < (quick ? 1 : TURNS); turn++) {
    for (const own of series) {
      const { label, ramMiB, cpuCount, transfers } = own.configuration;
      progress.update(`transfer: ${label}: touching RAM`);
      await using chain = await TransferChain.start({ command, ramSizeBytes: ramMiB * 2 ** 20, cpuCount });
      for (let index = 0; index < (quick ? QUICK_TRANSFERS : transfers); index++) {
        progress.update(`transfer: ${label}: ${own.samples.length + 1}`);
        own.stopCont.push(await chain.stopAndContinue());
        own.samples.push(await chain.transfer());
      }
      const faults = chain.faults();
      if (faults.length > 0) throw new Error(`${label}: the guest noticed the transfers:\n${faults.join("\n")}`);
    }
  }
  return resultOf(series);
}

function metricsOf({ configuration: { id, label }, samples, stopCont }: Series): Metric[] {
  const pauses = samples.flatMap(({ pauseMs }) => pauseMs ?? []);
  return [
    { id, label, unit: "ms", samples: pauses },
    {
      id: `${id}/longest`,
      label: `${label}: longest standstill, preparation included`,
      unit: "ms",
      samples: samples.map(({ longestMs }) => longestMs),
    },
    {
      id: `${id}/downtime`,
      label: `${label}: VMM's own figure`,
      unit: "ms",
      samples: samples.map(({ info }) => info["downtime-us"]! / 1000),
    },
    { id: `${id}/stop-cont`, label: `${label}: QMP stop and cont`, unit: "ms", samples: stopCont },
  ];
}

function resultOf(series: readonly Series[]): SubjectResult {
  const metrics = series.flatMap(metricsOf);
  const metric = (id: string): Metric => metrics.find((candidate) => candidate.id === id)!;
  const [base, large, several] = CONFIGURATIONS.map(({ id }) => id) as [string, string, string];
  const p99: Metric = {
    id: `${base}/p99`,
    label: "128 MiB, 1 vCPU: 99th percentile",
    unit: "ms",
    samples: [summarize(metric(base).samples).p99],
  };
  const own = (id: string): Metric => metric(`${id}/downtime`);
  const ratios: Ratio[] = [
    ratioOf("ram", "VMM's own figure at 3 GiB / at 128 MiB", "lower", own(large), own(base)),
    ratioOf("vcpus", "VMM's own figure for 4 vCPUs / for 1", "lower", own(several), own(base)),
    ratioOf("stop-cont", "pause / stop and cont", "lower", metric(base), metric(`${base}/stop-cont`)),
    ratioOf("downtime", "VMM's own figure / pause", "lower", own(base), metric(base)),
  ];
  const { cpu, kernel, date } = machineFacts();
  const unseen = series.flatMap(({ samples }) => samples).filter(({ pauseMs }) => pauseMs === undefined).length;
  return {
    metrics: [...metrics, p99],
    ratios,
    tables: [phaseTable(series)],
    charts: [
      {
        kind: "bars",
        title: "The guest's pause in a transfer to another process",
        subtitle: `${cpu}, ${kernel}, ${date.slice(0, 10)}; median, whisker to the 99th percentile`,
        unit: "ms",
        scale: "linear",
        groups: [
          {
            label: "",
            bars: series.map(({ configuration: { id, label } }, index) => {
              const { median, p99 } = summarize(metric(id).samples);
              return { label, median, p99, series: index };
            }),
          },
        ],
      },
    ],
    notes: [
      "The pause: no vCPU ran, at the switch. The longest standstill also counts moments in which the preparation took a CPU from the guest",
      ...(unseen > 0 ? [`${unseen} pauses were not seen: the meter had no core of its own`] : []),
    ],
  };
}

function phaseTable(series: readonly Series[]): TextTable {
  const own = series.map(({ configuration, samples }) => ({
    label: configuration.label,
    phases: phasesOf(samples.map(({ info }) => ({ info, pauseMs: 0, atMostMs: 0, isDisturbed: false }))),
  }));
  const names = own[0]!.phases.map(({ phase }) => phase);
  return {
    title: "Phases, medians in ms",
    rows: [
      ["", ...names],
      ...own.map(({ label, phases }) => [label, ...phases.map(({ samplesMs }) => median(samplesMs).toFixed(3))]),
    ],
  };
}

export const subject: Subject = {
  description: "guest-observed pause of cpr-transfer (needs /dev/kvm)",
  run,
};
