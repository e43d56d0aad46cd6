// SPDX-License-Identifier: Apache-2.0
// DAX devices (/dev/dax0.0): memory that is mapped, never read, and that a kexec leaves as it is.
// https://docs.kernel.org/admin-guide/mm/memory-hotplug.html, drivers/dax/bus.c
import { RAM_ALIGNMENT_BYTES } from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";

export interface DaxGeometry {
  sizeBytes: number;
  /** Addresses and lengths of mappings are multiples of this. */
  alignmentBytes: number;
}

/** What sysfs says of a character device, by its st_rdev; undefined when it is no DAX device. */
export function daxGeometry(deviceNumber: bigint, sysDir = "/sys"): DaxGeometry | undefined {
  const { existsSync, readFileSync, realpathSync } = process.getBuiltinModule("node:fs");
  // <sys/sysmacros.h>
  const major = ((deviceNumber >> 32n) & 0xffff_f000n) | ((deviceNumber >> 8n) & 0xfffn);
  const minor = ((deviceNumber >> 12n) & 0xffff_ff00n) | (deviceNumber & 0xffn);
  const device = `${sysDir}/dev/char/${major}:${minor}`;
  if (!existsSync(`${device}/subsystem`) || !realpathSync(`${device}/subsystem`).endsWith("/dax")) return undefined;
  const read = (attribute: string): number => Number(readFileSync(`${device}/${attribute}`, "latin1"));
  return { sizeBytes: read("size"), alignmentBytes: read("align") };
}

/** Refuses a device that RAM of `sizeBytes` cannot be mapped from: mmap(2) would only say EINVAL. @throws VmmError */
export function checkDax(path: string, device: DaxGeometry, sizeBytes: number): void {
  if (device.alignmentBytes > RAM_ALIGNMENT_BYTES) {
    throw new VmmError(
      "memory-backend",
      `${path} is mapped in pieces of ${device.alignmentBytes} bytes, RAM is aligned to ${RAM_ALIGNMENT_BYTES}: ` +
        "make the namespace anew with `ndctl create-namespace --mode=devdax --align=2M`",
    );
  }
  if (sizeBytes % device.alignmentBytes !== 0) {
    throw new VmmError(
      "memory-backend",
      `${path} is mapped in pieces of ${device.alignmentBytes} bytes, and ${sizeBytes} bytes of RAM are no multiple of that`,
    );
  }
  if (device.sizeBytes < sizeBytes) {
    throw new VmmError("memory-backend", `${path} has ${device.sizeBytes} bytes, fewer than the ${sizeBytes} of RAM`);
  }
}
