// SPDX-License-Identifier: Apache-2.0
// What a guard does, see guard.ts. One thread that blocks, and nothing else: while it waits, it takes no time from the guest.
//
//   guarding ── token offered ─▶ offered ── the other end closes ─▶ the token is gone: the guest runs, the guard ends
//      │                            └── process dies, closes, or is late, and the token is there ─▶ take back
//      └── the other end closes ─▶ ends
import { monotonicMs } from "../../ffi/clock.ts";
import { unlessErrno } from "../../ffi/error.ts";
import { eventfd, takeEventfd } from "../../ffi/eventfd.ts";
import { exec, planExec } from "../../ffi/exec.ts";
import { duplicate, duplicateTo, O_RDWR, open, separateFds, setCloseOnExec, setNonBlocking } from "../../ffi/fd.ts";
import { POLLHUP, POLLIN, PollSet, poll } from "../../ffi/poll.ts";
import { pidfdOpen, pidfdSendSignal, SIGHUP, SIGINT, SIGKILL, SIGTERM } from "../../ffi/process.ts";
import { ignoreSignal } from "../../ffi/signal.ts";
import { VmmError } from "../errors.ts";
import { check } from "../qmp/schema/check.ts";
import { environment } from "../runtime/program.ts";
import { Reactor } from "../runtime/reactor.ts";
import { ENV_ERROR, ENV_OLD_COMMAND, ENV_STATE, formatHandover } from "./carried.ts";
import { type Frame, FrameChannel } from "./channel/frames.ts";
import { Entrusted, guardTransport } from "./guard-task.ts";
import { expectType, FRAME_AWAKE, FRAME_ENTRUST, FRAME_FDS, FRAME_GUARDING } from "./messages.ts";

/** The VM that starts a guard tells it everything in one go. */
const TASK_TIMEOUT_MS = 30_000;
/** Tearing down its memory takes a process some time. */
const DEATH_TIMEOUT_MS = 1000;
/** A command line has at most 2 MiB, its JSON perhaps more. */
const MAX_TASK_BYTES = 2 ** 24;
const NOTHING = new Uint8Array(0);

/**
 * Stands guard for whoever is at the other end of `socketFd`. Returns when the guest needs no guard any more; when it has
 * to be taken back, this process becomes its VMM, and this does not return.
 * @throws VmmError "guest-lost" when the new program died with the guest
 */
export function standGuard(socketFd: number): void {
  setCloseOnExec(socketFd, true);
  setNonBlocking(socketFd, true);
  const channel = new FrameChannel(guardTransport(socketFd, "the VM"), new Reactor({ autoStart: false }));
  channel.sendNow(FRAME_AWAKE, NOTHING, [], TASK_TIMEOUT_MS);
  const guard = receiveTask(channel);
  const pidfd = pidfdOpen(guard.task.pid);
  channel.sendNow(FRAME_GUARDING, NOTHING, [], TASK_TIMEOUT_MS);
  const [SOCKET, PROCESS, TOKEN] = [0, 1, 2];
  const waiting = new PollSet([socketFd, pidfd, guard.tokenFd]);
  let deadlineMs: number | undefined;
  let wasOffered = false;
  for (;;) {
    waiting.want(SOCKET, POLLIN);
    waiting.want(PROCESS, POLLIN);
    // Once it is offered it stays readable until somebody takes it.
    waiting.want(TOKEN, deadlineMs === undefined ? POLLIN : 0);
    waiting.wait(deadlineMs === undefined ? -1 : Math.max(0, deadlineMs - monotonicMs()));
    const isDead = (waiting.events(PROCESS) & POLLIN) !== 0;
    const isClosed = (waiting.events(SOCKET) & POLLHUP) !== 0;
    const isOffered = deadlineMs !== undefined || (waiting.events(TOKEN) & POLLIN) !== 0;
    if (isOffered) deadlineMs ??= monotonicMs() + guard.task.timeoutMs;
    const isLate = deadlineMs !== undefined && monotonicMs() >= deadlineMs;
    if (!isDead && !isClosed && !isLate) continue;
    if (takeEventfd(guard.tokenFd) > 0n) takeBack(guard, pidfd, isLate && !isDead);
    wasOffered ||= isOffered;
    if (isDead && wasOffered) throw new VmmError("guest-lost", lostWith(guard.task.pid));
    if (isDead || isClosed) return;
    // It runs, or it is not to be updated after all.
    deadlineMs = undefined;
  }
}

