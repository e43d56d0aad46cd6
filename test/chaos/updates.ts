// SPDX-License-Identifier: Apache-2.0
// One update of a guest by one mode, with one fault. Returns who has the guest afterwards, and how it got there.
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { QmpClient } from "../../src/qmp/client.ts";
import type { CommandResult } from "../../src/qmp/schema.ts";
import { temporaryDirectory } from "../ffi/support.ts";
import { type GuestOptions, GuestProcess, program, type Runtime } from "../guest.ts";
import { freePath, listening, Meddler, set } from "../src/migration/streams.ts";
import { beginTransfer, over, sockets, untilListening, waiting } from "../src/migration/transfers.ts";
import { ANYTIME, type Fault } from "./faults.ts";
import { afflict } from "./old-faults.ts";

type Info = CommandResult<"query-migrate">;

/**
 * `done`: the guest is in the new program; `refused`: in the old one, in its process; `rescued`: in the old one, in another
 * process.
 */
export type Outcome = "done" | "refused" | "rescued";

export interface Updated {
  owner: GuestProcess;
  outcome: Outcome;
  /** Why it was refused or rescued, where a VMM has said so. */
  reason?: string | undefined;
}

export interface UpdateOptions {
  fault: Fault;
  /** What takes the guest when nothing is wrong with it. */
  runtime: Runtime;
  below(limit: number): number;
  /** A directory with little space. */
  smallDisk: string | undefined;
  /** The guest's back ends, as options of a process that waits for it. */
  backends: readonly string[];
  /** How many times slower than usual the host is: so much more time has a program that is to take the guest. */
  slowness: number;
}

const GUARD_TIMEOUT_MS = 1500;
/** It has to be built, too, while the guest runs. */
const RELAY_TIMEOUT_MS = 8000;
/** Frames at the beginning of a stream, before the guest stands. */
const EARLY_FRAMES = 4;
/** A damaged stream that has ended by then neither well nor with an error is waited for in vain. */
const STREAM_TIMEOUT_MS = 3000;
const DAMAGES = ["flip", "cut", "no-space"];

const chaoticBaton = fileURLToPath(new URL("chaotic-baton.ts", import.meta.url));

/** Of the new program. */
function isOfProgram({ fault, phase }: Fault): boolean {
  return fault !== "none" && !fault.startsWith("old-") && phase !== ANYTIME;
}

/** The new program as a command line, without the VM's options. */
function newProgram({ fault, runtime }: UpdateOptions): string[] {
  if (!isOfProgram(fault)) return program(runtime);
  const [bun, run] = program("bun");
  return ["/usr/bin/env", `BATON_CHAOS=${fault.fault}@${fault.phase}`, bun!, run!, chaoticBaton];
}

/** The same as options of a process that waits. */
function newProcess(options: UpdateOptions): GuestOptions {
  const { fault, runtime } = options;
  const extra = [...options.backends];
  return isOfProgram(fault) && !DAMAGES.includes(fault.fault)
    ? { program: newProgram(options), extra }
    : { runtime, extra };
}

export async function update(owner: GuestProcess, options: UpdateOptions): Promise<Updated> {
  await using qmp = await owner.qmp();
  const end = afflict(owner.pid, options);
  try {
    return await updateBy(owner, qmp, options);
  } catch (error) {
    // A command that gets no fd says so at once.
    if (options.fault.fault !== "old-no-fds" || !(error as Error).message.startsWith("EMFILE")) throw error;
    return { owner, outcome: "refused" };
  } finally {
    end();
  }
}

async function updateBy(owner: GuestProcess, qmp: QmpClient, options: UpdateOptions): Promise<Updated> {
  switch (options.fault.mode) {
    case "cpr-exec":
    case "relay":
      return await byExec(owner, qmp, options);
    case "cpr-transfer":
      return await byTransfer(owner, qmp, options);
    case "cpr-reboot":
      return await byFile(owner, qmp, options);
    case "normal":
      return await byStream(owner, qmp, options);
  }
}

async function byExec(owner: GuestProcess, qmp: QmpClient, options: UpdateOptions): Promise<Updated> {
  const relay = options.fault.mode === "relay";
  await qmp.execute("migrate-set-parameters", {
    mode: "cpr-exec",
    relay,
    "guard-timeout": (relay ? RELAY_TIMEOUT_MS : GUARD_TIMEOUT_MS) * options.slowness,
    "cpr-exec-command": newProgram(options),
  });
  await qmp.execute("migrate", {});
  const info = await over(qmp);
  await qmp.execute("migrate-set-parameters", { relay: false, "guard-timeout": 0 });
  if (info.status === "completed") return { owner, outcome: "done" };
  const reason = info["error-desc"]!;
  if (!/ keeps it: |; the guest was taken back$/.test(reason)) return { owner, outcome: "refused", reason };
  await owner.follow();
  return { owner, outcome: "rescued", reason };
}

async function byTransfer(owner: GuestProcess, qmp: QmpClient, options: UpdateOptions): Promise<Updated> {
  const place = sockets();
  const next = waiting(place, newProcess(options));
  if (await hasEndedBefore(next, () => untilListening(next, place.cpr))) return await stayed(owner, qmp, next);
  await beginTransfer(qmp, place);
  if (options.fault.fault === "old-kill") return await killedOnceGone(owner, next);
  return await settle(owner, qmp, next, await over(qmp));
}

