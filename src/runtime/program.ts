// SPDX-License-Identifier: Apache-2.0
// How this process was started, and where programs are.
import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { VmmError } from "../errors.ts";

/** Where a compiled program unpacks its native library, if it is not there. */
export const NATIVE_DIR_VARIABLE = "BUN_TMPDIR";

/** The whole command line as the kernel has it: with `bun run FILE` or `deno run FILE` in front where it was so. */
export function commandLine(): string[] {
  const text = readFileSync("/proc/self/cmdline", "utf8");
  return text.split("\0").slice(0, -1);
}

/** What started this process, without its last `argumentCount` arguments: it can be started again with others. */
export function programBefore(argumentCount: number): string[] {
  const args = commandLine().slice(1);
  return [process.execPath, ...args.slice(0, args.length - argumentCount)];
}

export function environment(): Record<string, string | undefined> {
  return { ...process.env };
}

/**
 * Finds a program as execvp(3) does: a name with a slash is a path, any other is looked for in PATH.
 * @throws VmmError "exec-failed" with QEMU's text
 */
export function findProgram(name: string): string {
  const candidates = name.includes("/") ? [name] : (process.env.PATH ?? "").split(":").map((dir) => join(dir, name));
  let reason = "No such file or directory";
  for (const path of candidates) {
    const status = statSync(path, { throwIfNoEntry: false });
    if (status === undefined) continue;
    if (!status.isFile()) {
      reason = "Permission denied";
      continue;
    }
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      reason = "Permission denied";
    }
  }
  throw new VmmError("exec-failed", `execvp ${name} failed: ${reason}`);
}
