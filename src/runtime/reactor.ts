// SPDX-License-Identifier: Apache-2.0
// Readiness of raw file descriptors for the main thread.
//
// Neither runtime can wait for an fd that it did not open itself. So a worker blocks in epoll_wait and wakes the main
// thread through shared memory (backends/poll-layout.ts); registrations are made here, with epoll_ctl, while it waits.
import {
  EPOLL_EVENT_SIZE_BYTES,
  EPOLLERR,
  EPOLLHUP,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLOUT,
  epollAdd,
  epollCreate,
  epollModify,
  epollRemove,
} from "../../ffi/epoll.ts";
import { eventfd, signalEventfd } from "../../ffi/eventfd.ts";
import { close } from "../../ffi/fd.ts";
import {
  POLL_COUNT,
  POLL_EVENTS_BYTE,
  POLL_MAX_EVENTS,
  POLL_SIZE_BYTES,
  POLL_STATE,
  POLL_STATE_ENDED,
  POLL_TOKEN_END,
  POLL_WAKE,
  type PollOrder,
} from "../backends/poll-layout.ts";
import type { VmmError } from "../errors.ts";
import { spawnWorker } from "./entry.ts";

const EVENT_WORDS = EPOLL_EVENT_SIZE_BYTES / 4;

export interface Interest {
  readable?: boolean;
  writable?: boolean;
}

/** What an fd is ready for. An error or a hang-up counts as both: the read or write that follows tells what it is. */
export interface Readiness {
  readable: boolean;
  writable: boolean;
  hangup: boolean;
}

export type WatchCallback = (ready: Readiness) => void;

/** A registration. It reports once, then stays silent until it is armed again. */
export interface Watch {
  /** Asks for one report. Replaces what was asked for before; may be called at any time, also from the callback. */
  arm(interest: Interest): void;
  /** No report comes any more, not even one that is under way. Must be called before the fd is closed. */
  close(): void;
}

export interface ReactorOptions {
  /** Start the worker with the first watch (the default), or only with `start()`. */
  autoStart?: boolean;
  /** Hears that the worker died: no watch ever reports again. By default an uncaught exception. */
  onError?: (error: VmmError) => void;
}

interface Entry {
  fd: number;
  callback: WatchCallback;
  pollable: boolean;
}

/**
 * Tells the main thread when raw fds become readable or writable.
 *
 * @example
 * const reactor = new Reactor();
 * const watch = reactor.watch(fd, { readable: true }, () => {
 *   const count = read(fd, buffer);
 *   watch.arm({ readable: true });
 * });
 */
export class Reactor {
  readonly #autoStart: boolean;
  readonly #onError: (error: VmmError) => void;
  readonly #entries = new Map<number, Entry>();
  readonly #words = new Int32Array(new SharedArrayBuffer(POLL_SIZE_BYTES));
  readonly #events = new Uint32Array(this.#words.buffer, POLL_EVENTS_BYTE, POLL_MAX_EVENTS * EVENT_WORDS);
  #epollFd = -1;
  #endFd = -1;
  #nextToken = POLL_TOKEN_END + 1;
  #worker: Worker | undefined;
  #dead = false;
  #closed: Promise<void> | undefined;
  #finish: (() => void) | undefined;

  constructor(options: ReactorOptions = {}) {
    this.#autoStart = options.autoStart ?? true;
    this.#onError = options.onError ?? throwLater;
  }

