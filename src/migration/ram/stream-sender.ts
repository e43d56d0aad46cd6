// SPDX-License-Identifier: Apache-2.0
// Sends one stream's share of a round: records out of guest RAM, many in one system call. For any thread.
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { IoMemory, IoVector } from "../../../ffi/iov.ts";
import { type DirtyModule, loadDirtyModule } from "./dirty-module.ts";
import { RamSocket } from "./ram-socket.ts";
import {
  encodeRecord,
  MAX_PAYLOAD_SIZE_BYTES,
  MAX_RECORD_PAGES,
  RECORD_END_OF_ROUND,
  RECORD_HEADER_SIZE_BYTES,
  RECORD_PAGES,
  RECORD_REFERENCE,
  RECORD_ZERO,
  RECORD_ZSTD,
  type RecordKind,
} from "./record.ts";
import type { RamShared } from "./shared.ts";
import { type PageSink, type RamPlace, walkPages } from "./walk.ts";

/** Records that wait to be sent together: enough that single pages are not a system call each. */
const BATCH_RECORDS = 64;
const BATCH_SIZE_BYTES = 1 << 20;
/** A bandwidth limit holds over this time, and no longer pause is caught up with. */
const PACE_MS = 50;

export interface StreamSenderOptions extends RamPlace {
  shared: RamShared;
  fd: number;
  /** This stream, of how many. */
  stream: number;
  streamCount: number;
  /** zstd level of pages, 0 to send them as they are. */
  zstdLevel: number;
  /** The receiver has this RAM's file: pages are named, and not sent. */
  isByReference: boolean;
}

export class StreamSender implements PageSink {
  readonly #options: StreamSenderOptions;
  readonly #module: DirtyModule;
  readonly #socket: RamSocket;
  readonly #ram: IoMemory;
  readonly #headers = IoMemory.allocate(BATCH_RECORDS * RECORD_HEADER_SIZE_BYTES);
  readonly #headerWords = new Uint32Array(this.#headers.bytes.buffer);
  readonly #vector = new IoVector(BATCH_RECORDS * 2);
  readonly #packer: Packer | undefined;
  #recordCount = 0;
  /** Of the pages that the records of this batch refer to. */
  #referencedBytes = 0;
  #normalPages = 0;
  #zeroPages = 0;
  #sequence = 0;
  #roundPages = 0;
  /** When the next bytes may go, on `performance.now()`'s clock. */
  #nextMs = 0;

  constructor(options: StreamSenderOptions) {
    const { memory, ramBase, ramSizeBytes, fd, stream, shared, zstdLevel } = options;
    this.#options = options;
    this.#module = loadDirtyModule(memory);
    this.#socket = new RamSocket(fd, stream, shared);
    this.#ram = new IoMemory(new Uint8Array(memory.buffer, ramBase, ramSizeBytes));
    if (zstdLevel > 0) this.#packer = new Packer(zstdLevel);
  }

  /** Sends the pages of the shared bitmap that no other stream sends, then the end of the round. */
  sendRound(timeoutMs = Number.POSITIVE_INFINITY): void {
    const { shared, stream } = this.#options;
    this.#socket.deadlineMs = performance.now() + timeoutMs;
    this.#sequence = shared.sequence(stream);
    this.#roundPages = 0;
    walkPages(this.#options, this.#module, shared, this);
    this.#add(RECORD_END_OF_ROUND, 0, this.#roundPages, 0);
    this.#flush();
    shared.setSequence(stream, this.#sequence);
  }

  data(firstPage: number, pageCount: number): void {
    const step = this.#recordPages();
    for (let done = 0; done < pageCount; done += step) {
      const count = Math.min(step, pageCount - done);
      if (this.#options.isByReference) this.#addReference(firstPage + done, count);
      else if (this.#packer === undefined || !this.#addPacked(firstPage + done, count)) {
        this.#addPages(firstPage + done, count);
      }
    }
    this.#normalPages += pageCount;
    this.#roundPages += pageCount;
  }

  zero(firstPage: number, pageCount: number): void {
    this.#add(RECORD_ZERO, firstPage, pageCount, 0);
    this.#zeroPages += pageCount;
    this.#roundPages += pageCount;
  }

  #addPages(firstPage: number, pageCount: number): void {
    const sizeBytes = pageCount * PAGE_SIZE_BYTES;
    this.#add(RECORD_PAGES, firstPage, pageCount, sizeBytes);
    this.#vector.add(this.#ram, firstPage * PAGE_SIZE_BYTES, sizeBytes);
    this.#flushFull();
  }

  #addReference(firstPage: number, pageCount: number): void {
    this.#add(RECORD_REFERENCE, firstPage, pageCount, 0);
    this.#referencedBytes += pageCount * PAGE_SIZE_BYTES;
    this.#flushFull();
  }

  #flushFull(): void {
    if (this.#batchSizeBytes >= Math.min(BATCH_SIZE_BYTES, this.#paceSizeBytes)) this.#flush();
  }

  get #batchSizeBytes(): number {
    return this.#vector.sizeBytes + this.#referencedBytes;
  }

