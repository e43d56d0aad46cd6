// SPDX-License-Identifier: Apache-2.0
// The state image: the bytes that carry a VM from one VMM to the next. docs/state-format.md is the specification.
//
//   0   8  magic "BATONVM\n"
//   8   4  format version (1)
//   12  4  CRC-32 of everything from offset 16 to the end
//   16  8  total size in bytes
//   24  4  directory size in bytes
//   28  4  reserved, zero
//   32  8  architecture, zero padded ("x86_64")
//   40 24  reserved, zero
//   64  -  directory: UTF-8 JSON, then zero padding to 64 bytes
//   -   -  parts, each aligned to 64 bytes
//
// The directory names every part of every section, with type, offset and size: the image describes itself. It is
// complete before the guest stops, because sizes do not depend on values; only parts are filled in inside the pause.

export const MAGIC = "BATONVM\n";
export const FORMAT_VERSION = 1;
export const ARCHITECTURE = "x86_64";
export const HEADER_SIZE_BYTES = 64;
export const ALIGNMENT_BYTES = 64;
export const CRC_OFFSET = 12;
export const CRC_START = 16;
/** RAM is never in the image; 8 vCPUs and all devices take less than 1 MiB, pending console output the rest. */
export const MAX_IMAGE_SIZE_BYTES = 64 * 2 ** 20;

export interface PartEntry {
  name: string;
  /** What the bytes are: a C struct (`struct kvm_regs`), `u8`, `json`, or a device's field list. */
  type: string;
  /** From the start of the image. */
  offset: number;
  sizeBytes: number;
}

export interface SectionEntry {
  /** What the section is about: `vcpu`, `irqchip`, `device/uart16550`. */
  id: string;
  /** Distinguishes several of one id. */
  instance: number;
  version: number;
  /** A reader that does not know a required section must refuse the image; an optional one it skips. */
  required: boolean;
  parts: PartEntry[];
}

export interface Directory {
  /** Who wrote it: `baton 0.1.0`. */
  producer: string;
  sections: SectionEntry[];
}

/** A section's value, aligned up. */
export function align(value: number): number {
  return Math.ceil(value / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
}
