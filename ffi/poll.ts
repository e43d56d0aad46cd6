// SPDX-License-Identifier: Apache-2.0
// Waiting for one fd in a thread that has nothing else to do, poll(2).
import { check, EINTR, lazyCall } from "./libc.ts";

/** asm-generic/poll.h */
export const POLLIN = 0x1;
export const POLLOUT = 0x4;

const cPoll = lazyCall("int poll(void *fds, unsigned long count, int timeoutMs)", { retry: false });

/** struct pollfd: i32 fd, i16 events, i16 revents. */
const entry = new Int32Array(2);

/**
 * Waits until `fd` is ready for `events` (POLLIN, POLLOUT), or has an error or a hang-up for the next call to report; false when
 * that takes longer than `timeoutMs`, or a signal came.
 */
export function pollFd(fd: number, events: number, timeoutMs: number): boolean {
  entry[0] = fd;
  entry[1] = events;
  const result = cPoll(entry, 1, timeoutMs);
  if (result === -EINTR) return false;
  return check("poll", result, `fd ${fd}`) > 0;
}
