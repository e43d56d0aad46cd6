// SPDX-License-Identifier: Apache-2.0
// Records of post-copy out of a socket, as far as they have come: nobody waits here.
import { IoMemory, IoVector } from "../../../ffi/iov.ts";
import { VmmError } from "../../errors.ts";
import type { RamSocket } from "./ram-socket.ts";
import { decodeRecord, type RamRecord, RECORD_HEADER_SIZE_BYTES, type RecordKind } from "./record.ts";

/** In place of a round's number: no record of a round can be taken for one of post-copy. */
export const POSTCOPY_ROUND = 0xffff_ffff;

export class RecordInput {
  readonly #socket: RamSocket;
  readonly #kinds: readonly RecordKind[];
  readonly #header = IoMemory.allocate(RECORD_HEADER_SIZE_BYTES);
  readonly #headerWords = new Uint32Array(this.#header.bytes.buffer);
  /** Where the payload of the last record is. */
  readonly payload: IoMemory;
  readonly #vector = new IoVector(1);
  readonly #expected: { ramPages: number; sequence: number; round: number };
  /** The record whose payload is coming. */
  #record: RamRecord | undefined;

  /** `kinds` are the records that may come, `payloadSizeBytes` is the most that one may bring. */
  constructor(socket: RamSocket, ramPages: number, kinds: readonly RecordKind[], payloadSizeBytes: number) {
    this.#socket = socket;
    this.#kinds = kinds;
    this.payload = IoMemory.allocate(payloadSizeBytes).io;
    this.#expected = { ramPages, sequence: 0, round: POSTCOPY_ROUND };
    this.#vector.add(this.#header.io, 0, RECORD_HEADER_SIZE_BYTES);
  }

  /** The next record, once all of it is here, its payload included. @throws VmmError "ram-peer", "ram-stream" */
  receive(): RamRecord | undefined {
    for (;;) {
      while (this.#vector.sizeBytes > 0) if (this.#socket.receive(this.#vector) === undefined) return undefined;
      const record = this.#record ?? this.#decode();
      this.#vector.clear();
      if (this.#record === undefined && record.payloadSizeBytes > 0) {
        this.#record = record;
        this.#vector.add(this.payload, 0, record.payloadSizeBytes);
      } else {
        this.#record = undefined;
        this.#vector.add(this.#header.io, 0, RECORD_HEADER_SIZE_BYTES);
        return record;
      }
    }
  }

  #decode(): RamRecord {
    const record = decodeRecord(this.#headerWords, 0, this.#expected);
    this.#expected.sequence = (this.#expected.sequence + 1) >>> 0;
    if (!this.#kinds.includes(record.kind) || record.payloadSizeBytes > this.payload.sizeBytes) {
      throw new VmmError(
        "ram-stream",
        `The stream of guest RAM is damaged: a record of kind ${record.kind} with ${record.payloadSizeBytes} bytes came in post-copy`,
      );
    }
    return record;
  }
}
