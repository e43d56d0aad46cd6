// SPDX-License-Identifier: Apache-2.0
// Pages by reference: a receiver on the sender's host takes them out of the file that the sender's RAM is, each copied once.
// For any thread.
//
// Three ways, because none is the fastest everywhere (bench/README.md):
//   copy_file_range   into RAM that has no pages yet: the kernel need not clear them first, nor take a fault for each
//   memcpy            into RAM that has, from a mapping of the file. It has to be sealed: one that shrank would kill us
//   preadv            for all other files
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { copyFileRange } from "../../../ffi/fd.ts";
import { copyMemory, IoMemory, IoVector } from "../../../ffi/iov.ts";
import { VmmError } from "../../errors.ts";
import type { DirtyModule } from "./dirty-module.ts";
import type { RamPlace } from "./walk.ts";

/** Where pages come from, as threads are told of it. */
export interface PageSource {
  /** Page p of the sender's RAM is at p * 4096. */
  fd: number;
  /** The file, mapped from address 0 on; absent when it may shrink. */
  mapped?: WebAssembly.Memory;
  /** The receiver's own RAM file, as long as a page outside of `written` has nothing in it. */
  freshFd?: number;
}

export interface PageCopierOptions extends RamPlace {
  source: PageSource;
  /** Address of a bitmap of the pages that may hold something; 0 when all may. */
  written: number;
}

/** What the kernel maps at once around a page that is read (fault_around_bytes). */
const FAULT_AROUND_BYTES = 64 << 10;

export class PageCopier {
  readonly #options: PageCopierOptions;
  readonly #module: DirtyModule;
  readonly #bytes: Uint8Array;
  readonly #ram: IoMemory;
  readonly #mappedBytes: Uint8Array | undefined;
  readonly #mapped: IoMemory | undefined;
  readonly #vector = new IoVector(1);
  #freshFd: number | undefined;
  /** Keeps reads from being optimized away. */
  #seen = 0;

  constructor(options: PageCopierOptions, module: DirtyModule) {
    const { memory, ramBase, ramSizeBytes, source, written } = options;
    this.#options = options;
    this.#module = module;
    this.#bytes = new Uint8Array(memory.buffer, ramBase, ramSizeBytes);
    this.#ram = new IoMemory(this.#bytes);
    if (source.mapped !== undefined) {
      this.#mappedBytes = new Uint8Array(source.mapped.buffer, 0, ramSizeBytes);
      this.#mapped = new IoMemory(this.#mappedBytes);
    }
    if (written !== 0) this.#freshFd = source.freshFd;
  }

  /** Copies pages that the caller has proved to lie in RAM. @throws VmmError "ram-stream" when the file ends in them */
  copy(firstPage: number, pageCount: number): void {
    const offset = firstPage * PAGE_SIZE_BYTES;
    const sizeBytes = pageCount * PAGE_SIZE_BYTES;
    if (this.#isFresh(firstPage, pageCount) && this.#copyIntoFile(offset, sizeBytes)) return;
    if (this.#mapped === undefined) this.#read(offset, sizeBytes);
    else {
      // A page fault within memcpy costs more than the read that causes it here.
      this.#touch(this.#mappedBytes!, offset, sizeBytes);
      copyMemory(this.#ram, offset, this.#mapped, offset, sizeBytes);
    }
  }

  #isFresh(firstPage: number, pageCount: number): boolean {
    if (this.#freshFd === undefined) return false;
    const endPage = firstPage + pageCount;
    return this.#module.nextDirtyPage(this.#options.written, endPage, firstPage) >= endPage;
  }

  /** False when the kernel cannot do this with these files. */
  #copyIntoFile(offset: number, sizeBytes: number): boolean {
    const { fd } = this.#options.source;
    for (let done = 0; done < sizeBytes; ) {
      const count = copyFileRange(fd, offset + done, this.#freshFd!, offset + done, sizeBytes - done);
      if (count === undefined) {
        this.#freshFd = undefined;
        return false;
      }
      if (count === 0) throw this.#tooShort(offset + done);
      done += count;
    }
    // Into the page tables with them, many at once: else the guest waits for each.
    this.#touch(this.#bytes, offset, sizeBytes);
    return true;
  }

  #read(offset: number, sizeBytes: number): void {
    const { fd } = this.#options.source;
    this.#vector.clear();
    this.#vector.add(this.#ram, offset, sizeBytes);
    while (this.#vector.sizeBytes > 0) {
      const at = offset + sizeBytes - this.#vector.sizeBytes;
      if (this.#vector.readAt(fd, at) === 0) throw this.#tooShort(at);
    }
  }

  #touch(bytes: Uint8Array, offset: number, sizeBytes: number): void {
    const end = offset + sizeBytes;
    for (let at = offset; at < end; at = at - (at % FAULT_AROUND_BYTES) + FAULT_AROUND_BYTES) this.#seen ^= bytes[at]!;
  }

  #tooShort(at: number): VmmError {
    const { fd } = this.#options.source;
    return new VmmError("ram-stream", `The file of the sender's RAM (fd ${fd}) ends at byte ${at}, within a page`);
  }
}
