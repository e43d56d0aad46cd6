// SPDX-License-Identifier: Apache-2.0
import { describe } from "../../../harness.ts";
import { bootSector, concat, filler } from "./images.ts";
import { assertRefused, plan } from "./machine.ts";

const test = describe("foreign images");

const bytes = (offset: number, ...values: number[]): Uint8Array =>
  concat([new Uint8Array(offset), Uint8Array.from(values), new Uint8Array(1024 - offset)]);
const text = (offset: number, characters: string): Uint8Array => bytes(offset, ...new TextEncoder().encode(characters));

const foreign: [title: string, image: Uint8Array, message: string][] = [
  ["a kernel in gzip", bytes(0, 0x1f, 0x8b, 8), "gunzip"],
  ["a kernel in xz", bytes(0, 0xfd, 0x37, 0x7a, 0x58, 0x5a, 0), "unxz"],
  ["a kernel in Zstandard", bytes(0, 0x28, 0xb5, 0x2f, 0xfd), "unzstd"],
  ["a kernel in LZ4", bytes(0, 0x02, 0x21, 0x4c, 0x18), "unlz4"],
  ["a kernel in bzip2", text(0, "BZh9"), "bunzip2"],
  ["a kernel in LZMA", bytes(0, 0x5d, 0, 0, 0x80), "unlzma"],
  ["a U-Boot image", bytes(0, 0x27, 0x05, 0x19, 0x56), "U-Boot"],
  ["an arm64 kernel", text(0x38, "ARMd"), "arm64: use a kernel for x86-64 (0x38)"],
  ["an arm64 kernel with EFI stub", concat([text(0, "MZ").slice(0, 0x38), text(0, "ARMd")]), "arm64"],
  ["a RISC-V kernel", text(0x38, "RSC\x05"), "RISC-V"],
  ["a 32-bit ARM kernel", bytes(0x24, 0x18, 0x28, 0x6f, 0x01), "32-bit ARM"],
  ["an EFI zboot kernel", text(0, "MZ\0\0zimg"), "zboot"],
  ["an EFI program", text(0, "MZ"), 'without a Linux setup header ("HdrS" at 0x202)'],
  ["a tar archive", text(0x257, "ustar"), "tar"],
  ["an initrd", text(0, "070701"), "-initrd"],
  ["random bytes", filler(4096), 'no Linux setup header ("HdrS" at 0x202), no ELF header'],
  ["a disk image", concat([bootSector(), filler(512)]), "this file has 1024 bytes, not 512"],
  ["512 bytes without signature", filler(512), "without 0x55 0xaa at 510"],
  ["one byte", filler(1), "this file has 1 bytes"],
];
for (const [title, image, message] of foreign) {
  test(`${title} is named for what it is`, () => assertRefused(() => plan(image), "image-unsupported", message));
}

test("an empty file is named for what it is", () =>
  assertRefused(() => plan(new Uint8Array()), "image-truncated", "The file is empty"));

test.run();
