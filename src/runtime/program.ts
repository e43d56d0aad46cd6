// SPDX-License-Identifier: Apache-2.0
// How this process was started, and where programs are.
import { accessSync, closeSync, constants, openSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { VmmError } from "../errors.ts";

/** Where a compiled program unpacks its native library, if it is not there. */
export const NATIVE_DIR_VARIABLE = "BUN_TMPDIR";

/** Nobody waits longer for a program that is only run to be in the caches. */
export const WARM_UP_TIMEOUT_MS = 1000;

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

/**
 * Runs `PATH --version`, so that the program is in the page cache, and what it does at its start in the CPU's caches, when
 * it is executed in earnest. What comes of it is not looked at: a program that cannot run says so better itself. Scripts
 * are left alone, because nobody knows what arguments they pass on.
 */
export async function warmUpPath(path: string): Promise<void> {
  const { spawn } = await import("node:child_process");
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, WARM_UP_TIMEOUT_MS);
  try {
    if (!isElf(path)) return;
    const child = spawn(path, ["--version"], { stdio: "ignore", timeout: WARM_UP_TIMEOUT_MS, killSignal: "SIGKILL" });
    child.once("exit", () => resolve()).once("error", () => resolve());
    await promise;
  } catch {
    // The exec that follows will tell.
  } finally {
    clearTimeout(timer);
  }
}

function isElf(path: string): boolean {
  const fd = openSync(path, "r");
  try {
    const magic = new Uint8Array(4);
    readSync(fd, magic);
    return new TextDecoder("latin1").decode(magic) === "\x7fELF";
  } finally {
    closeSync(fd);
  }
}
