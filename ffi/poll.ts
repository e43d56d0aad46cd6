// SPDX-License-Identifier: Apache-2.0
// poll(2): waiting for fds in the calling thread.
import { monotonicMs } from "./clock.ts";
import { check, EBADF, EINTR, lazyCall } from "./libc.ts";

/** asm-generic/poll.h */
export const POLLIN = 0x001;
export const POLLOUT = 0x004;
export const POLLERR = 0x008;
export const POLLHUP = 0x010;
const POLLNVAL = 0x020;

/** struct pollfd: i32 fd, i16 events, i16 revents. One per thread, because every worker has its own module. */
const entry = new Int32Array(2);

const cPoll = lazyCall("int poll(void *fds, unsigned long count, int timeoutMs)", { retry: false });

/**
 * The POLL* events that one fd has now, or gets within `timeoutMs` (-1: whenever that is); 0 when there are none.
 * POLLERR and POLLHUP are always among those asked for.
 */
export function poll(fd: number, events: number, timeoutMs = 0): number {
  entry[0] = fd;
  entry[1] = events & 0xffff;
  // struct pollfd has whole milliseconds, and 0 would not wait at all.
  let result = cPoll(entry, 1, Math.ceil(timeoutMs));
  if (result === -EINTR) result = pollAgain(timeoutMs);
  check("poll", result, `fd ${fd}`);
  return (entry[1]! >>> 16) & 0xffff;
}

/** Goes on after a signal. When the first call began is not known, so that a signal at worst doubles the time. */
function pollAgain(timeoutMs: number): number {
  const deadlineMs = timeoutMs < 0 ? undefined : monotonicMs() + timeoutMs;
  for (;;) {
    const restMs = deadlineMs === undefined ? -1 : Math.max(0, Math.ceil(deadlineMs - monotonicMs()));
    const result = cPoll(entry, 1, restMs);
    if (result !== -EINTR) return result;
  }
}

/** What an fd is ready for. An error or a hang-up counts as both: the read or write that follows tells what it is. */
export interface PollResult {
  readable: boolean;
  writable: boolean;
  hangup: boolean;
}

/**
 * Blocks the thread until the fd is ready for something of what was asked, or has been hung up, or `timeoutMs` are over:
 * then nothing is set in the result.
 * @throws SysError EBADF
 */
export function pollFd(fd: number, wanted: { readable?: boolean; writable?: boolean }, timeoutMs: number): PollResult {
  const asked = (wanted.readable === true ? POLLIN : 0) | (wanted.writable === true ? POLLOUT : 0);
  const events = poll(fd, asked, timeoutMs);
  // poll(2) takes a number that is no open fd for an event, not for an error.
  if ((events & POLLNVAL) !== 0) check("poll", -EBADF, `fd ${fd}`);
  const failed = (events & (POLLERR | POLLHUP)) !== 0;
  return {
    readable: failed || (events & POLLIN) !== 0,
    writable: failed || (events & POLLOUT) !== 0,
    hangup: (events & POLLHUP) !== 0,
  };
}

/** struct pollfd in 32-bit words. */
const POLLFD_WORDS = 2;

/** Some fds to wait for together. One per thread. */
export class PollSet {
  readonly #entries: Int32Array;
  readonly #count: number;

  constructor(fds: readonly number[]) {
    this.#count = fds.length;
    this.#entries = new Int32Array(fds.length * POLLFD_WORDS);
    for (const [index, fd] of fds.entries()) this.#entries[index * POLLFD_WORDS] = fd;
  }

  /** Which POLL* events are waited for on the fd at `index`. */
  want(index: number, events: number): void {
    this.#entries[index * POLLFD_WORDS + 1] = events & 0xffff;
  }

  /** Waits until an fd has something, `timeoutMs` (-1: no end) are over, or a signal comes. */
  wait(timeoutMs: number): void {
    const result = cPoll(this.#entries, this.#count, Math.ceil(timeoutMs));
    if (result !== -EINTR) {
      check("poll", result, `${this.#count} fds`);
      return;
    }
    // The events of the last call are still there.
    for (let index = 0; index < this.#count; index++) this.want(index, this.#entries[index * POLLFD_WORDS + 1]!);
  }

  /** The events that `wait` has found on the fd at `index`; POLLERR and POLLHUP come unasked for. */
  events(index: number): number {
    return (this.#entries[index * POLLFD_WORDS + 1]! >>> 16) & 0xffff;
  }
}
