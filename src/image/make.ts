// SPDX-License-Identifier: Apache-2.0
// Gets a Linux guest together: kernel, busybox, initramfs, and a look whether Baton can boot it.
import { findBusybox } from "./busybox.ts";
import { buildInitramfs } from "./initramfs.ts";
import { checkBoots, findKernel } from "./kernel.ts";
import { APPEND, type GuestImage, keep, makeStore, readImage, writeImage } from "./store.ts";

export interface ImageOptions {
  dir: string;
  /** "latest", "boot" or a file; when undefined what `dir` has will do. */
  kernel: string | undefined;
  /** A file; when undefined what `dir` has will do. */
  busybox: string | undefined;
  /** Hears what is being done, and what did not work but need not. */
  log(line: string): void;
}

/** @throws VmmError naming what is missing and what to do about it */
export function makeImage({ dir, kernel, busybox, log }: ImageOptions): GuestImage {
  const present = kernel === undefined && busybox === undefined ? readImage(dir) : undefined;
  if (present !== undefined) return present;
  makeStore(dir);
  const foundKernel = findKernel(kernel ?? "latest", dir, log);
  const foundBusybox = findBusybox(busybox, log);
  const image: GuestImage = {
    kernel: foundKernel.path,
    initrd: keep(dir, "initrd.gz", buildInitramfs(foundBusybox.bytes)),
    kernelFrom: foundKernel.from,
    busyboxFrom: foundBusybox.from,
  };
  checkBoots(image.kernel, image.initrd, APPEND);
  writeImage(dir, image);
  return image;
}
