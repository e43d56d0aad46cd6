// SPDX-License-Identifier: Apache-2.0
// Boot sectors: 512 bytes at 0x7c00, entered in real mode as a PC's BIOS would. There is no BIOS to call.
import { VmmError } from "../../errors.ts";
import { imageError } from "./image.ts";
import { BOOT_SECTOR_GPA } from "./layout.ts";
import { imageWrite } from "./placement.ts";
import type { BootInput, BootPlan } from "./types.ts";
import { realModeState } from "./vcpu-state.ts";

export const BOOT_SECTOR_SIZE_BYTES = 512;
const SIGNATURE = 510;
const SIGNATURE_VALUE = 0xaa55;
/** "MZ" */
const EFI_PROGRAM_MAGIC = 0x5a4d;
/** The BIOS's number of the first hard disk. */
const BOOT_DRIVE = 0x80n;

/** `head` is the start of the file. */
export function isBootSector(head: DataView, sizeBytes: number): boolean {
  return (
    sizeBytes === BOOT_SECTOR_SIZE_BYTES &&
    head.getUint16(SIGNATURE, true) === SIGNATURE_VALUE &&
    // The first sector of a Linux kernel has the signature, too: this would be what is left of one.
    head.getUint16(0, true) !== EFI_PROGRAM_MAGIC
  );
}

/** @throws VmmError when there is an initrd or a command line, which a boot sector could not find. */
export function planBootSector(input: BootInput): BootPlan {
  if (input.initrd !== undefined) {
    throw imageError(input.kernel, "image-unsupported", "A boot sector takes no initrd: leave -initrd out");
  }
  if (input.commandLine !== "") {
    throw new VmmError(
      "command-line-invalid",
      `${input.kernel.name}: A boot sector takes no command line: leave -append out`,
    );
  }
  return {
    protocol: "boot-sector",
    writes: [imageWrite("boot sector", BOOT_SECTOR_GPA, input.kernel, 0, BOOT_SECTOR_SIZE_BYTES)],
    vcpu: realModeState(0, BOOT_SECTOR_GPA, { rdx: BOOT_DRIVE, rsp: BigInt(BOOT_SECTOR_GPA) }),
  };
}
