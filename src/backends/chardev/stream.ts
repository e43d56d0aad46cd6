// SPDX-License-Identifier: Apache-2.0
// A byte stream over raw non-blocking fds: what a character device does once it is open.
import { SysError } from "../../../ffi/error.ts";
import { read, status, write } from "../../../ffi/fd.ts";
import { receiveAvailable } from "../../../ffi/scm.ts";
import { send } from "../../../ffi/socket.ts";
import type { Reactor, Readiness, Watch } from "../../runtime/reactor.ts";
import { OutputQueue } from "./output-queue.ts";

export interface StreamHandlers {
  /** How many bytes may be read now; 0 stops reading until `acceptInput()`. */
  inputSpaceBytes(): number;
  /** Never more than `inputSpaceBytes()` said. The bytes are the receiver's to keep. */
  receive(bytes: Uint8Array): void;
  /** Whether fds that a peer sends are wanted; otherwise the kernel drops them. */
  takesFds(): boolean;
  /** Fds that come with the bytes of the next `receive`. Called only when they are wanted; they are the receiver's. */
  receiveFds(fds: number[]): void;
  /** The queue, which was not empty, is. */
  drained(): void;
  /** No input comes any more: end of file, or a failure (EIO of a terminal, ECONNRESET). Called once. */
  inputEnded(error?: SysError): void;
  /** The host refuses the output that is queued. Unless the handler closes the stream, the queue is dropped. */
  outputFailed(error: SysError): void;
}

/** `fds.in` and `fds.out` may be the same. */
export interface StreamFds {
  in?: number;
  out?: number;
}

const READ_SIZE_BYTES = 65536;
/** Transfers between two looks at other fds. */
const TRANSFERS_PER_TURN = 16;

const scratch = new Uint8Array(READ_SIZE_BYTES);

/**
 * Reads when there is room, queues what cannot be written at once. Handlers are called from the reactor only, never
 * from inside `write()`. Starts paused; owns its watches, but not its fds.
 */
export class FdStream {
  readonly #reactor: Reactor;
  readonly #fds: StreamFds;
  readonly #handlers: StreamHandlers;
  readonly #queue = new OutputQueue();
  readonly #transmit: (fd: number, bytes: Uint8Array) => number | undefined;
  readonly #isInSocket: boolean;
  #running = false;
  #inputEnded = false;
  #inWatch: Watch | undefined;
  #outWatch: Watch | undefined;

  constructor(reactor: Reactor, fds: StreamFds, handlers: StreamHandlers, queued?: Uint8Array) {
    this.#reactor = reactor;
    this.#fds = fds;
    this.#handlers = handlers;
    // send() has MSG_NOSIGNAL; elsewhere the runtimes' own ignoring of SIGPIPE must do.
    const isOutSocket = fds.out !== undefined && status(fds.out).kind === "socket";
    this.#transmit = isOutSocket ? send : write;
    this.#isInSocket = fds.in === fds.out ? isOutSocket : fds.in !== undefined && status(fds.in).kind === "socket";
    if (queued !== undefined) this.#queue.push(queued);
  }

  get queuedBytes(): number {
    return this.#queue.byteLength;
  }

  get inputEnded(): boolean {
    return this.#inputEnded;
  }

  /** A copy of the output that has not been written. */
  queued(): Uint8Array {
    return this.#queue.peek().slice();
  }

  dropQueued(): void {
    this.#queue.clear();
  }

