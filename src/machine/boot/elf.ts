// SPDX-License-Identifier: Apache-2.0
// ELF kernels, of 32 and of 64 bits: the segments to load, the entry point and PVH's note.
// https://gabi.xinuos.com/, https://xenbits.xen.org/docs/unstable/misc/pvh.html
import { hex, imageError, readBytes } from "./image.ts";
import { checkKernelRange, imageWrite } from "./placement.ts";
import type { BootInput, GuestWrite, Image } from "./types.ts";

const ELF_MAGIC = 0x7f454c46;
const EI_CLASS = 4;
const EI_DATA = 5;
const ELFCLASS32 = 1;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const E_TYPE = 0x10;
const E_MACHINE = 0x12;
const ET_EXEC = 2;
/** Position independent kernels are loaded where their headers say, like others. */
const ET_DYN = 3;
const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_INTERP = 3;
const PT_NOTE = 4;
/** Far more than any kernel has, and little enough to read at once. */
const PROGRAM_HEADERS_MAX = 128;
const NOTES_SIZE_MAX_BYTES = 0x10000;
const NOTE_HEADER_SIZE_BYTES = 12;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** Where the two classes have their fields; sizes are those of the headers that the fields are in. */
const LAYOUT = {
  [ELFCLASS32]: {
    headerSizeBytes: 0x34,
    word: 4,
    e_entry: 0x18,
    e_phoff: 0x1c,
    e_phentsize: 0x2a,
    e_phnum: 0x2c,
    programHeaderSizeBytes: 0x20,
    p_offset: 0x04,
    p_paddr: 0x0c,
    p_filesz: 0x10,
    p_memsz: 0x14,
    p_align: 0x1c,
  },
  [ELFCLASS64]: {
    headerSizeBytes: 0x40,
    word: 8,
    e_entry: 0x18,
    e_phoff: 0x20,
    e_phentsize: 0x36,
    e_phnum: 0x38,
    programHeaderSizeBytes: 0x38,
    p_offset: 0x08,
    p_paddr: 0x18,
    p_filesz: 0x20,
    p_memsz: 0x28,
    p_align: 0x30,
  },
} as const;

export interface ElfSegment {
  offset: number;
  gpa: number;
  fileSizeBytes: number;
  memorySizeBytes: number;
}

export interface ElfKernel {
  is64Bit: boolean;
  /** e_entry, not checked. */
  entry: number;
  /** Those with any bytes in memory. */
  segments: ElfSegment[];
  /** XEN_ELFNOTE_PHYS32_ENTRY, not checked. */
  pvhEntry: number | undefined;
}

export function isElf(head: DataView): boolean {
  return head.byteLength >= 4 && head.getUint32(0) === ELF_MAGIC;
}

/** @throws VmmError naming the header field that is wrong. */
export function readElf(image: Image): ElfKernel {
  const unsupported = (message: string) => imageError(image, "image-unsupported", message);
  const invalid = (message: string) => imageError(image, "image-invalid", message);

  const ident = readBytes(image, "the ELF identification", 0, 16);
  const elfClass = ident[EI_CLASS];
  if (elfClass !== ELFCLASS32 && elfClass !== ELFCLASS64) {
    throw invalid(`EI_CLASS (${hex(EI_CLASS)}) is ${elfClass}, neither 1 (32-bit) nor 2 (64-bit)`);
  }
  if (ident[EI_DATA] !== ELFDATA2LSB) {
    throw unsupported(`EI_DATA (${hex(EI_DATA)}) is ${ident[EI_DATA]}, not 1: this is no kernel for x86`);
  }
  const layout = LAYOUT[elfClass];
  const header = new DataView(readBytes(image, "the ELF header", 0, layout.headerSizeBytes).buffer);
  const machine = header.getUint16(E_MACHINE, true);
  if (machine !== EM_386 && machine !== EM_X86_64) {
    throw unsupported(
      `e_machine (${hex(E_MACHINE)}) is ${machine}, neither ${EM_386} (i386) nor ${EM_X86_64} (x86-64): use a kernel for x86`,
    );
  }
  const type = header.getUint16(E_TYPE, true);
  if (type !== ET_EXEC && type !== ET_DYN) {
    throw unsupported(`e_type (${hex(E_TYPE)}) is ${type}, not ${ET_EXEC} (executable): link the kernel`);
  }

  /** Values beyond 2^53 lose digits, but stay large: no check lets them pass. */
  const word = (view: DataView, offset: number): number =>
    layout.word === 8 ? Number(view.getBigUint64(offset, true)) : view.getUint32(offset, true);

  const entrySizeBytes = header.getUint16(layout.e_phentsize, true);
  const count = header.getUint16(layout.e_phnum, true);
  if (entrySizeBytes !== layout.programHeaderSizeBytes) {
    throw invalid(
      `e_phentsize (${hex(layout.e_phentsize)}) is ${entrySizeBytes}, not ${layout.programHeaderSizeBytes}`,
    );
  }
  if (count === 0 || count > PROGRAM_HEADERS_MAX) {
    throw invalid(`e_phnum (${hex(layout.e_phnum)}) is ${count}, not between 1 and ${PROGRAM_HEADERS_MAX}`);
  }
  const tableOffset = word(header, layout.e_phoff);
  const table = readBytes(image, "the program header table (e_phoff)", tableOffset, count * entrySizeBytes);

  const segments: ElfSegment[] = [];
  let pvhEntry: number | undefined;
  for (let index = 0; index < count; index++) {
    const view = new DataView(table.buffer, index * entrySizeBytes, entrySizeBytes);
    const name = `program header ${index} (${hex(tableOffset + index * entrySizeBytes)})`;
    const segmentType = view.getUint32(0, true);
    const offset = word(view, layout.p_offset);
    const fileSizeBytes = word(view, layout.p_filesz);
    if (segmentType === PT_INTERP) {
      throw unsupported(`Is a dynamically linked program (PT_INTERP, ${name}), not a kernel`);
    } else if (segmentType === PT_NOTE) {
      if (fileSizeBytes > NOTES_SIZE_MAX_BYTES) {
        throw invalid(`${name}: p_filesz of PT_NOTE is ${hex(fileSizeBytes)}, more than ${hex(NOTES_SIZE_MAX_BYTES)}`);
      }
      const notes = readBytes(image, `the notes of ${name}`, offset, fileSizeBytes);
      pvhEntry ??= findPvhEntry(notes, word(view, layout.p_align));
    } else if (segmentType === PT_LOAD) {
      const memorySizeBytes = word(view, layout.p_memsz);
      if (fileSizeBytes > memorySizeBytes) {
        throw invalid(`${name}: p_filesz ${hex(fileSizeBytes)} is larger than p_memsz ${hex(memorySizeBytes)}`);
      }
      if (offset + fileSizeBytes > image.sizeBytes) {
        throw imageError(
          image,
          "image-truncated",
          `Truncated: ${name} has its bytes at ${hex(offset)}-${hex(offset + fileSizeBytes)}, the file ends at ${hex(image.sizeBytes)}`,
        );
      }
      if (memorySizeBytes > 0)
        segments.push({ offset, gpa: word(view, layout.p_paddr), fileSizeBytes, memorySizeBytes });
    }
  }
  if (segments.length === 0)
    throw invalid("No program header is PT_LOAD with bytes in memory: there is nothing to load");
  return { is64Bit: elfClass === ELFCLASS64, entry: word(header, layout.e_entry), segments, pvhEntry };
}

