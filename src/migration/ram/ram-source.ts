// SPDX-License-Identifier: Apache-2.0
// The file that the RAM of a guest in another process is, in the hands of a receiver that takes pages out of it.
import { WASM_PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { SysError } from "../../../ffi/error.ts";
import { close, fileSystemType, HUGETLBFS_MAGIC, status } from "../../../ffi/fd.ts";
import { F_SEAL_SHRINK, getSeals } from "../../../ffi/memfd.ts";
import { mapAnonymousOver, mapOver } from "../../../ffi/mmap.ts";
import { VmmError } from "../../errors.ts";
import { existingRanges, type MappedRam } from "../../memory/ram.ts";
import type { PageSource } from "./page-copier.ts";

export class RamSource implements Disposable {
  /** For `RamReceiver`; good until `close`. */
  readonly pages: PageSource;
  readonly #sizeBytes: number;

  /**
   * Takes the fd over.
   * @param ram where its pages are to go
   * @throws VmmError "ram-source" when it is no file of that size; the fd is closed then
   */
  static adopt(fd: number, ram: MappedRam): RamSource {
    try {
      return new RamSource(fd, ram);
    } catch (error) {
      close(fd);
      throw error;
    }
  }

  private constructor(fd: number, ram: MappedRam) {
    const { sizeBytes } = ram.backend;
    this.#sizeBytes = sizeBytes;
    const given = status(fd);
    if (given.kind !== "file" || given.sizeBytes < sizeBytes) {
      throw new VmmError(
        "ram-source",
        `What was given as the sender's RAM is a ${given.kind} of ${given.sizeBytes} bytes, not a file of ${sizeBytes}`,
      );
    }
    const isFresh = ram.isShared && status(ram.fd!).kind === "file" && existingRanges(ram).next().done === true;
    this.pages = {
      fd,
      ...(canBeMapped(fd) ? { mapped: mapReadOnly(fd, sizeBytes) } : {}),
      ...(isFresh ? { freshFd: ram.fd! } : {}),
    };
  }

  /** Lets go of the other process's memory. No receiver may use it any more. */
  close(): void {
    const { fd, mapped } = this.pages;
    if (mapped !== undefined) mapAnonymousOver(new Uint8Array(mapped.buffer), 0, this.#sizeBytes);
    close(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function canBeMapped(fd: number): boolean {
  // Huge pages want an address that they are aligned at.
  if (fileSystemType(fd) === HUGETLBFS_MAGIC) return false;
  try {
    return (getSeals(fd) & F_SEAL_SHRINK) !== 0;
  } catch (error) {
    // EINVAL: a file that cannot be sealed.
    if (error instanceof SysError && error.code === "EINVAL") return false;
    throw error;
  }
}

function mapReadOnly(fd: number, sizeBytes: number): WebAssembly.Memory {
  const pages = Math.ceil(sizeBytes / WASM_PAGE_SIZE_BYTES);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  mapOver(new Uint8Array(memory.buffer), 0, { fd, sizeBytes, readOnly: true });
  return memory;
}
