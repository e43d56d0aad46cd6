// SPDX-License-Identifier: Apache-2.0
// A socket whose input can be held back from what is built upon it.
import type { Socket } from "node:net";
import { Duplex } from "node:stream";

/**
 * `socket` as a stream that TLS can be put on, and that stops reading while `holdBack` says so. Deno's TLS reads on while
 * nobody takes what it has decrypted, without limit: what it is not given it cannot hoard.
 */
export class Gate extends Duplex {
  readonly #socket: Socket;
  #isHeldBack = false;
  #wantsMore = false;

  constructor(socket: Socket) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    socket.on("data", (bytes) => {
      this.#wantsMore = this.push(bytes);
      this.#flow();
    });
    socket.once("end", () => this.push(null));
    socket.on("error", (error) => this.destroy(error));
    socket.once("close", () => this.destroy());
  }

  /** Reads no more of the socket until it is called with false. */
  holdBack(isHeldBack: boolean): void {
    this.#isHeldBack = isHeldBack;
    this.#flow();
  }

  #flow(): void {
    if (this.#wantsMore && !this.#isHeldBack) this.#socket.resume();
    else this.#socket.pause();
  }

  override _read(): void {
    this.#wantsMore = true;
    this.#flow();
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    this.#socket.write(chunk, done);
  }

  override _final(done: () => void): void {
    this.#socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy();
    done(error);
  }
}
