// SPDX-License-Identifier: Apache-2.0
// From samples to figures: rows, ratios, the table of phases, charts.
import { format } from "../../src/meter/format.ts";
import type { Chart } from "../../src/meter/svg.ts";
import type { ObservedPause } from "../../src/meter/watched-guest.ts";
import { ratioOf } from "../ratio.ts";
import { median, summarize } from "../stats.ts";
import type { Metric, Ratio, SubjectResult, TextTable } from "../types.ts";
import {
  type Contestant,
  describeConfiguration,
  type Form,
  idOf,
  LARGE_MIB,
  labelOf,
  ramLabel,
  SMALL_MIB,
} from "./plan.ts";
import { downtimeMs, phasesOf, type Series, select } from "./series.ts";

export interface Measured {
  series: readonly Series[];
  floor: Record<Form, [firstLine: Metric, koffi: Metric]>;
  /** Machine and date, for the charts. */
  subtitle: string;
}

const pausesOf = (samples: readonly ObservedPause[]): number[] => samples.map(({ pauseMs }) => pauseMs);

/** How the contestants are told apart in the charts, by colour. */
const SERIES_INDEX: Record<Contestant, number> = { compiled: 0, "bun-run": 1, peer: 4 };

export function resultOf(measured: Measured): SubjectResult {
  const metrics = metricsOf(measured);
  return {
    metrics,
    ratios: ratiosOf(metrics),
    tables: [phaseTable(measured.series)],
    charts: [barChart(measured), timelineChart(measured)],
    notes: notesOf(measured.series),
  };
}

function metricsOf({ series, floor }: Measured): Metric[] {
  const pauses = series.flatMap(({ configuration, updates, fresh }): Metric[] => {
    const [id, label] = [idOf(configuration), describeConfiguration(configuration)];
    return [
      { id, label, unit: "ms", samples: pausesOf(updates) },
      { id: `${id}/fresh`, label: `${label}: first update`, unit: "ms", samples: pausesOf(fresh) },
    ];
  });
  const details = series.flatMap(({ configuration, updates }): Metric[] => {
    const id = idOf(configuration);
    const phases = phasesOf(updates).map(({ phase, samplesMs }): Metric => {
      return { id: `${id}/phase/${phase}`, label: phase, unit: "ms", samples: samplesMs, isDetail: true };
    });
    const downtimes = updates.flatMap((sample) => downtimeMs(sample) ?? []);
    return [...phases, { id: `${id}/downtime`, label: "downtime", unit: "ms", samples: downtimes, isDetail: true }];
  });
  const floors = Object.values(floor)
    .flat()
    .map((metric): Metric => ({ ...metric, label: `exec floor, ${metric.label}` }));
  const all = [...pauses, ...stopContMetrics(series), ...floors, ...details];
  return all.filter(({ samples }) => samples.length > 0);
}

/** Independent of RAM: one row for each form and number of vCPUs. */
function stopContMetrics(series: readonly Series[]): Metric[] {
  const metrics = new Map<string, Metric>();
  for (const { configuration, stopCont } of series) {
    const { contestant, cpuCount } = configuration;
    const id = `${contestant}/stop-cont/${cpuCount}-vcpu`;
    const label = `QMP stop and cont, ${labelOf(contestant)}, ${cpuCount} vCPU${cpuCount === 1 ? "" : "s"}`;
    const metric = metrics.get(id) ?? { id, label, unit: "ms", samples: [] };
    // Half of them: those that were not disturbed, if there are as many.
    metric.samples.push(...pausesOf(select(stopCont, Math.ceil(stopCont.length / 2))));
    metrics.set(id, metric);
  }
  return [...metrics.values()];
}

const BASE = idOf({ contestant: "compiled", ramMiB: SMALL_MIB, cpuCount: 1 });
const LARGE = idOf({ contestant: "compiled", ramMiB: LARGE_MIB, cpuCount: 1 });

/** Id, label, numerator, denominator. Those whose metrics were not measured are left out. */
const RATIOS: [id: string, label: string, numerator: string, denominator: string][] = [
  ["floor", "pause / exec floor with koffi", BASE, "floor/compiled/koffi"],
  ["floor-first-line", "pause / exec floor", BASE, "floor/compiled/first-line"],
  ["ram", "pause at 3 GiB / at 128 MiB", LARGE, BASE],
  ["ram-fresh", "first update at 3 GiB / at 128 MiB", `${LARGE}/fresh`, `${BASE}/fresh`],
  ["vcpus", "pause of 2 vCPUs / of 1", BASE.replace("1-vcpu", "2-vcpu"), BASE],
  ["bun-run", "bun run / compiled", BASE.replace("compiled", "bun-run"), BASE],
  ["downtime", "VMM's own figure / pause", `${BASE}/downtime`, BASE],
  ["peer", "compiled / QEMU, 128 MiB", BASE, BASE.replace("compiled", "peer")],
  ["peer-large", "compiled / QEMU, 3 GiB", LARGE, LARGE.replace("compiled", "peer")],
];

