// SPDX-License-Identifier: Apache-2.0
// `baton update --check`: would the update work? Nothing is updated.
import { resolve } from "node:path";
import { VmmError } from "../../errors.ts";
import type { QmpClient } from "../../qmp/client.ts";
import type { DryRunInfo, MigrationProblem } from "../../qmp/schema/migration.ts";
import { findProgram, programBefore } from "../../runtime/program.ts";
import { milliseconds, phaseLines } from "../migration/report.ts";
import { modeToCheck, type UpdateMode } from "./choose-mode.ts";
import type { PassedImage } from "./pass-image.ts";

const POLL_MS = 20;
/** Exit code for an update that would not work. */
const EXIT_WOULD_FAIL = 3;

export interface CheckOptions {
  wanted: UpdateMode | "auto";
  image: string | undefined;
  /** The same, if it had to be passed. */
  passed: PassedImage | undefined;
  /** 0: none. */
  pauseLimitMs: number;
  timeoutMs: number;
  isJson: boolean;
}

/** Returns the exit code. @throws VmmError when it cannot be found out */
export async function checkUpdate(qmp: QmpClient, options: CheckOptions): Promise<number> {
  const mode = await modeToCheck(qmp, options.wanted);
  const before = await qmp.execute("query-migrate-parameters");
  await qmp.execute("migrate-set-parameters", {
    mode,
    "cpr-exec-command": commandOf(mode, options.image),
    ...options.passed,
  });
  let info: DryRunInfo;
  try {
    await qmp.execute("migrate", { "dry-run": true });
    info = await untilFoundOut(qmp, options.timeoutMs);
  } finally {
    const { mode, "cpr-exec-command": command, "cpr-exec-image": image, "cpr-exec-sha256": sha256 } = before;
    const passed = options.passed === undefined ? {} : { "cpr-exec-image": image, "cpr-exec-sha256": sha256 };
    await qmp.execute("migrate-set-parameters", { mode, "cpr-exec-command": command, ...passed });
  }
  if (info.status !== "would-work" && info.status !== "would-fail") {
    throw new VmmError("dry-run", `The dry run was not finished: ${info["error-desc"] ?? info.status}`);
  }
  if (info.status === "would-work") refuseLongPause(info, options.pauseLimitMs);
  process.stdout.write(options.isJson ? `${JSON.stringify(info)}\n` : describe(info));
  return info.status === "would-work" ? 0 : EXIT_WOULD_FAIL;
}

/** Makes one that would take too long one that would fail. */
function refuseLongPause(info: DryRunInfo, limitMs: number): void {
  const predictedUs = info["predicted-downtime-us"]!;
  if (limitMs === 0 || predictedUs <= limitMs * 1000) return;
  info.status = "would-fail";
  const text = `The guest would stand for ${milliseconds(predictedUs)}, and the limit is ${limitMs} ms`;
  info.problems.push({ code: "pause-limit", text, fix: "Allow a longer pause, or update by cpr-transfer" });
}

/** What an update of that mode would start; empty: what the VM was started with. */
function commandOf(mode: UpdateMode, image: string | undefined): string[] {
  if (image === undefined) return mode === "cpr-exec" ? [] : programBefore(process.argv.length - 2);
  try {
    return [resolve(findProgram(image))];
  } catch {
    // The dry run says what is wrong with it. The VM may have another working directory.
    return [image.includes("/") ? resolve(image) : image];
  }
}

async function untilFoundOut(qmp: QmpClient, timeoutMs: number): Promise<DryRunInfo> {
  const deadlineMs = performance.now() + timeoutMs;
  for (;;) {
    const { "dry-run": info } = await qmp.execute("query-migrate");
    if (info!.status !== "active") return info!;
    if (performance.now() > deadlineMs) {
      await qmp.execute("migrate_cancel");
      throw new VmmError("dry-run", `The dry run was not over after ${timeoutMs / 1000} s, and is cancelled`);
    }
    await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

function describe(info: DryRunInfo): string {
  if (info.status === "would-fail") {
    const lines = [`An update by ${info.mode} would not work:`, ...info.problems.flatMap(problemLines)];
    return `${lines.join("\n")}\n`;
  }
  const { "private-ram": privateBytes } = info;
  const lines = [
    `An update by ${info.mode} to ${info.image} would work: predicted pause ${milliseconds(info["predicted-downtime-us"]!)}`,
    ...phaseLines(info),
    `The guest stood still for ${milliseconds(info["standstill-us"]!)} while that was found out`,
    ...(privateBytes === undefined
      ? []
      : [
          `Not tried: the update first moves ${privateBytes / 2 ** 20} MiB of private RAM to shared memory, while the guest runs`,
        ]),
  ];
  return `${lines.join("\n")}\n`;
}

function problemLines({ code, device, text, fix }: MigrationProblem): string[] {
  const what = device === undefined ? code : `${code}, ${device}`;
  return [`  ${text} (${what})`, ...(fix === undefined ? [] : [`    ${fix}`])];
}
