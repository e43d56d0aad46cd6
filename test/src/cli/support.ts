// SPDX-License-Identifier: Apache-2.0
// Runs verbs as a person or a script does.
import { type ChildProcess, spawn } from "node:child_process";
import { program, thisRuntime } from "../../guest.ts";

export interface Ended {
  exitCode: number | null;
  output: string;
  error: string;
}

/** A verb that runs. */
export class Verb {
  readonly child: ChildProcess;
  /** What it has written to standard output and error. */
  output = "";
  error = "";
  readonly ended: Promise<Ended>;

  constructor(...args: string[]) {
    const [command, ...rest] = [...program(thisRuntime), ...args];
    this.child = spawn(command!, rest, { stdio: ["ignore", "pipe", "pipe"] });
    this.child.stdout!.setEncoding("utf8").on("data", (text: string) => (this.output += text));
    this.child.stderr!.setEncoding("utf8").on("data", (text: string) => (this.error += text));
    this.ended = new Promise((resolve) => {
      this.child.once("close", (exitCode) => resolve({ exitCode, output: this.output, error: this.error }));
    });
  }

  /** Ctrl-C. Not by `child.kill`, after which Deno takes any end for one by that signal. */
  interrupt(): void {
    process.kill(this.child.pid!, "SIGINT");
  }
}

/** Runs a verb to its end. */
export function baton(...args: string[]): Promise<Ended> {
  return new Verb(...args).ended;
}