  write(bytes: Uint8Array): void {
    let rest = bytes;
    if (this.#running && this.#queue.byteLength === 0 && this.#fds.out !== undefined) {
      try {
        rest = bytes.subarray(this.#transmit(this.#fds.out, bytes) ?? 0);
      } catch (error) {
        // The writer is not ready to hear of it now: the same failure comes again from the reactor.
        if (!(error instanceof SysError)) throw error;
      }
    }
    if (rest.byteLength === 0) return;
    this.#queue.push(rest);
    this.#update();
  }

  /** There is room for input again. */
  acceptInput(): void {
    this.#update();
  }

  resume(): void {
    this.#running = true;
    this.#update();
  }

  /** Neither reads nor writes from here on; what is written is queued. */
  pause(): void {
    this.#running = false;
    this.#closeWatches();
  }

  /** Pauses for good. Must come before the fds are closed. */
  close(): void {
    this.pause();
  }

  /** An fd gets its watch when it is first waited for: most output is written at once and never waits. */
  #update(): void {
    if (!this.#running) return;
    const { in: inFd, out: outFd } = this.#fds;
    const readable = inFd !== undefined && !this.#inputEnded && this.#handlers.inputSpaceBytes() > 0;
    const writable = outFd !== undefined && this.#queue.byteLength > 0;
    if (inFd !== undefined && inFd === outFd) {
      this.#inWatch = this.#arm(inFd, this.#inWatch, readable, writable);
      return;
    }
    if (inFd !== undefined) this.#inWatch = this.#arm(inFd, this.#inWatch, readable, false);
    if (outFd !== undefined) this.#outWatch = this.#arm(outFd, this.#outWatch, false, writable);
  }

  #arm(fd: number, watch: Watch | undefined, readable: boolean, writable: boolean): Watch | undefined {
    if (!readable && !writable) return watch;
    if (watch === undefined) return this.#reactor.watch(fd, { readable, writable }, (ready) => this.#serve(ready));
    watch.arm({ readable, writable });
    return watch;
  }

  #serve({ readable, writable }: Readiness): void {
    try {
      if (writable) this.#writeQueued();
      if (readable && this.#running) this.#readInput();
    } finally {
      // A front end that throws must not cost the stream its watch.
      this.#update();
    }
  }

  #readInput(): void {
    if (this.#fds.in === undefined || this.#inputEnded) return;
    for (let turn = 0; turn < TRANSFERS_PER_TURN && this.#running; turn++) {
      const wanted = Math.min(this.#handlers.inputSpaceBytes(), READ_SIZE_BYTES);
      if (wanted <= 0) return;
      let count: number | undefined;
      try {
        count = this.#read(this.#fds.in, scratch.subarray(0, wanted));
      } catch (error) {
        this.#endInput(error);
        return;
      }
      if (count === undefined) return;
      if (count === 0) {
        this.#endInput();
        return;
      }
      this.#handlers.receive(scratch.slice(0, count));
      // Nothing more is there; the end of the stream, should it be next, is reported by itself.
      if (count < wanted) return;
    }
  }

  #read(fd: number, buffer: Uint8Array): number | undefined {
    if (!this.#isInSocket || !this.#handlers.takesFds()) return read(fd, buffer);
    const message = receiveAvailable(fd, buffer);
    if (message === undefined) return undefined;
    if (message.fds.length > 0) this.#handlers.receiveFds(message.fds);
    return message.byteCount;
  }

  #endInput(error?: unknown): void {
    if (error !== undefined && !(error instanceof SysError)) throw error;
    this.#inputEnded = true;
    this.#handlers.inputEnded(error);
  }

  #writeQueued(): void {
    if (this.#fds.out === undefined || this.#queue.byteLength === 0) return;
    for (let turn = 0; turn < TRANSFERS_PER_TURN && this.#queue.byteLength > 0; turn++) {
      let count: number | undefined;
      try {
        count = this.#transmit(this.#fds.out, this.#queue.peek());
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
        this.#handlers.outputFailed(error);
        this.#queue.clear();
        break;
      }
      if (count === undefined || count === 0) return;
      this.#queue.consume(count);
    }
    if (this.#queue.byteLength === 0 && this.#running) this.#handlers.drained();
  }

  #closeWatches(): void {
    this.#inWatch?.close();
    this.#outWatch?.close();
    this.#inWatch = this.#outWatch = undefined;
  }
}
