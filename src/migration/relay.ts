// SPDX-License-Identifier: Apache-2.0
// cpr-exec with `relay`: the guest runs in a helper while this process executes the new program, and comes back.
//
//   process P                      helper H, of the old program
//   old program   starts H
//                 ── cpr-transfer, with connections ──▶   the guest runs here
//                 exec: a VM that waits, `-incoming`
//   new program   ◀── cpr-transfer, with connections ──   ends
//   the guest runs here, P's pid, parent and cgroup are what they were
//
// Both ways are cpr-transfer.ts as it is; this file is what is around it. The guest stands twice, for as long as a transfer takes, and
// not for an exec. Whatever goes wrong with the new program, H has the guest, and keeps it.

import { unlessErrno } from "../../ffi/error.ts";
import { exec, planExec } from "../../ffi/exec.ts";
import { close, O_RDONLY, open, setCloseOnExec } from "../../ffi/fd.ts";
import { pidfdOpen, pidfdSendSignal, SIGKILL } from "../../ffi/process.ts";
import { socketPair } from "../../ffi/socket.ts";
import { spawnProgram } from "../../ffi/spawn.ts";
import type { MachineSpec, MigrationAddress } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { writePidfile } from "../machine/pidfile.ts";
import { check } from "../qmp/schema/check.ts";
import { type Static, struct, uint } from "../qmp/schema/types.ts";
import { commandLine, environment, findProgram, programBefore } from "../runtime/program.ts";
import { warmUp } from "../runtime/warm-up.ts";
import { leavePrivateDir } from "../sandbox/state.ts";
import { checkCommandLine } from "./command-line.ts";
import { type TransferOptions, transfer } from "./cpr-transfer.ts";
import { splitCommand } from "./dry-run.ts";
import type { ExecImage } from "./exec-image.ts";
import type { Outgoing } from "./outgoing.ts";
import { allReaped, killAndReap, reapLater } from "./reaping.ts";

/** Set for the helper: a `RelayTask` as JSON. */
const ENV_TASK = "BATON_RELAY";
/** Set for the new program: the helper's pid, to be reaped. */
const ENV_HELPER = "BATON_RELAY_HELPER";

/** The helper's fds: of its guest's way in, and of the way back. */
const HELPER_FDS = { main: 3, cpr: 4, backMain: 5, backCpr: 6 };
/** Names of fds that are not an operator's. */
const MAIN_NAME = "baton-relay-main";
const CPR_NAME = "baton-relay-cpr";

/** The new program starts while the guest runs: it has time, but not for ever. */
const DEFAULT_TIMEOUT_MS = 30_000;

/** What a helper is told: the process that the guest goes back to, how long that may take to be ready, and `pause-limit`. */
const Task = struct({ pid: uint, timeoutMs: uint, pauseLimitMs: uint });

export interface RelayTask {
  /** Of the process that the guest goes back to. */
  pidfd: number;
  timeoutMs: number;
  pauseLimitMs: number;
}

export interface RelayOptions extends TransferOptions {
  command: readonly string[];
  /** The program, if it is not to be found by the command's first word; the relay's to close. */
  image: ExecImage | undefined;
}

/** Hands the guest to a helper, and executes the new program when the migration is over. @throws VmmError: the guest is here */
export async function relay(run: Outgoing, { command, image, ...options }: RelayOptions): Promise<void> {
  const { vm } = run;
  const { program, args } = splitCommand(command.length > 0 ? command : commandLine());
  if (image !== undefined) {
    run.onFailure(() => image.close());
    await image.verify(run.signal);
  }
  const newProgram = image === undefined ? { path: findProgram(program[0]!) } : { fd: image.fd };
  if (command.length > 0) checkCommandLine(args, vm.spec);
  await warmUp(newProgram);
  const pairs: [own: number, helpers: number][] = [];
  let pid: number;
  try {
    while (pairs.length < Object.keys(HELPER_FDS).length) pairs.push(socketPair());
    pid = startHelper(
      run,
      pairs.map(([, helpers]) => helpers),
    );
  } catch (error) {
    for (const [own] of pairs) close(own);
    throw error;
  } finally {
    for (const [, helpers] of pairs) close(helpers);
  }
  const [main, cpr, backMain, backCpr] = pairs.map(([own]) => own) as [number, number, number, number];
  // Where a transfer takes its fds from, and what it does not take is still there.
  vm.fds.set(MAIN_NAME, main);
  vm.fds.set(CPR_NAME, cpr);
  run.onFailure(() => {
    if (run.isCommitted) return;
    killAndReap(pid);
    for (const name of [MAIN_NAME, CPR_NAME]) vm.fds.close(name);
    for (const fd of [backMain, backCpr]) close(fd);
    // The helper has written its own pid.
    writePidfile(vm.spec);
  });
  await transfer(run, { main: fdAddress(MAIN_NAME), cpr: fdAddress(CPR_NAME) }, options);
  await allReaped();
  // Last of all: what else is done at the end of a migration gives back what must not go along, as the CPUs of this thread.
  run.atEnd(() => {
    for (const fd of [backMain, backCpr]) setCloseOnExec(fd, false);
    const argv = [...program, ...waiting(backMain, backCpr, vm.spec)];
    try {
      exec(planExec(newProgram, argv, { ...environment(), [ENV_HELPER]: String(pid) }));
    } catch (error) {
      // Nobody comes for the guest; the helper keeps it.
      leavePrivateDir();
      process.stderr.write(`baton: relay: ${describeError(error)}\n`);
    }
  });
}

