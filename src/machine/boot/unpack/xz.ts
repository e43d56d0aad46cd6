// SPDX-License-Identifier: Apache-2.0
// The .xz container, with LZMA2 and the x86 filter: what kernels are packed with.
// https://tukaani.org/xz/xz-file-format.txt
//
//   stream    header (12 bytes), blocks, index (begins with 0), footer
//   block     header: size / 4 - 1, flags, [sizes], filters, padding, CRC32; then LZMA2, padding to 4, check
import { crc32 } from "../../../runtime/checksum.ts";
import { Lzma2Decoder } from "./lzma2.ts";
import { undoX86Filter } from "./x86-filter.ts";

const HEADER_SIZE_BYTES = 12;
const CHECK_CRC32 = 1;
/** Of the checks 0 (none) to 15. */
const CHECK_SIZES_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];
const FILTER_COUNT_MASK = 0x03;
const HAS_PACKED_SIZE = 0x40;
const HAS_UNPACKED_SIZE = 0x80;
const FILTER_X86 = 0x04;
const FILTER_LZMA2 = 0x21;
/** Numbers are in groups of 7 bits; so many are far more than any kernel has. */
const NUMBER_GROUPS_MAX = 5;

/** Unpacks to `sizeBytes` at most. @throws Error saying what is wrong with the bytes */
export function unpackXz(packed: Uint8Array, sizeBytes: number): Uint8Array {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  if (packed.length < HEADER_SIZE_BYTES || crc32(packed.subarray(6, 8)) !== view.getUint32(8, true)) {
    throw new Error("xz: The stream's header is damaged");
  }
  const check = packed[7]! & 0x0f;
  const unpacked = new Uint8Array(sizeBytes);
  let at = HEADER_SIZE_BYTES;
  let done = 0;
  // The index, which only repeats sizes, ends the blocks.
  while (packed[at] !== 0) {
    const { endAt, isFiltered } = readBlockHeader(packed, view, at);
    const decoder = new Lzma2Decoder(packed, endAt, unpacked, done);
    decoder.run();
    const block = unpacked.subarray(done, decoder.done);
    if (isFiltered) undoX86Filter(block);
    done = decoder.done;
    const checkAt = Math.ceil((decoder.at - at) / 4) * 4 + at;
    at = checkAt + CHECK_SIZES_BYTES[check]!;
    if (at >= packed.length) throw new Error("xz: The bytes end before the index");
    if (check === CHECK_CRC32 && crc32(block) !== view.getUint32(checkAt, true)) {
      throw new Error("xz: The check of a block is wrong");
    }
  }
  return unpacked.subarray(0, done);
}

function readBlockHeader(packed: Uint8Array, view: DataView, start: number): { endAt: number; isFiltered: boolean } {
  const endAt = start + ((packed[start] ?? 0) + 1) * 4;
  const crcAt = endAt - 4;
  if (endAt > packed.length || crc32(packed.subarray(start, crcAt)) !== view.getUint32(crcAt, true)) {
    throw new Error(`xz: The block header at ${start} is damaged`);
  }
  let at = start + 1;
  const number = (): number => {
    let value = 0;
    for (let group = 0; group < NUMBER_GROUPS_MAX && at < crcAt; group++) {
      const byte = packed[at++]!;
      value += (byte & 0x7f) * 2 ** (7 * group);
      if (byte < 0x80) return value;
    }
    throw new Error(`xz: A number in the block header at ${start} does not end`);
  };

  const flags = packed[at++]!;
  if ((flags & HAS_PACKED_SIZE) !== 0) number();
  if ((flags & HAS_UNPACKED_SIZE) !== 0) number();
  const filters: number[] = [];
  for (let count = (flags & FILTER_COUNT_MASK) + 1; count > 0; count--) {
    filters.push(number());
    // Properties: LZMA2's dictionary size, a start offset that is 0 for the others.
    const propertiesSizeBytes = number();
    at += propertiesSizeBytes;
  }
  const isFiltered = filters.length === 2 && filters[0] === FILTER_X86;
  if (filters.at(-1) !== FILTER_LZMA2 || filters.length !== (isFiltered ? 2 : 1)) {
    throw new Error(`xz: The filters are ${filters.join(", ")}, not [${FILTER_X86} (x86),] ${FILTER_LZMA2} (LZMA2)`);
  }
  return { endAt, isFiltered };
}
