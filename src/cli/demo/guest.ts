// SPDX-License-Identifier: Apache-2.0
// Which guest the demo runs: Linux where it can be had and gets somewhere, else the built-in payload.
import { basename } from "node:path";
import type { AcceleratorChoice } from "../../accel/choose.ts";
import { type KvmFitness, probeKvm } from "../../accel/kvm/probe.ts";
import { describeError } from "../../errors.ts";
import { makeImage } from "../../image/make.ts";
import { cacheDir, type GuestImage } from "../../image/store.ts";

export type GuestChoice = "auto" | "linux" | "payload";

export interface DemoGuest {
  /** Undefined: the payload. */
  linux: GuestImage | undefined;
  /** Why this one, for a person. */
  reason: string;
}

/** Linux and its initramfs need this much. */
export const LINUX_MIN_RAM_SIZE_BYTES = 256 * 2 ** 20;

/**
 * Gets Linux as `baton image` does, if need be; `log` hears of that. @throws VmmError when Linux is wanted and cannot be had
 */
export function chooseGuest(
  choice: GuestChoice,
  { name, passedOver }: AcceleratorChoice,
  log: (line: string) => void,
  probe: () => KvmFitness = probeKvm,
): DemoGuest {
  if (choice === "payload") return { linux: undefined, reason: "as --guest says" };
  if (choice === "linux") return { linux: getLinux(log), reason: "as --guest says" };
  // KVM that was asked for by name has not been looked at yet.
  if (name === "kvm" && passedOver === undefined && probe().verdict === "interprets") {
    return { linux: undefined, reason: "KVM interprets it here, and Linux would take long to boot (--guest linux)" };
  }
  try {
    return { linux: getLinux(log), reason: "from baton image (--guest payload for the built-in one)" };
  } catch (error) {
    return { linux: undefined, reason: `there is no Linux to be had by baton image: ${describeError(error)}` };
  }
}

function getLinux(log: (line: string) => void): GuestImage {
  return makeImage({ dir: cacheDir(), kernel: undefined, busybox: undefined, log });
}

/** `Linux 6.1.0-56-cloud-amd64`, or the payload. */
export function describeGuest({ linux }: DemoGuest): string {
  if (linux === undefined) return "the built-in payload";
  return `Linux ${basename(linux.kernel).replace(/^vmlinuz-/, "")}`;
}
