// SPDX-License-Identifier: Apache-2.0
// The thread that waits for file descriptors on the main thread's behalf: epoll_wait, pass on, again.
import { EPOLL_EVENT_SIZE_BYTES, epollWait } from "../../ffi/epoll.ts";
import {
  POLL_COUNT,
  POLL_EVENTS_BYTE,
  POLL_MAX_EVENTS,
  POLL_STATE,
  POLL_STATE_ENDED,
  POLL_TOKEN_END,
  POLL_WAKE,
  type PollOrder,
} from "./poll-layout.ts";

const EVENT_WORDS = EPOLL_EVENT_SIZE_BYTES / 4;

function serve({ epollFd, shared }: PollOrder): void {
  const words = new Int32Array(shared);
  const events = new Uint32Array(shared, POLL_EVENTS_BYTE, POLL_MAX_EVENTS * EVENT_WORDS);
  const wakeMain = (): void => {
    Atomics.add(words, POLL_WAKE, 1);
    Atomics.notify(words, POLL_WAKE);
  };
  for (;;) {
    const count = epollWait(epollFd, events, -1);
    for (let index = 0; index < count; index++) {
      if (events[index * EVENT_WORDS + 1] !== POLL_TOKEN_END) continue;
      Atomics.store(words, POLL_STATE, POLL_STATE_ENDED);
      wakeMain();
      return;
    }
    if (count === 0) continue;
    Atomics.store(words, POLL_COUNT, count);
    wakeMain();
    Atomics.wait(words, POLL_COUNT, count);
  }
}

const scope = globalThis as unknown as { onmessage: (event: { data: PollOrder }) => void; close(): void };
scope.onmessage = ({ data }) => {
  serve(data);
  scope.close();
};
