// SPDX-License-Identifier: Apache-2.0
// The file of `-pidfile`: which process the VM is.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import type { MachineSpec } from "../config/types.ts";

/** Names this process, if the VM has such a file. */
export function writePidfile({ pidfile }: MachineSpec): void {
  if (pidfile !== undefined) writeFileSync(pidfile, `${process.pid}\n`, { mode: 0o600 });
}

/** The process that has the guest now may have written the same one since: then it stays. */
export function removePidfile({ pidfile }: MachineSpec): void {
  if (pidfile !== undefined && isOurs(pidfile)) rmSync(pidfile, { force: true });
}

function isOurs(pidfile: string): boolean {
  try {
    return readFileSync(pidfile, "utf8").trim() === String(process.pid);
  } catch {
    return false;
  }
}
