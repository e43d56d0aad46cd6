// SPDX-License-Identifier: Apache-2.0
// Anonymous RAM becomes a memfd under the running guest, piece by piece: then an update can hand it over as any other.
//
//   guest runs    copy    pages of the piece that are not zero, into the memfd: that is where they get memory there
//   ┌ stands      copy    the same pages once more, and those that were zero before and are not now
//   │             map     the memfd over the piece, at the same address; its anonymous pages are given back
//   └
//
// No write is tracked: while the guest stands nobody writes, and the second copy is a quick one, from cache to cache. The
// address stays, so that no view and no KVM slot has to know: KVM drops what it had mapped there (its MMU notifier) and
// looks again. At any moment a piece is either anonymous or in the memfd, and RAM that has moved in part is RAM like any other.
import { PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { pwrite, seekData } from "../../ffi/fd.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import { advise, mapOver } from "../../ffi/mmap.ts";
import type { MappedRam, MovedRam } from "./ram.ts";

/** While one is copied and mapped a guest stands for some 0.25 ms, a third of which are parking and going on. */
export const PIECE_SIZE_BYTES = 512 * 1024;

/** Exports of assembly/dirty: how many pages from an address on are zero, or are not. */
export interface PageScanner {
  countLeadingZeroPages(address: number, pageCount: number): number;
  countLeadingDataPages(address: number, pageCount: number): number;
}

/** Whether RAM that is private can be shared without being set up anew. */
export function canBeShared(ram: MappedRam): boolean {
  return ram.fd === undefined;
}

/** Bytes of RAM, from its start, that are in a memfd. */
export function movedBytes({ backend, isShared, moved }: MappedRam): number {
  return isShared ? backend.sizeBytes : (moved?.sizeBytes ?? 0);
}

/**
 * Moves the next piece of `ram`, which can be shared and is not yet; with the last one it is. `whileStanding` runs what it
 * is given once, at a moment at which nobody writes RAM.
 * @throws SysError of the memfd, say ENOSPC, and what `whileStanding` throws: RAM is what it was, and this may be called again
 */
export function shareNextPiece(
  memory: WebAssembly.Memory,
  ram: MappedRam,
  scanner: PageScanner,
  whileStanding: (action: () => void) => void,
): void {
  const { backend } = ram;
  ram.moved ??= { fd: memfdCreate(backend.id, backend.sizeBytes), sizeBytes: 0 };
  const { moved } = ram;
  // Something may have failed right after the last piece.
  if (moved.sizeBytes < backend.sizeBytes) {
    const piece = new Piece(memory, ram, moved, scanner);
    piece.copy();
    whileStanding(() => piece.copyAgainAndMap());
  }
  if (moved.sizeBytes < backend.sizeBytes) return;
  ram.fd = moved.fd;
  ram.isShared = true;
  ram.backend = { ...backend, share: true };
  ram.moved = undefined;
}

/** Pages `[first, end)` of a piece. */
interface Run {
  first: number;
  end: number;
}

class Piece {
  readonly #bytes: Uint8Array;
  readonly #moved: MovedRam;
  readonly #scanner: PageScanner;
  /** In the linear memory. */
  readonly #start: number;
  readonly #fileOffset: number;
  readonly #pageCount: number;
  #copied: Run[];

  constructor(memory: WebAssembly.Memory, { base, backend }: MappedRam, moved: MovedRam, scanner: PageScanner) {
    this.#bytes = new Uint8Array(memory.buffer);
    this.#moved = moved;
    this.#scanner = scanner;
    this.#start = base + moved.sizeBytes;
    this.#fileOffset = moved.sizeBytes;
    this.#pageCount = Math.min(PIECE_SIZE_BYTES, backend.sizeBytes - moved.sizeBytes) / PAGE_SIZE_BYTES;
    // Pages that nobody has written stay a hole, unless they were to have memory from the beginning, or an attempt that failed
    // has left something there.
    const isWhole = backend.prealloc === true || seekData(moved.fd, moved.sizeBytes) !== undefined;
    this.#copied = isWhole ? [{ first: 0, end: this.#pageCount }] : this.#dataRuns(0, this.#pageCount);
  }

  copy(): void {
    for (const run of this.#copied) this.#write(run);
  }

  copyAgainAndMap(): void {
    let page = 0;
    for (const run of this.#copied) {
      for (const late of this.#dataRuns(page, run.first)) this.#write(late);
      this.#write(run);
      page = run.end;
    }
    for (const late of this.#dataRuns(page, this.#pageCount)) this.#write(late);
    const sizeBytes = this.#pageCount * PAGE_SIZE_BYTES;
    mapOver(this.#bytes, this.#start, { fd: this.#moved.fd, fileOffset: this.#fileOffset, sizeBytes });
    // From here on the guest writes there, whatever else fails.
    this.#moved.sizeBytes += sizeBytes;
    // As `excludeFromDumps` has it; and with the same flags the kernel makes one mapping of all pieces.
    advise(this.#bytes, this.#start, sizeBytes, "no-dump");
  }

  #dataRuns(from: number, end: number): Run[] {
    const runs: Run[] = [];
    const addressOf = (page: number): number => this.#start + page * PAGE_SIZE_BYTES;
    for (let page = from; page < end; ) {
      const first = page + this.#scanner.countLeadingZeroPages(addressOf(page), end - page);
      page = first + this.#scanner.countLeadingDataPages(addressOf(first), end - first);
      if (first < page) runs.push({ first, end: page });
    }
    return runs;
  }

  #write({ first, end }: Run): void {
    const endOffset = end * PAGE_SIZE_BYTES;
    for (let offset = first * PAGE_SIZE_BYTES; offset < endOffset; ) {
      const bytes = this.#bytes.subarray(this.#start + offset, this.#start + endOffset);
      offset += pwrite(this.#moved.fd, bytes, this.#fileOffset + offset)!;
    }
  }
}
