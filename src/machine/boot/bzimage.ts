// SPDX-License-Identifier: Apache-2.0
// Linux bzImages by the 64-bit boot protocol: startup_64 is entered directly, without the kernel's real-mode part. There
// are two of that name: the decompressor's, which unpacks the kernel and moves it to a random address (KASLR), and the
// kernel's own, for a VMM that has unpacked it.
// https://docs.kernel.org/arch/x86/boot.html
//
//   file     0                            setup's first sector: boot code or the EFI stub's PE header
//            0x1f1                        setup header
//            (setup_sects + 1) * 512      the kernel, syssize * 16 bytes, loaded at pref_address or above
//                              + 0x200    startup_64 of the decompressor
//                    + payload_offset     the compressed kernel: an ELF, and relocations for who would move it
//            behind that                  not loaded: the signature of a kernel for Secure Boot
import { HIGH_RAM_GPA } from "../board.ts";
import { checkEntry, placeSegments, readElf } from "./elf.ts";
import { checkRange, describeSize, hex, imageError, imageOfBytes, readBytes } from "./image.ts";
import { BOOT_STACK_GPA, ZERO_PAGE_GPA } from "./layout.ts";
import { checkKernelRange, commandLineWrite, encodeCommandLine, imageWrite, placeInitrd } from "./placement.ts";
import type { BootInput, BootPlan, GuestWrite, Image } from "./types.ts";
import { unpackPayload } from "./unpack/payload.ts";
import { gdtWrite, longModeState, pageTablesWrite } from "./vcpu-state.ts";
import * as zeroPage from "./zero-page.ts";

const SECTOR_SIZE_BYTES = 512;
/** Meant by setup_sects 0. */
const SETUP_SECTS_DEFAULT = 4;
/** syssize counts paragraphs, and some build tools round it up past the file's end. */
const SYSSIZE_UNIT_BYTES = 16;
const STARTUP_64_OFFSET = 0x200;
/** 2.12 has xloadflags, which says whether there is a startup_64. */
const VERSION_MIN = 0x020c;
const ALIGNMENT_MIN_BYTES = 0x1000;
const ALIGNMENT_MAX_BYTES = 0x4000_0000;

/** What loading needs of a setup header that has been checked. */
interface SetupHeader {
  /** As in the file, from 0x1f1 on. */
  bytes: Uint8Array;
  kernelOffset: number;
  kernelSizeBytes: number;
  /** In the file. */
  payloadOffset: number;
  payloadSizeBytes: number;
  /** Lowest address the kernel may be loaded at. */
  loadGpa: number;
  /** What the kernel uses of RAM from its load address on, before it looks at the memory map. */
  initSizeBytes: number;
  initrdEndMaxGpa: number;
  commandLineSizeMaxBytes: number;
}

/** True for anything with a Linux/x86 setup header, loadable or not. `head` is the start of the file. */
export function isBzImage(head: DataView): boolean {
  return (
    head.byteLength >= zeroPage.HEADER_MAGIC + 4 &&
    head.getUint32(zeroPage.HEADER_MAGIC, true) === zeroPage.HEADER_MAGIC_VALUE
  );
}

