// SPDX-License-Identifier: Apache-2.0
// The compressed kernel inside of a bzImage. Linux's build writes the unpacked size behind what its packer made; gzip
// has it at its own end.
// https://docs.kernel.org/arch/x86/boot.html (payload_offset, payload_length), scripts/Makefile.lib (size_append)
import { hex, imageError, readBytes } from "../image.ts";
import type { Image } from "../types.ts";
import { PAYLOAD_LENGTH, PAYLOAD_OFFSET } from "../zero-page.ts";
import { unpackLz4 } from "./lz4.ts";
import { unpackXz } from "./xz.ts";

/** Where a payload lies in the file, and the most that it may unpack to. */
export interface PayloadPlace {
  offset: number;
  sizeBytes: number;
  unpackedSizeMaxBytes: number;
}

interface Format {
  name: string;
  magic: readonly number[];
  /** Behind the packer's own bytes. */
  sizeFieldBytes: 0 | 4;
  /** Returns `sizeBytes` bytes, or fewer, or throws. */
  unpack(packed: Uint8Array, sizeBytes: number): Uint8Array;
}

/** Loaded when it is needed: that takes some milliseconds. */
const zlib = (): typeof import("node:zlib") => process.getBuiltinModule("node:zlib");

const FORMATS: readonly Format[] = [
  {
    name: "gzip",
    magic: [0x1f, 0x8b],
    sizeFieldBytes: 0,
    unpack: (packed, sizeBytes) => zlib().gunzipSync(packed, { maxOutputLength: sizeBytes }),
  },
  {
    name: "Zstandard",
    magic: [0x28, 0xb5, 0x2f, 0xfd],
    sizeFieldBytes: 4,
    unpack: (packed, sizeBytes) => zlib().zstdDecompressSync(packed, { maxOutputLength: sizeBytes }),
  },
  { name: "LZ4", magic: [0x02, 0x21, 0x4c, 0x18], sizeFieldBytes: 4, unpack: unpackLz4 },
  { name: "xz", magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], sizeFieldBytes: 4, unpack: unpackXz },
];
const SIZE_FIELD_BYTES = 4;

/**
 * The bytes of the kernel proper, or undefined when they are packed in a way that only the kernel itself can undo (bzip2,
 * LZMA, LZO).
 * @throws VmmError when they are packed in a way known here, and damaged: the kernel could not unpack them either
 */
export function unpackPayload(image: Image, { offset, sizeBytes, unpackedSizeMaxBytes }: PayloadPlace) {
  const packed = readBytes(image, `the payload (payload_offset, ${hex(PAYLOAD_OFFSET)})`, offset, sizeBytes);
  const format = FORMATS.find(({ magic }) => magic.every((byte, index) => packed[index] === byte));
  if (format === undefined) return undefined;
  const invalid = (message: string, cause?: unknown) =>
    imageError(
      image,
      "image-invalid",
      `The kernel in it, packed with ${format.name} at ${hex(offset)}, ${message}`,
      cause,
    );

  if (sizeBytes < format.magic.length + SIZE_FIELD_BYTES) {
    throw invalid(`has ${sizeBytes} bytes (payload_length, ${hex(PAYLOAD_LENGTH)})`);
  }
  const sizeFieldOffset = sizeBytes - SIZE_FIELD_BYTES;
  const unpackedSizeBytes = new DataView(packed.buffer).getUint32(sizeFieldOffset, true);
  if (unpackedSizeBytes > unpackedSizeMaxBytes) {
    throw invalid(
      `says that it unpacks to ${hex(unpackedSizeBytes)} bytes (${hex(offset + sizeFieldOffset)}), more than init_size, ${hex(unpackedSizeMaxBytes)}`,
    );
  }
  let unpacked: Uint8Array;
  try {
    unpacked = format.unpack(packed.subarray(0, sizeBytes - format.sizeFieldBytes), unpackedSizeBytes);
  } catch (cause) {
    throw invalid("does not unpack", cause);
  }
  if (unpacked.length !== unpackedSizeBytes) {
    throw invalid(`unpacks to ${hex(unpacked.length)} bytes, not to the ${hex(unpackedSizeBytes)} that it says`);
  }
  return unpacked;
}
