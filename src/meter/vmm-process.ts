// SPDX-License-Identifier: Apache-2.0
// A VMM as a child process that runs the self-checking payload: Baton in any of its forms, or QEMU.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AcceleratorName } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { COUNT_WORD } from "../image/initramfs.ts";
import { APPEND } from "../image/store.ts";
import type { SelfCheckOptions } from "../payload/plan.ts";
import { buildSelfCheck } from "../payload/self-check.ts";
import { connect, type QmpClient } from "../qmp/client.ts";

export interface VmmOptions {
  /** The program and what comes before the machine's options: `["dist/baton"]`, `["bun", "run", "src/cli/main.ts"]`. */
  command: readonly string[];
  /** Absent: `command` says, or leaves it to the VMM. */
  accelerator?: AcceleratorName;
  ramSizeBytes: number;
  cpuCount: number;
  /** Differences from the usual payload, which uses all of the RAM and prints ten lines a second. */
  payload?: SelfCheckOptions;
  /** Boots this Linux, which `baton image` makes, instead of the payload: it counts and numbers lines, too. */
  linux?: { kernel: string; initrd: string };
  /** Waits for a guest there instead of starting one. */
  incoming?: string;
  /** RAM in this file, instead of in a memory file without a name. */
  ramPath?: string;
  /** RAM in no file at all: nobody can look into it from outside until an update has moved it to one. */
  hasAnonymousRam?: boolean;
}

/** Name of the RAM back end, and so of its memory file. */
export const RAM_NAME = "ram0";
const PAYLOAD_NAME = "payload.elf";
/** Characters of the VMM's stderr that are kept for an error message. */
const STDERR_LIMIT = 2000;
const QUIT_TIMEOUT_MS = 5000;
const MONITOR_TIMEOUT_MS = 20_000;

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The machine's options: all of it is QEMU's command line too. */
export function machineArguments(options: VmmOptions, dir: string): string[] {
  const { accelerator, ramSizeBytes, cpuCount, incoming, ramPath, linux, hasAnonymousRam = false } = options;
  const file = ramPath === undefined ? "memory-backend-memfd" : `memory-backend-file,mem-path=${ramPath}`;
  const guest = linux === undefined ? ["-kernel", join(dir, PAYLOAD_NAME)] : linuxArguments(linux);
  const backend = hasAnonymousRam ? "memory-backend-ram" : file;
  return [
    ...["-machine", `microvm,memory-backend=${RAM_NAME},aux-ram-share=on`],
    ...(accelerator === undefined ? [] : ["-accel", accelerator]),
    ...["-object", `${backend},id=${RAM_NAME},size=${ramSizeBytes},share=${hasAnonymousRam ? "off" : "on"}`],
    ...["-m", `${ramSizeBytes >>> 20}M`, "-smp", String(cpuCount), ...guest],
    ...["-serial", `unix:${join(dir, "serial")},server=on,wait=off`],
    ...["-qmp", `unix:${join(dir, "qmp")},server=on,wait=off`],
    ...["-nodefaults", "-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"],
    ...(incoming === undefined ? [] : ["-incoming", incoming]),
  ];
}

function linuxArguments({ kernel, initrd }: { kernel: string; initrd: string }): string[] {
  // The self-tests of the kernel's crypto are two thirds of its boot.
  const append = `${APPEND} quiet loglevel=0 panic=-1 cryptomgr.notests ${COUNT_WORD}`;
  return ["-kernel", kernel, "-initrd", initrd, "-append", append];
}

/** Started, not yet ready. Its sockets and its payload lie in a directory that goes away with it. */
export class VmmProcess {
  readonly pid: number;
  /** performance.now() right before the program was started. */
  readonly startedMs: number;
  readonly qmpPath: string;
  readonly serialPath: string;
  /** Resolves when the process has ended. */
  readonly ended: Promise<void>;

  readonly #dir: string;
  readonly #child: ChildProcess;
  readonly #program: string;
  #stderr = "";
  #end: string | undefined;

  /** @throws VmmError "vmm-ended" when the program cannot be started */
  constructor(options: VmmOptions) {
    this.#dir = mkdtempSync(join(tmpdir(), "baton-vm-"));
    this.qmpPath = join(this.#dir, "qmp");
    this.serialPath = join(this.#dir, "serial");
    this.#program = options.command[0]!;
    if (options.linux === undefined) {
      const { cpuCount, ramSizeBytes: touchBytes, payload } = options;
      const selfCheck = buildSelfCheck({ cpuCount, touchBytes, ticksPerLine: 5, ...payload });
      writeFileSync(join(this.#dir, PAYLOAD_NAME), selfCheck);
    }
    const args = [...options.command.slice(1), ...machineArguments(options, this.#dir)];
    this.startedMs = performance.now();
    this.#child = spawn(this.#program, args, { stdio: ["ignore", "ignore", "pipe"] });
    this.ended = new Promise((resolve) => {
      this.#child.once("error", (error) => {
        this.#end ??= error.message;
        resolve();
      });
      this.#child.once("close", (code, signal) => {
        this.#end ??= signal === null ? `exit code ${code}` : `killed by ${signal}`;
        resolve();
      });
    });
    this.#child.stderr!.setEncoding("utf8");
    this.#child.stderr!.on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_LIMIT);
    });
    this.pid = this.#child.pid ?? 0;
    process.on("exit", this.#abandon);
  }

  /** Waits until `probe` gives something. @throws VmmError "vmm-ended", or "vmm-timeout" naming `what` did not come */
  async until<T>(what: string, timeoutMs: number, probe: () => T | undefined): Promise<T> {
    for (const end = performance.now() + timeoutMs; performance.now() < end; await sleep(2)) {
      this.check();
      const found = probe();
      if (found !== undefined) return found;
    }
    throw new VmmError(
      "vmm-timeout",
      `${this.#program}: no ${what} after ${timeoutMs / 1000} s\n${this.#stderr}`.trim(),
    );
  }

  /** Waits for the monitor and connects to it. */
  async connectQmp(): Promise<QmpClient> {
    await this.until("monitor", MONITOR_TIMEOUT_MS, () => existsSync(this.qmpPath) || undefined);
    for (const end = performance.now() + MONITOR_TIMEOUT_MS; ; await sleep(2)) {
      try {
        return await connect({ path: this.qmpPath });
      } catch (error) {
        // The socket's file is there a moment before anybody listens.
        this.check();
        if (performance.now() > end) throw error;
      }
    }
  }

  /** @throws VmmError "vmm-ended" with what the VMM said last */
  check(): void {
    if (this.#end === undefined) return;
    throw new VmmError("vmm-ended", `${this.#program} has ended (${this.#end})\n${this.#stderr}`.trim());
  }

  /** Gives the VMM time to quit by itself, and removes what it leaves behind. */
  async close(): Promise<void> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), QUIT_TIMEOUT_MS);
    await this.ended;
    clearTimeout(timer);
    process.off("exit", this.#abandon);
    this.#remove();
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  readonly #abandon = (): void => {
    this.kill();
    this.#remove();
  };

  #remove(): void {
    rmSync(this.#dir, { recursive: true, force: true });
  }
}