/** The 32-bit entry point among ELF notes. Bytes that are no well-formed note end the search. */
function findPvhEntry(notes: Uint8Array<ArrayBuffer>, alignment: number): number | undefined {
  // Notes are padded to 4 bytes, in 64-bit files too, unless the segment says 8.
  const padding = alignment === 8 ? 8 : 4;
  const padded = (sizeBytes: number): number => Math.ceil(sizeBytes / padding) * padding;
  const view = new DataView(notes.buffer);
  for (let offset = 0; offset + NOTE_HEADER_SIZE_BYTES <= notes.length; ) {
    const nameSizeBytes = view.getUint32(offset, true);
    const valueSizeBytes = view.getUint32(offset + 4, true);
    const type = view.getUint32(offset + 8, true);
    const nameOffset = offset + NOTE_HEADER_SIZE_BYTES;
    const valueOffset = offset + padded(NOTE_HEADER_SIZE_BYTES + nameSizeBytes);
    if (valueOffset + valueSizeBytes > notes.length) return undefined;
    const name = String.fromCharCode(...notes.subarray(nameOffset, nameOffset + Math.min(nameSizeBytes, 4)));
    if (nameSizeBytes === 4 && name === "Xen\0" && type === XEN_ELFNOTE_PHYS32_ENTRY) {
      if (valueSizeBytes === 4) return view.getUint32(valueOffset, true);
      if (valueSizeBytes === 8) return Number(view.getBigUint64(valueOffset, true));
    }
    offset = valueOffset + padded(valueSizeBytes);
  }
  return undefined;
}

/** The writes that load an ELF, and the end of what it takes. */
export function placeSegments(input: BootInput, elf: ElfKernel): { writes: GuestWrite[]; endGpa: number } {
  const writes: GuestWrite[] = [];
  let endGpa = 0;
  for (const { offset, gpa, fileSizeBytes, memorySizeBytes } of elf.segments) {
    const what = `kernel segment at ${hex(gpa)}`;
    checkKernelRange(input, `the segment with p_paddr ${hex(gpa)}`, gpa, memorySizeBytes);
    if (fileSizeBytes > 0) writes.push(imageWrite(what, gpa, input.kernel, offset, fileSizeBytes));
    const zerosSizeBytes = memorySizeBytes - fileSizeBytes;
    if (zerosSizeBytes > 0) {
      writes.push({ kind: "zeros", what: `${what}, zeros`, gpa: gpa + fileSizeBytes, sizeBytes: zerosSizeBytes });
    }
    endGpa = Math.max(endGpa, gpa + memorySizeBytes);
  }
  return { writes, endGpa };
}

/** @throws VmmError `image-invalid` when `entry`, found in `field`, is in no loaded segment. */
export function checkEntry(input: BootInput, elf: ElfKernel, field: string, entry: number): void {
  if (elf.segments.some(({ gpa, memorySizeBytes }) => entry >= gpa && entry < gpa + memorySizeBytes)) return;
  throw imageError(
    input.kernel,
    "image-invalid",
    `The entry point ${hex(entry)} (${field}) is in no loaded segment: link the kernel so that it is a physical address`,
  );
}
