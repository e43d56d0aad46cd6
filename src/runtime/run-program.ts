// SPDX-License-Identifier: Apache-2.0
// Running a program that an fd is open on, to its end: `execFile` where there is no path, or paths are refused.
import { planExec } from "../../ffi/exec.ts";
import { close, O_RDONLY, open, pread } from "../../ffi/fd.ts";
import { F_SEAL_GROW, F_SEAL_SHRINK, memfdCreate } from "../../ffi/memfd.ts";
import { type ExitStatus, kill, SIGKILL, WNOHANG, wait4 } from "../../ffi/process.ts";
import { spawnProgram } from "../../ffi/spawn.ts";
import { environment } from "./program.ts";

const POLL_MS = 5;

export interface RunOptions {
  argv: readonly string[];
  timeoutMs: number;
  /** Of standard output, and of standard error: what is beyond that, the program fails to write. */
  maxOutputBytes: number;
  /** Kills it. */
  signal?: AbortSignal;
}

export interface RunResult {
  end: ExitStatus;
  /** Killed because it took too long. */
  isLate: boolean;
  stdout: string;
  stderr: string;
}

/** @throws SysError when it cannot be started, the signal's reason when that has killed it */
export async function runProgram(
  fd: number,
  { argv, timeoutMs, maxOutputBytes, signal }: RunOptions,
): Promise<RunResult> {
  signal?.throwIfAborted();
  const files: number[] = [];
  const output = (name: string): number => {
    files.push(memfdCreate(name, maxOutputBytes, { seals: F_SEAL_GROW | F_SEAL_SHRINK }));
    return files.at(-1)!;
  };
  try {
    const [stdout, stderr] = [output("stdout"), output("stderr")];
    const stdin = open("/dev/null", O_RDONLY);
    files.push(stdin);
    const given = [stdin, stdout, stderr].map((file, asFd) => ({ fd: file, asFd }));
    const pid = spawnProgram(planExec({ fd }, argv, environment()), given);
    const deadlineMs = performance.now() + timeoutMs;
    let isLate = false;
    let end = wait4(pid, WNOHANG);
    while (end === undefined) {
      isLate = performance.now() > deadlineMs;
      if (isLate || signal?.aborted) {
        kill(pid, SIGKILL);
        end = wait4(pid);
        break;
      }
      await new Promise((wake) => setTimeout(wake, POLL_MS));
      end = wait4(pid, WNOHANG);
    }
    signal?.throwIfAborted();
    return { end: end!, isLate, stdout: readText(stdout, maxOutputBytes), stderr: readText(stderr, maxOutputBytes) };
  } finally {
    for (const file of files) close(file);
  }
}

/** The file is as long as it may get, with zeros behind what was written. */
function readText(fd: number, sizeBytes: number): string {
  const bytes = new Uint8Array(sizeBytes);
  pread(fd, bytes, 0);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}
