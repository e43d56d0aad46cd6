// SPDX-License-Identifier: Apache-2.0
// Migration to another process of this host: how fast RAM goes, how long an idle guest stands still, whether a busy one gets
// there at all, and what cpr-reboot takes beside the reboot.
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { type Hop, type HopOptions, Traveller } from "./migrate/hop.ts";
import { measureMemcpy, measureRam, measureScan, type RamCase } from "./migrate/ram.ts";
import { measureReboot, type StatePlace, stateDirectory } from "./migrate/reboot.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import { median } from "./stats.ts";
import type { Metric, Ratio, Subject, SubjectOptions, SubjectResult, TextTable } from "./types.ts";

const MIB = 2 ** 20;
/** More than any cache; a few times as much would only take longer. */
const BANDWIDTH_BYTES = 256 * MIB;
/** Zero pages go so fast that compiling the scanner would be a third of less. */
const ZERO_BYTES = 1024 * MIB;

const RAM_CASES: Readonly<Record<string, { label: string; ramCase: RamCase }>> = {
  "ram/reference": { label: "by reference", ramCase: { streams: 1, isPopulated: true, isByReference: true } },
  "ram/reference-fresh": {
    label: "by reference, into fresh memory",
    ramCase: { streams: 1, isPopulated: false, isByReference: true },
  },
  "ram/sent": { label: "sent", ramCase: { streams: 1, isPopulated: true, isByReference: false } },
  "ram/sent-fresh": {
    label: "sent, into fresh memory",
    ramCase: { streams: 1, isPopulated: false, isByReference: false },
  },
  "ram/zero": { label: "zero pages", ramCase: { streams: 1, isPopulated: false, isByReference: true, isZero: true } },
};

/** RAM sizes whose pause is measured; the guest has touched all of it. */
const PAUSE_MIB = [128, 1024, 3072];
/** 512 pages at each of 50 ticks a second: 100 MB/s. */
const BUSY_PAYLOAD = { sweepPagesPerRound: 512 };
const BUSY_MIB = 256;
/** Less than the busy guest writes. */
const NARROW_BYTES_PER_SECOND = 50_000_000;
const BUSY_CASES: Readonly<Record<string, { label: string; options: HopOptions }>> = {
  unix: { label: "over a UNIX socket", options: { transport: "unix" } },
  tcp: { label: "over TCP", options: { transport: "tcp" } },
  narrow: {
    label: "over TCP at 50 MB/s, auto-converge",
    options: {
      transport: "tcp",
      capabilities: ["auto-converge"],
      parameters: { "max-bandwidth": NARROW_BYTES_PER_SECOND },
    },
  },
};

async function bandwidth({ quick, progress }: SubjectOptions): Promise<{ metrics: Metric[]; ratios: Ratio[] }> {
  const metric = (id: string, label: string): Metric => ({ id, label, unit: "GB/s", samples: [] });
  const memcpy = metric("ram/memcpy", "memcpy");
  const memcpyFresh = metric("ram/memcpy-fresh", "memcpy into fresh memory");
  const scan = metric("ram/scan", "zero pages, looked at by one thread");
  const cases = Object.entries(RAM_CASES).map(([id, { label, ramCase }]) => ({ own: metric(id, label), ramCase }));
  const rounds = quick ? 5 : 20;
  for (let round = 0; round < rounds; round++) {
    progress.update(`migrate: RAM, ${round} of ${rounds}`);
    memcpy.samples.push(measureMemcpy(BANDWIDTH_BYTES, true));
    memcpyFresh.samples.push(measureMemcpy(BANDWIDTH_BYTES, false));
    scan.samples.push(measureScan(ZERO_BYTES));
    for (const { own, ramCase } of cases) {
      own.samples.push(await measureRam(ramCase.isZero ? ZERO_BYTES : BANDWIDTH_BYTES, ramCase));
    }
  }
  const ratios = cases.map(({ own, ramCase }) => {
    const base = ramCase.isZero ? scan : ramCase.isPopulated ? memcpy : memcpyFresh;
    return ratioOf(own.id, `${own.label} / ${base.label}`, "higher", own, base);
  });
  return { metrics: [memcpy, memcpyFresh, scan, ...cases.map(({ own }) => own)], ratios };
}

/** Hops until `count` pauses are known, or twice as many were tried. */
async function hops(traveller: Traveller, options: HopOptions, count: number): Promise<Hop[]> {
  const known: Hop[] = [];
  for (let tries = 0; known.length < count && tries < 2 * count; tries++) {
    const hop = await traveller.hop(options);
    if (hop.pauseMs !== undefined) known.push(hop);
  }
  return known;
}

const sizeLabel = (mib: number): string => (mib >= 1024 ? `${mib / 1024} GiB` : `${mib} MiB`);
const sizeId = (mib: number): string => sizeLabel(mib).toLowerCase().replace(" ", "-");
const pausesOf = (all: readonly Hop[]): number[] => all.flatMap(({ pauseMs }) => pauseMs ?? []);

