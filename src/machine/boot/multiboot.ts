// SPDX-License-Identifier: Apache-2.0
// Multiboot 1 kernels, as 32-bit ELF or flat with the address fields: 32-bit protected mode, EAX the magic, EBX the info.
// https://www.gnu.org/software/grub/manual/multiboot/multiboot.html
import { buildMemoryMap, HIGH_RAM_GPA, LOW_RAM_END_GPA, lowRamEndGpa } from "../board.ts";
import { checkEntry, type ElfKernel, placeSegments } from "./elf.ts";
import { hex, imageError } from "./image.ts";
import { BOOT_STACK_GPA, COMMAND_LINE_GPA, START_INFO_GPA } from "./layout.ts";
import {
  bytesWrite,
  checkKernelRange,
  commandLineWrite,
  encodeCommandLine,
  imageWrite,
  placeInitrd,
} from "./placement.ts";
import type { BootInput, BootPlan, GuestWrite } from "./types.ts";
import { gdtWrite, protectedModeState } from "./vcpu-state.ts";

/** The header is somewhere in so much of the file, on a multiple of four. */
export const SEARCH_SIZE_BYTES = 8192;
const HEADER_MAGIC = 0x1badb002;
const LOADER_MAGIC = 0x2badb002n;
const HEADER_SIZE_BYTES = 12;
const ADDRESS_FIELDS_END = 32;

/** Header flags: the low half are demands, of which these can be met (video is, by saying that there is none). */
const DEMANDS_MET = 0b111;
const FLAG_ADDRESSES = 1 << 16;

/** struct multiboot_info */
const INFO_FLAGS = 0;
const INFO_MEM_LOWER = 4;
const INFO_MEM_UPPER = 8;
const INFO_CMDLINE = 16;
const INFO_MODS_COUNT = 20;
const INFO_MODS_ADDR = 24;
const INFO_MMAP_LENGTH = 44;
const INFO_MMAP_ADDR = 48;
const INFO_BOOT_LOADER_NAME = 64;
/** Memory sizes, command line, modules, memory map, boot loader name. */
const INFO_FLAGS_VALUE = (1 << 0) | (1 << 2) | (1 << 3) | (1 << 6) | (1 << 9);

/** Behind the info: the loader's name, one module (u32 start, end, string, reserved), the memory map. */
const LOADER_NAME = 0x80;
const MODULE = 0x90;
const MMAP = 0xa0;
/** u32 size of what follows, u64 base, length, u32 type. */
const MMAP_ENTRY_SIZE_BYTES = 24;

export interface MultibootHeader {
  /** Of the header in the file. */
  offset: number;
  flags: number;
  /** header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr. */
  addresses?: { header: number; load: number; loadEnd: number; bssEnd: number; entry: number };
}

/** @param head the file's first `SEARCH_SIZE_BYTES` */
export function findMultibootHeader(head: DataView): MultibootHeader | undefined {
  const u32 = (offset: number): number => head.getUint32(offset, true);
  for (let offset = 0; offset + HEADER_SIZE_BYTES <= head.byteLength; offset += 4) {
    if (u32(offset) !== HEADER_MAGIC) continue;
    const flags = u32(offset + 4);
    if ((HEADER_MAGIC + flags + u32(offset + 8)) >>> 0 !== 0) continue;
    if ((flags & FLAG_ADDRESSES) === 0) return { offset, flags };
    // Cut off in the middle: without its addresses it is no header.
    if (offset + ADDRESS_FIELDS_END > head.byteLength) continue;
    const [header, load, loadEnd, bssEnd, entry] = [12, 16, 20, 24, 28].map((field) => u32(offset + field)) as [
      number,
      number,
      number,
      number,
      number,
    ];
    return { offset, flags, addresses: { header, load, loadEnd, bssEnd, entry } };
  }
  return undefined;
}

/** The writes for a kernel that says in its header where it goes. */
function placeFlat(input: BootInput, header: MultibootHeader): { writes: GuestWrite[]; endGpa: number; entry: number } {
  const { kernel } = input;
  const addresses = header.addresses!;
  const field = (offset: number): string => hex(header.offset + offset);
  const invalid = (message: string) => imageError(kernel, "image-invalid", `Multiboot header: ${message}`);

  const fileOffset = header.offset - (addresses.header - addresses.load);
  if (addresses.load > addresses.header || fileOffset < 0) {
    throw invalid(
      `load_addr (${field(16)}) is ${hex(addresses.load)}, which with header_addr (${field(12)}) ${hex(addresses.header)} is not in the file`,
    );
  }
  const loadEnd = addresses.loadEnd === 0 ? addresses.load + kernel.sizeBytes - fileOffset : addresses.loadEnd;
  const sizeBytes = loadEnd - addresses.load;
  if (sizeBytes <= 0) {
    throw invalid(`load_end_addr (${field(20)}) ${hex(loadEnd)} is not above load_addr ${hex(addresses.load)}`);
  }
  if (fileOffset + sizeBytes > kernel.sizeBytes) {
    throw imageError(
      kernel,
      "image-truncated",
      `Truncated: load_end_addr (${field(20)}) of the multiboot header asks for ${hex(fileOffset)}-${hex(fileOffset + sizeBytes)}, the file ends at ${hex(kernel.sizeBytes)}`,
    );
  }
  const bssEnd = addresses.bssEnd === 0 ? loadEnd : addresses.bssEnd;
  if (bssEnd < loadEnd) {
    throw invalid(`bss_end_addr (${field(24)}) ${hex(bssEnd)} is below load_end_addr ${hex(loadEnd)}`);
  }
  if (addresses.entry < addresses.load || addresses.entry >= loadEnd) {
    throw invalid(
      `entry_addr (${field(28)}) ${hex(addresses.entry)} is not in what is loaded, ${hex(addresses.load)}-${hex(loadEnd)}`,
    );
  }
  checkKernelRange(input, "the kernel (load_addr to bss_end_addr)", addresses.load, bssEnd - addresses.load);
  const writes = [imageWrite("kernel", addresses.load, kernel, fileOffset, sizeBytes)];
  if (bssEnd > loadEnd) {
    writes.push({ kind: "zeros", what: "kernel, zeros", gpa: loadEnd, sizeBytes: bssEnd - loadEnd });
  }
  return { writes, endGpa: bssEnd, entry: addresses.entry };
}

