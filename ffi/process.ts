// SPDX-License-Identifier: Apache-2.0
// Processes and threads: identity, signals, waiting.
import { unlessErrno } from "./error.ts";
import { check, ESRCH, lazyCall } from "./libc.ts";

/** asm-generic/signal.h (x86-64) */
export const SIGHUP = 1;
export const SIGINT = 2;
export const SIGKILL = 9;
export const SIGPIPE = 13;
export const SIGTERM = 15;
export const SIGCHLD = 17;
export const SIGCONT = 18;
export const SIGSTOP = 19;
export const SIGTSTP = 20;

/** linux/wait.h */
export const WNOHANG = 1;
/** Also waits for children made by clone(2) with an exit signal other than SIGCHLD. */
export const __WALL = 0x40000000;

/** linux/sched.h: the usual policy. */
export const SCHED_OTHER = 0;
/** A thread that preempts nobody when it wakes up. */
export const SCHED_BATCH = 3;
/** Runs when nobody else wants the CPU. */
export const SCHED_IDLE = 5;

/** What x86-64 kernels can be built for (CONFIG_NR_CPUS): a smaller mask than the kernel's own is refused. */
export const MAX_CPUS = 8192;

/** asm/unistd_64.h */
const SYS_pidfd_send_signal = 424;
const SYS_pidfd_open = 434;

const cGetpid = lazyCall("int getpid(void)");
const cGettid = lazyCall("int gettid(void)");
const cKill = lazyCall("int kill(int pid, int signal)");
const cTgkill = lazyCall("int tgkill(int pid, int tid, int signal)");
const cWait4 = lazyCall("int wait4(int pid, void *status, int options, void *usage)");
const cSchedGetcpu = lazyCall("int sched_getcpu(void)");
const cSchedSetscheduler = lazyCall("int sched_setscheduler(int pid, int policy, const void *param)");
const cSchedGetscheduler = lazyCall("int sched_getscheduler(int pid)");
const cSchedGetaffinity = lazyCall("int sched_getaffinity(int pid, size_t size, void *mask)");
const cSchedSetaffinity = lazyCall("int sched_setaffinity(int pid, size_t size, const void *mask)");
// By number: glibc has wrappers for these only since 2.36.
const cPidfdOpen = lazyCall("long syscall(long number, int pid, unsigned int flags)");
const cPidfdSendSignal = lazyCall("long syscall(long number, int pidfd, int signal, void *info, unsigned int flags)");

/** How a child ended. */
export type ExitStatus = { pid: number; exitCode: number } | { pid: number; signal: number };

export function getPid(): number {
  return cGetpid();
}

/** Linux thread id of the calling thread: a worker has its own. */
export function getTid(): number {
  return cGettid();
}

/** A close-on-exec fd that becomes readable when the process ends. */
export function pidfdOpen(pid: number): number {
  return check("pidfd_open", cPidfdOpen(SYS_pidfd_open, pid, 0), `pid ${pid}`);
}

export function pidfdSendSignal(pidfd: number, signal: number): void {
  const result = cPidfdSendSignal(SYS_pidfd_send_signal, pidfd, signal, null, 0);
  check("pidfd_send_signal", result, `fd ${pidfd}, signal ${signal}`);
}

/** Sends a signal; signal 0 only checks that the process is there and may be signalled. */
export function kill(pid: number, signal: number): void {
  check("kill", cKill(pid, signal), `pid ${pid}, signal ${signal}`);
}

/** Sends a signal to one thread; false when that thread has ended. */
export function tgkill(pid: number, tid: number, signal: number): boolean {
  const result = cTgkill(pid, tid, signal);
  if (result === -ESRCH) return false;
  check("tgkill", result, `pid ${pid}, tid ${tid}, signal ${signal}`);
  return true;
}

/** Reaps a child: `pid` or -1 for any. `undefined` when WNOHANG was given and none has ended. */
export function wait4(pid: number, options = 0): ExitStatus | undefined {
  const status = new Int32Array(1);
  const reaped = check("wait4", cWait4(pid, status, options, null), `pid ${pid}`);
  if (reaped === 0) return undefined;
  // W* macros of bits/waitstatus.h; stopped children are reported only when asked for, which nobody here does.
  const value = status[0]!;
  const signal = value & 0x7f;
  return signal === 0 ? { pid: reaped, exitCode: (value >> 8) & 0xff } : { pid: reaped, signal };
}

/** True when a child, of whatever kind, has ended and is reaped; false while it has not. */
export function reapChild(pid: number): boolean {
  // Where SIGCHLD is ignored, which exec inherits, the kernel reaps children by itself as soon as they have died.
  return unlessErrno("ECHILD", () => wait4(pid, WNOHANG | __WALL) !== undefined) ?? true;
}

/** Gives a thread a scheduling policy that has no priorities: SCHED_OTHER, SCHED_BATCH; 0 is the calling one. False when it has ended. */
export function setSchedulingPolicy(policy: number, tid = 0): boolean {
  // struct sched_param is one int, the priority.
  const result = cSchedSetscheduler(tid, policy, new Int32Array(1));
  if (result === -ESRCH) return false;
  check("sched_setscheduler", result, `tid ${tid}, policy ${policy}`);
  return true;
}

/** A thread's scheduling policy; 0 is the calling one. `undefined` when it has ended. */
export function getSchedulingPolicy(tid = 0): number | undefined {
  const result = cSchedGetscheduler(tid);
  return result === -ESRCH ? undefined : check("sched_getscheduler", result, `tid ${tid}`);
}

/** The CPUs that a thread may run on, one bit each; 0 is the calling thread. `undefined` when it has ended. */
export function getAffinity(tid: number): Uint8Array | undefined {
  const mask = new Uint8Array(MAX_CPUS / 8);
  const result = cSchedGetaffinity(tid, mask.length, mask);
  if (result === -ESRCH) return undefined;
  check("sched_getaffinity", result, `tid ${tid}`);
  return mask;
}

/** False when the thread has ended. @throws SysError EINVAL when it may run on none of these CPUs */
export function setAffinity(tid: number, mask: Uint8Array): boolean {
  const result = cSchedSetaffinity(tid, mask.length, mask);
  if (result === -ESRCH) return false;
  check("sched_setaffinity", result, `tid ${tid}`);
  return true;
}

/** Number of the CPU that the calling thread runs on at the moment. */
export function currentCpu(): number {
  return check("sched_getcpu", cSchedGetcpu());
}
