// SPDX-License-Identifier: Apache-2.0
// Records of post-copy into a socket, one at a time, as far as it takes them.
import { IoMemory, IoVector } from "../../../ffi/iov.ts";
import type { RamSocket } from "./ram-socket.ts";
import { encodeRecord, RECORD_HEADER_SIZE_BYTES, type RecordKind } from "./record.ts";
import { POSTCOPY_ROUND } from "./record-input.ts";

export class RecordOutput {
  readonly #socket: RamSocket;
  readonly #header = IoMemory.allocate(RECORD_HEADER_SIZE_BYTES);
  readonly #headerWords = new Uint32Array(this.#header.bytes.buffer);
  readonly #vector = new IoVector(2);
  #sequence = 0;

  constructor(socket: RamSocket) {
    this.#socket = socket;
  }

  /** Part of a record has not gone yet. */
  get isPending(): boolean {
    return this.#vector.sizeBytes > 0;
  }

  /** Takes the next record, when nothing is pending; with a payload it is the bytes at `offset` of `memory`. Its size in bytes. */
  put(kind: RecordKind, firstPage: number, pageCount: number, memory?: IoMemory, offset = 0, sizeBytes = 0): number {
    const sequence = this.#sequence;
    this.#sequence = (this.#sequence + 1) >>> 0;
    const record = { kind, firstPage, pageCount, payloadSizeBytes: sizeBytes, sequence, round: POSTCOPY_ROUND };
    encodeRecord(this.#headerWords, 0, record);
    this.#vector.clear();
    this.#vector.add(this.#header.io, 0, RECORD_HEADER_SIZE_BYTES);
    if (memory !== undefined) this.#vector.add(memory, offset, sizeBytes);
    return this.#vector.sizeBytes;
  }

  /** Sends what the socket takes now. */
  flush(): void {
    while (this.isPending) if (this.#socket.send(this.#vector) === undefined) return;
  }

  /** Waits until all has gone: for what is small, on a connection that the peer always reads. */
  flushAll(): void {
    this.#socket.sendAll(this.#vector);
  }
}