function readSetupHeader(image: Image): SetupHeader {
  const unsupported = (message: string) => imageError(image, "image-unsupported", message);
  const invalid = (message: string) => imageError(image, "image-invalid", message);

  const start = readBytes(image, "the setup header's version", 0, zeroPage.VERSION + 2);
  const startView = new DataView(start.buffer);
  const version = startView.getUint16(zeroPage.VERSION, true);
  if (version < VERSION_MIN) {
    throw unsupported(
      `Boot protocol ${version >> 8}.${String(version & 0xff).padStart(2, "0")} (version, ${hex(zeroPage.VERSION)}) is older than 2.12, which 64-bit boot needs: use Linux 3.8 or newer`,
    );
  }
  const headerEnd = zeroPage.HEADER_MAGIC + startView.getUint8(zeroPage.HEADER_LENGTH);
  const headerEndMin = zeroPage.INIT_SIZE + 4;
  if (headerEnd < headerEndMin || headerEnd > zeroPage.SETUP_HEADER_END_MAX) {
    throw invalid(
      `The setup header ends at ${hex(headerEnd)} (jump, ${hex(zeroPage.HEADER_LENGTH)}), not between ${hex(headerEndMin)} and ${hex(zeroPage.SETUP_HEADER_END_MAX)}`,
    );
  }

  const head = readBytes(image, "the setup header", 0, headerEnd);
  const view = new DataView(head.buffer);
  const u8 = (offset: number) => view.getUint8(offset);
  const u32 = (offset: number) => view.getUint32(offset, true);

  const bootFlag = view.getUint16(zeroPage.BOOT_FLAG, true);
  if (bootFlag !== zeroPage.BOOT_FLAG_VALUE) {
    throw invalid(
      `boot_flag (${hex(zeroPage.BOOT_FLAG)}) is ${hex(bootFlag)}, not ${hex(zeroPage.BOOT_FLAG_VALUE)}: the file is damaged`,
    );
  }
  if ((u8(zeroPage.LOADFLAGS) & zeroPage.LOADFLAGS_LOADED_HIGH) === 0) {
    throw unsupported(
      `loadflags (${hex(zeroPage.LOADFLAGS)}) lacks LOADED_HIGH: this is a zImage, build the kernel as a bzImage`,
    );
  }
  const xloadflags = view.getUint16(zeroPage.XLOADFLAGS, true);
  if ((xloadflags & zeroPage.XLF_KERNEL_64) === 0) {
    throw unsupported(
      `xloadflags (${hex(zeroPage.XLOADFLAGS)}) is ${hex(xloadflags)}, without XLF_KERNEL_64: this is a 32-bit kernel, use a 64-bit one (CONFIG_64BIT)`,
    );
  }

  const setupSects = u8(zeroPage.SETUP_SECTS) || SETUP_SECTS_DEFAULT;
  const kernelOffset = (setupSects + 1) * SECTOR_SIZE_BYTES;
  const declaredSizeBytes = u32(zeroPage.SYSSIZE) * SYSSIZE_UNIT_BYTES;
  if (declaredSizeBytes <= STARTUP_64_OFFSET) {
    throw invalid(
      `The kernel has ${declaredSizeBytes} bytes (syssize, ${hex(zeroPage.SYSSIZE)}), its entry is at ${STARTUP_64_OFFSET}`,
    );
  }
  const kernelSizeBytes = Math.min(declaredSizeBytes, Math.max(image.sizeBytes - kernelOffset, 0));
  if (kernelSizeBytes <= declaredSizeBytes - SYSSIZE_UNIT_BYTES) {
    checkRange(image, `the kernel (syssize, ${hex(zeroPage.SYSSIZE)})`, kernelOffset, declaredSizeBytes);
  }

  const initSizeBytes = u32(zeroPage.INIT_SIZE);
  if (initSizeBytes < kernelSizeBytes) {
    throw invalid(
      `init_size (${hex(zeroPage.INIT_SIZE)}) is ${hex(initSizeBytes)}, less than the kernel itself (${hex(kernelSizeBytes)})`,
    );
  }
  return {
    bytes: head.subarray(zeroPage.SETUP_HEADER),
    kernelOffset,
    kernelSizeBytes,
    payloadOffset: kernelOffset + u32(zeroPage.PAYLOAD_OFFSET),
    payloadSizeBytes: u32(zeroPage.PAYLOAD_LENGTH),
    loadGpa: loadAddress(image, view),
    initSizeBytes,
    initrdEndMaxGpa: u32(zeroPage.INITRD_ADDR_MAX) + 1,
    commandLineSizeMaxBytes: u32(zeroPage.CMDLINE_SIZE),
  };
}

/** pref_address, where a kernel runs without moving itself; Linux does not run below it even if loaded there. */
function loadAddress(image: Image, view: DataView): number {
  const preferredGpa = view.getBigUint64(zeroPage.PREF_ADDRESS, true);
  const alignment = view.getUint32(zeroPage.KERNEL_ALIGNMENT, true);
  const relocatable = view.getUint8(zeroPage.RELOCATABLE_KERNEL) !== 0;
  if (
    relocatable &&
    (alignment < ALIGNMENT_MIN_BYTES || alignment > ALIGNMENT_MAX_BYTES || (alignment & (alignment - 1)) !== 0)
  ) {
    throw imageError(
      image,
      "image-invalid",
      `kernel_alignment (${hex(zeroPage.KERNEL_ALIGNMENT)}) is ${hex(alignment)}, not a power of two between ${hex(ALIGNMENT_MIN_BYTES)} and ${hex(ALIGNMENT_MAX_BYTES)}`,
    );
  }
  if (preferredGpa > 0xffff_ffffn || (!relocatable && preferredGpa < BigInt(HIGH_RAM_GPA))) {
    throw imageError(
      image,
      "image-invalid",
      `pref_address (${hex(zeroPage.PREF_ADDRESS)}) is ${hex(preferredGpa)}, where no kernel can be loaded`,
    );
  }
  if (!relocatable) return Number(preferredGpa);
  return Math.ceil(Math.max(Number(preferredGpa), HIGH_RAM_GPA) / alignment) * alignment;
}

