// SPDX-License-Identifier: Apache-2.0
// Failed system calls as errors: syscall, errno name, the arguments that matter.

let names: Map<number, string> | undefined;

/** Made at the first error: node:os is no part of a start that goes well. */
function errnoNames(): Map<number, string> {
  names ??= new Map(
    Object.entries(process.getBuiltinModule("node:os").constants.errno).map(([name, value]) => [value, name]),
  );
  return names;
}

/** Name of an errno value (`ENOENT`), or `errno 999` for one that node:os does not know. */
export function errnoName(errno: number): string {
  return errnoNames().get(errno) ?? `errno ${errno}`;
}

/** A system call that failed. `code` is the errno name; the message names syscall, errno and key arguments. */
export class SysError extends Error {
  override readonly name = "SysError";
  readonly code: string;
  readonly syscall: string;
  readonly errno: number;

  constructor(syscall: string, errno: number, detail = "") {
    super(`${syscall}${detail === "" ? "" : `(${detail})`} failed: ${errnoName(errno)}`);
    this.code = errnoName(errno);
    this.syscall = syscall;
    this.errno = errno;
  }
}

/** What `action` gives; undefined when a system call of it fails with that error. */
export function unlessErrno<T>(code: string, action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (error instanceof SysError && error.code === code) return undefined;
    throw error;
  }
}
