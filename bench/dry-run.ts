// SPDX-License-Identifier: Apache-2.0
// Dry runs of cpr-exec: what they cost the guest, and how near their predictions come to the updates that follow.
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { findMemoryFile } from "../src/meter/guest-ram.ts";
import { MeasuredVm } from "../src/meter/measured-vm.ts";
import { PauseMeter } from "../src/meter/pause-meter.ts";
import { RAM_NAME, sleep } from "../src/meter/vmm-process.ts";
import { counterGpa } from "../src/payload/report.ts";
import { connect, type QmpClient } from "../src/qmp/client.ts";
import type { DryRunInfo } from "../src/qmp/schema/migration.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";
import { updated } from "./updated.ts";

const RAM_SIZE_BYTES = 128 * 2 ** 20;
const ROUNDS = 24;
const QUICK_ROUNDS = 6;
const POLL_MS = 5;
const SETTLE_MS = 100;
const THRESHOLD_NS = 50_000;

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const metric = (id: string, label: string): Metric => ({ id, label, unit: "ms", samples: [] });
  const standstill = metric("standstill", "guest stands for a dry run");
  const stopCont = metric("stop-cont", "a client's stop and, after the reply, cont");
  const predicted = metric("predicted", "predicted pause");
  const pause = metric("pause", "pause of the update that follows");
  const vm = await MeasuredVm.start({
    command: batonCommands().compiled,
    ramSizeBytes: RAM_SIZE_BYTES,
    cpuCount: 1,
  });
  const qmp = await connect({ path: vm.process.qmpPath });
  const path = findMemoryFile(vm.process.pid, [RAM_NAME])!;
  const meter = await PauseMeter.open({ path, counterOffsets: [counterGpa(0)], thresholdNs: THRESHOLD_NS });
  try {
    for (let round = 1; round <= (quick ? QUICK_ROUNDS : ROUNDS); round++) {
      progress.update(`dry-run: ${round}`);
      await sleep(SETTLE_MS);
      await meter.arm();
      await qmp.execute("stop");
      await qmp.execute("cont");
      await sleep(SETTLE_MS);
      stopCont.samples.push((await meter.disarm()).longestStandstillNs / 1e6);
      await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
      await qmp.execute("migrate", { "dry-run": true });
      const found = await foundOut(qmp);
      standstill.samples.push(found["standstill-us"]! / 1000);
      predicted.samples.push(found["predicted-downtime-us"]! / 1000);
      await sleep(SETTLE_MS);
      await qmp.execute("migrate", {});
      pause.samples.push((await updated(qmp))["downtime-us"]! / 1000);
    }
    const faults = vm.guest.faults();
    if (faults.length > 0) throw new Error(`The guest noticed it:\n${faults.join("\n")}`);
  } finally {
    await meter.close();
    qmp.destroy();
    await vm.close();
  }
  return {
    metrics: [standstill, stopCont, predicted, pause],
    ratios: [
      ratioOf("standstill", "guest stands for a dry run / for a client's stop and cont", "lower", standstill, stopCont),
      ratioOf("prediction", "predicted pause / pause of the update that follows", "lower", predicted, pause),
    ],
    charts: [],
    notes: [],
  };
}

async function foundOut(qmp: QmpClient): Promise<DryRunInfo> {
  for (;;) {
    const info = (await qmp.execute("query-migrate"))["dry-run"]!;
    if (info.status === "would-work") return info;
    if (info.status !== "active") throw new Error(`The dry run said ${JSON.stringify(info)}`);
    await sleep(POLL_MS);
  }
}

export const subject: Subject = {
  description: "dry runs: what they cost the guest, and how right they are (needs /dev/kvm)",
  run,
};
