// SPDX-License-Identifier: Apache-2.0
// Process 1 of a container: it starts the VMM and does nothing else. The kernel ends the container with its process 1, so that must not
// be one that updates itself, or that a guard or a relay replaces by another.
//
// The guest may go to any process of the container, not only to those that come of the one started here. So it is not processes that
// are waited for, but the end of the pipe that goes along with the guest (machine/lifeline.ts).
import { unlessErrno } from "../../ffi/error.ts";
import { planExec } from "../../ffi/exec.ts";
import { close, O_RDONLY, open, pipe, read, setCloseOnExec } from "../../ffi/fd.ts";
import * as processes from "../../ffi/process.ts";
import { spawnProgram } from "../../ffi/spawn.ts";
import { ENV_LIFELINE, readRecords } from "../machine/lifeline.ts";
import { commandLine, environment } from "../runtime/program.ts";
import { Reactor } from "../runtime/reactor.ts";

/** A shell's exit code for a program that a signal has ended. */
const EXIT_SIGNAL = 128;
/** Of a VMM that has died, and was no child: nobody knows how. */
const EXIT_LOST = EXIT_SIGNAL + processes.SIGKILL;
/** Handed on. A terminal sends the others to the VMM itself. */
const FORWARDED = { SIGTERM: processes.SIGTERM };
const FORWARDED_WITHOUT_TERMINAL = { SIGINT: processes.SIGINT, SIGHUP: processes.SIGHUP };
/** A pipe's usual capacity. */
const READ_BYTES = 65_536;

/** Starts this command line again as a child. Resolves with the exit code of the VM, when no process has its guest any more. */
export async function runAsInit(): Promise<number> {
  const { pid, lifelineFd } = startVmm();
  let vmmPid = pid;
  let exitCode: number | undefined;
  let diedWith: number | undefined;
  // Orphans of the VMM come here, too.
  const reap = (): void => {
    // ECHILD: there are none.
    const next = (): processes.ExitStatus | undefined =>
      unlessErrno("ECHILD", () => processes.wait4(-1, processes.WNOHANG | processes.__WALL));
    for (let ended = next(); ended !== undefined; ended = next()) {
      if (ended.pid === vmmPid) diedWith = "exitCode" in ended ? ended.exitCode : EXIT_SIGNAL + ended.signal;
    }
  };
  process.on("SIGCHLD", reap);
  const signals = process.stdin.isTTY ? FORWARDED : { ...FORWARDED, ...FORWARDED_WITHOUT_TERMINAL };
  for (const [name, number] of Object.entries(signals)) {
    process.on(name, () => unlessErrno("ESRCH", () => processes.kill(vmmPid, number)));
  }
  const reactor = new Reactor();
  const buffer = new Uint8Array(READ_BYTES);
  for (;;) {
    await untilReadable(reactor, lifelineFd);
    const count = read(lifelineFd, buffer)!;
    if (count === 0) break;
    for (const record of readRecords(buffer.subarray(0, count))) {
      if (record.pid !== vmmPid) diedWith = undefined;
      ({ pid: vmmPid, exitCode } = record);
    }
  }
  // One that does not know of lifelines has lost it, and lives.
  const pidfd = unlessErrno("ESRCH", () => processes.pidfdOpen(vmmPid));
  if (pidfd !== undefined) await untilReadable(reactor, pidfd);
  reap();
  await reactor.close();
  return exitCode ?? diedWith ?? EXIT_LOST;
}

function startVmm(): { pid: number; lifelineFd: number } {
  const { readFd, writeFd } = pipe();
  const programFd = open("/proc/self/exe", O_RDONLY);
  setCloseOnExec(writeFd, false);
  const env = { ...environment(), [ENV_LIFELINE]: String(writeFd) };
  const pid = spawnProgram(planExec({ fd: programFd }, commandLine(), env), []);
  for (const fd of [writeFd, programFd]) close(fd);
  return { pid, lifelineFd: readFd };
}

function untilReadable(reactor: Reactor, fd: number): Promise<void> {
  return new Promise((resolve) => {
    const watch = reactor.watch(fd, { readable: true }, () => {
      watch.close();
      resolve();
    });
  });
}
