// SPDX-License-Identifier: Apache-2.0
// Messages between the two sides of a migration, over a transport; frame-format.ts has their form.
//
// `send` and `receive` wait in the background, as all of the VMM does. `sendNow` and `receiveNow` are for the guest's
// pause: they block the thread, and cost two or three system calls. Both kinds use the same sequence of frames.
import { monotonicMs } from "../../../ffi/clock.ts";
import { SysError } from "../../../ffi/error.ts";
import { status } from "../../../ffi/fd.ts";
import { pollFd } from "../../../ffi/poll.ts";
import { SCM_MAX_FD } from "../../../ffi/scm.ts";
import { hasEnded, SHUT_RDWR, shutdown } from "../../../ffi/socket.ts";
import { VmmError } from "../../errors.ts";
import type { Reactor, Readiness, Watch } from "../../runtime/reactor.ts";
import { type Frame, MAX_PAYLOAD_SIZE_BYTES } from "./frame-format.ts";
import { FrameReader } from "./frame-reader.ts";
import { FrameWriter } from "./frame-writer.ts";
import type { Transport } from "./transport.ts";

export type { Frame } from "./frame-format.ts";

const NO_FDS: readonly number[] = [];
const READABLE = { readable: true };
const WRITABLE = { writable: true };

/**
 * A channel of frames over a connected transport, which belongs to it from then on.
 *
 * A failure ends the direction in which it happened for good: every later call fails with the same error. The other
 * direction goes on, so that a peer's last word can be read after it has stopped listening.
 *
 * @example
 * const channel = new FrameChannel(await connectTransport(address, reactor), reactor);
 * await channel.send(TYPE_HELLO, new TextEncoder().encode(JSON.stringify(hello)));
 * const reply = await channel.receive(4096);
 */
export class FrameChannel {
  readonly transport: Transport;
  readonly #reactor: Reactor;
  readonly #fd: number;
  readonly #isSocket: boolean;
  readonly #writer: FrameWriter;
  readonly #reader: FrameReader;
  #watch: Watch | undefined;
  #readable: PromiseWithResolvers<void> | undefined;
  #writable: PromiseWithResolvers<void> | undefined;
  #lastSend: Promise<void> = Promise.resolve();
  #pendingSends = 0;
  #isReceiving = false;
  #sendFailure: unknown;
  #receiveFailure: unknown;
  #onHangup: (() => void) | undefined;
  /** Data waits to be received, so that readability tells nothing about the peer. */
  #hasInput = false;
  #closed = false;

  constructor(transport: Transport, reactor: Reactor) {
    this.transport = transport;
    this.#reactor = reactor;
    this.#fd = transport.fd;
    this.#isSocket = status(transport.fd).kind === "socket";
    this.#writer = new FrameWriter(this.#isSocket);
    this.#reader = new FrameReader(transport.name, transport.isUnix);
  }

  /**
   * Sends a frame after those whose `send` came before; resolves when the kernel has all of it. Until then the payload must
   * not change and the fds must stay open; they stay the caller's.
   * @param flags FLAG_FDS_OPTIONAL
   * @throws VmmError "peer-gone"; RangeError for what no frame can carry
   */
  async send(type: number, payload: Uint8Array, fds: readonly number[] = NO_FDS, flags = 0): Promise<void> {
    this.#checkFrame(type, payload, fds);
    const before = this.#lastSend;
    this.#pendingSends++;
    const sent = this.#sendAfter(before, () => this.#writer.begin(type, payload, fds, flags));
    this.#lastSend = sent.catch(() => {});
    return sent;
  }

