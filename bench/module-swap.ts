// SPDX-License-Identifier: Apache-2.0
// Swaps of a device module: how long the guest's accesses to the device wait, and that nothing else does.
//
// First without a VM: what takes long there is neither a guest that is interpreted nor a CPU that somebody else has.
//
// Then two VMs with one vCPU each, one after the other: with two, they and the VMM would wait for CPUs on a machine that has no
// more. In one the vCPU reads the UART's scratch register all the time, in the other it touches no device at all.
import { fileURLToPath } from "node:url";
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { MeasuredVm } from "../src/meter/measured-vm.ts";
import { sleep } from "../src/meter/vmm-process.ts";
import type { ObservedPause } from "../src/meter/watched-guest.ts";
import type { SelfCheckOptions } from "../src/payload/plan.ts";
import { connect } from "../src/qmp/client.ts";
import { measureAccesses } from "./module-swap/accesses.ts";
import { select } from "./pause/series.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";

const RAM_SIZE_BYTES = 32 * 2 ** 20;
const ROUNDS = 40;
const QUICK_ROUNDS = 10;
/** Windows in which the meter had no CPU of its own are measured again, up to so many times as often as wanted. */
const MAX_TRIES = 2;
/** As long as a swap takes, from the command to the reply. */
const QUIET_MS = 30;
const UART_SCR_PORT = 0x3ff;
const MODULE_FILE = fileURLToPath(new URL("../build/modules/uart16550.wasm", import.meta.url));

/** A round of checks follows a few steps of the counter: with a port to probe, an access every 0.3 ms. */
const RESTLESS: SelfCheckOptions = {
  ...{ touchBytes: 8 << 20, ticksPerLine: 0, workingSetBytes: 0, sweepPagesPerRound: 0 },
  ...{ iterationsPerBurst: 8, burstsPerRound: 1 },
};

interface Measured {
  swaps: ObservedPause[];
  quiet: ObservedPause[];
  closedMs: number[];
}

async function measure(payload: SelfCheckOptions, rounds: number, onRound: () => void): Promise<Measured> {
  const measured: Measured = { swaps: [], quiet: [], closedMs: [] };
  const command = batonCommands().compiled;
  const vm = await MeasuredVm.start({ command, ramSizeBytes: RAM_SIZE_BYTES, cpuCount: 1, payload });
  const qmp = await connect({ path: vm.process.qmpPath });
  const swapModule = () => qmp.execute("device-module-swap", { device: "uart16550", filename: MODULE_FILE });
  const isDone = (windows: readonly ObservedPause[]): boolean =>
    windows.filter(({ isDisturbed }) => !isDisturbed).length >= rounds || windows.length >= rounds * MAX_TRIES;
  try {
    // The first one compiles what the others find.
    await swapModule();
    while (!isDone(measured.swaps) || !isDone(measured.quiet)) {
      onRound();
      const { value: _, ...quiet } = await vm.guest.measure(() => sleep(QUIET_MS));
      const { value, ...swap } = await vm.guest.measure(swapModule);
      measured.quiet.push(quiet);
      measured.swaps.push(swap);
      measured.closedMs.push(value["closed-us"] / 1000);
    }
    const faults = vm.guest.faults();
    if (faults.length > 0) throw new Error(`The guest noticed it:\n${faults.join("\n")}`);
  } finally {
    qmp.destroy();
    await vm.close();
  }
  return measured;
}

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const rounds = quick ? QUICK_ROUNDS : ROUNDS;
  const metric = (id: string, label: string, samples: number[]): Metric => ({ id, label, unit: "ms", samples });
  progress.update("module-swap");
  const bare = metric("bare", "access that meets a swap, without a VM", await measureAccesses(MODULE_FILE, rounds));
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [bare], ratios: [], charts: [], notes: [problem] };
  let round = 0;
  const onRound = (): void => progress.update(`module-swap: ${++round}`);
  const accessing = await measure({ ...RESTLESS, probePort: UART_SCR_PORT }, rounds, onRound);
  const others = await measure(RESTLESS, rounds, onRound);
  const pauses = (id: string, label: string, windows: readonly ObservedPause[]): Metric =>
    metric(
      id,
      label,
      select(windows, rounds).map(({ pauseMs }) => pauseMs),
    );
  const access = pauses("access", "standstill of a vCPU that accesses the device, during a swap", accessing.swaps);
  const accessQuiet = pauses("access-quiet", "the same without a swap", accessing.quiet);
  const other = pauses("other", "standstill of a vCPU that does not, during a swap", others.swaps);
  const otherQuiet = pauses("other-quiet", "the same without a swap", others.quiet);
  const closed = metric("closed", "accesses kept out, as the VMM tells it", accessing.closedMs);
  const windows = [accessing, others].flatMap(({ swaps, quiet }) => [...swaps, ...quiet]);
  const disturbed = windows.filter(({ isDisturbed }) => isDisturbed).length;
  return {
    metrics: [bare, access, accessQuiet, other, otherQuiet, closed],
    ratios: [ratioOf("nobody-else", "standstill of others with a swap / without", "lower", other, otherQuiet)],
    charts: [],
    notes: disturbed === 0 ? [] : [`In ${disturbed} of ${windows.length} windows the meter had no CPU of its own`],
  };
}

export const subject: Subject = {
  description: "device-module-swap: how long accesses to the device wait (needs /dev/kvm)",
  run,
};
