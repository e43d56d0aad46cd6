// SPDX-License-Identifier: Apache-2.0
// `baton update`: replaces the program under a running VM, and says what the guest noticed of it.
import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { UsageError } from "../config/usage.ts";
import { VmmError } from "../errors.ts";
import { type QmpClient, QmpConnectionError } from "../qmp/client.ts";
import type { MigrationInfo } from "../qmp/schema/migration.ts";
import { findProgram } from "../runtime/program.ts";
import { parseVerbArguments } from "./arguments.ts";
import { connectMonitor, onlySocket } from "./monitor.ts";

const USAGE = `Usage: baton update SOCKET [OPTION…]
Replaces the program under the VM whose QMP socket is SOCKET (a path, or HOST:PORT) by cpr-exec: same process, same
guest, same connections.

  --image PROGRAM   the new program (default: the one that the VM was started with, which may be a newer file by now)
  --timeout SECONDS until the update is given up waiting for (default 60); the VM goes on with it all the same
  --json            print what query-migrate says afterwards
  --help

Exit code: 0 when the guest runs in the new program, 1 when it does not (it runs on in the old one then).`;

const OPTIONS = {
  image: { type: "string" },
  timeout: { type: "string", default: "60" },
  json: { type: "boolean", default: false },
} as const;

const MAX_TIMEOUT_SECONDS = 86_400;
const POLL_MS = 20;
const VERSION_TIMEOUT_MS = 10_000;

/** Returns the exit code. @throws UsageError, VmmError saying why the VM was not updated */
export async function update(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseVerbArguments("update", args, OPTIONS, { allowPositionals: true });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const socket = onlySocket("update", positionals);
  const timeoutSeconds = Number(values.timeout);
  if (!(timeoutSeconds > 0 && timeoutSeconds <= MAX_TIMEOUT_SECONDS)) {
    throw new UsageError(`update: --timeout ${values.timeout}: not a number of seconds up to ${MAX_TIMEOUT_SECONDS}`);
  }
  const command = values.image === undefined ? [] : [await findBaton(values.image)];
  await using qmp = await connectMonitor(socket);
  await refuseBlocked(qmp);
  const before = (await qmp.execute("query-migrate")).updates ?? 0;
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": command });
  await qmp.execute("migrate", {});
  const info = await untilOver(qmp, timeoutSeconds * 1000);
  if (info.status !== "completed" || (info.updates ?? 0) <= before) {
    const reason = info["error-desc"] ?? `query-migrate says ${info.status}`;
    throw new VmmError("update-failed", `The VM was not updated, its guest runs on as before: ${reason}`);
  }
  process.stdout.write(values.json ? `${JSON.stringify(info)}\n` : describe(info));
  return 0;
}

/** Absolute path of a program that is Baton: executing any other would lose the guest. */
async function findBaton(name: string): Promise<string> {
  const path = resolve(findProgram(name));
  const { stdout } = await promisify(execFile)(path, ["--version"], { timeout: VERSION_TIMEOUT_MS }).catch((cause) => {
    throw new VmmError("not-baton", `${path} is not Baton, or cannot run here: '${path} --version' failed`, { cause });
  });
  if (/^baton \d/.test(stdout)) return path;
  const printed = JSON.stringify(stdout.slice(0, 60));
  throw new VmmError("not-baton", `${path} is not Baton: '${path} --version' printed ${printed}`);
}

async function refuseBlocked(qmp: QmpClient): Promise<void> {
  const blockers = await qmp.execute("query-migrate-blockers");
  const blocker = blockers.find(({ mode }) => mode === "cpr-exec");
  if (blocker === undefined) return;
  const fix = blocker.fix === undefined ? "" : ` ${blocker.fix}.`;
  throw new VmmError(blocker.code, `The VM cannot be updated: ${blocker.reason.replace(/\.?$/, ".")}${fix}`);
}

async function untilOver(qmp: QmpClient, timeoutMs: number): Promise<MigrationInfo> {
  const deadlineMs = performance.now() + timeoutMs;
  try {
    for (;;) {
      const remainingMs = Math.max(deadlineMs - performance.now(), 1);
      const info = await qmp.execute("query-migrate", {}, { signal: AbortSignal.timeout(remainingMs) });
      if (["completed", "failed", "cancelled"].includes(info.status!)) return info;
      if (performance.now() > deadlineMs) throw timedOut(timeoutMs);
      await new Promise((wake) => setTimeout(wake, POLL_MS));
    }
  } catch (cause) {
    if (cause instanceof QmpConnectionError) {
      const message = "The monitor's connection ended during the update: look at the VM's process and its messages";
      throw new VmmError("update-lost", message, { cause });
    }
    throw (cause as Error).name === "TimeoutError" ? timedOut(timeoutMs) : cause;
  }
}

function timedOut(timeoutMs: number): VmmError {
  const message = `The update is not over after ${timeoutMs / 1000} s: ask again with baton status`;
  return new VmmError("update-timeout", message);
}

function describe(info: MigrationInfo): string {
  const milliseconds = (us: number): string => `${(us / 1000).toFixed(2)} ms`;
  const lines = [`Updated: the guest stood still for ${milliseconds(info["downtime-us"] ?? 0)}`];
  for (const { phase, "duration-us": us } of info.phases ?? []) {
    lines.push(`  ${phase.padEnd(8)} ${milliseconds(us).padStart(10)}`);
  }
  return `${lines.join("\n")}\n`;
}
