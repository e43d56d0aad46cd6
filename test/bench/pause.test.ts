// SPDX-License-Identifier: Apache-2.0
import { floorMetrics } from "../../bench/floor.ts";
import { judgePeer } from "../../bench/pause/peer.ts";
import { type Configuration, describeConfiguration, idOf, planSessions } from "../../bench/pause/plan.ts";
import { resultOf } from "../../bench/pause/result.ts";
import { phasesOf, type Sample, type Series, select } from "../../bench/pause/series.ts";
import { reportText, subjectReport } from "../../bench/report.ts";
import { renderSvg } from "../../src/meter/svg.ts";
import { assert, describe } from "../harness.ts";

const test = describe("pause");

const SMALL: Configuration = { contestant: "compiled", ramMiB: 128, cpuCount: 1 };
const LARGE: Configuration = { contestant: "compiled", ramMiB: 3072, cpuCount: 1 };

function sampleOf(pauseMs: number, isDisturbed = false): Sample {
  const info = {
    "downtime-us": pauseMs * 900,
    phases: [
      { phase: "save", "duration-us": pauseMs * 300 },
      { phase: "exec", "duration-us": pauseMs * 600 },
    ],
  };
  return { pauseMs, atMostMs: isDisturbed ? pauseMs + 2 : pauseMs, isDisturbed, info };
}

const seriesOf = (configuration: Configuration, pauses: number[], fresh: number[]): Series => ({
  configuration,
  updates: pauses.map((pauseMs) => sampleOf(pauseMs)),
  fresh: fresh.map((pauseMs) => sampleOf(pauseMs)),
  stopCont: [
    { pauseMs: 1, atMostMs: 1, isDisturbed: false },
    { pauseMs: 9, atMostMs: 40, isDisturbed: true },
  ],
});

function floorOf(koffiMs: number[]) {
  const [firstLine, koffi] = floorMetrics("compiled", "floor/");
  koffi.samples.push(...koffiMs);
  return {
    compiled: [firstLine, koffi] as [typeof koffi, typeof koffi],
    "bun-run": floorMetrics("bun-run", "floor/"),
  };
}

test("idOf is stable: baselines and budgets know it", () => {
  assert.is(idOf(SMALL), "compiled/128-mib/1-vcpu");
  assert.is(idOf({ contestant: "bun-run", ramMiB: 3072, cpuCount: 2 }), "bun-run/3-gib/2-vcpu");
  assert.is(describeConfiguration(LARGE), "compiled, 3 GiB, 1 vCPU");
});

test("planSessions gives each configuration several fresh VMs and 20 further updates", () => {
  const sessions = planSessions({ quick: false, hasPeer: true });
  const ids = [...new Set(sessions.map(({ configuration }) => idOf(configuration)))];
  assert.is(ids.length, 2 * 3 * 2 + 3);
  for (const id of ids) {
    const own = sessions.filter(({ configuration }) => idOf(configuration) === id);
    assert.ok(own.length >= 2, id);
    assert.ok(own.reduce((sum, { updates }) => sum + updates, 0) >= 20, id);
  }
});

test("planSessions takes the configurations in turns", () => {
  const sessions = planSessions({ quick: false, hasPeer: false });
  const ids = sessions.map(({ configuration }) => idOf(configuration));
  assert.is(new Set(ids.slice(0, 12)).size, 12);
});

test("planSessions for a quick look measures two sizes of the compiled binary", () => {
  const ids = planSessions({ quick: true, hasPeer: false }).map(({ configuration }) => idOf(configuration));
  assert.equal([...new Set(ids)], [idOf(SMALL), idOf(LARGE)]);
});

test("select prefers what was not disturbed, then what is known best, and keeps the order", () => {
  const [a, b, c, d] = [sampleOf(9, true), sampleOf(5), { ...sampleOf(7, true), atMostMs: 7.5 }, sampleOf(6)];
  assert.equal(select([a!, b!, c!, d!], 2), [b, d]);
  assert.equal(select([a!, b!, c!, d!], 3), [b, c, d]);
  assert.equal(select([a!], 3), [a]);
});

test("phasesOf collects durations in the VMM's order", () => {
  assert.equal(phasesOf([sampleOf(10), sampleOf(20)]), [
    { phase: "save", samplesMs: [3, 6] },
    { phase: "exec", samplesMs: [6, 12] },
  ]);
  assert.equal(phasesOf([{ pauseMs: 1, atMostMs: 1, isDisturbed: false, info: {} }]), []);
});

test("resultOf has the promised ratios, from medians of the same run", () => {
  const series = [seriesOf(SMALL, [8, 8, 9], [10]), seriesOf(LARGE, [8.8, 8.8, 20], [11])];
  const { ratios, metrics } = resultOf({ series, floor: floorOf([5, 5]), subtitle: "" });
  const ratio = (id: string): number => Number(ratios.find((candidate) => candidate.id === id)!.value.toFixed(6));
  assert.is(ratio("floor"), 1.6);
  assert.is(ratio("ram"), 1.1);
  assert.is(ratio("ram-fresh"), 1.1);
  assert.is(ratio("downtime"), 0.9);
  assert.is(
    ratios.find(({ id }) => id === "vcpus"),
    undefined,
    "what was not measured has no ratio",
  );
  const stopCont = metrics.find(({ id }) => id === "compiled/stop-cont/1-vcpu")!;
  assert.equal(stopCont.samples, [1, 1]);
});

test("resultOf can be printed and drawn, also without phases and floor", () => {
  const peer = seriesOf({ ...SMALL, contestant: "peer" }, [30, 31], [40]);
  for (const sample of peer.updates) sample.info = { downtime: 30 };
  const result = resultOf({ series: [seriesOf(SMALL, [8, 9], [10]), peer], floor: floorOf([]), subtitle: "a machine" });
  const report = subjectReport("pause", result);
  const text = reportText(
    {
      version: 1,
      isQuick: false,
      subjects: [report],
      machine: { cpu: "c", cores: 2, memoryGiB: 1, kernel: "k", runtime: "r", date: "d", load: 0 },
    },
    [],
    [],
  );
  assert.match(text, /QEMU, 128 MiB, 1 vCPU: first update +40\.0/);
  assert.match(text, /compiled, 128 MiB, 1 vCPU +2\.55 +5\.10/);
  assert.not.match(text, "floor/");
  assert.match(renderSvg(result.charts), "<svg");
});

const reply = (id: string, body: object): string => JSON.stringify({ ...body, id });
const version = (major: number, minor: number): string =>
  reply("version", { return: { qemu: { major, minor, micro: 1 }, package: "" } });

test("judgePeer accepts a QEMU with cpr-exec", () => {
  const output = ['{"QMP": {}}', '{"return": {}}', version(10, 2), reply("cpr-exec", { return: {} })].join("\r\n");
  assert.is(judgePeer("qemu", output), undefined);
  assert.is(judgePeer("qemu", output.replace('"minor":2', '"minor":3')), undefined);
});

test("judgePeer says what is wrong with the others", () => {
  assert.match(judgePeer("qemu", version(10, 1))!, "10.1.1 has no cpr-exec; it needs 10.2");
  assert.match(judgePeer("qemu", version(7, 2))!, "7.2.1");
  const refusal = reply("cpr-exec", { error: { desc: "Parameter 'mode' does not accept value 'cpr-exec'" } });
  assert.match(judgePeer("qemu", `${version(11, 0)}\n${refusal}`)!, "does not accept value");
  assert.match(judgePeer("cat", "hello")!, "not a QEMU");
});

test.run();
