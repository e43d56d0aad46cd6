// SPDX-License-Identifier: Apache-2.0
// `baton update`: replaces the program under a running VM, and says what the guest noticed of it.
import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { UsageError } from "../config/usage.ts";
import { VmmError } from "../errors.ts";
import type { MigrationInfo } from "../qmp/schema/migration.ts";
import { isCompiled } from "../runtime/entry.ts";
import { findProgram, programBefore } from "../runtime/program.ts";
import { parseNumber, parseTimeout, parseVerbArguments } from "./arguments.ts";
import { milliseconds, phaseLines, refuseWithoutGuest } from "./migration/report.ts";
import { connectMonitor, onlySocket } from "./monitor.ts";
import { updateByExec } from "./update/by-exec.ts";
import { updateByTransfer } from "./update/by-transfer.ts";
import { checkUpdate } from "./update/check.ts";
import { chooseMode, type UpdateMode } from "./update/choose-mode.ts";
import { isSandboxed, type PassedImage, passImage } from "./update/pass-image.ts";

const USAGE = `Usage: baton update SOCKET [OPTION…]
Replaces the program under the VM whose QMP socket is SOCKET (a path, or HOST:PORT). Same guest, same connections.

  --image PROGRAM   the new program (default: by cpr-exec the one that the VM was started with, which may be a newer
                    file by now; by cpr-transfer, and for a VM with -sandbox on, the one that runs this command)
  --mode MODE       cpr-exec: the VM's process executes it; cpr-transfer: a new process of it takes over in the
                    background, and the old one ends; auto (default): cpr-exec unless something forbids it
  --log FILE        what the new process of cpr-transfer says is appended to FILE (default: nowhere)
  --check           only find out whether it would work, and how long the guest would stand still
  --pause-limit MS  refuse the update when the guest would stand still for longer, and take it back when it turns out to
  --guard-timeout MS  by cpr-exec: how long the new program may take to run the guest until a guard gives it back to the
                    old one (default 2000; 0: no guard); with --relay: to be ready (default 30000)
  --relay           by cpr-exec: the guest runs in a helper while the new program starts, and stands still twice for as
                    long as by cpr-transfer, instead of once for a whole start; the helper keeps it if need be
  --timeout SECONDS until the update is given up waiting for (default 60); the VM goes on with it all the same
  --json            print what query-migrate says afterwards, with mode, mode-reason and, of a new process, pid
  --help

Exit code: 0 when the guest runs in the new program, 1 when it does not (it runs on in the old one then).
With --check: 0 when it would work, 3 when it would not, 1 when that could not be found out.`;

const OPTIONS = {
  image: { type: "string" },
  mode: { type: "string", default: "auto" },
  log: { type: "string" },
  check: { type: "boolean", default: false },
  "pause-limit": { type: "string", default: "0" },
  "guard-timeout": { type: "string" },
  relay: { type: "boolean", default: false },
  timeout: { type: "string", default: "60" },
  json: { type: "boolean", default: false },
} as const;

const MODES: readonly (UpdateMode | "auto")[] = ["auto", "cpr-exec", "cpr-transfer"];
/** Longer than anybody's guest may stand. */
const MAX_PAUSE_MS = 3_600_000;
const VERSION_TIMEOUT_MS = 10_000;

