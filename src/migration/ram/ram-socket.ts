// SPDX-License-Identifier: Apache-2.0
// A socket that moves all that it is given, unless it is stopped, runs out of time, or loses its peer.
import { SysError } from "../../../ffi/error.ts";
import type { IoVector } from "../../../ffi/iov.ts";
import { POLLIN, POLLOUT, poll } from "../../../ffi/poll.ts";
import { VmmError } from "../../errors.ts";
import { cancelled, type RamShared } from "./shared.ts";

/** How soon a stream that waits for its peer notices that it is to end. */
const LOOK_MS = 20;
const PEER_GONE = ["EPIPE", "ECONNRESET", "ENOTCONN"];

export class RamSocket {
  readonly #fd: number;
  readonly #stream: number;
  readonly #shared: RamShared;
  /** On `performance.now()`'s clock. */
  deadlineMs = Number.POSITIVE_INFINITY;

  /** The fd is non-blocking. */
  constructor(fd: number, stream: number, shared: RamShared) {
    this.#fd = fd;
    this.#stream = stream;
    this.#shared = shared;
  }

  sendAll(vector: IoVector): void {
    while (vector.sizeBytes > 0) {
      if (this.send(vector) === undefined) this.#wait(POLLOUT);
    }
  }

  /** @throws VmmError "ram-peer" when the stream ends before everything is here */
  receiveAll(vector: IoVector): void {
    while (vector.sizeBytes > 0) {
      if (this.receive(vector) === undefined) this.#wait(POLLIN);
    }
  }

  /** What the socket takes now; `undefined` when that is nothing. */
  send(vector: IoVector): number | undefined {
    return this.#try(() => vector.send(this.#fd));
  }

  /** What is there now; `undefined` when that is nothing. @throws VmmError "ram-peer" at the end of the stream */
  receive(vector: IoVector): number | undefined {
    const count = this.#try(() => vector.receive(this.#fd));
    if (count === 0) throw this.#peerGone();
    return count;
  }

  #try(action: () => number | undefined): number | undefined {
    if (this.#shared.isStopped) throw cancelled();
    try {
      return action();
    } catch (error) {
      if (error instanceof SysError && PEER_GONE.includes(error.code)) throw this.#peerGone(error);
      throw new VmmError("ram-stream", `Stream ${this.#stream} of guest RAM (fd ${this.#fd}) failed`, { cause: error });
    }
  }

  #wait(events: number): void {
    while (poll(this.#fd, events, LOOK_MS) === 0) {
      if (this.#shared.isStopped) throw cancelled();
      if (performance.now() >= this.deadlineMs) {
        throw new VmmError(
          "ram-timeout",
          `The peer of stream ${this.#stream} of guest RAM (fd ${this.#fd}) is too slow`,
        );
      }
    }
  }

  #peerGone(cause?: unknown): VmmError {
    const message = `The peer of stream ${this.#stream} of guest RAM (fd ${this.#fd}) closed the connection before the end`;
    return new VmmError("ram-peer", message, { cause });
  }
}
