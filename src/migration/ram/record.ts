// SPDX-License-Identifier: Apache-2.0
// The records in which guest RAM travels on a byte stream, little endian:
//
//   0   u32 magic           "BRAM"
//   4   u8  kind            1 pages, 2 zero, 3 zstd, 4 end of round, 5 request, 6 reference; three zero bytes
//   8   u32 first page
//   12  u32 page count
//   16  u32 payload bytes   of what follows the header
//   20  u32 sequence        number of the record in its stream, from 0
//   24  u32 round           from 0
//   28  u32 check           of the 28 bytes before
//   32  payload
//
// pages: the pages, one after the other. zstd: one zstd frame that holds them. zero: the pages are zero. end: this stream has
// sent all of its share of the round; page count is how many pages that was. Streams of one transfer keep in step by it: no page
// of a round may be received before all streams have ended the one before. request: a guest waits for the page, in post-copy.
// reference: the receiver takes the pages out of the sender's RAM itself (page-copier.ts).
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { VmmError } from "../../errors.ts";

export const RECORD_HEADER_SIZE_BYTES = 32;
/** The most pages of one record with a payload, or by reference: 1 MiB. */
export const MAX_RECORD_PAGES = 256;
export const MAX_PAYLOAD_SIZE_BYTES = MAX_RECORD_PAGES * PAGE_SIZE_BYTES;

const MAGIC = 0x4d41_5242;

export const RECORD_PAGES = 1;
export const RECORD_ZERO = 2;
export const RECORD_ZSTD = 3;
export const RECORD_END_OF_ROUND = 4;
export const RECORD_REQUEST = 5;
export const RECORD_REFERENCE = 6;
export type RecordKind =
  | typeof RECORD_PAGES
  | typeof RECORD_ZERO
  | typeof RECORD_ZSTD
  | typeof RECORD_END_OF_ROUND
  | typeof RECORD_REQUEST
  | typeof RECORD_REFERENCE;

export interface RamRecord {
  kind: RecordKind;
  firstPage: number;
  pageCount: number;
  payloadSizeBytes: number;
  sequence: number;
  round: number;
}

/** What the receiver knows before the record comes. */
export interface RecordExpectation {
  ramPages: number;
  sequence: number;
  round: number;
}

/** A multiplicative hash: enough to tell a header from the middle of a page, no protection from malice. */
function checkOf(words: Uint32Array, at: number): number {
  let hash = 0x811c_9dc5;
  for (let index = at; index < at + 7; index++) {
    hash = Math.imul(hash ^ words[index]!, 0x9e37_79b1);
    hash ^= hash >>> 15;
  }
  return hash >>> 0;
}

/** Writes the header at byte `offset` (a multiple of 4) of `words`. */
export function encodeRecord(words: Uint32Array, offset: number, record: RamRecord): void {
  const at = offset >> 2;
  words[at] = MAGIC;
  words[at + 1] = record.kind;
  words[at + 2] = record.firstPage;
  words[at + 3] = record.pageCount;
  words[at + 4] = record.payloadSizeBytes;
  words[at + 5] = record.sequence;
  words[at + 6] = record.round;
  words[at + 7] = checkOf(words, at);
}

/**
 * Reads a header, and proves that what it announces fits into RAM and comes in turn.
 * @throws VmmError "ram-stream" saying what is wrong
 */
export function decodeRecord(words: Uint32Array, offset: number, expected: RecordExpectation): RamRecord {
  const at = offset >> 2;
  if (words[at] !== MAGIC) fail(`a record starts with 0x${words[at]!.toString(16)}, not with BRAM`);
  if (words[at + 7] !== checkOf(words, at)) fail("the check of a record's header is wrong");
  const record: RamRecord = {
    kind: words[at + 1] as RecordKind,
    firstPage: words[at + 2]!,
    pageCount: words[at + 3]!,
    payloadSizeBytes: words[at + 4]!,
    sequence: words[at + 5]!,
    round: words[at + 6]!,
  };
  if (record.sequence !== expected.sequence) fail(`record ${record.sequence} came in place of ${expected.sequence}`);
  if (record.round !== expected.round) fail(`a record of round ${record.round} came in round ${expected.round}`);
  const { firstPage, pageCount } = record;
  if (record.kind === RECORD_END_OF_ROUND) {
    if (firstPage !== 0) fail("an end of round names a page");
  } else if (pageCount === 0 || firstPage + pageCount > expected.ramPages) {
    fail(`pages ${firstPage} to ${firstPage + pageCount} do not lie in RAM of ${expected.ramPages} pages`);
  }
  checkPayload(record);
  return record;
}

function checkPayload({ kind, pageCount, payloadSizeBytes }: RamRecord): void {
  const sizeBytes = pageCount * PAGE_SIZE_BYTES;
  let isRight: boolean;
  switch (kind) {
    case RECORD_PAGES:
      isRight = pageCount <= MAX_RECORD_PAGES && payloadSizeBytes === sizeBytes;
      break;
    case RECORD_ZSTD:
      isRight = pageCount <= MAX_RECORD_PAGES && payloadSizeBytes > 0 && payloadSizeBytes < sizeBytes;
      break;
    case RECORD_REQUEST:
      isRight = pageCount === 1 && payloadSizeBytes === 0;
      break;
    case RECORD_REFERENCE:
      isRight = pageCount <= MAX_RECORD_PAGES && payloadSizeBytes === 0;
      break;
    case RECORD_ZERO:
    case RECORD_END_OF_ROUND:
      isRight = payloadSizeBytes === 0;
      break;
    default:
      fail(`a record is of kind ${kind}, which this Baton does not know`);
  }
  if (!isRight) fail(`a record of kind ${kind} with ${pageCount} pages has ${payloadSizeBytes} bytes`);
}

function fail(reason: string): never {
  throw new VmmError("ram-stream", `The stream of guest RAM is damaged: ${reason}`);
}
