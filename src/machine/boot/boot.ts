// SPDX-License-Identifier: Apache-2.0
// From a kernel image to a boot plan: finds out what the image is and by which protocol it boots.
//
// The order is QEMU's: Linux's setup header, multiboot, PVH; then what QEMU has firmware for.
import { isBootSector, planBootSector } from "./boot-sector.ts";
import { isBzImage, planBzImage } from "./bzimage.ts";
import { isElf, readElf } from "./elf.ts";
import { foreignImage } from "./foreign.ts";
import { imageError, readBytes } from "./image.ts";
import { findMultibootHeader, planMultiboot, SEARCH_SIZE_BYTES } from "./multiboot.ts";
import { planPvh } from "./pvh.ts";
import type { BootInput, BootPlan } from "./types.ts";
import { planVmlinux } from "./vmlinux.ts";

/**
 * Plans how `input.kernel` boots. Whatever the image contains, the result is a plan or a VmmError.
 * @throws VmmError naming the field of the image that is wrong and what to do
 */
export function planBoot(input: BootInput): BootPlan {
  const { kernel } = input;
  const head = new DataView(readBytes(kernel, "the image", 0, Math.min(kernel.sizeBytes, SEARCH_SIZE_BYTES)).buffer);
  if (isBzImage(head)) return planBzImage(input);

  const elf = isElf(head) ? readElf(kernel) : undefined;
  const multiboot = findMultibootHeader(head);
  if (multiboot !== undefined) {
    if (multiboot.addresses !== undefined || elf?.is64Bit === false) return planMultiboot(input, multiboot, elf);
  }
  if (elf !== undefined) {
    if (elf.pvhEntry !== undefined) return planPvh(input, elf, elf.pvhEntry);
    if (multiboot !== undefined) {
      throw imageError(
        kernel,
        "image-unsupported",
        "Has a multiboot header without addresses (flag 16) in a 64-bit ELF: link it as 32-bit ELF, or set the address fields",
      );
    }
    if (elf.is64Bit) return planVmlinux(input, elf);
    throw imageError(
      kernel,
      "image-unsupported",
      "Is a 32-bit ELF without multiboot header in its first 8 KiB and without PVH note (XEN_ELFNOTE_PHYS32_ENTRY): add one",
    );
  }
  if (multiboot !== undefined) {
    throw imageError(
      kernel,
      "image-invalid",
      "Has a multiboot header without addresses (flag 16), but is no ELF: set the address fields",
    );
  }
  if (isBootSector(head, kernel.sizeBytes)) return planBootSector(input);
  throw foreignImage(kernel, head);
}
