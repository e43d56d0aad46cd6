// SPDX-License-Identifier: Apache-2.0
// Running a new program once before it is executed in earnest.
import { closeSync, openSync, readSync } from "node:fs";
import type { Program } from "../../ffi/exec.ts";
import { runProgram } from "./run-program.ts";

/** Nobody waits longer for a program that is only run to be in the caches. */
const TIMEOUT_MS = 1000;
const MAX_OUTPUT_BYTES = 4096;

/**
 * Runs `PROGRAM --version`, so that the program is in the page cache, and what it does at its start in the CPU's caches, when
 * it is executed in earnest. What comes of it is not looked at: a program that cannot run says so better itself. Scripts
 * are left alone, because nobody knows what arguments they pass on.
 */
export function warmUp(program: Program): Promise<void> {
  return "path" in program ? warmUpPath(program.path) : warmUpFd(program.fd);
}

async function warmUpFd(fd: number): Promise<void> {
  const options = { argv: ["baton", "--version"], timeoutMs: TIMEOUT_MS, maxOutputBytes: MAX_OUTPUT_BYTES };
  // The exec that follows will tell.
  await runProgram(fd, options).catch(() => {});
}

async function warmUpPath(path: string): Promise<void> {
  const { spawn } = await import("node:child_process");
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, TIMEOUT_MS);
  try {
    if (!isElf(path)) return;
    const child = spawn(path, ["--version"], { stdio: "ignore", timeout: TIMEOUT_MS, killSignal: "SIGKILL" });
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
