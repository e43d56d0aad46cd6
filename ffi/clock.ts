// SPDX-License-Identifier: Apache-2.0
// Clocks of the kernel: the same in every process, so that timelines can be stitched over an exec.
import { type Foreign, libcFunction } from "./native.ts";

/** linux/time.h */
const CLOCK_REALTIME = 0;
const CLOCK_MONOTONIC = 1;
const CLOCK_THREAD_CPUTIME_ID = 3;
const CPUCLOCK_SCHED = 2;
const CPUCLOCK_PERTHREAD_SCHED = 6;

let clockGettime: Foreign | undefined;

/** struct timespec of the last call: seconds, nanoseconds. One per thread, because every worker has its own module. */
const timespec = new BigInt64Array(2);

/** Not by `lazyCall`, whose array of arguments is garbage: a vCPU of the engine asks for the time 50000 times in a second. */
function cClockGettime(clock: number, into: ArrayBufferView): number {
  clockGettime ??= libcFunction("int clock_gettime(int clock, void *timespec)");
  return clockGettime(clock, into) as number;
}

/** CLOCK_MONOTONIC as struct timespec, for who asks all the time: it makes no garbage. */
export function readMonotonic(into: Uint32Array): void {
  cClockGettime(CLOCK_MONOTONIC, into);
}

/** CLOCK_MONOTONIC in nanoseconds. About 0.15 µs. */
export function monotonicNs(): bigint {
  cClockGettime(CLOCK_MONOTONIC, timespec);
  return timespec[0]! * 1_000_000_000n + timespec[1]!;
}

/** CLOCK_MONOTONIC in milliseconds with its fraction; exact to 1 ns for the first 104 days of uptime. */
export function monotonicMs(): number {
  cClockGettime(CLOCK_MONOTONIC, timespec);
  return Number(timespec[0]!) * 1e3 + Number(timespec[1]!) / 1e6;
}

/** How long the calling thread has been on a CPU, in ms; the main thread of a program since it was executed, or forked. */
export function threadCpuMs(): number {
  cClockGettime(CLOCK_THREAD_CPUTIME_ID, timespec);
  return Number(timespec[0]!) * 1e3 + Number(timespec[1]!) / 1e6;
}

/** How long a thread of this process has been on a CPU, in ns; undefined when it has ended. */
export function cpuNsOfThread(tid: number): number | undefined {
  // linux/posix-timers.h: CPUCLOCK_SCHED of one thread.
  const clock = (~tid << 3) | CPUCLOCK_PERTHREAD_SCHED;
  if (cClockGettime(clock, timespec) < 0) return undefined;
  return Number(timespec[0]! * 1_000_000_000n + timespec[1]!);
}

/** How long all threads of a process have been on CPUs, in ms; undefined when it has ended. */
export function cpuMsOfProcess(pid: number): number | undefined {
  if (cClockGettime((~pid << 3) | CPUCLOCK_SCHED, timespec) < 0) return undefined;
  return Number(timespec[0]!) * 1e3 + Number(timespec[1]!) / 1e6;
}

/** CLOCK_REALTIME in nanoseconds since 1970. */
export function realtimeNs(): bigint {
  cClockGettime(CLOCK_REALTIME, timespec);
  return timespec[0]! * 1_000_000_000n + timespec[1]!;
}

/** CLOCK_REALTIME in milliseconds since 1970. */
export function realtimeMs(): number {
  cClockGettime(CLOCK_REALTIME, timespec);
  return Number(timespec[0]!) * 1e3 + Number(timespec[1]!) / 1e6;
}
