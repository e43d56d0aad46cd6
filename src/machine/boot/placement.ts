// SPDX-License-Identifier: Apache-2.0
// Guest RAM as the boot protocols see it: what may be written where, and the writing itself.
import { VmmError } from "../../errors.ts";
import { HIGH_RAM_GPA, LOW_RAM_END_GPA, lowRamEndGpa, RAM_HOLE_GPA } from "../board.ts";
import { describeSize, hex, imageError } from "./image.ts";
import { COMMAND_LINE_GPA, COMMAND_LINE_SIZE_MAX_BYTES } from "./layout.ts";
import type { BootInput, GuestWrite, Image } from "./types.ts";

const PAGE_SIZE_BYTES = 4096;

export function bytesWrite(what: string, gpa: number, bytes: Uint8Array): GuestWrite {
  return { kind: "bytes", what, gpa, sizeBytes: bytes.length, bytes };
}

export function imageWrite(what: string, gpa: number, image: Image, offset: number, sizeBytes: number): GuestWrite {
  return { kind: "image", what, gpa, sizeBytes, image, offset };
}

/**
 * Refuses a range of the kernel's that is not all in usable RAM below the 3 GiB hole.
 * @throws VmmError `memory-too-small`, `image-misplaced`
 */
export function checkKernelRange(input: BootInput, what: string, gpa: number, sizeBytes: number): void {
  const { kernel, memorySizeBytes } = input;
  const endGpa = gpa + sizeBytes;
  const ramEndGpa = lowRamEndGpa(memorySizeBytes);
  if (endGpa > ramEndGpa) {
    const advice =
      endGpa > RAM_HOLE_GPA
        ? "kernels must lie below 3 GiB"
        : `give the VM at least ${describeSize(endGpa)} of RAM (-m)`;
    throw imageError(
      kernel,
      "memory-too-small",
      `${what} needs ${hex(gpa)}-${hex(endGpa)}, RAM ends at ${hex(ramEndGpa)}: ${advice}`,
    );
  }
  if (gpa < HIGH_RAM_GPA && endGpa > LOW_RAM_END_GPA) {
    throw imageError(
      kernel,
      "image-misplaced",
      `${what} needs ${hex(gpa)}-${hex(endGpa)}, but ${hex(LOW_RAM_END_GPA)}-${hex(HIGH_RAM_GPA)} is no RAM: link it at ${hex(HIGH_RAM_GPA)} or above`,
    );
  }
}

/**
 * Finds the highest place for the initrd that is in RAM, above the kernel and below `ceilingGpa`.
 * @throws VmmError `initrd-empty`, `memory-too-small`
 */
export function placeInitrd(input: BootInput, kernelEndGpa: number, ceilingGpa = Infinity): GuestWrite | undefined {
  const { initrd } = input;
  if (initrd === undefined) return undefined;
  if (initrd.sizeBytes === 0) throw imageError(initrd, "initrd-empty", "The initrd is empty: leave -initrd out");
  const floorGpa = Math.max(kernelEndGpa, HIGH_RAM_GPA);
  const topGpa = Math.min(ceilingGpa, lowRamEndGpa(input.memorySizeBytes));
  const gpa = Math.floor((topGpa - initrd.sizeBytes) / PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES;
  if (gpa < floorGpa) {
    throw imageError(
      initrd,
      "memory-too-small",
      `The initrd has ${describeSize(initrd.sizeBytes)}, but between the kernel's end at ${hex(floorGpa)} and ${hex(topGpa)} ${describeSize(Math.max(topGpa - floorGpa, 0))} are free: give the VM more RAM (-m) or use a smaller initrd`,
    );
  }
  return imageWrite("initrd", gpa, initrd, 0, initrd.sizeBytes);
}

/**
 * The command line as the guest gets it, with its closing NUL.
 * @param sizeMaxBytes what the kernel takes, without the NUL
 * @throws VmmError `command-line-invalid`
 */
export function encodeCommandLine(commandLine: string, sizeMaxBytes = COMMAND_LINE_SIZE_MAX_BYTES - 1): Uint8Array {
  const bytes = new TextEncoder().encode(commandLine + "\0");
  const lengthBytes = bytes.length - 1;
  const limitBytes = Math.min(sizeMaxBytes, COMMAND_LINE_SIZE_MAX_BYTES - 1);
  if (bytes.indexOf(0) !== lengthBytes) {
    throw new VmmError("command-line-invalid", "The kernel command line (-append) contains a NUL character");
  }
  if (lengthBytes > limitBytes) {
    throw new VmmError(
      "command-line-invalid",
      `The kernel command line (-append) has ${lengthBytes} bytes, the kernel takes ${limitBytes}`,
    );
  }
  return bytes;
}

export function commandLineWrite(bytes: Uint8Array): GuestWrite {
  return bytesWrite("command line", COMMAND_LINE_GPA, bytes);
}

/**
 * The last check of a plan: whatever an image said, all writes are in RAM and none covers another.
 * @throws VmmError `image-misplaced`
 */
export function checkWrites(writes: readonly GuestWrite[], memorySizeBytes: number): void {
  const ramEndGpa = lowRamEndGpa(memorySizeBytes);
  const describe = (write: GuestWrite): string =>
    `${write.what} (${hex(write.gpa)}-${hex(write.gpa + write.sizeBytes)})`;
  const sorted = writes.filter((write) => write.sizeBytes > 0).sort((a, b) => a.gpa - b.gpa);
  sorted.forEach((write, index) => {
    if (write.gpa < 0 || write.gpa + write.sizeBytes > ramEndGpa) {
      throw new VmmError("image-misplaced", `${describe(write)} is not in RAM, which ends at ${hex(ramEndGpa)}`);
    }
    const next = sorted[index + 1];
    if (next !== undefined && write.gpa + write.sizeBytes > next.gpa) {
      throw new VmmError("image-misplaced", `${describe(write)} and ${describe(next)} overlap`);
    }
  });
}

/**
 * Carries out a plan's writes.
 * @param ram guest physical memory from 0 on
 */
export function placeWrites(ram: Uint8Array, writes: readonly GuestWrite[]): void {
  for (const write of writes) {
    const target = ram.subarray(write.gpa, write.gpa + write.sizeBytes);
    if (write.kind === "bytes") target.set(write.bytes);
    else if (write.kind === "image") write.image.read(target, write.offset);
    else target.fill(0);
  }
}