  /** False when the pages are no smaller packed. */
  #addPacked(firstPage: number, pageCount: number): boolean {
    const { memory, ramBase } = this.#options;
    const address = ramBase + firstPage * PAGE_SIZE_BYTES;
    const sizeBytes = pageCount * PAGE_SIZE_BYTES;
    // The packer has room for one record, which must go before the next is packed.
    const packedSizeBytes = this.#packer!.pack(new Uint8Array(memory.buffer, address, sizeBytes));
    if (packedSizeBytes === undefined) return false;
    this.#add(RECORD_ZSTD, firstPage, pageCount, packedSizeBytes);
    this.#vector.add(this.#packer!.output, 0, packedSizeBytes);
    this.#flush();
    return true;
  }

  #add(kind: RecordKind, firstPage: number, pageCount: number, payloadSizeBytes: number): void {
    if (this.#recordCount === BATCH_RECORDS) this.#flush();
    const offset = this.#recordCount * RECORD_HEADER_SIZE_BYTES;
    const sequence = this.#sequence;
    const { round } = this.#options.shared;
    encodeRecord(this.#headerWords, offset, { kind, firstPage, pageCount, payloadSizeBytes, sequence, round });
    this.#vector.add(this.#headers.io, offset, RECORD_HEADER_SIZE_BYTES);
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.#recordCount++;
  }

  #flush(): void {
    const bytes = this.#batchSizeBytes;
    this.#pace(bytes);
    this.#socket.sendAll(this.#vector);
    this.#vector.clear();
    this.#recordCount = 0;
    this.#referencedBytes = 0;
    const { shared, stream } = this.#options;
    shared.addProgress(stream, { normalPages: this.#normalPages, zeroPages: this.#zeroPages, bytes });
    this.#normalPages = 0;
    this.#zeroPages = 0;
  }

  /** Bytes per second of this stream, Infinity without a limit. The limit is for the streams together. */
  get #bandwidth(): number {
    const { shared, streamCount } = this.#options;
    return shared.bandwidth === 0 ? Number.POSITIVE_INFINITY : shared.bandwidth / streamCount;
  }

  /** A narrow stream sends little at a time, to be even. */
  get #paceSizeBytes(): number {
    return (this.#bandwidth * PACE_MS) / 1000;
  }

  #recordPages(): number {
    return Math.max(1, Math.min(Math.floor(this.#paceSizeBytes / PAGE_SIZE_BYTES), MAX_RECORD_PAGES));
  }

  #pace(bytes: number): void {
    const bandwidth = this.#bandwidth;
    // The last round goes as fast as it can: the guest waits for it.
    if (bandwidth === Number.POSITIVE_INFINITY || this.#socket.deadlineMs !== Number.POSITIVE_INFINITY) return;
    if (this.#options.shared.isCut) return;
    const nowMs = performance.now();
    if (this.#nextMs > nowMs) this.#options.shared.sleep(this.#nextMs - nowMs);
    this.#nextMs = Math.max(this.#nextMs, nowMs - PACE_MS) + (bytes / bandwidth) * 1000;
  }
}

/** Packs pages with zstd. It works on a copy: the guest may write a page while it is being packed. */
class Packer {
  readonly #zlib = process.getBuiltinModule("node:zlib");
  readonly #options: { params: Record<number, number> };
  readonly #copy = new Uint8Array(MAX_PAYLOAD_SIZE_BYTES);
  readonly #output = IoMemory.allocate(MAX_PAYLOAD_SIZE_BYTES);

  constructor(level: number) {
    this.#options = { params: { [this.#zlib.constants.ZSTD_c_compressionLevel]: level } };
  }

  get output(): IoMemory {
    return this.#output.io;
  }

  /** Packs into `output`; the size, or undefined when it is no smaller. */
  pack(pages: Uint8Array): number | undefined {
    this.#copy.set(pages);
    const packed = this.#zlib.zstdCompressSync(this.#copy.subarray(0, pages.byteLength), this.#options);
    if (packed.byteLength >= pages.byteLength) return undefined;
    this.#output.bytes.set(packed);
    return packed.byteLength;
  }
}
