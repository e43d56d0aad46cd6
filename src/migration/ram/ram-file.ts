// SPDX-License-Identifier: Apache-2.0
// Guest RAM in a file in which page p is at fileOffset + p * 4096, as in QEMU's mapped-ram: written and read by several threads,
// sparse where pages are zero, and no larger however often the guest changes them.
import { DIRTY_BITMAP_SIZE_BYTES, PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { status } from "../../../ffi/fd.ts";
import { VmmError } from "../../errors.ts";
import { RamCrew, type RoundStats } from "./crew.ts";
import { loadDirtyModule } from "./dirty-module.ts";
import type { RamProgress } from "./shared.ts";
import type { RamPlace } from "./walk.ts";

/** Room for the checks of all pages. */
export function pageChecks(ramSizeBytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer((ramSizeBytes / PAGE_SIZE_BYTES) * Uint32Array.BYTES_PER_ELEMENT);
}

export interface RamFileOptions extends RamPlace {
  /** An open file, which stays the caller's. */
  fd: number;
  /** Where page 0 is in the file. */
  fileOffset: number;
  /** How many threads work at once. */
  streams: number;
  /**
   * A u32 for each page, from its contents (`pageChecks`): filled in when pages are written, and held against them when
   * they are read.
   */
  checks: SharedArrayBuffer;
}

/** Writes RAM, in as many rounds as the caller likes. */
export class RamFileWriter implements AsyncDisposable {
  readonly #crew: RamCrew;

  constructor(options: RamFileOptions) {
    const fds = new Array<number>(options.streams).fill(options.fd);
    this.#crew = new RamCrew(options, fds, { kind: "write", fileOffset: options.fileOffset, checks: options.checks });
  }

  get progress(): RamProgress {
    return this.#crew.progress();
  }

  /**
   * Writes the pages of the bitmap at `bitmap` and clears it. The bitmap at `present` says afterwards which pages the file has: it
   * loses those that are zero now, and all others keep their bit. The caller stores it with the file.
   */
  writeRound(bitmap: number, present: number): Promise<RoundStats> {
    return this.#crew.run({ bitmap, present });
  }

  cancel(): void {
    this.#crew.cancel();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#crew.close();
  }
}

/** Writes the pages of a bitmap: one round of a `RamFileWriter`. */
export async function writeRam(options: RamFileOptions, bitmap: number, present: number): Promise<RoundStats> {
  await using writer = new RamFileWriter(options);
  return await writer.writeRound(bitmap, present);
}

/**
 * Reads the pages of the bitmap at `present` into RAM, all others of which must be zero already.
 * @throws VmmError "ram-file" when the file is too short for them, or one of them is not what was written
 */
export async function readRam(
  options: RamFileOptions & { signal?: AbortSignal },
  present: number,
): Promise<RoundStats> {
  const { memory, ramSizeBytes, fd, fileOffset, streams, checks, signal } = options;
  const endPage = lastPage(memory, present, ramSizeBytes / PAGE_SIZE_BYTES) + 1;
  const { kind, sizeBytes } = status(fd);
  const neededBytes = fileOffset + endPage * PAGE_SIZE_BYTES;
  if (kind === "file" && sizeBytes < neededBytes) {
    throw new VmmError("ram-file", `The file of guest RAM has ${sizeBytes} bytes, and its pages need ${neededBytes}`);
  }
  const crew = new RamCrew(options, new Array<number>(streams).fill(fd), { kind: "read", fileOffset, checks });
  const cancel = (): void => crew.cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    return await crew.run({ bitmap: present });
  } finally {
    signal?.removeEventListener("abort", cancel);
    await crew.close();
  }
}

/** The last page of a bitmap; -1 for an empty one. */
function lastPage(memory: WebAssembly.Memory, bitmap: number, pageCount: number): number {
  const bytes = new Uint8Array(memory.buffer, bitmap, DIRTY_BITMAP_SIZE_BYTES);
  for (let page = pageCount - 1; page >= 0; page--) {
    if (((bytes[page >> 3]! >> (page & 7)) & 1) === 1) return page;
  }
  return -1;
}

/** XXH3-64 of each of the pages: for checks of samples. */
export function hashPages({ memory, ramBase, ramSizeBytes }: RamPlace, pages: readonly number[]): BigUint64Array {
  const { hashPage } = loadDirtyModule(memory);
  const pageCount = ramSizeBytes / PAGE_SIZE_BYTES;
  return BigUint64Array.from(pages, (page) => {
    if (!(page >= 0 && page < pageCount)) throw new RangeError(`There is no page ${page} in RAM of ${pageCount} pages`);
    return BigInt.asUintN(64, hashPage(ramBase + page * PAGE_SIZE_BYTES));
  });
}