/** Returns the exit code. @throws UsageError, VmmError saying why the VM was not updated */
export async function update(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseVerbArguments("update", args, OPTIONS, { allowPositionals: true });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const socket = onlySocket("update", positionals);
  const timeoutMs = parseTimeout("update", values.timeout);
  const pauseLimitMs = parseNumber("update", "pause-limit", values["pause-limit"], {
    least: 0,
    most: MAX_PAUSE_MS,
  });
  const guardTimeoutMs =
    values["guard-timeout"] === undefined
      ? undefined
      : parseNumber("update", "guard-timeout", values["guard-timeout"], { least: 0, most: MAX_PAUSE_MS });
  const asked = MODES.find((mode) => mode === values.mode);
  if (asked === undefined) throw new UsageError(`update: --mode ${values.mode}: give ${MODES.join(", ")}`);
  if (values.relay && asked === "cpr-transfer") throw new UsageError("update: --relay is of mode cpr-exec");
  const wanted = values.relay ? "cpr-exec" : asked;
  const isCheck = values.check;
  const image = values.image === undefined || isCheck ? undefined : await findBaton(values.image);
  const passed = await passToSandbox(socket, image ?? values.image);
  await using qmp = await connectMonitor(socket);
  await refuseWithoutGuest(qmp, "The VM cannot be updated");
  if (isCheck) {
    const { image, json: isJson } = values;
    return await checkUpdate(qmp, { wanted, image, passed, pauseLimitMs, timeoutMs, isJson });
  }
  const chosen = await chooseMode(qmp, wanted);
  if (passed !== undefined && chosen.mode === "cpr-transfer") {
    throw new VmmError(
      "sandbox",
      "The VM is in a sandbox, and cpr-transfer would have this command start a VMM without one",
    );
  }
  if (!values.json) process.stdout.write(`By ${chosen.mode}: ${chosen.because}\n`);
  const before = (await qmp.execute("query-migrate")).updates ?? 0;
  const { "pause-limit": limitBefore } = await qmp.execute("query-migrate-parameters");
  const restoreLimit = () => qmp.execute("migrate-set-parameters", { "pause-limit": limitBefore });
  if (pauseLimitMs > 0) await qmp.execute("migrate-set-parameters", { "pause-limit": pauseLimitMs });
  let info: MigrationInfo;
  let pid: number | undefined;
  try {
    if (chosen.mode === "cpr-exec") {
      const onUnguarded = (reason: string): void => void process.stderr.write(`baton: There is no guard: ${reason}\n`);
      const command = image === undefined ? [] : [image];
      const isRelayed = values.relay;
      info = await updateByExec(qmp, { command, passed, guardTimeoutMs, isRelayed, timeoutMs, onUnguarded });
    } else {
      const command = image === undefined ? programBefore(args.length + 1) : [image];
      ({ info, pid } = await updateByTransfer(qmp, { command, timeoutMs, log: values.log }));
    }
  } catch (error) {
    // One that goes on needs its limit, and nobody answers any more where the connection is lost.
    const { code } = error as { code?: unknown };
    if (pauseLimitMs > 0 && code !== "update-timeout" && code !== "update-lost") await restoreLimit();
    throw error;
  }
  if (info.status !== "completed" || (info.updates ?? 0) <= before) {
    if (pauseLimitMs > 0) await restoreLimit();
    const reason = info["error-desc"] ?? `query-migrate says ${info.status}`;
    throw new VmmError("update-failed", `The VM was not updated, its guest runs on as before: ${reason}`);
  }
  const outcome = { mode: chosen.mode, "mode-reason": chosen.because, ...(pid === undefined ? {} : { pid }), ...info };
  process.stdout.write(values.json ? `${JSON.stringify(outcome)}\n` : describe(info, pid));
  return 0;
}

/** Passes the new program to a VM in a sandbox; undefined where there is none. */
async function passToSandbox(socket: string, image: string | undefined): Promise<PassedImage | undefined> {
  {
    await using qmp = await connectMonitor(socket);
    if (!(await isSandboxed(qmp))) return undefined;
  }
  if (image !== undefined) return passImage(socket, findProgram(image));
  // A script's program is its runtime.
  if (isCompiled()) return passImage(socket, "/proc/self/exe");
  throw new VmmError("image", "The VM is in a sandbox, and must be passed its new program: give --image PROGRAM");
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

function describe(info: MigrationInfo, pid: number | undefined): string {
  const { "downtime-us": us = 0, "predicted-downtime-us": predictedUs } = info;
  const predicted = predictedUs === undefined ? "" : `, ${milliseconds(predictedUs)} were predicted`;
  const lines = [
    `Updated: the guest stood still for ${milliseconds(us)}${predicted}`,
    ...phaseLines(info),
    ...(pid === undefined ? [] : [`The VM is process ${pid} now`]),
  ];
  return `${lines.join("\n")}\n`;
}
