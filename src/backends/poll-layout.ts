// SPDX-License-Identifier: Apache-2.0
// The buffer that the main thread shares with the poll worker.
//
// The worker lets the kernel write its events straight into the buffer, sets POLL_COUNT, wakes the main thread and
// waits until POLL_COUNT is 0 again, so neither side ever overtakes the other.
//
//   0    i32 POLL_COUNT   events that wait to be taken; 0 when there are none
//   4    i32 POLL_WAKE    bumped and notified whenever the main thread has something to look at
//   8    i32 POLL_STATE   POLL_STATE_*
//   64   struct epoll_event × POLL_MAX_EVENTS
import { EPOLL_EVENT_SIZE_BYTES } from "../../ffi/epoll.ts";

export const POLL_COUNT = 0;
export const POLL_WAKE = 1;
export const POLL_STATE = 2;
export const POLL_STATE_RUNNING = 0;
export const POLL_STATE_ENDED = 1;
export const POLL_EVENTS_BYTE = 64;
export const POLL_MAX_EVENTS = 64;
export const POLL_SIZE_BYTES = POLL_EVENTS_BYTE + POLL_MAX_EVENTS * EPOLL_EVENT_SIZE_BYTES;

/** Token of the eventfd that ends the worker. */
export const POLL_TOKEN_END = 0;

/** The one message that the worker gets. */
export interface PollOrder {
  epollFd: number;
  shared: SharedArrayBuffer;
}
