// SPDX-License-Identifier: Apache-2.0
// Shorthands for tests that build a machine image and look at the result or the refusal.
import { VmmError } from "../../../../src/errors.ts";
import {
  buildMachineImage,
  type MachineImageSpec,
  type MachineImages,
} from "../../../../src/machine/boot/machine-image.ts";
import type { BootPlan } from "../../../../src/machine/boot/types.ts";
import { assert, rejection } from "../../../harness.ts";
import { image, MIB } from "./images.ts";

export const SPEC: MachineImageSpec = {
  memorySizeBytes: 16 * MIB,
  cpuCount: 1,
  serials: ["serial0"],
  append: "console=ttyS0",
};

export interface MachineOptions extends Partial<MachineImageSpec> {
  initrd?: Uint8Array;
}

export function plan(kernel: Uint8Array, options: MachineOptions = {}): BootPlan {
  const { initrd, ...spec } = options;
  const images: MachineImages = { kernel: image(kernel) };
  if (initrd !== undefined) images.initrd = image(initrd, "initrd.cpio");
  return buildMachineImage({ ...SPEC, ...spec }, images);
}

/** Asserts that `action` is refused with that code and a message that has the given part. */
export async function assertRefused(action: () => unknown, code: string, message: string): Promise<void> {
  const error = await rejection(action);
  assert.instance(error, VmmError);
  assert.is(
    `${(error as VmmError).code}: ${error.message.includes(message) ? message : error.message}`,
    `${code}: ${message}`,
  );
}
