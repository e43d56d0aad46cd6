// SPDX-License-Identifier: Apache-2.0
// The process that a guest goes to: started in the background, in a session of its own, it outlives whoever started it.
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";
import { VmmError } from "../../errors.ts";

const POLL_MS = 5;

export interface SuccessorOptions {
  command: readonly string[];
  /** Paths of the sockets that it makes. */
  main: string;
  cpr: string;
  /** File that its messages are appended to; undefined: nobody hears them. */
  log: string | undefined;
  timeoutMs: number;
}

export class Successor {
  readonly #child: ChildProcess;
  /** Why it is there no more. */
  #end: string | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.once("error", (error) => (this.#end = error.message));
    child.once("exit", (exitCode, signal) => (this.#end = signal === null ? `exit code ${exitCode}` : signal));
    // This process does not wait for it.
    child.once("spawn", () => child.unref());
  }

  /** Starts it, and waits until it can take a guest. @throws VmmError "successor" */
  static async start({ command, main, cpr, log, timeoutMs }: SuccessorOptions): Promise<Successor> {
    const channel = { "channel-type": "cpr", addr: { transport: "socket", type: "unix", path: cpr } };
    const args = ["-nodefaults", "-incoming", `unix:${main}`, "-incoming", JSON.stringify(channel)];
    const [program, ...rest] = command;
    const output = log === undefined ? undefined : openSync(log, "a", 0o600);
    try {
      const stdio = output ?? "ignore";
      const child = spawn(program!, [...rest, ...args], { detached: true, stdio: ["ignore", stdio, stdio] });
      const successor = new Successor(child);
      await successor.#untilThere(cpr, program!, { log, timeoutMs });
      return successor;
    } finally {
      if (output !== undefined) closeSync(output);
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Without effect when it has ended. It has no guest. */
  kill(): void {
    if (this.#end === undefined) this.#child.kill("SIGKILL");
  }

  async #untilThere(path: string, program: string, { log, timeoutMs }: Pick<SuccessorOptions, "log" | "timeoutMs">) {
    const deadlineMs = performance.now() + timeoutMs;
    const hint = log === undefined ? "--log FILE keeps what it says" : `see ${log}`;
    while (!existsSync(path)) {
      if (this.#end !== undefined) {
        throw new VmmError("successor", `The new process of ${program} ended at once (${this.#end}): ${hint}`);
      }
      if (performance.now() > deadlineMs) {
        this.kill();
        throw new VmmError("successor", `The new process of ${program} does not listen at ${path}: ${hint}`);
      }
      await new Promise((wake) => setTimeout(wake, POLL_MS));
    }
  }
}