/** The old process is killed as soon as the guest runs in the new one, whatever it has left to do. */
async function killedOnceGone(owner: GuestProcess, next: GuestProcess): Promise<Updated> {
  await using nextQmp = await next.qmp();
  await next.until("the guest", async () => (await nextQmp.execute("query-status")).running);
  owner.signal("SIGKILL");
  await owner.ended;
  await owner[Symbol.asyncDispose]();
  return { owner: next, outcome: "done" };
}

/** It may end before it is ready. True when it has, or stands still. */
async function hasEndedBefore(next: GuestProcess, isReady: () => Promise<unknown>): Promise<boolean> {
  const hasStopped = next.until("it to stop", () => standsStill(next.pid));
  const first = await Promise.race([
    isReady().then(
      () => "ready",
      () => "ended",
    ),
    next.ended.then(() => "ended"),
    hasStopped.then(
      () => "stopped",
      () => "ended",
    ),
  ]);
  return first !== "ready";
}

function standsStill(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).startsWith("T");
  } catch {
    return false;
  }
}

async function byStream(owner: GuestProcess, qmp: QmpClient, options: UpdateOptions): Promise<Updated> {
  const { fault, below } = options;
  const next = incoming(`unix:${freePath()}`, newProcess(options));
  let uri = "";
  const isReady = async (): Promise<void> => {
    await using nextQmp = await next.qmp();
    uri = await listening(next, nextQmp);
  };
  if (await hasEndedBefore(next, isReady)) return await stayed(owner, qmp, next);
  await qmp.execute("migrate-set-parameters", { mode: "normal" });
  if (fault.phase !== "stream") {
    await qmp.execute("migrate", { uri });
    if (fault.fault === "old-kill") return await killedOnceGone(owner, next);
    return await settle(owner, qmp, next, await over(qmp));
  }
  const at = below(EARLY_FRAMES);
  let count = 0;
  // Pages are sent while the guest writes them, so that they have no checksum: what damages them is for the transport to find.
  using meddler = await Meddler.start(uri, ({ bytes, type }) => {
    if (type === undefined || count++ !== at) return "pass";
    if (fault.fault === "cut") return "cut";
    const damaged = bytes.slice();
    const place = below(damaged.length);
    damaged[place] = damaged[place]! ^ 1;
    return damaged;
  });
  await qmp.execute("migrate", { uri: meddler.uri });
  // A length that was made greater is waited for.
  const isOver = over(qmp);
  const info = await Promise.race([
    isOver,
    new Promise((resolve) => setTimeout(resolve, STREAM_TIMEOUT_MS * options.slowness, undefined)),
  ]);
  if (info === undefined) await qmp.execute("migrate_cancel");
  return await settle(owner, qmp, next, await isOver);
}

async function byFile(owner: GuestProcess, qmp: QmpClient, options: UpdateOptions): Promise<Updated> {
  const { fault, below, smallDisk } = options;
  const dir = fault.fault === "no-space" ? smallDisk! : temporaryDirectory();
  const path = join(dir, "vm.state");
  await set(qmp, { parameters: { mode: "cpr-reboot" } });
  await qmp.execute("migrate", { uri: `file:${path}` });
  const info = await over(qmp);
  if (info.status !== "completed") return { owner, outcome: "refused", reason: info["error-desc"] };
  if (fault.fault === "cut") truncateSync(path, below(statSync(path).size));
  if (fault.fault === "flip") {
    const bytes = readFileSync(path);
    const at = below(bytes.length);
    bytes[at] = bytes[at]! ^ 1;
    writeFileSync(path, bytes);
  }
  const next = incoming(`file:${path}`, newProcess(options));
  const isThere = async (): Promise<void> => {
    await using nextQmp = await next.qmp();
    const arrived = await over(nextQmp);
    if (arrived.status !== "completed") throw new Error(arrived["error-desc"]);
  };
  const hasFailed = await hasEndedBefore(next, isThere);
  rmSync(path);
  if (hasFailed) {
    await next[Symbol.asyncDispose]();
    await qmp.execute("cont");
    return { owner, outcome: "refused" };
  }
  await owner[Symbol.asyncDispose]();
  return { owner: next, outcome: "done" };
}

function incoming(uri: string, options: GuestOptions): GuestProcess {
  return new GuestProcess({ bare: true, ...options, extra: [...(options.extra ?? []), "-incoming", uri] });
}

async function stayed(owner: GuestProcess, qmp: QmpClient, next: GuestProcess): Promise<Updated> {
  await next[Symbol.asyncDispose]();
  const { status } = await qmp.execute("query-status");
  if (status !== "running") throw new Error(`The guest is ${status}`);
  return { owner, outcome: "refused" };
}

/** Who has the guest, as the side that sent it says; the other one is asked, too, and ended. */
async function settle(owner: GuestProcess, qmp: QmpClient, next: GuestProcess, info: Info): Promise<Updated> {
  const { status } = await qmp.execute("query-status");
  if (info.status !== "completed") {
    if (status !== "running") throw new Error(`It failed (${info["error-desc"]}), and the guest is ${status}`);
    return { ...(await stayed(owner, qmp, next)), reason: info["error-desc"] };
  }
  if (status !== "postmigrate") throw new Error(`The guest has gone, and is ${status} here`);
  await using nextQmp = await next.qmp();
  const arrived = await over(nextQmp);
  const there = await nextQmp.execute("query-status");
  if (arrived.status !== "completed" || there.status !== "running") {
    throw new Error(`The guest is to be there, and ${arrived.status} (${arrived["error-desc"]}), ${there.status}`);
  }
  await owner[Symbol.asyncDispose]();
  return { owner: next, outcome: "done" };
}
