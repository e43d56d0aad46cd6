// SPDX-License-Identifier: Apache-2.0
// A character device on a pseudo-terminal, pty(7): people come and go at its slave.

import { close, symlink, unlink } from "../../../ffi/fd.ts";
import { POLLHUP, poll } from "../../../ffi/poll.ts";
import { openPty } from "../../../ffi/pty.ts";
import type { ChardevSpec } from "../../config/types.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import { type Report, StreamChardev } from "./base.ts";
import type { ChardevState } from "./types.ts";

type PtySpec = Extract<ChardevSpec, { backend: "pty" }>;

/** The kernel tells when the last one leaves the slave (EPOLLHUP, for as long as it lasts), but not when one comes. */
const ARRIVAL_POLL_MS = 200;

export class PtyChardev extends StreamChardev<PtySpec> {
  readonly filename: string;
  readonly #fd: number;
  #timer: ReturnType<typeof setInterval> | undefined;

  private constructor(
    spec: PtySpec,
    reactor: Reactor,
    report: Report,
    pty: { fd: number; filename: string },
    restored?: ChardevState,
  ) {
    super(spec, reactor, report, restored);
    this.#fd = pty.fd;
    this.filename = pty.filename;
    if (restored?.connected) this.openStream({ in: this.#fd, out: this.#fd }, restored);
    else if (restored === undefined) this.#awaitArrival();
  }

  static open(spec: PtySpec, reactor: Reactor, report: Report): PtyChardev {
    const { fd, name } = openPty();
    try {
      if (spec.path !== undefined) symlink(name, spec.path);
    } catch (error) {
      close(fd);
      throw error;
    }
    return new PtyChardev(spec, reactor, report, { fd, filename: `pty:${name}` });
  }

  static restore(spec: PtySpec, reactor: Reactor, report: Report, state: ChardevState): PtyChardev {
    return new PtyChardev(spec, reactor, report, { fd: state.fds.pty!, filename: state.filename }, state);
  }

  override write(bytes: Uint8Array): void {
    // Whoever has just opened the slave gets this output, not only what comes after the next look.
    if (!this.connected && !this.frozen) this.#lookForPeer();
    super.write(bytes);
  }

  override freeze(): void {
    super.freeze();
    clearInterval(this.#timer);
  }

  protected override thawed(): void {
    if (!this.connected) this.#awaitArrival();
  }

  protected savedFds(): Record<string, number> {
    return { pty: this.#fd };
  }

  protected override dispose(undo: boolean): void {
    clearInterval(this.#timer);
    this.abandonStream();
    close(this.#fd);
    if (!undo || this.spec.path === undefined) return;
    try {
      unlink(this.spec.path);
    } catch (error) {
      this.reportOnce("unlink", `${this.spec.path} stays behind`, error);
    }
  }

  /** EIO says that the last one has left the slave. */
  protected inputEnded(): void {
    this.#hungUp();
  }

  protected outputFailed(): void {
    this.#hungUp();
  }

  #hungUp(): void {
    this.abandonStream();
    if (!this.closed) this.#awaitArrival();
  }

  #awaitArrival(): void {
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#lookForPeer(), ARRIVAL_POLL_MS);
  }

  #lookForPeer(): void {
    if (this.closed || (poll(this.#fd, 0) & POLLHUP) !== 0) return;
    clearInterval(this.#timer);
    this.openStream({ in: this.#fd, out: this.#fd });
  }
}
