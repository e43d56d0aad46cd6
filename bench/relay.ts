// SPDX-License-Identifier: Apache-2.0
// The two pauses of cpr-exec with a relay beside that of cpr-transfer: updates of both kinds in turn, of the same VM.

import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { updateByTransfer } from "../src/cli/update/by-transfer.ts";
import { MeasuredVm } from "../src/meter/measured-vm.ts";
import { sleep } from "../src/meter/vmm-process.ts";
import { connect } from "../src/qmp/client.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";
import { updated } from "./updated.ts";

const RAM_SIZE_BYTES = 128 * 2 ** 20;
const ROUNDS = 40;
const QUICK_ROUNDS = 8;
const SETTLE_MS = 200;
const TIMEOUT_MS = 60_000;

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const metric = (id: string, label: string): Metric => ({ id, label, unit: "ms", samples: [] });
  const there = metric("to-helper", "pause of a relay, to the helper");
  const back = metric("to-new", "pause of a relay, to the new program");
  const transfer = metric("transfer", "pause of cpr-transfer");
  const command = batonCommands().compiled;
  const vm = await MeasuredVm.start({ command, ramSizeBytes: RAM_SIZE_BYTES, cpuCount: 1 });
  const qmp = await connect({ path: vm.process.qmpPath });
  try {
    for (let round = 1; round <= (quick ? QUICK_ROUNDS : ROUNDS); round++) {
      progress.update(`relay: ${round}`);
      await sleep(SETTLE_MS);
      const { info } = await updateByTransfer(qmp, { command, timeoutMs: TIMEOUT_MS, log: undefined });
      if (info.status !== "completed") throw new Error(`The transfer failed: ${info["error-desc"]}`);
      transfer.samples.push(info["downtime-us"]! / 1000);
      await sleep(SETTLE_MS);
      await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", relay: true });
      await qmp.execute("migrate", {});
      const pauses = (await updated(qmp)).history!.slice(-2);
      for (const [index, { "downtime-us": us }] of pauses.entries()) [there, back][index]!.samples.push(us / 1000);
    }
    const faults = vm.guest.faults();
    if (faults.length > 0) throw new Error(`The guest noticed it:\n${faults.join("\n")}`);
    await qmp.execute("quit");
  } finally {
    qmp.destroy();
    await vm.close();
  }
  return {
    metrics: [there, back, transfer],
    ratios: [
      ratioOf("there", "pause to the helper / pause of cpr-transfer", "lower", there, transfer),
      ratioOf("back", "pause to the new program / pause of cpr-transfer", "lower", back, transfer),
    ],
    charts: [],
    notes: [],
  };
}

export const subject: Subject = { description: "relays: their two pauses beside cpr-transfer's (needs /dev/kvm)", run };
