// SPDX-License-Identifier: Apache-2.0
// Builders of small images, valid until a test says otherwise.
import { imageOfBytes } from "../../../../src/machine/boot/image.ts";
import type { GuestWrite, Image } from "../../../../src/machine/boot/types.ts";

export const MIB = 0x100000;

/** A field of an image: offset, size in bytes, value. */
export type Patch = [offset: number, sizeBytes: number, value: number | bigint];

export function patch(bytes: Uint8Array, ...patches: Patch[]): Uint8Array {
  for (const [offset, sizeBytes, value] of patches) {
    for (let index = 0; index < sizeBytes; index++) {
      bytes[offset + index] = Number((BigInt(value) >> BigInt(8 * index)) & 0xffn);
    }
  }
  return bytes;
}

export const readU32 = (bytes: Uint8Array, offset: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(offset, true);

export const readU64 = (bytes: Uint8Array, offset: number): number =>
  Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(offset, true));

/** Deterministic bytes that are nowhere zero. */
export function filler(sizeBytes: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length: sizeBytes }, (_, index) => 1 + ((index * 31 + seed * 17) % 255));
}

export const BZIMAGE_LOAD_GPA = 2 * MIB;
export const BZIMAGE_INIT_SIZE_BYTES = MIB;
export const BZIMAGE_KERNEL_OFFSET = 2 * 512;
export const BZIMAGE_KERNEL_SIZE_BYTES = 0x800;

/** A bzImage with one setup sector and a kernel of 2 KiB that wants 1 MiB at 2 MiB. */
export function bzImage(...patches: Patch[]): Uint8Array {
  const bytes = new Uint8Array(BZIMAGE_KERNEL_OFFSET + BZIMAGE_KERNEL_SIZE_BYTES);
  bytes.set(filler(BZIMAGE_KERNEL_SIZE_BYTES), BZIMAGE_KERNEL_OFFSET);
  return patch(
    bytes,
    [0, 2, 0x5a4d],
    [0x1f1, 1, 1],
    [0x1f4, 4, BZIMAGE_KERNEL_SIZE_BYTES / 16],
    [0x1fe, 2, 0xaa55],
    [0x200, 2, 0x6aeb],
    [0x202, 4, 0x53726448],
    [0x206, 2, 0x020f],
    [0x211, 1, 1],
    [0x22c, 4, 0x7fffffff],
    [0x230, 4, 0x200000],
    [0x234, 1, 1],
    [0x236, 2, 0x7f],
    [0x238, 4, 2047],
    [0x258, 8, BZIMAGE_LOAD_GPA],
    [0x260, 4, BZIMAGE_INIT_SIZE_BYTES],
    ...patches,
  );
}

export interface ElfOptions {
  bits: 32 | 64;
  entry?: number;
  /** Default: 64 bytes of file and 32 zeros at 1 MiB. */
  segments?: { gpa: number | bigint; fileSizeBytes: number; memorySizeBytes: number | bigint }[];
  /** XEN_ELFNOTE_PHYS32_ENTRY, behind another note as in Linux. */
  pvhEntry?: number;
  noteAlignment?: 4 | 8;
  /** Put behind the program headers. */
  extra?: Uint8Array;
  patches?: Patch[];
}

function note(name: string, type: number, value: Uint8Array, alignment: number): number[] {
  const padded = (bytes: number[]): number[] => [
    ...bytes,
    ...new Array<number>((alignment - (bytes.length % alignment)) % alignment).fill(0),
  ];
  const header = patch(new Uint8Array(12), [0, 4, name.length], [4, 4, value.length], [8, 4, type]);
  return padded([...padded([...header, ...new TextEncoder().encode(name)]), ...value]);
}

