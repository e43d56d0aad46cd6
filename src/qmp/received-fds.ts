// SPDX-License-Identifier: Apache-2.0
// File descriptors that came with a client's bytes and belong to no command yet.
import { close } from "../../ffi/fd.ts";
import { SCM_MAX_FD } from "../../ffi/scm.ts";

interface Delivery {
  fds: number[];
  /** Where in the client's input the bytes begin that they came with. */
  atByte: number;
}

/**
 * Commands wait in the input, and their fds here. Which fd is whose follows from where it came in the input: a command gets
 * the first fd of the last delivery before its own end. Everything older was for commands that did not want it, or is more
 * than one command takes, and is closed: that is how QEMU does it, and a client that goes wrong once is right again with
 * its next command.
 */
export class ReceivedFds {
  readonly #deliveries: Delivery[] = [];
  #count = 0;

  /** Keeps what came with the bytes from `atByte` on. Of more than one message can have altogether, the oldest are closed. */
  add(fds: number[], atByte: number): void {
    this.#deliveries.push({ fds, atByte });
    this.#count += fds.length;
    while (this.#count > SCM_MAX_FD) this.#dropOldest();
  }

  /** The fd for the command that ends at `endByte`; it is the caller's from then on. */
  take(endByte: number): number | undefined {
    while (this.#deliveries.length > 1 && this.#deliveries[1]!.atByte < endByte) this.#dropOldest();
    const delivery = this.#deliveries[0];
    if (delivery === undefined || delivery.atByte >= endByte) return undefined;
    const fd = delivery.fds.shift();
    if (fd !== undefined) this.#count--;
    this.#dropOldest();
    return fd;
  }

  close(): void {
    while (this.#deliveries.length > 0) this.#dropOldest();
  }

  #dropOldest(): void {
    const { fds } = this.#deliveries.shift()!;
    this.#count -= fds.length;
    for (const fd of fds) close(fd);
  }
}
