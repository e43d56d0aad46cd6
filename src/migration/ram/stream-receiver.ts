// SPDX-License-Identifier: Apache-2.0
// Receives one stream's share of a round straight into guest RAM. Nothing that the peer says is believed unchecked.
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { IoMemory, IoVector } from "../../../ffi/iov.ts";
import { VmmError } from "../../errors.ts";
import { type DirtyModule, loadDirtyModule } from "./dirty-module.ts";
import { PageCopier, type PageSource } from "./page-copier.ts";
import { RamSocket } from "./ram-socket.ts";
import {
  decodeRecord,
  MAX_PAYLOAD_SIZE_BYTES,
  type RamRecord,
  RECORD_END_OF_ROUND,
  RECORD_HEADER_SIZE_BYTES,
  RECORD_PAGES,
  RECORD_REFERENCE,
  RECORD_REQUEST,
  RECORD_ZERO,
} from "./record.ts";
import type { RamShared } from "./shared.ts";
import type { RamPlace } from "./walk.ts";

/** How many records may be behind in what `progress` says. */
const PROGRESS_RECORDS = 64;

export interface StreamReceiverOptions extends RamPlace {
  shared: RamShared;
  fd: number;
  stream: number;
  /** Address of a bitmap of the pages that may hold something; 0 when all may. */
  written: number;
  /** The sender's RAM, for pages by reference. */
  source?: PageSource | undefined;
}

export class StreamReceiver {
  readonly #options: StreamReceiverOptions;
  readonly #module: DirtyModule;
  readonly #socket: RamSocket;
  readonly #bytes: Uint8Array;
  readonly #ram: IoMemory;
  readonly #header = IoMemory.allocate(RECORD_HEADER_SIZE_BYTES);
  readonly #headerWords = new Uint32Array(this.#header.bytes.buffer);
  readonly #vector = new IoVector(2);
  readonly #copier: PageCopier | undefined;
  #packed: { io: IoMemory; bytes: Uint8Array } | undefined;
  readonly #progress = { normalPages: 0, zeroPages: 0, bytes: 0 };

  constructor(options: StreamReceiverOptions) {
    const { memory, ramBase, ramSizeBytes, fd, stream, shared } = options;
    this.#options = options;
    this.#module = loadDirtyModule(memory);
    this.#socket = new RamSocket(fd, stream, shared);
    this.#bytes = new Uint8Array(memory.buffer, ramBase, ramSizeBytes);
    this.#ram = new IoMemory(this.#bytes);
    if (options.source !== undefined)
      this.#copier = new PageCopier({ ...options, source: options.source }, this.#module);
  }

  /** Receives up to this stream's end of the round, and not a byte more. */
  receiveRound(timeoutMs = Number.POSITIVE_INFINITY): void {
    this.#socket.deadlineMs = performance.now() + timeoutMs;
    const { shared, stream, ramSizeBytes } = this.#options;
    const expected = {
      ramPages: ramSizeBytes / PAGE_SIZE_BYTES,
      sequence: shared.sequence(stream),
      round: shared.round,
    };
    let pages = 0;
    this.#receiveWithHeader();
    for (;;) {
      const record = decodeRecord(this.#headerWords, 0, expected);
      expected.sequence = (expected.sequence + 1) >>> 0;
      if (record.kind === RECORD_END_OF_ROUND) {
        if (record.pageCount !== pages) {
          throw new VmmError("ram-stream", `A round of ${record.pageCount} pages of guest RAM had ${pages}`);
        }
        break;
      }
      this.#take(record);
      pages += record.pageCount;
      if (expected.sequence % PROGRESS_RECORDS === 0) this.#report();
    }
    this.#report();
    shared.setSequence(stream, expected.sequence);
  }

  /** Receives the payload, and with it the next header: within a round one always follows. */
  #take(record: RamRecord): void {
    const { firstPage, pageCount, payloadSizeBytes } = record;
    const { ramBase, written } = this.#options;
    if (record.kind === RECORD_REQUEST) {
      throw new VmmError("ram-stream", "The stream of guest RAM is damaged: a page is asked for in a round");
    }
    if (record.kind === RECORD_ZERO) {
      this.#module.zeroPages(ramBase, firstPage, pageCount, written);
      this.#progress.zeroPages += pageCount;
      this.#receiveWithHeader();
      return;
    }
    if (record.kind === RECORD_REFERENCE) {
      this.#copy(record);
      this.#receiveWithHeader();
      return;
    }
    if (written !== 0) this.#module.setRange(written, firstPage, pageCount);
    if (record.kind === RECORD_PAGES) {
      this.#receiveWithHeader(this.#ram, firstPage * PAGE_SIZE_BYTES, payloadSizeBytes);
    } else {
      this.#packed ??= IoMemory.allocate(MAX_PAYLOAD_SIZE_BYTES);
      this.#receiveWithHeader(this.#packed.io, 0, payloadSizeBytes);
      this.#bytes.set(unpack(this.#packed.bytes.subarray(0, payloadSizeBytes), record), firstPage * PAGE_SIZE_BYTES);
    }
    this.#progress.normalPages += pageCount;
  }

  #copy({ firstPage, pageCount }: RamRecord): void {
    if (this.#copier === undefined) {
      throw new VmmError("ram-stream", "The stream of guest RAM refers to a file that did not come");
    }
    this.#copier.copy(firstPage, pageCount);
    const { written } = this.#options;
    if (written !== 0) this.#module.setRange(written, firstPage, pageCount);
    this.#progress.normalPages += pageCount;
    this.#progress.bytes += pageCount * PAGE_SIZE_BYTES;
  }

  #receiveWithHeader(memory?: IoMemory, offset = 0, sizeBytes = 0): void {
    this.#vector.clear();
    if (memory !== undefined) this.#vector.add(memory, offset, sizeBytes);
    this.#vector.add(this.#header.io, 0, RECORD_HEADER_SIZE_BYTES);
    this.#progress.bytes += this.#vector.sizeBytes;
    this.#socket.receiveAll(this.#vector);
  }

  #report(): void {
    this.#options.shared.addProgress(this.#options.stream, this.#progress);
    Object.assign(this.#progress, { normalPages: 0, zeroPages: 0, bytes: 0 });
  }
}

/** The pages of a record. The frame may not grow beyond them, whatever it says of itself. */
function unpack(packed: Uint8Array, { firstPage, pageCount }: RamRecord): Uint8Array {
  const { zstdDecompressSync } = process.getBuiltinModule("node:zlib");
  const sizeBytes = pageCount * PAGE_SIZE_BYTES;
  let pages: Uint8Array;
  try {
    pages = zstdDecompressSync(packed, { maxOutputLength: sizeBytes });
  } catch (error) {
    throw new VmmError("ram-stream", `Packed pages of guest RAM from page ${firstPage} on are damaged`, {
      cause: error,
    });
  }
  if (pages.byteLength !== sizeBytes) {
    throw new VmmError("ram-stream", `${pageCount} packed pages of guest RAM are ${pages.byteLength} bytes`);
  }
  return pages;
}
