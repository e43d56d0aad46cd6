// SPDX-License-Identifier: Apache-2.0
// Uncompressed Linux kernels without a PVH entry, by the 64-bit boot protocol: e_entry is startup_64.
// https://docs.kernel.org/arch/x86/boot.html#id1
import { checkEntry, type ElfKernel, placeSegments } from "./elf.ts";
import { BOOT_STACK_GPA, ZERO_PAGE_GPA } from "./layout.ts";
import { commandLineWrite, encodeCommandLine, placeInitrd } from "./placement.ts";
import type { BootInput, BootPlan } from "./types.ts";
import { gdtWrite, longModeState, pageTablesWrite } from "./vcpu-state.ts";
import * as zeroPage from "./zero-page.ts";

/** COMMAND_LINE_SIZE of Linux on x86, less the NUL. */
const COMMAND_LINE_SIZE_MAX_BYTES = 2047;
const VERSION = 0x020f;
const HEADER_END = 0x26c;

/** A vmlinux has no setup header; the kernel gets one as its own loader would have made it. */
function setupHeader(): Uint8Array {
  const head = new Uint8Array(HEADER_END);
  const view = new DataView(head.buffer);
  view.setUint16(zeroPage.BOOT_FLAG, zeroPage.BOOT_FLAG_VALUE, true);
  view.setUint32(zeroPage.HEADER_MAGIC, zeroPage.HEADER_MAGIC_VALUE, true);
  view.setUint16(zeroPage.VERSION, VERSION, true);
  view.setUint8(zeroPage.LOADFLAGS, zeroPage.LOADFLAGS_LOADED_HIGH);
  view.setUint16(zeroPage.XLOADFLAGS, zeroPage.XLF_KERNEL_64, true);
  view.setUint32(zeroPage.CMDLINE_SIZE, COMMAND_LINE_SIZE_MAX_BYTES, true);
  return head.subarray(zeroPage.SETUP_HEADER);
}

export function planVmlinux(input: BootInput, elf: ElfKernel): BootPlan {
  checkEntry(input, elf, "e_entry, 0x18", elf.entry);
  const segments = placeSegments(input, elf);
  const initrd = placeInitrd(input, segments.endGpa);
  const kernelGpa = Math.min(...elf.segments.map((segment) => segment.gpa));
  return {
    protocol: "linux64",
    writes: [
      gdtWrite("long64"),
      pageTablesWrite(),
      zeroPage.zeroPageWrite(input, setupHeader(), kernelGpa, initrd),
      commandLineWrite(encodeCommandLine(input.commandLine, COMMAND_LINE_SIZE_MAX_BYTES)),
      ...segments.writes,
      ...(initrd === undefined ? [] : [initrd]),
    ],
    vcpu: longModeState(elf.entry, { rsi: BigInt(ZERO_PAGE_GPA), rsp: BigInt(BOOT_STACK_GPA) }),
  };
}
