// SPDX-License-Identifier: Apache-2.0
// One stream's share of moving RAM to and from a file in which every page has its place. For any thread.
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { IoMemory, IoVector } from "../../../ffi/iov.ts";
import { VmmError } from "../../errors.ts";
import { type DirtyModule, loadDirtyModule } from "./dirty-module.ts";
import type { RamShared } from "./shared.ts";
import { forEachRun, type PageSink, type RamPlace, walkPages } from "./walk.ts";

/** How much goes in one system call: progress and cancellation are looked at in between. */
const CALL_SIZE_BYTES = 4 << 20;

export interface FileStreamOptions extends RamPlace {
  shared: RamShared;
  fd: number;
  stream: number;
  /** Where page 0 is in the file. */
  fileOffset: number;
  checks: SharedArrayBuffer;
}

export class FileStream implements PageSink {
  readonly #options: FileStreamOptions;
  readonly #module: DirtyModule;
  readonly #ram: IoMemory;
  readonly #vector = new IoVector(1);
  readonly #checks: Uint32Array;

  constructor(options: FileStreamOptions) {
    const { memory, ramBase, ramSizeBytes } = options;
    this.#options = options;
    this.#module = loadDirtyModule(memory);
    this.#checks = new Uint32Array(options.checks);
    this.#ram = new IoMemory(new Uint8Array(memory.buffer, ramBase, ramSizeBytes));
  }

  /** Writes pages of the shared bitmap, and keeps the shared bitmap of what the file has. */
  write(): void {
    walkPages(this.#options, this.#module, this.#options.shared, this);
  }

  data(firstPage: number, pageCount: number): void {
    this.#forEachPiece(firstPage, pageCount, (offset) => this.#vector.writeAt(this.#options.fd, offset));
    const { present } = this.#options.shared;
    for (let page = firstPage; page < firstPage + pageCount; page++) this.#checks[page] = this.#checkOf(page);
    this.#module.setRange(present, firstPage, pageCount);
  }

  zero(firstPage: number, pageCount: number): void {
    const { shared, stream } = this.#options;
    this.#module.clearRange(shared.present, firstPage, pageCount);
    shared.addProgress(stream, { normalPages: 0, zeroPages: pageCount, bytes: 0 });
  }

  /** Reads the pages of the shared bitmap. */
  read(): void {
    const { shared, fd } = this.#options;
    forEachRun(this.#options, this.#module, shared, shared.bitmap, (firstPage, endPage) => {
      this.#forEachPiece(firstPage, endPage - firstPage, (offset) => this.#vector.readAt(fd, offset));
      this.#verify(firstPage, endPage);
    });
  }

  /** A page that the guest changes while it is written and hashed is in the next round, too. */
  #checkOf(page: number): number {
    return Number(BigInt.asUintN(32, this.#module.hashPage(this.#options.ramBase + page * PAGE_SIZE_BYTES)));
  }

  #verify(firstPage: number, endPage: number): void {
    for (let page = firstPage; page < endPage; page++) {
      if (this.#checkOf(page) === this.#checks[page]) continue;
      const at = this.#options.fileOffset + page * PAGE_SIZE_BYTES;
      throw new VmmError("ram-file", `Page ${page} of guest RAM, at byte ${at} of the file, is damaged`);
    }
  }

  /** Calls `move` with offsets in the file until all of the pages have been moved. */
  #forEachPiece(firstPage: number, pageCount: number, move: (fileOffset: number) => number): void {
    const { fileOffset, fd, shared, stream } = this.#options;
    const end = (firstPage + pageCount) * PAGE_SIZE_BYTES;
    for (let at = firstPage * PAGE_SIZE_BYTES; at < end; ) {
      this.#vector.clear();
      this.#vector.add(this.#ram, at, Math.min(end - at, CALL_SIZE_BYTES));
      const count = move(fileOffset + at);
      if (count === 0) {
        throw new VmmError("ram-file", `The file of guest RAM (fd ${fd}) ends at byte ${fileOffset + at}, in a page`);
      }
      at += count;
      shared.addProgress(stream, { normalPages: 0, zeroPages: 0, bytes: count });
    }
    shared.addProgress(stream, { normalPages: pageCount, zeroPages: 0, bytes: 0 });
  }
}
