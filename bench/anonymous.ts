// SPDX-License-Identifier: Apache-2.0
// Updates of VMs whose RAM is anonymous: the pause by that of VMs with a memfd, and what moving RAM there costs before it.
import { kvmProblem } from "../src/cli/demo/preconditions.ts";
import { ConsoleLog } from "../src/meter/console-log.ts";
import type { GuestRam } from "../src/meter/guest-ram.ts";
import { sleep, VmmProcess } from "../src/meter/vmm-process.ts";
import { WatchedGuest } from "../src/meter/watched-guest.ts";
import type { QmpClient } from "../src/qmp/client.ts";
import type { MigrationInfo } from "../src/qmp/schema/migration.ts";
import { batonCommands } from "./pause.ts";
import { ratioOf } from "./ratio.ts";
import { median } from "./stats.ts";
import type { Metric, Subject, SubjectOptions, SubjectResult } from "./types.ts";
import { updated } from "./updated.ts";

const RAM_SIZE_BYTES = 2 ** 30;
const ROUNDS = 20;
const QUICK_ROUNDS = 2;
/** A guest touches 1 GiB in some seconds, where every instruction of it is interpreted. */
const READY_TIMEOUT_MS = 120_000;
const SETTLE_MS = 300;
const SPEED_INTERVAL_MS = 10;
/** After the update: enough to see what full speed is. */
const TAIL_MS = 1500;
/** Full speed, as a share of the median after the update. The guest's own work is not the same in each moment. */
const FULL = 0.9;
/** So many intervals at that speed, one after the other. */
const STEADY_INTERVALS = 5;

/** One line: when, on performance.now(), and the guest's counter. */
type Look = [ms: number, counter: number];

/** Looks at the guest's counter again and again. */
class SpeedLog {
  readonly looks: Look[] = [];
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(ram: GuestRam) {
    this.#timer = setInterval(() => {
      const counter = ram.report()?.counters[0];
      if (counter !== undefined) this.looks.push([performance.now(), Number(counter)]);
    }, SPEED_INTERVAL_MS);
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Counts per ms between two moments. */
  speed(fromMs: number, endMs: number): number {
    const inside = this.looks.filter(([ms]) => ms >= fromMs && ms <= endMs);
    const [first, last] = [inside[0]!, inside.at(-1)!];
    return (last[1] - first[1]) / (last[0] - first[0]);
  }

  /** When it was at full speed again after `fromMs`. */
  steadyAt(fromMs: number, full: number): number {
    let steady = 0;
    for (let index = 1; index < this.looks.length; index++) {
      const [before, look] = [this.looks[index - 1]!, this.looks[index]!];
      if (before[0] < fromMs) continue;
      steady = (look[1] - before[1]) / (look[0] - before[0]) >= full * FULL ? steady + 1 : 0;
      if (steady === STEADY_INTERVALS) return this.looks[index - STEADY_INTERVALS]![0];
    }
    throw new Error(`The guest was not at full speed again ${TAIL_MS} ms after its update`);
  }
}

interface Vm {
  process: VmmProcess;
  qmp: QmpClient;
}

/** A VM whose guest has touched all of its RAM; `action` is what is done with it. */
async function withVm<T>(hasAnonymousRam: boolean, action: (vm: Vm) => Promise<T>): Promise<T> {
  const options = { command: batonCommands().compiled, ramSizeBytes: RAM_SIZE_BYTES, cpuCount: 1, hasAnonymousRam };
  const process = new VmmProcess(options);
  try {
    const qmp = await process.connectQmp();
    const console = new ConsoleLog();
    console.connect(process.serialPath);
    await process.until("line of the guest", READY_TIMEOUT_MS, () => console.lines > 0 || undefined);
    await sleep(SETTLE_MS);
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
    const result = await action({ process, qmp });
    if (console.faults.length > 0) throw new Error(`The console lost lines:\n${console.faults.join("\n")}`);
    console.close();
    await qmp.execute("quit");
    qmp.destroy();
    return result;
  } catch (error) {
    process.kill();
    throw error;
  } finally {
    await process.close();
  }
}

function refuseFaults(guest: WatchedGuest): void {
  const faults = guest.faults();
  if (faults.length > 0) throw new Error(`The guest noticed it:\n${faults.join("\n")}`);
}

