// SPDX-License-Identifier: Apache-2.0
// The command of an `exec` address, with a socket for its standard input or output.
import { spawn } from "node:child_process";
import { close, setNonBlocking } from "../../../ffi/fd.ts";
import { socketPair } from "../../../ffi/socket.ts";
import { VmmError } from "../../errors.ts";

export interface RunningCommand {
  /** Our end. */
  fd: number;
  /** Rejects when the command ends with an exit code other than 0, or by a signal. Nobody needs to listen. */
  ended: Promise<void>;
}

/**
 * Starts a program with our socket as its `stream`. What it writes otherwise goes to this process's standard error: its
 * standard output may be somebody's monitor.
 * @throws VmmError "command-failed" when it cannot be started
 */
export async function runCommand(args: readonly string[], stream: "stdin" | "stdout"): Promise<RunningCommand> {
  const [program, ...rest] = args;
  if (program === undefined) throw new VmmError("command-failed", "The command of an exec address is empty");
  const [fd, childFd] = socketPair();
  try {
    // Few programs expect a standard stream that does not block. The other end is another open file, and stays as it is.
    setNonBlocking(childFd, false);
    const child = spawn(program, rest, { stdio: stream === "stdin" ? [childFd, 2, 2] : ["ignore", childFd, 2] });
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
    return { fd, ended };
  } catch (error) {
    close(fd);
    throw new VmmError("command-failed", `Cannot start command ${program}`, { cause: error });
  } finally {
    close(childFd);
  }
}

function how(code: number | null, signal: string | null): string {
  return code === null ? `by signal ${signal}` : `with exit code ${code}`;
}