function ratiosOf(metrics: readonly Metric[]): Ratio[] {
  return RATIOS.flatMap(([id, label, numerator, denominator]) => {
    const top = metrics.find((metric) => metric.id === numerator);
    const bottom = metrics.find((metric) => metric.id === denominator);
    return top === undefined || bottom === undefined ? [] : [ratioOf(id, label, "lower", top, bottom)];
  });
}

/** Median of each phase, and what the VMM says beside what the guest saw. */
function phaseTable(series: readonly Series[]): TextTable {
  const phases = [...new Set(series.flatMap(({ updates }) => phasesOf(updates).map(({ phase }) => phase)))];
  const rows = series.map(({ configuration, updates }) => {
    const own = phasesOf(updates);
    const downtimes = updates.flatMap((sample) => downtimeMs(sample) ?? []);
    const differences = updates.flatMap((sample) => {
      const downtime = downtimeMs(sample);
      return downtime === undefined ? [] : [sample.pauseMs - downtime];
    });
    const cell = (samples: readonly number[] | undefined): string =>
      samples === undefined || samples.length === 0 ? "–" : format(median(samples));
    return [
      describeConfiguration(configuration),
      ...phases.map((phase) => cell(own.find((candidate) => candidate.phase === phase)?.samplesMs)),
      cell(downtimes),
      cell(pausesOf(updates)),
      cell(differences),
    ];
  });
  return {
    title: "Phases, medians in ms; then the VMM's own sum, the guest's pause, and by how much that is longer",
    rows: [["", ...phases, "VMM says", "guest saw", "longer by"], ...rows],
  };
}

function barChart({ series, floor, subtitle }: Measured): Chart {
  const ramSizes = [...new Set(series.map(({ configuration }) => configuration.ramMiB))].sort((a, b) => a - b);
  const groups = ramSizes.map((ramMiB) => ({
    label: ramLabel(ramMiB),
    bars: series
      .filter(({ configuration }) => configuration.ramMiB === ramMiB)
      .flatMap(({ configuration: { contestant, cpuCount }, updates, fresh }) => {
        const label = `${labelOf(contestant)}, ${cpuCount} vCPU`;
        const bar = (text: string, samples: readonly number[], index: number) => {
          const { median, p99 } = summarize(samples);
          return { label: text, median, p99, series: index };
        };
        const index = SERIES_INDEX[contestant];
        const bars = [bar(label, pausesOf(updates), index)];
        if (contestant !== "bun-run" && cpuCount === 1) bars.push(bar("first update", pausesOf(fresh), 2));
        return bars;
      }),
  }));
  const floors = (Object.entries(floor) as [Form, [Metric, Metric]][]).flatMap(([form, [, koffi]]) => {
    if (koffi.samples.length === 0) return [];
    const { median, p99 } = summarize(koffi.samples);
    return [{ label: labelOf(form), median, p99, series: 5 }];
  });
  return {
    kind: "bars",
    title: "The guest's pause in an update by cpr-exec",
    subtitle: `${subtitle}; median, whisker to the 99th percentile`,
    unit: "ms",
    scale: "linear",
    groups: floors.length > 0 ? [...groups, { label: "exec alone", bars: floors }] : groups,
  };
}

function timelineChart({ series, subtitle }: Measured): Chart {
  const rows = series.flatMap(({ configuration, updates }) => {
    const phases = phasesOf(updates);
    if (phases.length === 0) return [];
    const segments = phases.map(({ phase, samplesMs }) => ({
      label: phase,
      duration: median(samplesMs),
      isPause: true,
    }));
    const unseen = median(pausesOf(updates)) - segments.reduce((sum, { duration }) => sum + duration, 0);
    if (unseen > 0) segments.push({ label: "rest", duration: unseen, isPause: true });
    return [{ label: describeConfiguration(configuration), segments }];
  });
  return { kind: "timeline", title: "What the pause is made of", subtitle: `${subtitle}; medians`, unit: "ms", rows };
}

function notesOf(series: readonly Series[]): string[] {
  const samples = series.flatMap(({ updates, fresh }) => [...updates, ...fresh]);
  const disturbed = samples.filter(({ isDisturbed }) => isDisturbed).length;
  const notes = [
    "The guest touches all of its RAM before the first update, and checks itself throughout: 0 errors",
    "The exec floor is measured beside the updates, with the guest stopped and the meter at work",
  ];
  if (disturbed > 0) {
    notes.push(
      `In ${disturbed} of ${samples.length} windows the meter had no core of its own: lower bounds of those pauses`,
    );
  }
  return notes;
}
