// SPDX-License-Identifier: Apache-2.0
// A VMM whose human monitor is its standard input and output, driven as a person would, and shown as a person sees it.
import { type ChildProcess, spawn } from "node:child_process";
import { check, until } from "./scenario.ts";

const STEP_TIMEOUT_MS = 60_000;

/** Control sequences of a terminal's line editor. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
const CONTROL_SEQUENCE = /\x1b\[[0-9;]*[A-Za-z]|\r/g;
const PROMPT = /^\((baton|qemu)\) $/m;

export class MonitoredVmm {
  readonly process: ChildProcess;
  /** How it ended; `undefined` while it runs. */
  end: string | undefined;
  #output = "";

  /** Prints the command line, runs it in `folder`, and resolves at the monitor's first prompt. */
  static async start(program: string, args: string[], folder: string): Promise<MonitoredVmm> {
    console.log(`# ${[program, ...args].map((word) => (/^[\w./:=,+-]+$/.test(word) ? word : `'${word}'`)).join(" ")}`);
    const vmm = new MonitoredVmm(spawn(program, args, { cwd: folder, stdio: ["pipe", "pipe", "inherit"] }));
    await vmm.#answer("its start");
    return vmm;
  }

  private constructor(process: ChildProcess) {
    this.process = process;
    process.once("error", (error) => (this.end = error.message));
    process.once("close", (code, signal) => (this.end = signal ?? `exit code ${code}`));
    process.stdout!.setEncoding("utf8").on("data", (chunk: string) => (this.#output += chunk));
  }

  /** Throws when the VMM has ended. */
  assertRuns(): void {
    check(this.end === undefined, `The VMM ended with ${this.end}\n${this.#output}`);
  }

  /** Types a command, shows it with its answer, and returns that. */
  async type(command: string): Promise<string> {
    const answer = await this.#ask(command);
    this.#show(command, answer);
    return answer;
  }

  /** Asks again and again until the answer is `wanted`, and shows the last time only. */
  async typeUntil(command: string, wanted: string): Promise<void> {
    let answer = "";
    await until(
      async () => {
        answer = await this.#ask(command);
        return answer === wanted ? answer : undefined;
      },
      STEP_TIMEOUT_MS,
      () => `The answer to "${command}" is "${answer}", not "${wanted}"`,
    );
    this.#show(command, answer);
  }

  /** Types the command that ends the VMM. */
  async quit(): Promise<void> {
    this.process.stdin!.write("quit\n");
    await this.waitForEnd("after quit");
    this.#show("quit", "");
  }

  async waitForEnd(when: string): Promise<void> {
    const end = await until(() => this.end, STEP_TIMEOUT_MS, `The VMM still runs ${when}`);
    check(end === "exit code 0", `The VMM ended with ${end} ${when}\n${this.#output}`);
  }

  #show(command: string, answer: string): void {
    console.log(`(monitor) ${command}${answer === "" ? "" : `\n${answer}`}`);
  }

  async #ask(command: string): Promise<string> {
    this.assertRuns();
    this.#output = "";
    this.process.stdin!.write(`${command}\n`);
    const answer = await this.#answer(command);
    // The monitor echoes what it is told.
    return answer.slice(answer.indexOf("\n") + 1).trim();
  }

  /** What the monitor prints up to its next prompt. */
  async #answer(what: string): Promise<string> {
    return await until(
      () => {
        this.assertRuns();
        const text = this.#output.replace(CONTROL_SEQUENCE, "");
        const prompt = PROMPT.exec(text.slice(text.indexOf("\n") + 1));
        return prompt === null ? undefined : text.slice(0, text.indexOf("\n") + 1 + prompt.index);
      },
      STEP_TIMEOUT_MS,
      () => `The monitor shows no prompt after ${what}\n${this.#output}`,
    );
  }
}
