// SPDX-License-Identifier: Apache-2.0
// A program that execs itself, with as little as possible around the exec.
import { type ExecPlan, exec, planExec } from "../ffi/exec.ts";
import { close, O_RDONLY, open, read } from "../ffi/fd.ts";

/** Bytes of arguments that are read; a benchmark's own command line is far shorter. */
const MAX_ARGUMENTS_BYTES = 8192;

/** This program's arguments. Not process.argv, which runtimes rewrite; and without node:fs, which takes 1 ms to load. */
function ownArguments(): string[] {
  const buffer = new Uint8Array(MAX_ARGUMENTS_BYTES);
  const fd = open("/proc/self/cmdline", O_RDONLY);
  const length = read(fd, buffer) ?? 0;
  close(fd);
  return new TextDecoder().decode(buffer.subarray(0, length)).split("\0").slice(0, -1);
}

/** Plans to replace this program by itself: same binary, same arguments, `env` added to the environment. */
export function planExecSelf(env: Record<string, string>): ExecPlan {
  return planExec({ path: "/proc/self/exe" }, ownArguments(), { ...process.env, ...env });
}

/** Does it. Does not return. */
export function execSelf(env: Record<string, string>): never {
  exec(planExecSelf(env));
}
