// SPDX-License-Identifier: Apache-2.0
// The signal that kicks a vCPU out of KVM_RUN: blocked in every thread, let through only inside KVM_RUN.
import { check, lazyCall } from "./libc.ts";
import { getTid, tgkill } from "./process.ts";

/** SIGRTMIN + 1 of glibc: not used by Bun, Deno or glibc itself. */
export const KICK_SIGNAL = 35;

const SIG_BLOCK = 0; // <asm-generic/signal-defs.h>
const SIG_UNBLOCK = 1;
const SIG_SETMASK = 2;
const SIG_IGN = 1;
const SIGXFSZ = 25; // <asm/signal.h>
/** bits/types/__sigset_t.h */
export const SIGSET_BYTES = 128;

const cSigmask = lazyCall("int pthread_sigmask(int how, const void *set, void *oldset)");
const cSignal = lazyCall("uintptr_t signal(int number, uintptr_t handler)");
const cSigtimedwait = lazyCall("int sigtimedwait(const void *set, void *info, const void *timeout)", { retry: false });

const kickSet = new BigUint64Array(SIGSET_BYTES / 8);
kickSet[0] = 1n << BigInt(KICK_SIGNAL - 1);
const NO_TIME = new BigInt64Array(2);

/** Blocks the kick signal in the calling thread, so that it only ever interrupts KVM_RUN. Call before the first KVM_RUN. */
export function blockKickSignal(): void {
  check("pthread_sigmask", -cSigmask(SIG_BLOCK, kickSet, null));
}

/** Blocks signals in the calling thread, in the threads that it starts and in what it executes. */
export function blockSignals(signals: readonly number[]): void {
  check("pthread_sigmask", -cSigmask(SIG_BLOCK, setOf(signals), null));
}

/** In the calling thread. */
export function unblockSignals(signals: readonly number[]): void {
  check("pthread_sigmask", -cSigmask(SIG_UNBLOCK, setOf(signals), null));
}

function setOf(signals: readonly number[]): BigUint64Array {
  const set = new BigUint64Array(SIGSET_BYTES / 8);
  for (const signal of signals) set[0]! |= 1n << BigInt(signal - 1);
  return set;
}

/** Runs `action` with all signals blocked in the calling thread. */
export function withSignalsBlocked<T>(action: () => T): T {
  const all = new BigUint64Array(SIGSET_BYTES / 8).fill(0xffff_ffff_ffff_ffffn);
  const before = new BigUint64Array(SIGSET_BYTES / 8);
  check("pthread_sigmask", -cSigmask(SIG_BLOCK, all, before));
  try {
    return action();
  } finally {
    check("pthread_sigmask", -cSigmask(SIG_SETMASK, before, null));
  }
}

/** Ignores a signal in this process, and in what it executes until that has a handler for it. */
export function ignoreSignal(signal: number): void {
  cSignal(signal, SIG_IGN);
}

/**
 * Ignores the kick signal in this process, and in what it executes. It still interrupts KVM_RUN, because there the kernel
 * counts it as blocked; but one that comes too late no longer kills a process whose event loop waits with an empty
 * signal mask, as Bun's does.
 */
export function ignoreKickSignal(): void {
  cSignal(KICK_SIGNAL, SIG_IGN);
}

/** A file that would become larger than RLIMIT_FSIZE allows is EFBIG from now on, and not the end of the process. Bun does that itself. */
export function ignoreFileSizeSignal(): void {
  cSignal(SIGXFSZ, SIG_IGN);
}

/** Sends the kick signal to one thread of this process, which must have blocked it. */
export function kickThread(tid: number): void {
  tgkill(process.pid, tid, KICK_SIGNAL);
}

/**
 * Takes the pending kick signals of the calling thread, if there are any. It is blocked, so nobody else ever takes it, and as
 * long as it is pending every KVM_RUN returns at once.
 */
export function consumeKickSignal(): void {
  // A real-time signal is queued as often as it was sent.
  while (cSigtimedwait(kickSet, null, NO_TIME) > 0);
}

// <asm-generic/siginfo.h>, <linux/time.h>: struct sigevent is u64 value, i32 signo, i32 notify, i32 tid, padding to 64.
const CLOCK_MONOTONIC = 1;
const SIGEV_THREAD_ID = 4;

const cTimerCreate = lazyCall("int timer_create(int clock, void *event, void *timer)");
const cTimerSettime = lazyCall("int timer_settime(uintptr_t timer, int flags, const void *value, void *old)");
const cTimerDelete = lazyCall("int timer_delete(uintptr_t timer)");

/** Kicks the thread that made it, once each time it is armed. */
export class KickTimer {
  readonly #timer: bigint;

  constructor() {
    const event = new Int32Array(16);
    event[2] = KICK_SIGNAL;
    event[3] = SIGEV_THREAD_ID;
    event[4] = getTid();
    const timer = new BigUint64Array(1);
    check("timer_create", cTimerCreate(CLOCK_MONOTONIC, event, timer));
    this.#timer = timer[0]!;
  }

  /** @param delayMs from now; replaces what was armed before */
  arm(delayMs: number): void {
    // Zero would disarm it.
    const nanoseconds = BigInt(Math.max(1, Math.round(delayMs * 1e6)));
    // struct itimerspec: the interval, which is none, and the delay.
    const value = new BigInt64Array(4);
    value[2] = nanoseconds / 1_000_000_000n;
    value[3] = nanoseconds % 1_000_000_000n;
    check("timer_settime", cTimerSettime(this.#timer, 0, value, null), `${delayMs} ms`);
  }

  /** A kick may be pending already. */
  disarm(): void {
    check("timer_settime", cTimerSettime(this.#timer, 0, new BigInt64Array(4), null));
  }

  close(): void {
    check("timer_delete", cTimerDelete(this.#timer));
  }
}
