// SPDX-License-Identifier: Apache-2.0
// Where a Linux guest is kept once it has been got: two files and a description of them.
//
//   image.json     paths, and where they came from; written last, so that what it names is complete
//   vmlinuz-…      the kernel, unless it was there before
//   initrd.gz      the initramfs
import {
  accessSync,
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { VmmError } from "../errors.ts";

/** A Linux guest to boot. Paths are absolute. */
export interface GuestImage {
  kernel: string;
  initrd: string;
  /** For a person: a package, or a file. */
  kernelFrom: string;
  busyboxFrom: string;
}

/** Of what is in initrd.gz: an image of another is made anew. */
const RECIPE = 2;

/** With this on its command line the guest gives a shell on its console. */
export const APPEND = "console=ttyS0";

/** `$XDG_CACHE_HOME/baton`, or `~/.cache/baton` (https://specifications.freedesktop.org/basedir-spec/latest/). */
export function cacheDir(env: NodeJS.ProcessEnv = process.env): string {
  const base = env.XDG_CACHE_HOME;
  // Relative paths are to be ignored, says the specification.
  return join(base?.startsWith("/") ? base : join(homedir(), ".cache"), "baton");
}

/** By trying: not every runtime's `access` knows what root may. */
export function isReadable(path: string): boolean {
  try {
    closeSync(openSync(path, "r"));
    return true;
  } catch {
    return false;
  }
}

/** The image that `dir` has; undefined when it has none, or none whose files can still be read. */
export function readImage(dir: string): GuestImage | undefined {
  try {
    const image = JSON.parse(readFileSync(join(dir, "image.json"), "utf8")) as Partial<Record<string, unknown>>;
    if (image.recipe !== RECIPE) return undefined;
    const { kernel, initrd, kernelFrom, busyboxFrom } = image;
    const parts = { kernel, initrd, kernelFrom, busyboxFrom };
    if (!Object.values(parts).every((part) => typeof part === "string")) return undefined;
    return isReadable(String(kernel)) && isReadable(String(initrd)) ? (parts as GuestImage) : undefined;
  } catch {
    return undefined;
  }
}

/** @throws VmmError "image-unwritable" */
export function makeStore(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true });
    accessSync(dir, constants.W_OK);
  } catch (cause) {
    throw new VmmError("image-unwritable", `${dir}: Cannot keep an image here (--dir names another directory)`, {
      cause,
    });
  }
}

/** Writes a file of the store as a whole: who reads it meanwhile sees the old one. Returns its path. */
export function keep(dir: string, name: string, contents: string | Uint8Array): string {
  const path = join(dir, name);
  const partial = `${path}.${process.pid}`;
  try {
    writeFileSync(partial, contents);
    renameSync(partial, path);
  } catch (cause) {
    throw new VmmError("image-unwritable", `${path}: Cannot write`, { cause });
  }
  return path;
}

export function writeImage(dir: string, image: GuestImage): void {
  keep(dir, "image.json", `${JSON.stringify({ ...image, recipe: RECIPE }, undefined, 2)}\n`);
}