async function updateShared({ process, qmp }: Vm): Promise<MigrationInfo> {
  await using guest = await WatchedGuest.attach(process, 1);
  await qmp.execute("migrate", {});
  const info = await updated(qmp);
  refuseFaults(guest);
  return info;
}

interface AnonymousUpdate {
  info: MigrationInfo;
  /** From the order to update. */
  toFullSpeedMs: number;
  /** While RAM moves, as a share of full speed. */
  speed: number;
}

async function updateAnonymous({ process, qmp }: Vm): Promise<AnonymousUpdate> {
  const startMs = performance.now();
  await qmp.execute("migrate", {});
  await using guest = await WatchedGuest.attach(process, 1);
  const log = new SpeedLog(guest.ram);
  try {
    const info = await updated(qmp);
    const updatedMs = performance.now();
    await sleep(TAIL_MS);
    refuseFaults(guest);
    const moveEndMs = startMs + info["setup-time"]!;
    const full = fullSpeed(log, updatedMs);
    return {
      info,
      toFullSpeedMs: log.steadyAt(moveEndMs, full) - startMs,
      speed: log.speed(startMs, moveEndMs) / full,
    };
  } finally {
    log.stop();
  }
}

function fullSpeed({ looks }: SpeedLog, fromMs: number): number {
  const speeds: number[] = [];
  for (let index = 1; index < looks.length; index++) {
    const [before, look] = [looks[index - 1]!, looks[index]!];
    if (before[0] > fromMs) speeds.push((look[1] - before[1]) / (look[0] - before[0]));
  }
  return median(speeds);
}

/** The longest standstill while RAM moves: the update is cancelled when most of it has. */
async function standstill({ process, qmp }: Vm): Promise<number> {
  await qmp.execute("migrate", {});
  await using guest = await WatchedGuest.attach(process, 1);
  const { pauseMs } = await guest.measure(async () => {
    for (;;) {
      const { ram, status } = await qmp.execute("query-migrate");
      if (status !== "setup") throw new Error(`RAM had moved before it could be looked at: ${status}`);
      if (ram !== undefined && ram.remaining < ram.total / 8) break;
      await sleep(SPEED_INTERVAL_MS);
    }
    await qmp.execute("migrate_cancel");
  });
  // The rest moves with the update that is carried out.
  await qmp.execute("migrate", {});
  await updated(qmp);
  refuseFaults(guest);
  return pauseMs;
}

async function run({ quick, progress }: SubjectOptions): Promise<SubjectResult> {
  const problem = kvmProblem();
  if (problem !== undefined) return { metrics: [], ratios: [], charts: [], notes: [problem] };
  const metric = (id: string, label: string): Metric => ({ id, label, unit: "ms", samples: [] });
  const anonymous = metric("anonymous", "pause of the first update, anonymous RAM of 1 GiB");
  const memfd = metric("memfd", "pause of the first update, memfd of 1 GiB");
  const moving = metric("moving", "anonymous RAM: from the order to the pause");
  const longest = metric("longest", "anonymous RAM: longest standstill while it moves");
  const toFullSpeed = metric("to-full-speed", "anonymous RAM: from the order to full speed");
  const speeds: number[] = [];
  for (let round = 1; round <= (quick ? QUICK_ROUNDS : ROUNDS); round++) {
    progress.update(`anonymous: ${round}`);
    const shared = await withVm(false, updateShared);
    memfd.samples.push(shared["downtime-us"]! / 1000);
    const { info, toFullSpeedMs, speed } = await withVm(true, updateAnonymous);
    anonymous.samples.push(info["downtime-us"]! / 1000);
    moving.samples.push(info["setup-time"]!);
    toFullSpeed.samples.push(toFullSpeedMs);
    speeds.push(speed);
    if (round % 4 === 1) longest.samples.push(await withVm(true, standstill));
  }
  return {
    metrics: [anonymous, memfd, moving, longest, toFullSpeed],
    ratios: [ratioOf("pause", "pause with anonymous RAM / with a memfd", "lower", anonymous, memfd)],
    charts: [],
    notes: [`While RAM moves the guest counts at ${(100 * median(speeds)).toFixed(0)} % of its speed (median)`],
  };
}

export const subject: Subject = {
  description: "updates of VMs with anonymous RAM, which moves to a memfd first (needs /dev/kvm)",
  run,
};
