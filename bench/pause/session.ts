// SPDX-License-Identifier: Apache-2.0
// Measures one VM: its first update, further ones, and beside each of these what it is compared with.
import { availableParallelism } from "node:os";
import { MeasuredVm } from "../../src/meter/measured-vm.ts";
import { sleep } from "../../src/meter/vmm-process.ts";
import type { FloorForm, FloorProgram } from "../floor.ts";
import type { Metric } from "../types.ts";
import { PeerVm } from "./peer.ts";
import { describeConfiguration, type Form, type Session, SMALL_MIB } from "./plan.ts";
import { type Sample, type Series, select } from "./series.ts";

/** Attempts for each sample that is wanted, when the meter is disturbed. */
const ATTEMPTS = 2;
/** Execs in each look at the floor. */
const FLOOR_ROUNDS = 2;
/** After an update, until the old program's memory is given back. More for more RAM. */
const SETTLE_MS = 50;
const SETTLE_MS_PER_MIB = 1 / 25;

export interface SessionTools {
  /** Command lines of Baton in its forms. */
  commands: Record<Form, readonly string[]>;
  peer: string | undefined;
  floor: FloorProgram;
  floorMetrics: Record<Form, [firstLine: Metric, koffi: Metric]>;
  progress(text: string): void;
}

/** Adds to `series`. @throws Error when the guest has noticed anything but the pauses */
export async function runSession(session: Session, series: Series, tools: SessionTools): Promise<void> {
  if (session.configuration.contestant === "peer") await runPeer(session, series, tools);
  else await runBaton(session, session.configuration.contestant, series, tools);
}

async function runBaton(session: Session, form: Form, series: Series, tools: SessionTools): Promise<void> {
  const { configuration } = session;
  const { ramMiB, cpuCount } = configuration;
  const name = describeConfiguration(configuration);
  tools.progress(`${name}: touching RAM`);
  await using vm = await MeasuredVm.start({ command: tools.commands[form], ramSizeBytes: ramMiB * 2 ** 20, cpuCount });
  let updates = 0;
  const update = async (): Promise<Sample> => {
    await settle(ramMiB);
    const sample = await vm.update();
    updates++;
    if (sample.info.updates !== updates) throw new Error(`${name}: the VMM counts ${sample.info.updates} updates`);
    return sample;
  };
  series.fresh.push(await update());
  const besides = async (): Promise<void> => {
    series.stopCont.push(await vm.stopAndContinue());
    if (ramMiB === SMALL_MIB && cpuCount === 1) {
      addFloor(
        tools.floorMetrics[form],
        await vm.whileStopped(() => tools.floor.sample(form as FloorForm, FLOOR_ROUNDS)),
      );
    }
  };
  series.updates.push(...(await repeat(session, update, besides, tools)));
  await settle(ramMiB);
  expectNoFaults(name, vm.faults());
}

async function runPeer(session: Session, series: Series, tools: SessionTools): Promise<void> {
  const { configuration } = session;
  const { ramMiB, cpuCount } = configuration;
  const name = describeConfiguration(configuration);
  tools.progress(`${name}: touching RAM`);
  await using vm = await PeerVm.start({ command: [tools.peer!], ramSizeBytes: ramMiB * 2 ** 20, cpuCount });
  const update = async (): Promise<Sample> => {
    await settle(ramMiB);
    return await vm.update();
  };
  series.fresh.push(await update());
  series.updates.push(...(await repeat(session, update, async () => {}, tools)));
  expectNoFaults(name, vm.guest.faults());
}

/** Until there are enough samples that were not disturbed, or too many attempts. */
async function repeat(
  { configuration, updates }: Session,
  update: () => Promise<Sample>,
  besides: () => Promise<void>,
  tools: SessionTools,
): Promise<Sample[]> {
  const limit = canBeQuiet(configuration.cpuCount) ? ATTEMPTS * updates : updates;
  const samples: Sample[] = [];
  const isEnough = (): boolean => samples.filter(({ isDisturbed }) => !isDisturbed).length >= updates;
  while (samples.length < limit && !isEnough()) {
    tools.progress(`${describeConfiguration(configuration)}: update ${samples.length + 1}`);
    samples.push(await update());
    await besides();
  }
  return select(samples, updates);
}

/** With a core for every vCPU and one for the meter. Else every window is disturbed. */
export function canBeQuiet(cpuCount: number): boolean {
  return availableParallelism() > cpuCount;
}

function settle(ramMiB: number): Promise<void> {
  return sleep(SETTLE_MS + ramMiB * SETTLE_MS_PER_MIB);
}

function addFloor(metrics: [Metric, Metric], samples: { firstLineMs: number[]; koffiMs: number[] }): void {
  metrics[0].samples.push(...samples.firstLineMs);
  metrics[1].samples.push(...samples.koffiMs);
}

function expectNoFaults(name: string, faults: readonly string[]): void {
  if (faults.length > 0) throw new Error(`${name}: the guest noticed the updates:\n${faults.join("\n")}`);
}
