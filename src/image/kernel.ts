// SPDX-License-Identifier: Apache-2.0
// A kernel for guests: apt's newest, one that this machine boots itself, or a file that somebody names.
import { readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { describeError, VmmError } from "../errors.ts";
import { openImage } from "../machine/boot/image.ts";
import { buildMachineImage } from "../machine/boot/machine-image.ts";
import { currentKernelPackage, fileOfPackage } from "./apt.ts";
import { isReadable, keep } from "./store.ts";

export interface FoundKernel {
  path: string;
  from: string;
}

/** Those for virtual machines first: they are smaller. Debian's, then Ubuntu's. */
const KERNEL_PACKAGES = ["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64", "linux-image-generic"];
const BOOT_DIR = "/boot";
/** RAM of the machine that a kernel is tried on. */
const TRIAL_RAM_SIZE_BYTES = 1024 * 2 ** 20;

/** @throws VmmError "apt-missing", "apt-failed" */
export function fetchKernel(dir: string, log: (line: string) => void): FoundKernel {
  const packageName = currentKernelPackage(KERNEL_PACKAGES);
  log(`fetching ${packageName}`);
  const { name, bytes, from } = fileOfPackage(packageName, ["boot"], /^vmlinuz-/);
  return { path: keep(dir, name, bytes), from };
}

/** The newest kernel in `directory` that may be read: Ubuntu's belong to root alone. Undefined when there is none. */
export function installedKernel(directory = BOOT_DIR): FoundKernel | undefined {
  const natural = new Intl.Collator("en", { numeric: true });
  let names: string[];
  try {
    names = readdirSync(directory).filter((name) => name.startsWith("vmlinuz-"));
  } catch {
    return undefined;
  }
  const path = names
    .sort(natural.compare)
    .map((name) => join(directory, name))
    .findLast(isReadable);
  return path === undefined ? undefined : { path, from: path };
}

/**
 * The kernel that `wanted` names: "latest" is apt's, or when that fails this machine's own; "boot" this machine's own;
 * everything else is a file.
 * @throws VmmError "image-missing" with all reasons, "image-unreadable"
 */
export function findKernel(wanted: string, dir: string, log: (line: string) => void): FoundKernel {
  if (wanted !== "latest" && wanted !== "boot") {
    const path = resolve(wanted);
    openImage(path)[Symbol.dispose]();
    return { path, from: path };
  }
  let aptError: unknown;
  if (wanted === "latest") {
    try {
      return fetchKernel(dir, log);
    } catch (error) {
      if (!String((error as VmmError).code).startsWith("apt-")) throw error;
      log(describeError(error));
      aptError = error;
    }
  }
  const installed = installedKernel();
  if (installed !== undefined) return installed;
  throw new VmmError(
    "image-missing",
    `There is no ${BOOT_DIR}/vmlinuz-* that you may read: name a kernel's file with --kernel`,
    aptError === undefined ? undefined : { cause: aptError },
  );
}

/** Plans a boot and does not carry it out. @throws VmmError saying why this kernel does not boot here */
export function checkBoots(kernelPath: string, initrdPath: string, append: string): void {
  using kernel = openImage(kernelPath);
  using initrd = openImage(initrdPath);
  const machine = { memorySizeBytes: TRIAL_RAM_SIZE_BYTES, cpuCount: 1, serials: ["serial0"], append };
  const { protocol } = buildMachineImage(machine, { kernel, initrd });
  if (protocol === "linux64" || protocol === "pvh") return;
  throw new VmmError("image-unsupported", `${basename(kernelPath)} boots by ${protocol}: it is no Linux kernel`);
}