  /**
   * The next frame; undefined when the peer has ended the stream between two frames. One call at a time.
   * @param limitBytes the most that the payload may have
   * @throws VmmError "stream" when something else comes than the next frame, or the stream is cut within one, "peer-gone"
   */
  async receive(limitBytes: number = MAX_PAYLOAD_SIZE_BYTES): Promise<Frame | undefined> {
    this.#assertReceivable();
    this.#isReceiving = true;
    try {
      for (;;) {
        const frame = this.#reader.read(this.#fd, limitBytes);
        if (frame === "ended") {
          if (!this.#reader.isInFrame) return undefined;
          throw new VmmError("stream", `${this.transport.name} ended the stream after ${this.#reader.progress}`);
        }
        if (frame !== "would-block") return frame;
        this.#readable = Promise.withResolvers<void>();
        this.#arm();
        await this.#readable.promise;
        // Closed meanwhile, and the fd's number may be somebody else's.
        if (this.#receiveFailure !== undefined) throw this.#receiveFailure;
      }
    } catch (error) {
      throw this.#receiveFailed(this.#explain(error, "receiving from"));
    } finally {
      this.#isReceiving = false;
      this.#hasInput = false;
      this.#arm();
    }
  }

  /**
   * `send` that blocks the thread until the kernel has all of the frame, for use inside the guest's pause. Only while no
   * `send` is under way.
   * @throws VmmError "peer-silent" when that takes longer than `timeoutMs`, "peer-gone"
   */
  sendNow(type: number, payload: Uint8Array, fds: readonly number[], timeoutMs: number): void {
    if (this.#pendingSends > 0) throw new Error(`sendNow() on ${this.transport.name} while a send() is under way`);
    this.#assertSendable();
    this.#checkFrame(type, payload, fds);
    try {
      this.#writer.begin(type, payload, fds);
      if (this.#writer.write(this.#fd)) return;
      const deadlineMs = monotonicMs() + timeoutMs;
      do this.#waitNow(WRITABLE, deadlineMs, timeoutMs, "take");
      while (!this.#writer.write(this.#fd));
    } catch (error) {
      // Part of the frame may have gone: there is no frame that could follow it.
      this.#sendFailure = this.#explain(error, "sending to");
      throw this.#sendFailure;
    }
  }

  /**
   * `receive` that blocks the thread, for use inside the guest's pause. Only while no `receive` is pending.
   *
   * After "peer-silent" with nothing of a frame received it can be called again.
   *
   * @param buffer where to put a payload that fits, instead of new memory
   * @throws VmmError "peer-silent" when nothing complete comes within `timeoutMs`, "peer-gone" also at the end of the
   * stream, "stream" as `receive`
   */
  receiveNow(limitBytes: number, timeoutMs: number, buffer?: Uint8Array): Frame {
    this.#assertReceivable();
    try {
      const deadlineMs = monotonicMs() + timeoutMs;
      for (;;) {
        // The frame is rarely there already, and whoever sends it may need this CPU.
        this.#waitNow(READABLE, deadlineMs, timeoutMs, "send");
        const frame = this.#reader.read(this.#fd, limitBytes, buffer);
        if (frame === "ended") {
          const where = this.#reader.isInFrame ? ` after ${this.#reader.progress}` : "";
          throw new VmmError("peer-gone", `${this.transport.name} ended the stream${where}`);
        }
        if (frame !== "would-block") {
          if (this.#hasInput) this.#inputTaken();
          return frame;
        }
      }
    } catch (error) {
      const failure = this.#explain(error, "receiving from");
      if (failure.code === "peer-silent" && !this.#reader.isInFrame) throw failure;
      throw this.#receiveFailed(failure);
    }
  }

  /**
   * Calls `callback` once when the peer has gone while nothing is being received; undefined ends that. What it sent before
   * can still be received. A TCP peer that goes while data of it waits here is noticed when that has been received.
   */
  onHangup(callback: (() => void) | undefined): void {
    this.#onHangup = callback;
    this.#hasInput = false;
    this.#arm();
  }

  /**
   * Hangs up: all calls fail with `reason`, those that wait and those to come. The fd stays open until `close`, for whoever else
   * uses it: a thread that moves RAM would otherwise go on with what gets its number next.
   */
  interrupt(reason: VmmError): void {
    if (this.#closed) return;
    this.#onHangup = undefined;
    this.#sendFailure ??= reason;
    this.#receiveFailed(reason);
    this.#readable?.reject(reason);
    this.#writable?.reject(reason);
    if (this.#isSocket) shutdown(this.#fd, SHUT_RDWR);
  }

  /** Closes the transport. Calls that wait fail; fds that nobody has received are closed. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#onHangup = undefined;
    this.#watch?.close();
    this.#watch = undefined;
    const error = new VmmError("stream", `The channel to ${this.transport.name} was closed`);
    this.#sendFailure ??= error;
    this.#receiveFailed(error);
    this.#readable?.reject(error);
    this.#writable?.reject(error);
    this.transport.close();
  }

  async #sendAfter(before: Promise<void>, begin: () => void): Promise<void> {
    await before;
    try {
      this.#assertSendable();
      begin();
      while (!this.#writer.write(this.#fd)) {
        this.#writable = Promise.withResolvers<void>();
        this.#arm();
        await this.#writable.promise;
        this.#assertSendable();
      }
    } catch (error) {
      this.#sendFailure ??= this.#explain(error, "sending to");
      throw this.#sendFailure;
    } finally {
      this.#pendingSends--;
    }
  }

  #checkFrame(type: number, payload: Uint8Array, fds: readonly number[]): void {
    if (!(type >= 0 && type <= 0xffff)) throw new RangeError(`Frame type ${type} is no 16-bit number`);
    if (payload.byteLength > 0xffff_ffff) throw new RangeError(`A frame of ${payload.byteLength} bytes is too large`);
    if (fds.length === 0) return;
    if (fds.length > SCM_MAX_FD) {
      throw new RangeError(`A frame carries at most ${SCM_MAX_FD} file descriptors, not ${fds.length}`);
    }
    if (!this.transport.isUnix) {
      throw new VmmError("no-fds", `${this.transport.name} cannot carry file descriptors: only a unix socket can`);
    }
  }

  #assertSendable(): void {
    if (this.#sendFailure !== undefined) throw this.#sendFailure;
  }

  #assertReceivable(): void {
    if (this.#isReceiving) throw new Error(`A receive() on ${this.transport.name} is under way`);
    if (this.#receiveFailure !== undefined) throw this.#receiveFailure;
  }

  #receiveFailed(failure: VmmError): VmmError {
    this.#receiveFailure ??= failure;
    this.#reader.dispose();
    return failure;
  }

  #waitNow(wanted: typeof READABLE | typeof WRITABLE, deadlineMs: number, timeoutMs: number, verb: string): void {
    const restMs = deadlineMs - monotonicMs();
    const { readable, writable } = pollFd(this.#fd, wanted, Math.max(0, restMs));
    if (readable || writable) return;
    throw new VmmError("peer-silent", `${this.transport.name} did not ${verb} a whole frame within ${timeoutMs} ms`);
  }

  #explain(error: unknown, doing: string): VmmError {
    if (error instanceof VmmError) return error;
    const isGone = error instanceof SysError && (error.code === "EPIPE" || error.code === "ECONNRESET");
    const message = isGone ? `${this.transport.name} has gone` : `Failure while ${doing} ${this.transport.name}`;
    return new VmmError(isGone ? "peer-gone" : "stream", message, { cause: error });
  }

  /** Asks the reactor for what is waited for now. */
  #arm(): void {
    if (this.#closed) return;
    const watchesPeer = this.#onHangup !== undefined && !this.#isReceiving;
    // Of what cannot be peeked into, only a hang-up is reported: epoll tells of that, asked for or not.
    const readable = this.#readable !== undefined || (watchesPeer && this.#isSocket && !this.#hasInput);
    const writable = this.#writable !== undefined;
    if (!readable && !writable && !watchesPeer) return;
    if (this.#watch === undefined) {
      this.#watch = this.#reactor.watch(this.#fd, { readable, writable }, (ready) => this.#ready(ready));
    } else {
      this.#watch.arm({ readable, writable });
    }
  }

  #ready({ readable, writable, hangup }: Readiness): void {
    if (readable && this.#readable !== undefined) {
      this.#readable.resolve();
      this.#readable = undefined;
    }
    if (writable && this.#writable !== undefined) {
      this.#writable.resolve();
      this.#writable = undefined;
    }
    if (this.#onHangup !== undefined && !this.#isReceiving && (readable || hangup) && this.#isPeerGone(hangup)) {
      const callback = this.#onHangup;
      this.#onHangup = undefined;
      callback();
    }
    this.#arm();
  }

  #isPeerGone(hangup: boolean): boolean {
    // Other reports mean little: they may be of what was asked for earlier, for a receive that is over.
    if (hangup) return true;
    if (!this.#isSocket) return pollFd(this.#fd, {}, 0).readable;
    const ended = hasEnded(this.#fd);
    this.#hasInput = ended === false;
    return ended === true;
  }

  #inputTaken(): void {
    this.#hasInput = false;
    this.#arm();
  }
}