  /** Watches an fd, which must not be watched yet. Regular files, which epoll refuses, are always ready. */
  watch(fd: number, interest: Interest, callback: WatchCallback): Watch {
    if (this.#closed !== undefined) throw new Error("The reactor is closed");
    if (this.#epollFd < 0) this.#open();
    const token = this.#nextToken++;
    const entry: Entry = { fd, callback, pollable: false };
    entry.pollable = epollAdd(this.#epollFd, fd, eventMask(interest), token);
    this.#entries.set(token, entry);
    const watch: Watch = {
      arm: (wanted) => this.#arm(token, wanted),
      close: () => this.#remove(token),
    };
    if (!entry.pollable) this.#arm(token, interest);
    if (this.#autoStart) this.start();
    return watch;
  }

  /** Starts the worker, which costs the main thread a millisecond or more; watches made before report from then on. */
  start(): void {
    if (this.#worker !== undefined || this.#closed !== undefined) return;
    if (this.#epollFd < 0) this.#open();
    this.#worker = spawnWorker("backends/poll-worker.ts", (error) => this.#died(error));
    const order: PollOrder = { epollFd: this.#epollFd, shared: this.#words.buffer as SharedArrayBuffer };
    this.#worker.postMessage(order);
    // Not at once: `start` may be called from `watch`, whose caller must have its watch before the first report.
    queueMicrotask(() => void this.#run());
  }

  /** Closes all watches (not their fds) and ends the worker; resolves when it has gone. */
  close(): Promise<void> {
    if (this.#closed !== undefined) return this.#closed;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#closed = promise;
    this.#finish = resolve;
    for (const token of [...this.#entries.keys()]) this.#remove(token);
    if (this.#worker === undefined || this.#dead) this.#release();
    else signalEventfd(this.#endFd);
    return promise;
  }

  #open(): void {
    this.#epollFd = epollCreate();
    this.#endFd = eventfd();
    epollAdd(this.#epollFd, this.#endFd, EPOLLIN, POLL_TOKEN_END);
  }

  /** The worker uses the epoll fd to its end, so the number is given back only then. */
  #release(): void {
    if (this.#epollFd >= 0) {
      close(this.#epollFd);
      close(this.#endFd);
      this.#epollFd = this.#endFd = -1;
    }
    this.#finish?.();
  }

  #arm(token: number, interest: Interest): void {
    const entry = this.#entries.get(token);
    if (entry === undefined || this.#dead) return;
    if (entry.pollable) {
      epollModify(this.#epollFd, entry.fd, eventMask(interest), token);
    } else if (interest.readable || interest.writable) {
      const ready = { readable: interest.readable ?? false, writable: interest.writable ?? false, hangup: false };
      setTimeout(() => this.#entries.get(token)?.callback(ready), 0);
    }
  }

  #remove(token: number): void {
    const entry = this.#entries.get(token);
    if (entry === undefined) return;
    this.#entries.delete(token);
    if (entry.pollable && !this.#dead) epollRemove(this.#epollFd, entry.fd);
  }

  async #run(): Promise<void> {
    while (!this.#dead) {
      const seen = Atomics.load(this.#words, POLL_WAKE);
      this.#dispatch();
      if (Atomics.load(this.#words, POLL_STATE) === POLL_STATE_ENDED) {
        this.#release();
        return;
      }
      const { async, value } = Atomics.waitAsync(this.#words, POLL_WAKE, seen);
      if (async) await value;
    }
  }

  #dispatch(): void {
    const count = Atomics.load(this.#words, POLL_COUNT);
    if (count === 0) return;
    const events = this.#events.slice(0, count * EVENT_WORDS);
    // The worker goes on waiting while the callbacks run.
    Atomics.store(this.#words, POLL_COUNT, 0);
    Atomics.notify(this.#words, POLL_COUNT);
    for (let at = 0; at < events.length; at += EVENT_WORDS) {
      const bits = events[at]!;
      const failed = (bits & (EPOLLERR | EPOLLHUP)) !== 0;
      try {
        this.#entries.get(events[at + 1]!)?.callback({
          readable: failed || (bits & EPOLLIN) !== 0,
          writable: failed || (bits & EPOLLOUT) !== 0,
          hangup: (bits & EPOLLHUP) !== 0,
        });
      } catch (error) {
        // A bug of the callback must not keep the others from being called.
        throwLater(error);
      }
    }
  }

  #died(error: VmmError): void {
    if (this.#dead) return;
    this.#dead = true;
    Atomics.add(this.#words, POLL_WAKE, 1);
    Atomics.notify(this.#words, POLL_WAKE);
    if (this.#closed === undefined) this.#onError(error);
    else this.#release();
  }
}

function eventMask(interest: Interest): number {
  return EPOLLONESHOT | (interest.readable ? EPOLLIN : 0) | (interest.writable ? EPOLLOUT : 0);
}

function throwLater(error: unknown): void {
  setTimeout(() => {
    throw error;
  }, 0);
}