/** An executable: header, program headers, `extra`, notes, segments. */
export function elf(options: ElfOptions): Uint8Array {
  const { bits, entry = MIB, pvhEntry, noteAlignment = 4, extra = new Uint8Array(), patches = [] } = options;
  const segments = options.segments ?? [{ gpa: MIB, fileSizeBytes: 64, memorySizeBytes: 96 }];
  const wide = bits === 64;
  const headerSizeBytes = wide ? 0x40 : 0x34;
  const entrySizeBytes = wide ? 0x38 : 0x20;
  const notes =
    pvhEntry === undefined
      ? undefined
      : Uint8Array.from([
          ...note("GNU\0", 3, filler(20), noteAlignment),
          ...note("Xen\0", 18, patch(new Uint8Array(bits / 8), [0, bits / 8, pvhEntry]), noteAlignment),
        ]);
  const count = segments.length + (notes === undefined ? 0 : 1);
  const notesOffset = headerSizeBytes + count * entrySizeBytes + extra.length;
  const word = bits / 8;

  const header = patch(
    new Uint8Array(headerSizeBytes),
    [0, 4, 0x464c457f],
    [4, 1, wide ? 2 : 1],
    [5, 1, 1],
    [6, 1, 1],
    [0x10, 2, 2],
    [0x12, 2, wide ? 62 : 3],
    [0x14, 4, 1],
    [0x18, word, entry],
    [wide ? 0x20 : 0x1c, word, headerSizeBytes],
    [wide ? 0x36 : 0x2a, 2, entrySizeBytes],
    [wide ? 0x38 : 0x2c, 2, count],
  );
  const programHeader = (
    type: number,
    offset: number,
    gpa: number | bigint,
    fileSizeBytes: number,
    memorySizeBytes: number | bigint,
    alignment: number,
  ): Uint8Array =>
    patch(
      new Uint8Array(entrySizeBytes),
      [0, 4, type],
      [wide ? 0x08 : 0x04, word, offset],
      [wide ? 0x18 : 0x0c, word, gpa],
      [wide ? 0x20 : 0x10, word, fileSizeBytes],
      [wide ? 0x28 : 0x14, word, memorySizeBytes],
      [wide ? 0x30 : 0x1c, word, alignment],
    );
  const parts: Uint8Array[] = [header];
  let offset = notesOffset + (notes?.length ?? 0);
  for (const { gpa, fileSizeBytes, memorySizeBytes } of segments) {
    parts.push(programHeader(1, offset, gpa, fileSizeBytes, memorySizeBytes, 4096));
    offset += fileSizeBytes;
  }
  if (notes !== undefined) parts.push(programHeader(4, notesOffset, 0, notes.length, notes.length, noteAlignment));
  parts.push(extra);
  if (notes !== undefined) parts.push(notes);
  for (const [index, { fileSizeBytes }] of segments.entries()) parts.push(filler(fileSizeBytes, index + 1));
  return patch(concat(parts), ...patches);
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    bytes.set(part, offset);
    offset += part.length;
  }
  return bytes;
}

/** A multiboot header; with five addresses (header, load, load end, BSS end, entry) it is 32 bytes long. */
export function multibootHeader(flags = 0, addresses: number[] = []): Uint8Array {
  const allFlags = flags | (addresses.length > 0 ? 0x10000 : 0);
  return patch(
    new Uint8Array(12 + addresses.length * 4),
    [0, 4, 0x1badb002],
    [4, 4, allFlags],
    [8, 4, -(0x1badb002 + allFlags)],
    ...addresses.map((address, index): Patch => [12 + index * 4, 4, address]),
  );
}

export const FLAT_SIZE_BYTES = 0x100;
export const FLAT_HEADER = 0x10;

export interface MultibootAddresses {
  header: number;
  load: number;
  loadEnd: number;
  bssEnd: number;
  entry: number;
}

/** A flat multiboot kernel of 256 bytes at 1 MiB with 32 bytes of BSS; `addresses` replaces single fields. */
export function flatMultiboot(addresses: Partial<MultibootAddresses> = {}, flags = 0): Uint8Array {
  const { header, load, loadEnd, bssEnd, entry }: MultibootAddresses = {
    header: MIB + FLAT_HEADER,
    load: MIB,
    loadEnd: MIB + FLAT_SIZE_BYTES,
    bssEnd: MIB + FLAT_SIZE_BYTES + 32,
    entry: MIB + 0x40,
    ...addresses,
  };
  const bytes = filler(FLAT_SIZE_BYTES);
  bytes.set(multibootHeader(flags, [header, load, loadEnd, bssEnd, entry]), FLAT_HEADER);
  return bytes;
}

export function bootSector(): Uint8Array {
  return patch(filler(512), [510, 2, 0xaa55]);
}

export const image = (bytes: Uint8Array, name = "kernel"): Image => imageOfBytes(name, bytes);

/** The write that is called so; fails when there is none. */
export function writeNamed(writes: readonly GuestWrite[], what: string): GuestWrite {
  const found = writes.find((write) => write.what === what);
  if (found === undefined) throw new Error(`no write "${what}" among ${writes.map((write) => write.what).join(", ")}`);
  return found;
}

/** The bytes that a write puts in RAM. */
export function contents(write: GuestWrite): Uint8Array {
  const bytes = new Uint8Array(write.sizeBytes);
  if (write.kind === "bytes") bytes.set(write.bytes);
  else if (write.kind === "image") write.image.read(bytes, write.offset);
  return bytes;
}
