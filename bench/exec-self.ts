// SPDX-License-Identifier: Apache-2.0
// Exec without anything around it: the floor of every update that execs.
import { readFileSync } from "node:fs";
import { SysError } from "../ffi/error.ts";
import { lazyCall } from "../ffi/libc.ts";

const cExecve = lazyCall("int execve(const char *path, const char **argv, const char **env)", { retry: false });

/**
 * Replaces this program by itself: same binary, same arguments, `env` added to the environment. Does not return.
 *
 * SAFETY: the strings are copied by the kernel before the old program goes; nothing else of it is used.
 */
export function execSelf(env: Record<string, string>): never {
  // Not process.argv: runtimes rewrite it, and a compiled binary puts a virtual path into it.
  const argv = readFileSync("/proc/self/cmdline", "utf8").split("\0").slice(0, -1);
  const merged = Object.entries({ ...process.env, ...env }).map(([name, value]) => `${name}=${value}`);
  const result = cExecve("/proc/self/exe", [...argv, null] as never, [...merged, null] as never);
  throw new SysError("execve", -result, "/proc/self/exe");
}
