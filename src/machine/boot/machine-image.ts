// SPDX-License-Identifier: Apache-2.0
// All of a new machine's RAM: the guest by its boot protocol, and the ACPI tables.
import type { MachineSpec } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import { buildAcpiTables } from "../acpi/tables.ts";
import { MEMORY_SIZE_MIN_BYTES } from "../board.ts";
import { planBoot } from "./boot.ts";
import { BOOT_SECTOR_SIZE_BYTES, isBootSector, planBootSector } from "./boot-sector.ts";
import { imageError, readBytes } from "./image.ts";
import { bytesWrite, checkWrites } from "./placement.ts";
import type { BootInput, BootPlan, Image } from "./types.ts";

/** The parts of a MachineSpec that what lies in RAM depends on. */
export type MachineImageSpec = Pick<MachineSpec, "memorySizeBytes" | "cpuCount" | "serials" | "append">;

/** The files that a MachineSpec names. */
export interface MachineImages {
  kernel?: Image | undefined;
  initrd?: Image | undefined;
  bios?: Image | undefined;
}

/**
 * Plans everything that is in RAM before the first instruction, and where vCPU 0 starts. The plan refers to the images:
 * keep them open until its writes are done.
 * @throws VmmError naming what is wrong with an image, the command line or the RAM size
 * @example
 * using kernel = openImage("vmlinuz");
 * const plan = buildMachineImage(spec, { kernel });
 * placeWrites(ram, plan.writes);
 */
export function buildMachineImage(
  spec: MachineImageSpec,
  images: MachineImages,
  { unpacksKernel = false }: { unpacksKernel?: boolean } = {},
): BootPlan {
  if (spec.memorySizeBytes < MEMORY_SIZE_MIN_BYTES) {
    throw new VmmError(
      "memory-too-small",
      `The VM has ${spec.memorySizeBytes} bytes of RAM (-m), it needs ${MEMORY_SIZE_MIN_BYTES}`,
    );
  }
  const acpi = buildAcpiTables(spec);
  const boot = planGuest(images, {
    initrd: images.initrd,
    commandLine: spec.append ?? "",
    memorySizeBytes: spec.memorySizeBytes,
    rsdpGpa: acpi.rsdpGpa,
    unpacksKernel,
  });
  const plan = { ...boot, writes: [...boot.writes, bytesWrite("ACPI tables", acpi.gpa, acpi.bytes)] };
  checkWrites(plan.writes, spec.memorySizeBytes);
  return plan;
}

function planGuest({ kernel, bios }: MachineImages, input: Omit<BootInput, "kernel">): BootPlan {
  if (bios === undefined) {
    if (kernel !== undefined) return planBoot({ ...input, kernel });
    throw new VmmError("image-missing", "There is nothing to boot: give a kernel (-kernel) or a boot sector (-bios)");
  }
  if (kernel !== undefined) {
    throw new VmmError("image-unsupported", "Kernels are booted without firmware: give -kernel or -bios, not both");
  }
  const headSizeBytes = Math.min(bios.sizeBytes, BOOT_SECTOR_SIZE_BYTES);
  const head = new DataView(readBytes(bios, "the boot sector", 0, headSizeBytes).buffer);
  if (!isBootSector(head, bios.sizeBytes)) {
    throw imageError(
      bios,
      "image-unsupported",
      `Is no boot sector (${BOOT_SECTOR_SIZE_BYTES} bytes, 0x55 0xaa at 510; this file has ${bios.sizeBytes} bytes): -bios takes no firmware, give a kernel with -kernel instead`,
    );
  }
  return planBootSector({ ...input, kernel: bios });
}
