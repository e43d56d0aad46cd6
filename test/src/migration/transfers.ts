// SPDX-License-Identifier: Apache-2.0
// Two VMM processes and what goes on between them, for the tests of cpr-transfer.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { MigrationAddress } from "../../../src/config/types.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { CommandResult } from "../../../src/qmp/schema.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, program, type Runtime, thisRuntime, until } from "../../guest.ts";
import { assert } from "../../harness.ts";

export interface Sockets {
  main: string;
  cpr: string;
}

export function sockets(): Sockets {
  const dir = temporaryDirectory();
  return { main: join(dir, "main.sock"), cpr: join(dir, "cpr.sock") };
}

export const unix = (path: string) => ({ transport: "socket" as const, type: "unix" as const, path });

/** `-incoming` for the cpr channel, as JSON. */
export function cprChannel(path: string): string {
  return JSON.stringify({ "channel-type": "cpr", addr: unix(path) });
}

/** A VMM that waits for a guest. Its RAM is looked at through the process that has the guest now. */
export function waiting({ main, cpr }: Sockets, options: GuestOptions & { defer?: boolean } = {}): GuestProcess {
  const { defer = false, extra = [], ...others } = options;
  return waitingWith(["-incoming", defer ? "defer" : `unix:${main}`, "-incoming", cprChannel(cpr), ...extra], others);
}

/** A VMM that is told with `options` to wait for a guest. */
export function waitingWith(options: string[], others: GuestOptions = {}): GuestProcess {
  return new GuestProcess({ runtime: thisRuntime, bare: true, ...others, extra: options });
}

/** Another program than Baton itself, of this folder, to start in `GuestOptions`. */
export function variant(name: string, env: Record<string, string>): GuestOptions {
  const path = fileURLToPath(new URL(name, import.meta.url));
  return { program: [...program(thisRuntime).slice(0, -1), path], env };
}

/** A Baton that sends itself `signal` at a step of faulty-baton.ts. */
export function faulty(step: string, signal: "SIGKILL" | "SIGSTOP" | "SLOW" = "SIGKILL"): GuestOptions {
  return variant("faulty-baton.ts", { BATON_TEST_FAULT: `${step}:${signal}` });
}

/** `migrate` by cpr-transfer; returns when it is over. */
export async function transferTo(qmp: QmpClient, place: Sockets): Promise<CommandResult<"query-migrate">> {
  await beginTransfer(qmp, place);
  return over(qmp);
}

export async function beginTransfer(
  qmp: QmpClient,
  { main, cpr }: { main: string | MigrationAddress; cpr: string },
): Promise<void> {
  await qmp.execute("migrate-set-parameters", { mode: "cpr-transfer" });
  const addr = typeof main === "string" ? unix(main) : main;
  await qmp.execute("migrate", {
    channels: [
      { "channel-type": "main", addr },
      { "channel-type": "cpr", addr: unix(cpr) },
    ],
  });
}

export async function over(qmp: QmpClient): Promise<CommandResult<"query-migrate">> {
  return until("the end of the migration", async () => {
    const info = await qmp.execute("query-migrate");
    return ["completed", "failed", "cancelled"].includes(info.status ?? "") ? info : undefined;
  });
}

/** What has been written to standard error by both, for messages of failing tests. */
export function complaints(...guests: GuestProcess[]): string {
  return guests.map(({ error }, index) => `\nprocess ${index}: ${error}`).join("");
}

/** Moves the guest to a process that waits for it: it runs on there, and here it is fenced. */
export async function moved(
  old: GuestProcess,
  next: GuestProcess,
  place: { main: string | MigrationAddress; cpr: string },
): Promise<void> {
  await using qmp = await old.qmp();
  await using nextQmp = await next.qmp();
  const updates = (await qmp.execute("query-migrate")).updates ?? 0;
  const counter = old.counter();
  await beginTransfer(qmp, place);
  const info = await over(qmp);
  assert.is(info.status, "completed", `${info["error-desc"]} ${complaints(old, next)}`);
  assert.is((await over(nextQmp)).status, "completed");
  await hasMoved(old, next);
  assert.ok(next.counter() >= counter, "the guest's RAM is the same");
  assert.is((await nextQmp.execute("query-migrate")).updates, updates + 1);
}

