// SPDX-License-Identifier: Apache-2.0
// One guest, updated again and again by all modes, with everything going wrong that can. It must never be lost, run twice, or
// find anything of itself changed; and nothing may be left behind.
//
//   bun run test/chaos/run.ts [--updates 2000] [--seed N] [--only MODE]
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { temporaryDirectory } from "../ffi/support.ts";
import { type Runtime, until } from "../guest.ts";
import { allFaults, type Fault, inTurns, MODES, mustSucceed } from "./faults.ts";
import { type ChaosGuest, payload } from "./guest.ts";
import { liftLimits } from "./old-faults.ts";
import { type Outcome, update } from "./updates.ts";

const RUNTIMES: readonly Runtime[] = ["compiled", "compiled", "bun", "deno"];
const SMALL_DISK = "size=512k";
/** Set for every process of a run, and so for all that they start. */
const RUN_VARIABLE = "BATON_CHAOS_RUN";

export interface ChaosOptions {
  updates: number;
  seed: number;
  only?: string | undefined;
  onRound?(text: string): void;
  /** Default: the self-checking payload. */
  guest?: ChaosGuest;
  /** What takes the guest over when nothing is wrong with it. */
  runtimes?: readonly Runtime[];
  /** See `UpdateOptions`. Default: 1. */
  slowness?: number;
  /** Only where nobody else goes by the host's clock. */
  mayStepClock?: boolean;
}

export interface ChaosResult {
  /** A line for each mode and fault. */
  table: string;
  summary: string;
}

/** @throws Error naming seed and round of what went wrong */
export async function runChaos(options: ChaosOptions): Promise<ChaosResult> {
  const { updates, seed, only, onRound } = options;
  const { guest = payload(), runtimes = RUNTIMES, slowness = 1, mayStepClock = false } = options;
  // Park and Miller's generator: a run can be repeated, as far as processes run alike.
  let random = (seed % 2147483646) + 1;
  const below = (limit: number): number => {
    random = (random * 48271) % 2147483647;
    return random % limit;
  };
  const run = `${process.pid}-${seed}`;
  const filesBefore = new Set(readdirSync(tmpdir()));
  using disk = mountSmallDisk();
  if (disk.path === undefined) console.log("NOTE chaos: a full disk is not tried: mounting a small one takes root");
  const means = { hasSmallDisk: disk.path !== undefined, mayStepClock };
  const faults = inTurns(
    allFaults(means).filter(({ mode }) => !only || mode === only),
    () => below(2 ** 31),
  );
  const tally = new Map<string, Record<Outcome, number>>();
  process.env[RUN_VARIABLE] = run;
  let owner = await guest.start();
  try {
    await guest.goesOn(owner);
    for (let round = 1; round <= updates; round++) {
      // Each of them once, and then at random.
      const fault = round <= faults.length ? faults[round - 1]! : faults[below(faults.length)]!;
      const what = `${fault.mode}, ${fault.fault} @ ${fault.phase}`;
      onRound?.(`${round}: ${what}`);
      try {
        const runtime = runtimes[below(runtimes.length)]!;
        const { backends } = guest;
        const updated = await update(owner, { fault, runtime, below, smallDisk: disk.path, backends, slowness });
        ({ owner } = updated);
        const { outcome, reason } = updated;
        onRound?.(`${round}: ${outcome}${reason === undefined ? "" : `: ${reason}`}`);
        if (mustSucceed(fault) && outcome !== "done") throw new Error(`The guest was ${outcome}: ${reason}`);
        liftLimits(owner.pid);
        await guest.goesOn(owner);
        await until("one process to have the guest", () => {
          const pids = processesOf(run).filter(hasVcpus);
          return pids.length === 1 && pids[0] === String(owner.pid);
        });
        const record = tally.get(key(fault)) ?? { done: 0, refused: 0, rescued: 0 };
        record[outcome]++;
        tally.set(key(fault), record);
      } catch (error) {
        throw new Error(`seed ${seed}, round ${round}, ${what}: ${(error as Error).stack}\n${owner.error}`, {
          cause: error,
        });
      }
    }
    const report = guest.report(owner);
    const fds = memfdsOf(owner.pid);
    await using qmp = await owner.qmp();
    await qmp.execute("quit");
    await owner.gone();
    await until("every process of the run to be gone", () => processesOf(run).length === 0);
    const leftFiles = readdirSync(tmpdir()).filter((name) => !filesBefore.has(name) && name.startsWith("baton-update"));
    if (leftFiles.length > 0) throw new Error(`Files are left behind: ${leftFiles.join(", ")}`);
    if (fds.length > 1) throw new Error(`The last process had more memfds than the guest's RAM: ${fds.join(", ")}`);
    const summary = `${updates} updates, seed ${seed}: the guest was never lost and never ran twice, ${report}; no process, memfd or file is left`;
    return { table: formatTable(tally), summary };
  } finally {
    await owner[Symbol.asyncDispose]();
    delete process.env[RUN_VARIABLE];
  }
}

function key({ mode, fault }: Fault): string {
  return `${mode} | ${fault}`;
}

function mountSmallDisk(): Disposable & { path: string | undefined } {
  const path = join(temporaryDirectory(), "disk");
  mkdirSync(path);
  const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", SMALL_DISK, "baton-chaos", path]);
  if (status !== 0) return { path: undefined, [Symbol.dispose]: () => {} };
  return { path, [Symbol.dispose]: () => void spawnSync("umount", [path]) };
}

function processesOf(run: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/environ`, "latin1").includes(`${RUN_VARIABLE}=${run}`);
    } catch {
      return false;
    }
  });
}

function fdsOf(pid: number | string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
      } catch {
        return [];
      }
    });
  } catch {
    // It has ended.
    return [];
  }
}

function memfdsOf(pid: number): string[] {
  return fdsOf(pid).filter((target) => target.startsWith("/memfd:") && !target.includes("JIT"));
}

function hasVcpus(pid: string): boolean {
  return fdsOf(pid).some((target) => target.startsWith("anon_inode:kvm-vcpu"));
}

function formatTable(tally: Map<string, Record<Outcome, number>>): string {
  const rows = [...tally].sort(([a], [b]) => order(a) - order(b) || a.localeCompare(b));
  const lines = rows.map(([name, { done, refused, rescued }]) => `| ${name} | ${done} | ${refused} | ${rescued} |`);
  const head = "| mode | fault | in the new program | in the old one, same process | in the old one, rescued |";
  return [head, "|---|---|---|---|---|", ...lines].join("\n");
}

function order(name: string): number {
  return MODES.findIndex((mode) => name.startsWith(`${mode} `));
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { updates: { type: "string", default: "2000" }, seed: { type: "string" }, only: { type: "string" } },
  });
  const seed = Number(values.seed ?? Date.now() % 2 ** 31);
  const { table, summary } = await runChaos({
    updates: Number(values.updates),
    seed,
    only: values.only,
    onRound: (text) => console.log(`${new Date().toISOString().slice(11, 19)} ${text}`),
  });
  console.log(`\n${table}\n\n${summary}`);
}