function startHelper({ vm, parameters }: Outgoing, fds: readonly number[]): number {
  const task: Static<typeof Task> = {
    pid: process.pid,
    timeoutMs: parameters["guard-timeout"] || DEFAULT_TIMEOUT_MS,
    pauseLimitMs: parameters["pause-limit"],
  };
  const [, ...words] = programBefore(process.argv.length - 2);
  const argv = [commandLine()[0]!, ...words, ...waiting(HELPER_FDS.main, HELPER_FDS.cpr, vm.spec)];
  const programFd = open("/proc/self/exe", O_RDONLY);
  try {
    const plan = planExec({ fd: programFd }, argv, { ...environment(), [ENV_TASK]: JSON.stringify(task) });
    return spawnProgram(
      plan,
      fds.map((fd, index) => ({ fd, asFd: HELPER_FDS.main + index })),
    );
  } finally {
    close(programFd);
  }
}

/** Arguments of a VM that waits for this one's guest with everything that belongs to it, and is in all else what this one is. */
function waiting(mainFd: number, cprFd: number, { pidfile, sandbox, tlsCredentials = [] }: MachineSpec): string[] {
  const channel = { "channel-type": "cpr", addr: fdAddress(cprFd) };
  const args = ["-nodefaults", "-incoming", `fd:${mainFd}`, "-incoming", JSON.stringify(channel)];
  for (const { qomType, id, endpoint, dir, verifyPeer } of tlsCredentials) {
    args.push("-object", JSON.stringify({ "qom-type": qomType, id, endpoint, dir, "verify-peer": verifyPeer }));
  }
  // A comma within a value is written twice.
  if (sandbox !== undefined) {
    const allowed = sandbox.allow.length === 0 ? "" : `,allow=${sandbox.allow.join(":").replaceAll(",", ",,")}`;
    args.push("-sandbox", `on${allowed}`);
  }
  if (pidfile !== undefined) args.push("-pidfile", pidfile);
  return args;
}

function fdAddress(fd: number | string): Extract<MigrationAddress, { type: "fd" }> {
  return { transport: "socket", type: "fd", str: String(fd) };
}

/** The helper's, taken out of its environment; undefined in any other process. @throws VmmError */
export function takeRelayTask(env: Record<string, string | undefined>): RelayTask | undefined {
  const text = env[ENV_TASK];
  delete env[ENV_TASK];
  if (text === undefined) return undefined;
  const { pid, ...task } = check(Task, JSON.parse(text), ENV_TASK);
  for (const fd of Object.values(HELPER_FDS)) setCloseOnExec(fd, true);
  // Now that it waits for this one to start: later another process may have its pid.
  return { pidfd: pidfdOpen(pid), ...task };
}

/** The helper, if this program was executed while one had the guest: it has ended, or is about to. */
export function reapRelayHelper(env: Record<string, string | undefined>): void {
  const pid = Number(env[ENV_HELPER]);
  delete env[ENV_HELPER];
  if (Number.isInteger(pid) && pid > 1) reapLater(pid);
}

/** The helper: hands the guest on to the new program. @throws VmmError: the guest stays here */
export async function passOn(run: Outgoing, { pidfd, timeoutMs }: RelayTask, options: TransferOptions): Promise<void> {
  run.atEnd(() => close(pidfd));
  run.onFailure(() => {
    if (!run.isCommitted) unlessErrno("ESRCH", () => pidfdSendSignal(pidfd, SIGKILL));
  });
  try {
    const { backMain, backCpr } = HELPER_FDS;
    await transfer(
      run,
      { main: fdAddress(backMain), cpr: fdAddress(backCpr) },
      { ...options, buildTimeoutMs: timeoutMs },
    );
    leavePrivateDir();
  } catch (cause) {
    throw new VmmError("relay", `The new program did not take the guest: process ${process.pid} keeps it`, { cause });
  }
}