function receive(channel: FrameChannel, type: number): Frame {
  return expectType(channel.receiveNow(MAX_TASK_BYTES, TASK_TIMEOUT_MS), type);
}

function lostWith(pid: number): string {
  return `The guest is lost: it ran in the new program already when process ${pid} died with it`;
}

interface Guarded {
  task: Entrusted;
  tokenFd: number;
  /** By number, what the old program is to find there: above all of these numbers. */
  sources: Map<number, number>;
}

function receiveTask(channel: FrameChannel): Guarded {
  const first = receive(channel, FRAME_ENTRUST);
  const task = check(Entrusted, JSON.parse(new TextDecoder().decode(first.payload)), "task");
  const fds = [...first.fds];
  while (fds.length < task.fds.length) {
    const more = receive(channel, FRAME_FDS);
    if (more.fds.length === 0) throw new VmmError("guard", `${fds.length} fds came, not ${task.fds.length}`);
    fds.push(...more.fds);
  }
  const tokenFd = fds[task.fds.indexOf(task.tokenFd)];
  if (tokenFd === undefined) throw new VmmError("guard", "The task of the guard has no token");
  // Now: when they are needed, nothing may fail any more.
  const above = Math.max(...task.fds, task.socketFd) + 1;
  const sources = new Map(task.fds.map((number, index) => [number, duplicate(fds[index]!, above)]));
  sources.set(task.socketFd, duplicate(open("/dev/null", O_RDWR), above));
  // Another token: a process that is being killed may be about to read the one that it knows.
  sources.set(task.tokenFd, duplicate(eventfd(1), above));
  return { task, tokenFd, sources };
}

/** Nobody else runs the guest from here on: this process does, with the old program. */
function takeBack({ task, sources }: Guarded, pidfd: number, isLate: boolean): never {
  unlessErrno("ESRCH", () => pidfdSendSignal(pidfd, SIGKILL));
  // Without its token it never runs the guest, however long it takes to die. But its end may be a terminal's, which tells all.
  poll(pidfd, POLLIN, DEATH_TIMEOUT_MS);
  for (const signal of [SIGHUP, SIGINT, SIGTERM]) ignoreSignal(signal);
  const reason = isLate
    ? `The new program did not run the guest within guard-timeout (${task.timeoutMs} ms): its process ${task.pid} was killed`
    : `The new program died before it ran the guest, as process ${task.pid}`;
  const env = {
    ...environment(),
    [ENV_STATE]: formatHandover(task.stateFd, task.programFd, task.fds),
    [ENV_OLD_COMMAND]: JSON.stringify(task.command),
    [ENV_ERROR]: `${reason}; the guest was taken back`,
  };
  try {
    const plan = planExec({ fd: task.programFd }, task.command, env);
    placeFds(sources);
    exec(plan);
  } catch (cause) {
    throw new VmmError("guest-lost", `The guest is lost: ${reason}; and the old program cannot be executed again`, {
      cause,
    });
  }
}

/**
 * Gives each fd the number that the state knows it by.
 *
 * SAFETY: these numbers may be fds of this runtime, which are gone for this thread then. Nothing but an exec may follow. The runtime's other threads keep
 * theirs: Deno's that reads signals ends the process when it finds another fd than its own.
 */
function placeFds(sources: ReadonlyMap<number, number>): void {
  separateFds();
  for (const [number, source] of sources) {
    duplicateTo(source, number);
    setCloseOnExec(number, false);
  }
}
