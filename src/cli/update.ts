// SPDX-License-Identifier: Apache-2.0
// `baton update`: replaces the program under a running VM, and says what the guest noticed of it.
import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { VmmError } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { MigrationInfo } from "../qmp/schema/migration.ts";
import { isCompiled } from "../runtime/entry.ts";
import { findProgram, programBefore } from "../runtime/program.ts";
import { milliseconds, phaseLines, refuseWithoutGuest } from "./migration/report.ts";
import { connectMonitor } from "./monitor.ts";
import { updateByExec } from "./update/by-exec.ts";
import { updateByTransfer } from "./update/by-transfer.ts";
import { checkUpdate } from "./update/check.ts";
import { type ChosenMode, chooseMode } from "./update/choose-mode.ts";
import { parseUpdateOptions, type UpdateOptions, USAGE } from "./update/options.ts";
import { isSandboxed, type PassedImage, passImage } from "./update/pass-image.ts";

const VERSION_TIMEOUT_MS = 10_000;

/** Returns the exit code. @throws UsageError, VmmError saying why the VM was not updated */
export async function update(args: readonly string[]): Promise<number> {
  const options = parseUpdateOptions(args);
  if (options === undefined) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const { socket, wanted, isJson, pauseLimitMs, timeoutMs } = options;
  const image = options.image === undefined || options.isCheck ? undefined : await findBaton(options.image);
  const passed = await passToSandbox(socket, image ?? options.image);
  await using qmp = await connectMonitor(socket);
  await refuseWithoutGuest(qmp, "The VM cannot be updated");
  if (options.isCheck) {
    return await checkUpdate(qmp, { wanted, image: options.image, passed, pauseLimitMs, timeoutMs, isJson });
  }
  const chosen = await chooseMode(qmp, wanted);
  if (passed !== undefined) refuseNewProcess(chosen);
  if (!isJson) process.stdout.write(`By ${chosen.mode}: ${chosen.because}\n`);
  const byMode = {
    "cpr-exec": () => byExec(qmp, options, image, passed),
    "cpr-transfer": () => byTransfer(qmp, options, image === undefined ? programBefore(args.length + 1) : [image]),
  };
  const { info, pid } = await untilUpdated(qmp, pauseLimitMs, byMode[chosen.mode]);
  const outcome = { mode: chosen.mode, "mode-reason": chosen.because, ...(pid === undefined ? {} : { pid }), ...info };
  process.stdout.write(isJson ? `${JSON.stringify(outcome)}\n` : describe(info, pid));
  return 0;
}

/** @throws VmmError "sandbox" */
function refuseNewProcess({ mode }: ChosenMode): void {
  if (mode !== "cpr-transfer") return;
  throw new VmmError(
    "sandbox",
    "The VM is in a sandbox, and cpr-transfer would have this command start a VMM without one",
  );
}

/** How an update ended, and the process that has the guest when that is another one. */
interface Outcome {
  info: MigrationInfo;
  pid?: number;
}

/**
 * Runs `start` to the end, with a limit of the pause if `pauseLimitMs` is not 0. One that comes to nothing leaves the VM the limit
 * that it had. @throws VmmError "update-failed" when the guest does not run in the new program, and what `start` throws
 */
async function untilUpdated(qmp: QmpClient, pauseLimitMs: number, start: () => Promise<Outcome>): Promise<Outcome> {
  const before = (await qmp.execute("query-migrate")).updates ?? 0;
  const { "pause-limit": limitBefore } = await qmp.execute("query-migrate-parameters");
  if (pauseLimitMs > 0) await qmp.execute("migrate-set-parameters", { "pause-limit": pauseLimitMs });
  try {
    const outcome = await start();
    refuseFailed(outcome.info, before);
    return outcome;
  } catch (error) {
    // One that goes on needs its limit, and nobody answers any more where the connection is lost.
    const { code } = error as { code?: unknown };
    if (pauseLimitMs > 0 && code !== "update-timeout" && code !== "update-lost") {
      await qmp.execute("migrate-set-parameters", { "pause-limit": limitBefore });
    }
    throw error;
  }
}

/** `before` is how often the VM had been updated. @throws VmmError "update-failed" */
function refuseFailed(info: MigrationInfo, before: number): void {
  if (info.status === "completed" && (info.updates ?? 0) > before) return;
  const reason = info["error-desc"] ?? `query-migrate says ${info.status}`;
  throw new VmmError("update-failed", `The VM was not updated, its guest runs on as before: ${reason}`);
}

async function byExec(
  qmp: QmpClient,
  { guardTimeoutMs, isRelayed, timeoutMs }: UpdateOptions,
  image: string | undefined,
  passed: PassedImage | undefined,
): Promise<Outcome> {
  const command = image === undefined ? [] : [image];
  const onUnguarded = (reason: string): void => void process.stderr.write(`baton: There is no guard: ${reason}\n`);
  return { info: await updateByExec(qmp, { command, passed, guardTimeoutMs, isRelayed, timeoutMs, onUnguarded }) };
}

function byTransfer(qmp: QmpClient, { timeoutMs, log }: UpdateOptions, command: string[]): Promise<Outcome> {
  return updateByTransfer(qmp, { command, timeoutMs, log });
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
