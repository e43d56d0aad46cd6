// SPDX-License-Identifier: Apache-2.0
// What a guard adds to the pause of cpr-exec: updates with and without, in turn, of the same VM.
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { MeasuredVm } from "../src/meter/measured-vm.ts";
import { sleep } from "../src/meter/vmm-process.ts";
import { connect } from "../src/qmp/client.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";
import { updated } from "./updated.ts";

const RAM_SIZE_BYTES = 128 * 2 ** 20;
const ROUNDS = 40;
const QUICK_ROUNDS = 10;
const SETTLE_MS = 100;
const GUARD_TIMEOUT_MS = 2000;

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const metric = (id: string, label: string): Metric => ({ id, label, unit: "ms", samples: [] });
  const guarded = metric("guarded", "pause of an update with a guard");
  const alone = metric("alone", "pause of an update without");
  const vm = await MeasuredVm.start({ command: batonCommands().compiled, ramSizeBytes: RAM_SIZE_BYTES, cpuCount: 1 });
  const qmp = await connect({ path: vm.process.qmpPath });
  try {
    for (let round = 1; round <= (quick ? QUICK_ROUNDS : ROUNDS); round++) {
      progress.update(`guard: ${round}`);
      // Whatever follows the other kind is followed by it, too.
      const order = round % 2 === 0 ? [guarded, alone] : [alone, guarded];
      for (const kind of order) {
        await sleep(SETTLE_MS);
        const timeoutMs = kind === guarded ? GUARD_TIMEOUT_MS : 0;
        await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "guard-timeout": timeoutMs });
        await qmp.execute("migrate", {});
        kind.samples.push((await updated(qmp))["downtime-us"]! / 1000);
      }
    }
    const faults = vm.guest.faults();
    if (faults.length > 0) throw new Error(`The guest noticed it:\n${faults.join("\n")}`);
  } finally {
    qmp.destroy();
    await vm.close();
  }
  return {
    metrics: [guarded, alone],
    ratios: [ratioOf("added", "pause with a guard / without", "lower", guarded, alone)],
    charts: [],
    notes: [],
  };
}

export const subject: Subject = { description: "guards: what they add to the pause of cpr-exec (needs /dev/kvm)", run };
