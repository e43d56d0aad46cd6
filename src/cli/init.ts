// SPDX-License-Identifier: Apache-2.0
// Process 1 of a container: it starts the VMM and does nothing else. The kernel ends the container with its process 1, so that must not
// be one that updates itself, or that a guard or a relay replaces by another.
import { readFileSync } from "node:fs";
import { unlessErrno } from "../../ffi/error.ts";
import { planExec } from "../../ffi/exec.ts";
import { close, O_RDONLY, open } from "../../ffi/fd.ts";
import * as processes from "../../ffi/process.ts";
import { spawnProgram } from "../../ffi/spawn.ts";
import { commandLine, environment } from "../runtime/program.ts";
import { Reactor } from "../runtime/reactor.ts";

/** A shell's exit code for a program that a signal has ended. */
const EXIT_SIGNAL = 128;
/** Handed on. A terminal sends the others to the VMM itself. */
const FORWARDED = ["SIGTERM"] as const;
const FORWARDED_WITHOUT_TERMINAL = ["SIGINT", "SIGHUP"] as const;

/**
 * Starts this command line again as a child. Resolves with the exit code, when no process is left: that of the last one that
 * ended by itself.
 */
export async function runAsInit(): Promise<number> {
  const programFd = open("/proc/self/exe", O_RDONLY);
  spawnProgram(planExec({ fd: programFd }, commandLine(), environment()), []);
  close(programFd);
  const signals = process.stdin.isTTY ? FORWARDED : [...FORWARDED, ...FORWARDED_WITHOUT_TERMINAL];
  for (const signal of signals) process.on(signal, () => forward(signal));
  const reactor = new Reactor();
  let exitCode: number | undefined;
  let endedBySignal = 0;
  const reap = (): void => {
    // ECHILD: there are none.
    const next = (): processes.ExitStatus | undefined =>
      unlessErrno("ECHILD", () => processes.wait4(-1, processes.WNOHANG | processes.__WALL));
    for (let ended = next(); ended !== undefined; ended = next()) {
      if ("exitCode" in ended) ({ exitCode } = ended);
      else endedBySignal = ended.signal;
    }
  };
  // Orphans of the VMM come here, too.
  process.on("SIGCHLD", reap);
  for (let [pid] = children(); pid !== undefined; [pid] = children()) {
    const pidfd = processes.pidfdOpen(pid);
    await new Promise<void>((resolve) => {
      const watch = reactor.watch(pidfd, { readable: true }, () => {
        watch.close();
        resolve();
      });
    });
    close(pidfd);
    reap();
  }
  await reactor.close();
  return exitCode ?? EXIT_SIGNAL + endedBySignal;
}

function children(): number[] {
  const pids = readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").split(" ");
  return pids.filter((pid) => pid !== "").map(Number);
}

function forward(signal: NodeJS.Signals): void {
  for (const pid of children()) {
    try {
      process.kill(pid, signal);
    } catch {
      // It has ended since.
    }
  }
}
