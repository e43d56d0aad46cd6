// SPDX-License-Identifier: Apache-2.0
// Temporary directories and fd counts for tests of syscalls.
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SysError } from "../../ffi/error.ts";
import { assert } from "../harness.ts";

const temporaryDirectories: string[] = [];
process.on("exit", () => {
  for (const path of temporaryDirectories) rmSync(path, { recursive: true, force: true });
});

/** A directory that is removed when the process ends. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), "baton-test-"));
  temporaryDirectories.push(path);
  return path;
}

/** How many fds are open, but for event loops: the runtimes open and close those when they like. */
export function openFdCount(): number {
  return readdirSync("/proc/self/fd").filter((name) => {
    try {
      return !/^anon_inode:\[event(fd|poll)\]$/.test(readlinkSync(`/proc/self/fd/${name}`));
    } catch {
      return false;
    }
  }).length;
}

/** Runs `action`, which is synchronous so that nobody else runs, and fails unless it leaves as many fds as there were. */
export function withoutLeak(action: () => void): void {
  // Once for what the runtime itself opens on first use.
  action();
  const before = readdirSync("/proc/self/fd").length;
  action();
  assert.is(readdirSync("/proc/self/fd").length, before, "file descriptors leak");
}

/** Runs `action` and checks that it fails with this errno and syscall. */
export function failsWith(code: string, syscall: string, action: () => unknown): void {
  try {
    action();
  } catch (error) {
    assert.instance(error, SysError);
    assert.is((error as SysError).code, code);
    assert.is((error as SysError).syscall, syscall);
    return;
  }
  assert.unreachable(`${syscall} did not fail with ${code}`);
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function text(data: Uint8Array): string {
  return new TextDecoder().decode(data);
}
