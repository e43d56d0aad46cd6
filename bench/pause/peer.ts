// SPDX-License-Identifier: Apache-2.0
// A QEMU beside Baton: same machine, same payload, same meter, updated by its own cpr-exec.
// https://www.qemu.org/docs/master/devel/migration/CPR.html
import { spawn } from "node:child_process";
import { dirname, join } from "node:path";
import { VmmError } from "../../src/errors.ts";
import { machineArguments, sleep, type VmmOptions, VmmProcess } from "../../src/meter/vmm-process.ts";
import { WatchedGuest } from "../../src/meter/watched-guest.ts";
import { connect, type QmpClient } from "../../src/qmp/client.ts";
import type { MigrationInfo } from "../../src/qmp/schema/migration.ts";
import { UsageError } from "../options.ts";
import type { Sample } from "./series.ts";

const MIN_VERSION = [10, 2] as const;
const ACCELERATOR = ["-accel", "kvm"];
const TIMEOUT_MS = 30_000;
const POLL_MS = 5;

/** Asked of a QEMU without a machine. It ends by itself. */
const QUESTIONS = [
  { execute: "qmp_capabilities" },
  { execute: "query-version", id: "version" },
  { execute: "migrate-set-parameters", arguments: { mode: "cpr-exec" }, id: "cpr-exec" },
  { execute: "quit" },
];

interface Reply {
  id?: string;
  return?: { qemu?: { major: number; minor: number; micro: number } };
  error?: { desc: string };
}

/** Why this QEMU cannot be measured, given what it has said over QMP; undefined when it can. */
export function judgePeer(path: string, output: string): string | undefined {
  const replies = output.split("\n").flatMap((line): Reply[] => {
    try {
      return [JSON.parse(line) as Reply];
    } catch {
      return [];
    }
  });
  const version = replies.find(({ id }) => id === "version")?.return?.qemu;
  if (version === undefined) return `--peer ${path}: not a QEMU: it does not answer over QMP`;
  const { major, minor, micro } = version;
  const isOld = major < MIN_VERSION[0] || (major === MIN_VERSION[0] && minor < MIN_VERSION[1]);
  if (isOld)
    return `--peer ${path}: QEMU ${major}.${minor}.${micro} has no cpr-exec; it needs ${MIN_VERSION.join(".")} or later`;
  const refusal = replies.find(({ id }) => id === "cpr-exec")?.error;
  if (refusal !== undefined) {
    return `--peer ${path}: QEMU ${major}.${minor}.${micro} was built without cpr-exec: ${refusal.desc}`;
  }
  return undefined;
}

/** @throws UsageError saying why `path` cannot be measured */
export async function checkPeer(path: string): Promise<void> {
  const child = spawn(path, ["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  // A program that is no QEMU may not read it.
  child.stdin.on("error", () => {});
  child.stdin.write(QUESTIONS.map((question) => `${JSON.stringify(question)}\n`).join(""));
  const failure = await new Promise<Error | undefined>((resolve) => {
    child.once("error", resolve);
    child.once("close", () => resolve(undefined));
  });
  clearTimeout(timer);
  if (failure !== undefined) throw new UsageError(`--peer ${path}: ${failure.message}`);
  const problem = judgePeer(path, output);
  if (problem !== undefined) throw new UsageError(problem);
}

/**
 * A running QEMU. Its QMP connection does not survive the update and is made anew; its serial console is not listened
 * to, for the same reason.
 */
export class PeerVm implements AsyncDisposable {
  readonly process: VmmProcess;
  readonly guest: WatchedGuest;
  readonly #stateFile: string;
  readonly #execCommand: string[];
  #qmp: QmpClient;

  private constructor(process: VmmProcess, guest: WatchedGuest, qmp: QmpClient, options: VmmOptions) {
    this.process = process;
    this.guest = guest;
    this.#qmp = qmp;
    const dir = dirname(process.qmpPath);
    this.#stateFile = `file:${join(dir, "state")}`;
    this.#execCommand = [...options.command, ...machineArguments(options, dir), "-incoming", this.#stateFile];
  }

  static async start(options: VmmOptions): Promise<PeerVm> {
    const withKvm = { ...options, command: [...options.command, ...ACCELERATOR] };
    const vmm = new VmmProcess(withKvm);
    try {
      const qmp = await vmm.connectQmp();
      return new PeerVm(vmm, await WatchedGuest.attach(vmm, options.cpuCount), qmp, withKvm);
    } catch (error) {
      vmm.kill();
      await vmm.close();
      throw error;
    }
  }

  async update(): Promise<Sample> {
    const { value: info, ...pause } = await this.guest.measure(async () => {
      await this.#qmp.call("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": this.#execCommand });
      await this.#qmp.call("migrate", { uri: this.#stateFile });
      await this.#untilLeft();
      return await this.#untilRunning();
    });
    return { ...pause, info };
  }

  async close(): Promise<void> {
    await this.guest.close();
    // QEMU may hang up before it replies.
    await this.#qmp.execute("quit").catch(() => this.process.kill());
    this.#qmp.destroy();
    await this.process.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The old program hangs up when it execs. */
  async #untilLeft(): Promise<void> {
    let isLeft = false;
    void this.#qmp.closed.then(() => {
      isLeft = true;
    });
    for (const end = performance.now() + TIMEOUT_MS; !isLeft; await sleep(POLL_MS)) {
      this.process.check();
      if (performance.now() > end) throw new VmmError("update-failed", "QEMU did not exec its new program");
      const info = (await this.#qmp.call("query-migrate").catch(() => ({}))) as MigrationInfo;
      if (info.status === "failed") throw new VmmError("update-failed", `QEMU's update failed: ${info["error-desc"]}`);
    }
  }

  async #untilRunning(): Promise<MigrationInfo> {
    for (const end = performance.now() + TIMEOUT_MS; performance.now() < end; await sleep(POLL_MS)) {
      this.process.check();
      try {
        this.#qmp = await connect({ path: this.process.qmpPath });
        const { status } = (await this.#qmp.call("query-status")) as { status: string };
        if (status === "running") return (await this.#qmp.call("query-migrate")) as MigrationInfo;
        this.#qmp.destroy();
      } catch {
        // Not listening yet.
      }
    }
    throw new VmmError("update-failed", "The guest does not run in QEMU's new program");
  }
}
