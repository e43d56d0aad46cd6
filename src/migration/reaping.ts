// SPDX-License-Identifier: Apache-2.0
// Children of an update, which end by themselves: nobody waits for them, and none of them stays a zombie.
import { unlessErrno } from "../../ffi/error.ts";
import { kill, reapChild, SIGKILL } from "../../ffi/process.ts";

const POLL_MS = 10;

let allReapedSoFar: Promise<void> = Promise.resolve();

/** Reaps a child once it has ended: tearing down a large address space takes a while. */
export function reapLater(pid: number): void {
  allReapedSoFar = Promise.all([allReapedSoFar, reap(pid)]).then(() => {});
}

/** The same at once. Of a child, whose pid nobody else gets before it is reaped. */
export function killAndReap(pid: number): void {
  unlessErrno("ESRCH", () => kill(pid, SIGKILL));
  reapLater(pid);
}

/** Resolves when none of them is left: a later program would not know of it, and it would stay a zombie for ever. */
export function allReaped(): Promise<void> {
  return allReapedSoFar;
}

async function reap(pid: number): Promise<void> {
  while (!reapChild(pid)) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
}