async function pauses({ quick, progress }: SubjectOptions, command: readonly string[]): Promise<Metric[]> {
  const metrics: Metric[] = [];
  for (const mib of quick ? PAUSE_MIB.slice(0, 2) : PAUSE_MIB) {
    progress.update(`migrate: pause at ${sizeLabel(mib)}`);
    await using traveller = await Traveller.start({ command, ramSizeBytes: mib * MIB, cpuCount: 1 });
    const all = await hops(traveller, { transport: "unix" }, quick ? 5 : 20);
    const id = `pause/${sizeId(mib)}`;
    const label = `pause, idle guest, ${sizeLabel(mib)}`;
    const downtimes = all.map(({ info }) => (info["downtime-us"] ?? 0) / 1000);
    metrics.push(
      { id, label, unit: "ms", samples: pausesOf(all) },
      {
        id: `${id}/at-most`,
        label: `${label}, at most`,
        unit: "ms",
        samples: all.map(({ atMostMs }) => atMostMs),
        isDetail: true,
      },
      { id: `${id}/downtime`, label: "downtime", unit: "ms", samples: downtimes, isDetail: true },
      { id: `${id}/total`, label: `${label}: whole migration`, unit: "ms", samples: all.map(({ totalMs }) => totalMs) },
    );
  }
  return metrics;
}

async function busyGuests({ quick, progress }: SubjectOptions, command: readonly string[]) {
  const metrics: Metric[] = [];
  const table: TextTable = {
    title: "A guest that writes to pages at 100 MB/s",
    rows: [["", "arrived", "pause ms", "rounds", "MB/s written", "seconds"]],
  };
  const options = { command, ramSizeBytes: BUSY_MIB * MIB, cpuCount: 1, payload: BUSY_PAYLOAD };
  for (const [id, { label, options: hopOptions }] of Object.entries(BUSY_CASES)) {
    progress.update(`migrate: busy guest ${label}`);
    await using traveller = await Traveller.start(options);
    const count = quick ? 2 : id === "narrow" ? 5 : 20;
    const all = await hops(traveller, hopOptions, count);
    metrics.push({ id: `busy/${id}`, label: `pause, busy guest ${label}`, unit: "ms", samples: pausesOf(all) });
    const middle = (of: (hop: Hop) => number | undefined): string => median(all.map((hop) => of(hop) ?? 0)).toFixed(1);
    table.rows.push([
      label,
      `${all.length} of ${count}`,
      middle(({ pauseMs }) => pauseMs),
      middle(({ info }) => info.ram?.["dirty-sync-count"]),
      middle(({ info }) => ((info.ram?.["dirty-pages-rate"] ?? 0) * 4096) / 1e6),
      middle(({ totalMs }) => totalMs / 1000),
    ]);
  }
  return { metrics, table };
}

async function reboots({ quick, progress }: SubjectOptions, command: readonly string[]) {
  const metrics: Metric[] = [];
  const notes: string[] = [];
  for (const place of ["memory", "disk"] satisfies StatePlace[]) {
    const directory = stateDirectory(place);
    if (directory === undefined) {
      notes.push("The directory for temporary files is in memory: cpr-reboot to a disk was not measured");
      continue;
    }
    const save: Metric = {
      id: `reboot/${place}/save`,
      label: `cpr-reboot, state in ${place}: save`,
      unit: "ms",
      samples: [],
    };
    const load: Metric = {
      id: `reboot/${place}/load`,
      label: `${save.label.slice(0, -6)}: load`,
      unit: "ms",
      samples: [],
    };
    const both: Metric = { id: `reboot/${place}`, label: `${save.label} and load`, unit: "ms", samples: [] };
    const rounds = quick ? 3 : 20;
    for (let round = 0; round < rounds; round++) {
      progress.update(`migrate: cpr-reboot, ${place}, ${round} of ${rounds}`);
      const options = { command, ramSizeBytes: 128 * MIB, cpuCount: 1, payload: { touchBytes: 16 * MIB } };
      const { saveMs, resumeMs, idleMs } = await measureReboot(options, directory);
      save.samples.push(saveMs);
      load.samples.push(resumeMs - idleMs);
      both.samples.push(saveMs + resumeMs - idleMs);
    }
    metrics.push(both, save, load);
  }
  return { metrics, notes };
}

async function run(options: SubjectOptions): Promise<SubjectResult> {
  const ram = await bandwidth(options);
  const problem = kvmProblem();
  if (problem !== undefined) return { ...ram, charts: [], notes: [problem] };
  const command = batonCommands().compiled;
  const pause = await pauses(options, command);
  const busy = await busyGuests(options, command);
  const reboot = await reboots(options, command);
  return {
    metrics: [...ram.metrics, ...pause, ...busy.metrics, ...reboot.metrics],
    ratios: ram.ratios,
    tables: [busy.table],
    charts: [],
    notes: reboot.notes,
  };
}

export const subject: Subject = {
  description: "RAM's bandwidth, pause and convergence of normal migration; cpr-reboot (needs /dev/kvm)",
  run,
};
