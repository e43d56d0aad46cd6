// SPDX-License-Identifier: Apache-2.0
// A VMM as a child process that is listened to until it has said all, and then killed.
import { spawn } from "node:child_process";

/** Characters of what it said that are kept for an error message. */
const SAID_LIMIT = 3000;

export interface ListenOptions {
  /** The program and its arguments. */
  command: readonly string[];
  /** Gets what comes on its standard output. True: that was all. What it throws ends the child, too. */
  onOutput(bytes: Buffer, pid: number): boolean;
  /** Told every second. What it throws ends the child. */
  onSecond(passedSeconds: number): void;
}

/** Resolves when the child has said all and is gone. @throws what `onOutput` or `onSecond` have thrown, or that it has ended */
export function listen({ command, onOutput, onSecond }: ListenOptions): Promise<void> {
  const child = spawn(command[0]!, command.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  let isDone = false;
  let problem: Error | undefined;
  let passedSeconds = 0;
  const kill = (): boolean => child.kill("SIGKILL");
  const attempt = (action: () => void): void => {
    try {
      if (!isDone && problem === undefined) action();
    } catch (error) {
      problem = error as Error;
      kill();
    }
  };
  const timer = setInterval(() => attempt(() => onSecond(++passedSeconds)), 1000);
  process.on("exit", kill);
  child.stderr.on("data", (bytes: Buffer) => {
    said = (said + bytes.toString()).slice(-SAID_LIMIT);
  });
  child.stdout.on("data", (bytes: Buffer) => {
    said = (said + bytes.toString()).slice(-SAID_LIMIT);
    attempt(() => {
      isDone = onOutput(bytes, child.pid!);
      if (isDone) kill();
    });
  });
  return new Promise((resolve, reject) => {
    const settle = (error: Error | undefined): void => {
      clearInterval(timer);
      process.off("exit", kill);
      if (error === undefined) resolve();
      else reject(Object.assign(error, { message: `${command[0]}: ${error.message}\n${said}`.trim() }));
    };
    child.once("error", settle);
    child.once("close", (code) => settle(isDone ? undefined : (problem ?? new Error(`It has ended (${code})`))));
  });
}
