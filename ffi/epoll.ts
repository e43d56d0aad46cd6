// SPDX-License-Identifier: Apache-2.0
// epoll(7): waiting for many fds.
import { check, EPERM, lazyCall } from "./libc.ts";

/** linux/eventpoll.h */
const EPOLL_CLOEXEC = 0o2000000;
const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_DEL = 2;
const EPOLL_CTL_MOD = 3;
export const EPOLLIN = 0x001;
export const EPOLLOUT = 0x004;
/** Always reported, asked for or not. */
export const EPOLLERR = 0x008;
/** Always reported, asked for or not. */
export const EPOLLHUP = 0x010;
export const EPOLLRDHUP = 0x2000;
/** One report, then silence until the next `epollModify`. */
export const EPOLLONESHOT = 1 << 30;

/** struct epoll_event is packed on x86-64: u32 events, u64 data (here a u32 token and zero). */
export const EPOLL_EVENT_SIZE_BYTES = 12;

const cEpollCreate1 = lazyCall("int epoll_create1(int flags)");
const cEpollCtl = lazyCall("int epoll_ctl(int epollFd, int operation, int fd, void *event)");
const cEpollWait = lazyCall("int epoll_wait(int epollFd, void *events, int maximum, int timeoutMs)");

export function epollCreate(): number {
  return check("epoll_create1", cEpollCreate1(EPOLL_CLOEXEC));
}

/** u32 view of one epoll_event, for the calls below: each thread has its own. */
const event = new Uint32Array(EPOLL_EVENT_SIZE_BYTES / 4);

/** Registers an fd; false when it is of a kind that is always ready and cannot be polled (a regular file). */
export function epollAdd(epollFd: number, fd: number, events: number, token: number): boolean {
  event[0] = events;
  event[1] = token;
  const result = cEpollCtl(epollFd, EPOLL_CTL_ADD, fd, event);
  if (result === -EPERM) return false;
  check("epoll_ctl", result, `add fd ${fd}`);
  return true;
}

export function epollModify(epollFd: number, fd: number, events: number, token: number): void {
  event[0] = events;
  event[1] = token;
  check("epoll_ctl", cEpollCtl(epollFd, EPOLL_CTL_MOD, fd, event), `modify fd ${fd}`);
}

/** Must come before the fd is closed: the registration lives as long as any duplicate of the open file. */
export function epollRemove(epollFd: number, fd: number): void {
  check("epoll_ctl", cEpollCtl(epollFd, EPOLL_CTL_DEL, fd, null), `remove fd ${fd}`);
}

/**
 * Waits for events and writes them into `events` as `struct epoll_event`s; returns how many. Blocks the thread:
 * `timeoutMs` -1 without end.
 */
export function epollWait(epollFd: number, events: Uint32Array, timeoutMs: number): number {
  const maximum = Math.floor(events.byteLength / EPOLL_EVENT_SIZE_BYTES);
  return check("epoll_wait", cEpollWait(epollFd, events, maximum, timeoutMs), `fd ${epollFd}`);
}
