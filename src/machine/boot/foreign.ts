// SPDX-License-Identifier: Apache-2.0
// Files that cannot be booted: what they are, where one sees it, and what to do.
import type { VmmError } from "../../errors.ts";
import { BOOT_SECTOR_SIZE_BYTES } from "./boot-sector.ts";
import { hex, imageError } from "./image.ts";
import type { Image } from "./types.ts";
import { HEADER_MAGIC } from "./zero-page.ts";

interface Signature {
  offset: number;
  bytes: readonly number[];
  advice: string;
}

const text = (characters: string): number[] => Array.from(characters, (character) => character.charCodeAt(0));

/** Special ones before general ones: kernels of other machines may be PE files, too. */
const SIGNATURES: readonly Signature[] = [
  { offset: 0, bytes: [0x1f, 0x8b], advice: "Is compressed with gzip: unpack it with gunzip first" },
  { offset: 0, bytes: [0xfd, ...text("7zXZ")], advice: "Is compressed with xz: unpack it with unxz first" },
  { offset: 0, bytes: [0x28, 0xb5, 0x2f, 0xfd], advice: "Is compressed with Zstandard: unpack it with unzstd first" },
  { offset: 0, bytes: [0x02, 0x21, 0x4c, 0x18], advice: "Is compressed with LZ4: unpack it with unlz4 first" },
  { offset: 0, bytes: text("BZh"), advice: "Is compressed with bzip2: unpack it with bunzip2 first" },
  { offset: 0, bytes: [0x5d, 0, 0], advice: "Is compressed with LZMA: unpack it with unlzma first" },
  { offset: 0, bytes: [0x27, 0x05, 0x19, 0x56], advice: "Is a U-Boot image: use a kernel for x86-64" },
  { offset: 0x38, bytes: text("ARMd"), advice: "Is a Linux kernel for arm64: use a kernel for x86-64" },
  { offset: 0x38, bytes: text("RSC\x05"), advice: "Is a Linux kernel for RISC-V: use a kernel for x86-64" },
  { offset: 0x24, bytes: [0x18, 0x28, 0x6f, 0x01], advice: "Is a Linux kernel for 32-bit ARM: use one for x86-64" },
  {
    offset: 4,
    bytes: text("zimg"),
    advice: "Is an EFI zboot kernel, which x86 does not have: use a kernel for x86-64",
  },
  { offset: 0x257, bytes: text("ustar"), advice: "Is a tar archive: unpack the kernel from it" },
  { offset: 0, bytes: text("070701"), advice: "Is a cpio archive: give it as the initrd (-initrd)" },
  {
    offset: 0,
    bytes: text("MZ"),
    advice: `Is an EFI program without a Linux setup header ("HdrS" at ${hex(HEADER_MAGIC)}): use a bzImage; of a unified kernel image, its .linux section`,
  },
];

/** The error for an image that no boot protocol takes. `head` is the start of the file. */
export function foreignImage(image: Image, head: DataView): VmmError {
  const { sizeBytes } = image;
  if (sizeBytes === 0) return imageError(image, "image-truncated", "The file is empty");
  const found = SIGNATURES.find(
    ({ offset, bytes }) =>
      offset + bytes.length <= head.byteLength && bytes.every((byte, index) => head.getUint8(offset + index) === byte),
  );
  if (found !== undefined && sizeBytes < HEADER_MAGIC + 4 && found.bytes[0] === 0x4d) {
    return imageError(
      image,
      "image-truncated",
      `Truncated: the setup header's magic is at ${hex(HEADER_MAGIC)}, the file ends at ${hex(sizeBytes)}`,
    );
  }
  if (found !== undefined) return imageError(image, "image-unsupported", `${found.advice} (${hex(found.offset)})`);
  const bootSector =
    sizeBytes === BOOT_SECTOR_SIZE_BYTES
      ? "a boot sector without 0x55 0xaa at 510"
      : `a boot sector (this file has ${sizeBytes} bytes, not ${BOOT_SECTOR_SIZE_BYTES})`;
  return imageError(
    image,
    "image-unsupported",
    `Is not bootable: no Linux setup header ("HdrS" at ${hex(HEADER_MAGIC)}), no ELF header, no multiboot header in the first 8 KiB, not ${bootSector}`,
  );
}
