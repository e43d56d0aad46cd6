// SPDX-License-Identifier: Apache-2.0
// A Linux guest on Baton, with its console and QMP, as an operator has it.
import { type ChildProcess, spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildInitramfs } from "../../src/image/initramfs.ts";
import { temporaryDirectory } from "../ffi/support.ts";
import { program, thisRuntime } from "../guest.ts";
import { findGuestKernel, type GuestSeries } from "../lab/assets.ts";
import { Console, Qmp } from "../lab/console.ts";
import { readBusybox } from "./assets.ts";

/** A guest may be slow on a loaded host, so limits only end what hangs. */
const LIMIT_MS = 180_000;

export interface LinuxOptions {
  series: GuestSeries;
  cpuCount?: number;
  memory?: string;
  append?: string;
  /** Instead of busybox with a shell. */
  initrd?: Uint8Array;
  /** More options. */
  more?: readonly string[];
}

export class LinuxGuest {
  readonly directory: string;
  readonly console: Console;
  readonly qmp: Qmp;
  readonly #process: ChildProcess;
  #commands = 0;

  private constructor(directory: string, console: Console, qmp: Qmp, process: ChildProcess) {
    this.directory = directory;
    this.console = console;
    this.qmp = qmp;
    this.#process = process;
  }

  static async start(options: LinuxOptions): Promise<LinuxGuest> {
    const { series, cpuCount = 1, memory = "256M", append = "", more = [] } = options;
    const directory = temporaryDirectory();
    const path = (name: string): string => join(directory, name);
    writeFileSync(path("initrd"), options.initrd ?? buildInitramfs(readBusybox()));
    const [command, ...first] = program(thisRuntime);
    const args = [
      ...[
        ...first,
        "-accel",
        "wasm",
        "-nodefaults",
        "-m",
        memory,
        "-smp",
        String(cpuCount),
        "-machine",
        "aux-ram-share=on",
      ],
      ...["-kernel", findGuestKernel(series)!.imagePath, "-initrd", path("initrd")],
      ...["-append", `console=ttyS0 cryptomgr.notests panic=-1 ${append}`],
      ...["-serial", `unix:${path("console")},server=on,wait=off`, "-qmp", `unix:${path("qmp")},server=on,wait=off`],
      ...more,
    ];
    const child = spawn(command!, args, { stdio: ["ignore", "inherit", "inherit"] });
    let end: string | undefined;
    child.once("exit", (code, signal) => (end = `${signal ?? `exit code ${code}`}`));
    const stillRuns = (): void => {
      if (end !== undefined) throw new Error(`Baton ended: ${end}`);
    };
    const serial = await Console.connect(path("console"), LIMIT_MS, stillRuns);
    return new LinuxGuest(directory, serial, await Qmp.connect(path("qmp"), LIMIT_MS, stillRuns), child);
  }

  async waitFor(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    return await this.console.waitFor(pattern, LIMIT_MS, from);
  }

  /** Until there is a shell on the console. */
  async waitForShell(): Promise<void> {
    await this.waitFor(/guest# /);
  }

  /** Types a command; what it printed. */
  async run(command: string): Promise<string> {
    const number = this.#commands++;
    const from = this.console.transcript.length;
    // What is typed comes back, too: not with the same characters.
    this.console.type(`echo "beg""in-${number}"; ${command} ; echo "en""d-${number}"\n`);
    const [, output] = await this.waitFor(new RegExp(`begin-${number}\r\n((?:.|[\r\n])*?)end-${number}\r\n`), from);
    return output!.replaceAll("\r\n", "\n").trim();
  }

  /** The VMM's process ends by itself. */
  async waitForEnd(): Promise<number | null> {
    if (this.#process.exitCode !== null) return this.#process.exitCode;
    return await new Promise((resolve) => this.#process.once("exit", (code) => resolve(code)));
  }

  [Symbol.dispose](): void {
    this.#process.kill("SIGKILL");
  }
}