/** The guest runs in `next`, is clean, and stands for good in `old`. */
export async function hasMoved(old: GuestProcess, next: GuestProcess): Promise<void> {
  await using qmp = await old.qmp();
  await using nextQmp = await next.qmp();
  assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
  assert.equal(await nextQmp.execute("query-status"), { running: true, status: "running" });
  await stands(old, async () => next.runsOn());
}

/** What a parked thread may use: its runtime wakes it now and then. One that runs a guest uses all that it gets. */
const PARKED_TICKS = 2;

/** No vCPU of `guest` runs while `meanwhile` goes on. */
export async function stands(guest: GuestProcess, meanwhile: () => Promise<void>): Promise<void> {
  await using qmp = await guest.qmp();
  const threads = (await qmp.execute("query-cpus-fast")).map((cpu) => cpu["thread-id"]);
  const before = threads.map((thread) => cpuTicks(guest.pid, thread));
  await meanwhile();
  for (const [index, thread] of threads.entries()) {
    const used = cpuTicks(guest.pid, thread) - before[index]!;
    assert.ok(
      used <= PARKED_TICKS,
      `vCPU ${index} of the process that has not got the guest used ${used} ticks of CPU time`,
    );
  }
}

/** utime and stime of a thread, proc(5), in ticks of 10 ms; 0 for one that has gone or never was. */
function cpuTicks(pid: number, thread: number): number {
  if (!readdirSync(`/proc/${pid}/task`).includes(String(thread))) return 0;
  const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "latin1");
  const [utime, stime] = stat
    .slice(stat.lastIndexOf(")") + 2)
    .split(" ")
    .slice(11, 13);
  return Number(utime) + Number(stime);
}

/** The transfer has failed: the guest runs on where it was, whole, and can go on to somebody else. */
export async function hasStayed(guest: GuestProcess, qmp: QmpClient): Promise<string> {
  const info = await over(qmp);
  assert.is(info.status, "failed", JSON.stringify(info));
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  await guest.runsOn();
  return info["error-desc"]!;
}

/** Flag of a listening socket in /proc/net/unix, linux/net.h. */
const SO_ACCEPTCON = "00010000";

/** Waits until a process listens on a unix socket: its file is there a moment before that. */
export async function untilListening(guest: GuestProcess, path: string): Promise<void> {
  await guest.until(`somebody to listen on ${path}`, () =>
    readFileSync("/proc/net/unix", "utf8")
      .split("\n")
      .some((line) => line.endsWith(` ${path}`) && line.includes(` ${SO_ACCEPTCON} `)),
  );
}

/** Waits until a process is stopped by a signal. */
export async function untilStopped(guest: GuestProcess): Promise<void> {
  await guest.until("SIGSTOP", () => {
    const stat = readFileSync(`/proc/${guest.pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
  });
}

export const ALL_RUNTIMES: readonly Runtime[] = ["compiled", "bun", "deno"];

/** A process whose guest did not come ends with exit code 1, and leaves no sockets. */
export async function gaveUp(next: GuestProcess, place: Sockets): Promise<void> {
  assert.equal(await next.ended, { exitCode: 1, signal: null }, next.error);
  assert.not(existsSync(place.main) || existsSync(place.cpr), "the sockets are gone");
}

export interface Holdings {
  fds: string[];
  threads: number;
  children: string[];
}

export function holdsNoMore(after: Holdings, before: Holdings, who: string): void {
  assert.equal(after.fds, before.fds, `file descriptors of ${who}`);
  assert.equal(after.children, [], `children of ${who}`);
  // A runtime's own helper threads come and go.
  assert.ok(
    Math.abs(after.threads - before.threads) <= 4,
    `threads of ${who}: ${before.threads}, then ${after.threads}`,
  );
}

/** What a process holds, when that no longer changes. */
export async function resting(guest: GuestProcess): Promise<Holdings> {
  const holdings = () => ({
    fds: guest
      .fds()
      .map((target) => target.replace(/\d+/g, "N"))
      // Deno 2.9 keeps the event loop of many an ended worker that had loaded a native module. Its thread ends.
      .filter((target) => thisRuntime !== "deno" || !/^anon_inode:\[event(fd|poll)\]$/.test(target))
      .sort(),
    threads: readdirSync(`/proc/${guest.pid}/task`).length,
    children: guest.children(),
  });
  let last = holdings();
  await guest.until("fds and threads to rest", async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = holdings();
    const rests = now.fds.length === last.fds.length && now.threads === last.threads;
    last = now;
    return rests;
  });
  return last;
}
