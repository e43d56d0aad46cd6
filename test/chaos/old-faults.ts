// SPDX-License-Identifier: Apache-2.0
// What goes wrong with the program that has the guest, or with the host, from outside, while the guest is handed on.
//
//   old-stop        it stands still for 300 ms, at any moment
//   old-no-fds      it gets no more fds (RLIMIT_NOFILE)
//   old-no-space    its files, those in memory included, get no longer than 4 KiB (RLIMIT_FSIZE)
//   clock-ahead, clock-back @ anytime: the host's clock is set by an hour
//
// And `old-kill`, of updates.ts: it is killed as soon as the guest runs in the new one.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { stepClock } from "./clock.ts";
import { ANYTIME } from "./faults.ts";
import type { UpdateOptions } from "./updates.ts";

/** What an update takes, most of which is the wait for the new program. */
const LONGEST_UPDATE_MS = 600;
const STOP_MS = 300;
const FILE_SIZE_BYTES = 4096;
const NOFILE = 4096;

/** Begins with a fault of a process; the result ends it, if it has not ended by itself. */
export function afflict(pid: number, options: UpdateOptions): () => void {
  const {
    below,
    slowness,
    fault: { fault, phase },
  } = options;
  const atAnyMoment = below(LONGEST_UPDATE_MS * slowness);
  if (phase === ANYTIME) {
    const timer = setTimeout(() => stepClock(fault), atAnyMoment);
    return () => clearTimeout(timer);
  }
  switch (fault) {
    case "old-stop": {
      let timer = setTimeout(() => {
        signal(pid, "SIGSTOP");
        timer = setTimeout(() => signal(pid, "SIGCONT"), STOP_MS);
      }, atAnyMoment);
      return () => {
        clearTimeout(timer);
        signal(pid, "SIGCONT");
      };
    }
    case "old-no-fds":
      limit(pid, `--nofile=${lowestFreeFd(pid)}:`);
      break;
    case "old-no-space":
      limit(pid, `--fsize=${FILE_SIZE_BYTES}:`);
      break;
  }
  return () => liftLimits(pid);
}

/** Limits that a fault has set go with a process through exec. */
export function liftLimits(pid: number): void {
  limit(pid, `--nofile=${NOFILE}:`, "--as=unlimited:", "--fsize=unlimited:");
}

function limit(pid: number, ...limits: string[]): void {
  spawnSync("prlimit", ["--pid", String(pid), ...limits]);
}

/** Of a process that may have ended. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function lowestFreeFd(pid: number): number {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let fd = 0;
  while (open.has(fd)) fd++;
  return fd;
}
