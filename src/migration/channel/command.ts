// SPDX-License-Identifier: Apache-2.0
// The command of an `exec` address, with a socket for its standard input or output.
import { type ChildProcess, spawn } from "node:child_process";
import { close, setNonBlocking } from "../../../ffi/fd.ts";
import { socketPair } from "../../../ffi/socket.ts";
import { VmmError } from "../../errors.ts";
import { refuseInSandbox } from "../../sandbox/state.ts";

export interface RunningCommand {
  /** Our end. */
  fd: number;
  /** Rejects when the command ends with an exit code other than 0, or by a signal. Nobody needs to listen. */
  ended: Promise<void>;
  /** Ends it, with all that it has started, if it has not ended by itself. */
  kill(): void;
}

/** A command that is told to end and does not is killed after this. */
const GRACE_MS = 1000;

/**
 * Starts a program with our socket as its `stream`. What it writes otherwise goes to this process's standard error: its
 * standard output may be somebody's monitor.
 * @throws VmmError "command-failed" when it cannot be started
 */
export async function runCommand(args: readonly string[], stream: "stdin" | "stdout"): Promise<RunningCommand> {
  refuseInSandbox("An exec: address", "use unix:, tcp:, fd: or file:");
  const [program, ...rest] = args;
  if (program === undefined) throw new VmmError("command-failed", "The command of an exec address is empty");
  const [fd, childFd] = socketPair();
  try {
    // Few programs expect a standard stream that does not block. The other end is another open file, and stays as it is.
    setNonBlocking(childFd, false);
    const child = spawn(program, rest, {
      stdio: stream === "stdin" ? [childFd, 2, 2] : ["ignore", childFd, 2],
      detached: true,
    });
    const ended = new Promise<void>((resolve, reject) => {
      child.once("exit", (code, signal) => {
        if (code === 0) resolve();
        else reject(new VmmError("command-failed", `Command ${program} ended ${how(code, signal)}`));
      });
    });
    ended.catch(() => {});
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    return { fd, ended, kill: () => killGroup(child) };
  } catch (error) {
    close(fd);
    throw new VmmError("command-failed", `Cannot start command ${program}`, { cause: error });
  } finally {
    close(childFd);
  }
}

/** Of a command such as `gzip | ssh` the shell is only the first process: it leads a group of its own. */
function killGroup(child: ChildProcess): void {
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null;
  const send = (signal: "SIGTERM" | "SIGKILL"): void => {
    if (isOver()) return;
    try {
      process.kill(-child.pid!, signal);
    } catch (error) {
      // It has ended in this moment.
      if ((error as { code?: string }).code !== "ESRCH") throw error;
    }
  };
  send("SIGTERM");
  const timer = setTimeout(() => send("SIGKILL"), GRACE_MS);
  timer.unref();
  child.once("exit", () => clearTimeout(timer));
}

function how(code: number | null, signal: string | null): string {
  return code === null ? `by signal ${signal}` : `with exit code ${code}`;
}
