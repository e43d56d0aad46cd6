// SPDX-License-Identifier: Apache-2.0
// Wraps flat code as an ELF64 file that PVH loaders start in 32-bit protected mode without paging.
//
// https://xenbits.xen.org/docs/unstable/misc/pvh.html, System V ABI chapter 4.
//
//   0x000  ELF header          64 bytes
//   0x040  program headers     PT_LOAD, PT_NOTE
//   0x0b0  note                "Xen", XEN_ELFNOTE_PHYS32_ENTRY, entry address
//   0x1000 the code

const ELF_HEADER_SIZE_BYTES = 64;
const PROGRAM_HEADER_SIZE_BYTES = 56;
const NOTE_OFFSET = ELF_HEADER_SIZE_BYTES + 2 * PROGRAM_HEADER_SIZE_BYTES;
/** Name size, descriptor size, type, "Xen\0", and the entry as the 8 bytes that loaders of 64-bit files expect. */
const NOTE_SIZE_BYTES = 24;
const CODE_OFFSET = 0x1000;

const ET_EXEC = 2;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

export interface ElfOptions {
  /** Guest physical address the code was assembled for. */
  loadGpa: number;
  /** Guest physical address of the first instruction. Default: `loadGpa`. */
  entryGpa?: number;
  /** Memory the program claims from `loadGpa` on, so that loaders put nothing else there. Default: the code's size. */
  memorySizeBytes?: number;
}

/** The bytes of an ELF file holding `code`. */
export function wrapElf(code: Uint8Array, options: ElfOptions): Uint8Array {
  const { loadGpa, entryGpa = loadGpa, memorySizeBytes = code.length } = options;
  if (memorySizeBytes < code.length) throw new Error("The program claims less memory than its code needs");
  const file = new Uint8Array(CODE_OFFSET + code.length);
  const view = new DataView(file.buffer);
  const u16 = (offset: number, value: number): void => view.setUint16(offset, value, true);
  const u32 = (offset: number, value: number): void => view.setUint32(offset, value, true);
  const u64 = (offset: number, value: number): void => view.setBigUint64(offset, BigInt(value), true);

  file.set([0x7f, 0x45, 0x4c, 0x46, /* 64-bit */ 2, /* little-endian */ 1, /* version */ 1]);
  u16(16, ET_EXEC);
  u16(18, EM_X86_64);
  u32(20, 1);
  u64(24, entryGpa);
  u64(32, ELF_HEADER_SIZE_BYTES);
  u16(52, ELF_HEADER_SIZE_BYTES);
  u16(54, PROGRAM_HEADER_SIZE_BYTES);
  u16(56, 2);

  const programHeader = (index: number, type: number, flags: number, fields: number[]): void => {
    const at = ELF_HEADER_SIZE_BYTES + index * PROGRAM_HEADER_SIZE_BYTES;
    u32(at, type);
    u32(at + 4, flags);
    for (const [field, value] of fields.entries()) u64(at + 8 + 8 * field, value);
  };
  const readWriteExecute = 7;
  const read = 4;
  // Fields: file offset, virtual address, physical address, size in file, size in memory, alignment.
  programHeader(0, PT_LOAD, readWriteExecute, [CODE_OFFSET, loadGpa, loadGpa, code.length, memorySizeBytes, 0x1000]);
  programHeader(1, PT_NOTE, read, [NOTE_OFFSET, 0, 0, NOTE_SIZE_BYTES, NOTE_SIZE_BYTES, 4]);

  u32(NOTE_OFFSET, 4);
  u32(NOTE_OFFSET + 4, 8);
  u32(NOTE_OFFSET + 8, XEN_ELFNOTE_PHYS32_ENTRY);
  file.set(new TextEncoder().encode("Xen\0"), NOTE_OFFSET + 12);
  u64(NOTE_OFFSET + 16, entryGpa);
  file.set(code, CODE_OFFSET);
  return file;
}
