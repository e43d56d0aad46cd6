// SPDX-License-Identifier: Apache-2.0
// ELF kernels with a PVH entry: 32-bit protected mode, EBX points to hvm_start_info.
// https://xenbits.xen.org/docs/unstable/misc/pvh.html
import { buildMemoryMap } from "../board.ts";
import { checkEntry, type ElfKernel, placeSegments } from "./elf.ts";
import { BOOT_STACK_GPA, COMMAND_LINE_GPA, START_INFO_GPA } from "./layout.ts";
import { bytesWrite, commandLineWrite, encodeCommandLine, placeInitrd } from "./placement.ts";
import type { BootInput, BootPlan, GuestWrite } from "./types.ts";
import { gdtWrite, protectedModeState } from "./vcpu-state.ts";

const MAGIC_VALUE = 0x336ec578;
/** Version 1 has the memory map. */
const VERSION_VALUE = 1;

/** struct hvm_start_info */
const MAGIC = 0x00;
const VERSION = 0x04;
const NR_MODULES = 0x0c;
const MODLIST_PADDR = 0x10;
const CMDLINE_PADDR = 0x18;
const RSDP_PADDR = 0x20;
const MEMMAP_PADDR = 0x28;
const MEMMAP_ENTRIES = 0x30;

/** struct hvm_modlist_entry: u64 paddr, size, cmdline_paddr, reserved. Lies behind the start info. */
const MODLIST = 0x40;
/** struct hvm_memmap_table_entry: u64 addr, size, u32 type, reserved. */
const MEMMAP = 0x60;
const MEMMAP_ENTRY_SIZE_BYTES = 24;

function startInfoWrite(input: BootInput, initrd: GuestWrite | undefined): GuestWrite {
  const regions = buildMemoryMap(input.memorySizeBytes);
  const bytes = new Uint8Array(MEMMAP + regions.length * MEMMAP_ENTRY_SIZE_BYTES);
  const view = new DataView(bytes.buffer);
  const u64 = (offset: number, value: number): void => view.setBigUint64(offset, BigInt(value), true);
  view.setUint32(MAGIC, MAGIC_VALUE, true);
  view.setUint32(VERSION, VERSION_VALUE, true);
  u64(CMDLINE_PADDR, COMMAND_LINE_GPA);
  u64(RSDP_PADDR, input.rsdpGpa);
  if (initrd !== undefined) {
    view.setUint32(NR_MODULES, 1, true);
    u64(MODLIST_PADDR, START_INFO_GPA + MODLIST);
    u64(MODLIST, initrd.gpa);
    u64(MODLIST + 8, initrd.sizeBytes);
  }
  u64(MEMMAP_PADDR, START_INFO_GPA + MEMMAP);
  view.setUint32(MEMMAP_ENTRIES, regions.length, true);
  regions.forEach((region, index) => {
    const offset = MEMMAP + index * MEMMAP_ENTRY_SIZE_BYTES;
    u64(offset, region.gpa);
    u64(offset + 8, region.sizeBytes);
    view.setUint32(offset + 16, region.type, true);
  });
  return bytesWrite("PVH start info", START_INFO_GPA, bytes);
}

/** @param entry the kernel's XEN_ELFNOTE_PHYS32_ENTRY */
export function planPvh(input: BootInput, elf: ElfKernel, entry: number): BootPlan {
  checkEntry(input, elf, "XEN_ELFNOTE_PHYS32_ENTRY", entry);
  const segments = placeSegments(input, elf);
  const initrd = placeInitrd(input, segments.endGpa);
  return {
    protocol: "pvh",
    writes: [
      gdtWrite("protected32"),
      startInfoWrite(input, initrd),
      commandLineWrite(encodeCommandLine(input.commandLine)),
      ...segments.writes,
      ...(initrd === undefined ? [] : [initrd]),
    ],
    vcpu: protectedModeState(entry, { rbx: BigInt(START_INFO_GPA), rsp: BigInt(BOOT_STACK_GPA) }),
  };
}