/** What to put where, and where the vCPU begins. */
interface LoadedKernel {
  writes: GuestWrite[];
  entryGpa: number;
}

function loadPacked(kernel: Image, { loadGpa, kernelOffset, kernelSizeBytes }: SetupHeader): LoadedKernel {
  return {
    writes: [imageWrite("kernel", loadGpa, kernel, kernelOffset, kernelSizeBytes)],
    entryGpa: loadGpa + STARTUP_64_OFFSET,
  };
}

/** Undefined when only the kernel itself can unpack it. */
function loadUnpacked(input: BootInput, header: SetupHeader): LoadedKernel | undefined {
  const { kernel } = input;
  const { kernelOffset, kernelSizeBytes, payloadOffset, payloadSizeBytes, loadGpa, initSizeBytes } = header;
  if (payloadOffset + payloadSizeBytes > kernelOffset + kernelSizeBytes) {
    throw imageError(
      kernel,
      "image-invalid",
      `payload_offset and payload_length (${hex(zeroPage.PAYLOAD_OFFSET)}) say ${hex(payloadOffset)}-${hex(payloadOffset + payloadSizeBytes)}, the kernel ends at ${hex(kernelOffset + kernelSizeBytes)}`,
    );
  }
  const place = { offset: payloadOffset, sizeBytes: payloadSizeBytes, unpackedSizeMaxBytes: initSizeBytes };
  const bytes = unpackPayload(kernel, place);
  if (bytes === undefined) return undefined;

  const unpacked = { ...input, kernel: imageOfBytes(`${kernel.name} (unpacked)`, bytes) };
  const elf = readElf(unpacked.kernel);
  checkEntry(unpacked, elf, "e_entry, 0x18", elf.entry);
  for (const { gpa, memorySizeBytes } of elf.segments) {
    if (gpa >= loadGpa && gpa + memorySizeBytes <= loadGpa + initSizeBytes) continue;
    throw imageError(
      unpacked.kernel,
      "image-misplaced",
      `The segment with p_paddr ${hex(gpa)} is not in ${hex(loadGpa)}-${hex(loadGpa + initSizeBytes)} (pref_address and init_size)`,
    );
  }
  return { writes: placeSegments(unpacked, elf).writes, entryGpa: elf.entry };
}

/** @throws VmmError naming the header field that is wrong. */
export function planBzImage(input: BootInput): BootPlan {
  const { kernel } = input;
  const header = readSetupHeader(kernel);
  const { loadGpa } = header;
  checkKernelRange(
    input,
    `a kernel that takes ${describeSize(header.initSizeBytes)} (init_size, ${hex(zeroPage.INIT_SIZE)})`,
    loadGpa,
    header.initSizeBytes,
  );
  const initrd = placeInitrd(input, loadGpa + header.initSizeBytes, header.initrdEndMaxGpa);
  const commandLine = encodeCommandLine(input.commandLine, header.commandLineSizeMaxBytes);
  const loaded = (input.unpacksKernel ? loadUnpacked(input, header) : undefined) ?? loadPacked(kernel, header);
  return {
    protocol: "linux64",
    writes: [
      gdtWrite("long64"),
      pageTablesWrite(),
      zeroPage.zeroPageWrite(input, header.bytes, loadGpa, initrd),
      commandLineWrite(commandLine),
      ...loaded.writes,
      ...(initrd === undefined ? [] : [initrd]),
    ],
    vcpu: longModeState(loaded.entryGpa, { rsi: BigInt(ZERO_PAGE_GPA), rsp: BigInt(BOOT_STACK_GPA) }),
  };
}
