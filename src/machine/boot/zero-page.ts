// SPDX-License-Identifier: Apache-2.0
// Linux's boot_params, the "zero page": the setup header, the E820 map and where everything is.
// https://docs.kernel.org/arch/x86/boot.html, https://docs.kernel.org/arch/x86/zero-page.html
import { buildMemoryMap } from "../board.ts";
import { COMMAND_LINE_GPA, ZERO_PAGE_GPA } from "./layout.ts";
import { bytesWrite } from "./placement.ts";
import type { BootInput, GuestWrite } from "./types.ts";

const ZERO_PAGE_SIZE_BYTES = 4096;

/** Offsets in boot_params. The setup header has the same offsets in a bzImage file. */
export const ACPI_RSDP_ADDR = 0x070;
export const E820_ENTRIES = 0x1e8;
export const SETUP_HEADER = 0x1f1;
export const SETUP_SECTS = 0x1f1;
export const SYSSIZE = 0x1f4;
export const VID_MODE = 0x1fa;
export const BOOT_FLAG = 0x1fe;
/** Operand of the jump at 0x200: the header ends that far behind it. */
export const HEADER_LENGTH = 0x201;
export const HEADER_MAGIC = 0x202;
export const VERSION = 0x206;
export const TYPE_OF_LOADER = 0x210;
export const LOADFLAGS = 0x211;
export const CODE32_START = 0x214;
export const RAMDISK_IMAGE = 0x218;
export const RAMDISK_SIZE = 0x21c;
export const CMD_LINE_PTR = 0x228;
export const INITRD_ADDR_MAX = 0x22c;
export const KERNEL_ALIGNMENT = 0x230;
export const RELOCATABLE_KERNEL = 0x234;
export const XLOADFLAGS = 0x236;
export const CMDLINE_SIZE = 0x238;
/** From where the kernel is loaded from, not from the start of the file. */
export const PAYLOAD_OFFSET = 0x248;
export const PAYLOAD_LENGTH = 0x24c;
export const PREF_ADDRESS = 0x258;
export const INIT_SIZE = 0x260;
/** What boot_params has room for; current headers end at 0x26c. */
export const SETUP_HEADER_END_MAX = 0x290;
const E820_TABLE = 0x2d0;
const E820_ENTRY_SIZE_BYTES = 20;

/** "HdrS" */
export const HEADER_MAGIC_VALUE = 0x53726448;
export const BOOT_FLAG_VALUE = 0xaa55;
export const LOADFLAGS_LOADED_HIGH = 1 << 0;
export const XLF_KERNEL_64 = 1 << 0;
/** A loader without an assigned number. */
const LOADER_UNDEFINED = 0xff;
const VID_MODE_NORMAL = 0xffff;

/**
 * The zero page around a setup header (bytes from 0x1f1 on), with the fields a loader must fill in filled in.
 * Everything else must be zero: Linux takes other values there for its own loader's leftovers.
 */
export function zeroPageWrite(
  input: BootInput,
  setupHeader: Uint8Array,
  kernelGpa: number,
  initrd: GuestWrite | undefined,
): GuestWrite {
  const page = new Uint8Array(ZERO_PAGE_SIZE_BYTES);
  page.set(setupHeader, SETUP_HEADER);
  const view = new DataView(page.buffer);
  view.setBigUint64(ACPI_RSDP_ADDR, BigInt(input.rsdpGpa), true);
  view.setUint16(VID_MODE, VID_MODE_NORMAL, true);
  view.setUint8(TYPE_OF_LOADER, LOADER_UNDEFINED);
  view.setUint32(CODE32_START, kernelGpa, true);
  view.setUint32(RAMDISK_IMAGE, initrd?.gpa ?? 0, true);
  view.setUint32(RAMDISK_SIZE, initrd?.sizeBytes ?? 0, true);
  view.setUint32(CMD_LINE_PTR, COMMAND_LINE_GPA, true);
  const regions = buildMemoryMap(input.memorySizeBytes);
  view.setUint8(E820_ENTRIES, regions.length);
  regions.forEach((region, index) => {
    const offset = E820_TABLE + index * E820_ENTRY_SIZE_BYTES;
    view.setBigUint64(offset, BigInt(region.gpa), true);
    view.setBigUint64(offset + 8, BigInt(region.sizeBytes), true);
    view.setUint32(offset + 16, region.type, true);
  });
  return bytesWrite("zero page", ZERO_PAGE_GPA, page);
}
