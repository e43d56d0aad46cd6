// SPDX-License-Identifier: Apache-2.0
// File descriptors that an operator has given to a VM, by name: QMP's `getfd`.
import { close } from "../../ffi/fd.ts";

/**
 * Owns its fds. They are close-on-exec, and no part of the VM's state: an update by cpr-exec ends the table, as in QEMU,
 * and whoever wants to use a name afterwards gives it again.
 */
export class FdTable {
  readonly #fds = new Map<string, number>();

  /** Takes over an fd; another one of that name is closed. */
  set(name: string, fd: number): void {
    this.close(name);
    this.#fds.set(name, fd);
  }

  /** The fd of that name, which stays the table's. */
  get(name: string): number | undefined {
    return this.#fds.get(name);
  }

  /** Gives an fd away: it is the caller's from then on. Undefined when there is none of that name. */
  take(name: string): number | undefined {
    const fd = this.#fds.get(name);
    this.#fds.delete(name);
    return fd;
  }

  /** False when there is none of that name. */
  close(name: string): boolean {
    const fd = this.take(name);
    if (fd === undefined) return false;
    close(fd);
    return true;
  }

  closeAll(): void {
    for (const name of this.#fds.keys()) this.close(name);
  }
}