function infoWrite(input: BootInput, initrd: GuestWrite | undefined, moduleNameGpa: number): GuestWrite {
  const regions = buildMemoryMap(input.memorySizeBytes);
  const bytes = new Uint8Array(MMAP + regions.length * MMAP_ENTRY_SIZE_BYTES);
  const view = new DataView(bytes.buffer);
  const u32 = (offset: number, value: number): void => view.setUint32(offset, value, true);
  u32(INFO_FLAGS, INFO_FLAGS_VALUE);
  u32(INFO_MEM_LOWER, LOW_RAM_END_GPA / 1024);
  u32(INFO_MEM_UPPER, (lowRamEndGpa(input.memorySizeBytes) - HIGH_RAM_GPA) / 1024);
  u32(INFO_CMDLINE, COMMAND_LINE_GPA);
  u32(INFO_BOOT_LOADER_NAME, START_INFO_GPA + LOADER_NAME);
  bytes.set(new TextEncoder().encode("baton\0"), LOADER_NAME);
  u32(INFO_MODS_ADDR, START_INFO_GPA + MODULE);
  if (initrd !== undefined) {
    u32(INFO_MODS_COUNT, 1);
    u32(MODULE, initrd.gpa);
    u32(MODULE + 4, initrd.gpa + initrd.sizeBytes);
    u32(MODULE + 8, moduleNameGpa);
  }
  u32(INFO_MMAP_ADDR, START_INFO_GPA + MMAP);
  u32(INFO_MMAP_LENGTH, regions.length * MMAP_ENTRY_SIZE_BYTES);
  regions.forEach((region, index) => {
    const offset = MMAP + index * MMAP_ENTRY_SIZE_BYTES;
    u32(offset, MMAP_ENTRY_SIZE_BYTES - 4);
    view.setBigUint64(offset + 4, BigInt(region.gpa), true);
    view.setBigUint64(offset + 12, BigInt(region.sizeBytes), true);
    u32(offset + 20, region.type);
  });
  return bytesWrite("multiboot info", START_INFO_GPA, bytes);
}

/** @param elf the kernel as ELF; not needed when the header has addresses. */
export function planMultiboot(input: BootInput, header: MultibootHeader, elf: ElfKernel | undefined): BootPlan {
  const { kernel } = input;
  const unmet = header.flags & 0xffff & ~DEMANDS_MET;
  if (unmet !== 0) {
    throw imageError(
      kernel,
      "image-unsupported",
      `The multiboot header's flags (${hex(header.offset + 4)}) ask for ${hex(unmet)}, which multiboot 1 does not define`,
    );
  }
  let placed: { writes: GuestWrite[]; endGpa: number; entry: number };
  if (header.addresses !== undefined || elf === undefined) {
    placed = placeFlat(input, header);
  } else {
    checkEntry(input, elf, "e_entry, 0x18", elf.entry);
    placed = { ...placeSegments(input, elf), entry: elf.entry };
  }
  const initrd = placeInitrd(input, placed.endGpa);
  // As QEMU and GRUB do it, the command line starts with the kernel's name: payloads take it for argv[0].
  const words = input.commandLine === "" ? kernel.name : `${kernel.name} ${input.commandLine}`;
  const commandLine = encodeCommandLine(words);
  const moduleName = initrd === undefined ? new Uint8Array() : encodeCommandLine(input.initrd!.name);
  const strings = new Uint8Array(commandLine.length + moduleName.length);
  strings.set(commandLine);
  strings.set(moduleName, commandLine.length);
  return {
    protocol: "multiboot",
    writes: [
      gdtWrite("protected32"),
      infoWrite(input, initrd, COMMAND_LINE_GPA + commandLine.length),
      commandLineWrite(strings),
      ...placed.writes,
      ...(initrd === undefined ? [] : [initrd]),
    ],
    vcpu: protectedModeState(placed.entry, {
      rax: LOADER_MAGIC,
      rbx: BigInt(START_INFO_GPA),
      rsp: BigInt(BOOT_STACK_GPA),
    }),
  };
}
