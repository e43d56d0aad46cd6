// SPDX-License-Identifier: Apache-2.0
// Whether this process is in a sandbox: found out, not remembered, because an exec forgets and the kernel does not.
import { readdirSync, readFileSync, rmdirSync, unlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { unlessErrno } from "../../ffi/error.ts";
import { close, O_RDONLY, open } from "../../ffi/fd.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import { VmmError } from "../errors.ts";
import type { SandboxInfo } from "../qmp/schema/machine.ts";
import { NATIVE_DIR_VARIABLE } from "../runtime/program.ts";
import { hashProgram } from "./image.ts";

export const PRIVATE_DIR_PREFIX = "baton-sandbox-";

/** Field Seccomp of /proc/PID/status, proc(5). */
const SECCOMP_MODES = ["none", "strict", "filter"] as const;

/**
 * Whether this process is restricted as `enterSandbox` does it: no new privileges, a filter, and a filter that refuses to make
 * executable files in memory, which is no other's.
 */
export function isSandboxed(): boolean {
  const { seccomp, "no-new-privs": noNewPrivs } = readStatus();
  if (seccomp !== "filter" || !noNewPrivs) return false;
  const fd = unlessErrno("EPERM", () => memfdCreate("baton-probe", 0, { executable: true }));
  if (fd !== undefined) close(fd);
  return fd === undefined;
}

function readStatus(): Pick<SandboxInfo, "seccomp" | "no-new-privs"> {
  const text = readFileSync("/proc/self/status", "latin1");
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return { seccomp: SECCOMP_MODES[field("Seccomp")]!, "no-new-privs": field("NoNewPrivs") === 1 };
}

let ownHash: Promise<string> | undefined;

/** For `query-sandbox`. */
export async function sandboxInfo(): Promise<SandboxInfo> {
  const enabled = isSandboxed();
  if (!enabled) return { enabled, ...readStatus() };
  ownHash ??= hashOwnProgram();
  return { enabled, ...readStatus(), "image-sha256": await ownHash };
}

async function hashOwnProgram(): Promise<string> {
  const fd = open("/proc/self/exe", O_RDONLY);
  try {
    return await hashProgram(fd);
  } finally {
    close(fd);
  }
}

/** What only programs that are started by path could do. @throws VmmError "sandbox" */
export function refuseInSandbox(what: string, instead: string): void {
  if (isSandboxed()) throw new VmmError("sandbox", `${what} is not possible with -sandbox on: ${instead}`);
}

/** Another process of this VM goes on with its private directory. */
export function leavePrivateDir(): void {
  delete process.env[NATIVE_DIR_VARIABLE];
}

/** Of this VM alone, for the library that the runtime unpacks at every start. Without effect outside of a sandbox. */
export function removePrivateDir(): void {
  const dir = process.env[NATIVE_DIR_VARIABLE];
  if (dir === undefined || !basename(dir).startsWith(PRIVATE_DIR_PREFIX)) return;
  // One by one: of the directory it is in, nothing but that it may be removed is allowed.
  for (const name of readdirSync(dir)) unlinkSync(join(dir, name));
  rmdirSync(dir);
}
