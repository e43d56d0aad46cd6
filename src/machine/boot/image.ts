// SPDX-License-Identifier: Apache-2.0
// Images from files and from bytes, and checked reads of their fields.
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { VmmError } from "../../errors.ts";
import type { Image } from "./types.ts";

/** `0x1f4`, as offsets and addresses are written in messages. */
export function hex(value: number | bigint): string {
  return "0x" + value.toString(16);
}

/** A size for people: whole MiB where it is that large, rounded up. */
export function describeSize(sizeBytes: number): string {
  return sizeBytes < 0x100000 ? `${sizeBytes} bytes` : `${Math.ceil(sizeBytes / 0x100000)} MiB`;
}

/** An error about the contents of an image. */
export function imageError(image: Image, code: string, message: string, cause?: unknown): VmmError {
  return new VmmError(code, `${image.name}: ${message}`, cause === undefined ? undefined : { cause });
}

function truncated(image: Image, what: string, offset: number, sizeBytes: number): VmmError {
  return imageError(
    image,
    "image-truncated",
    `Truncated: ${what} is at ${hex(offset)}-${hex(offset + sizeBytes)}, the file ends at ${hex(image.sizeBytes)}`,
  );
}

/**
 * Reads `sizeBytes` bytes that are described as `what` in the error when the file does not have them. Sizes that come
 * from the image must be capped by the caller: they are allocated.
 * @throws VmmError `image-truncated`
 */
export function readBytes(image: Image, what: string, offset: number, sizeBytes: number): Uint8Array<ArrayBuffer> {
  checkRange(image, what, offset, sizeBytes);
  const bytes = new Uint8Array(sizeBytes);
  image.read(bytes, offset);
  return bytes;
}

/** @throws VmmError `image-truncated` when the image does not have that range. */
export function checkRange(image: Image, what: string, offset: number, sizeBytes: number): void {
  if (offset + sizeBytes > image.sizeBytes) throw truncated(image, what, offset, sizeBytes);
}

/** An image whose bytes are in memory already. */
export function imageOfBytes(name: string, bytes: Uint8Array): Image {
  const image: Image = {
    name,
    sizeBytes: bytes.length,
    read(target, offset) {
      if (offset + target.length > bytes.length) throw truncated(image, "what is read", offset, target.length);
      target.set(bytes.subarray(offset, offset + target.length));
    },
  };
  return image;
}

/**
 * Opens a regular file as an image; the caller closes it when the plan's writes are done.
 * @throws VmmError `image-unreadable`
 * @example
 * using kernel = openImage("/boot/vmlinuz");
 * const plan = buildMachineImage(spec, { kernel });
 * placeWrites(ram, plan.writes);
 */
export function openImage(path: string): Image & Disposable {
  const fail = (message: string, cause?: unknown): VmmError =>
    new VmmError("image-unreadable", `${path}: ${message}`, cause === undefined ? undefined : { cause });
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    throw fail("Cannot open the image", cause);
  }
  const status = fstatSync(fd);
  if (!status.isFile()) {
    closeSync(fd);
    throw fail("Not a regular file: images are read at any offset");
  }
  const image: Image & Disposable = {
    name: path,
    sizeBytes: status.size,
    read(target, offset) {
      let done = 0;
      while (done < target.length) {
        let countBytes: number;
        try {
          countBytes = readSync(fd, target, done, target.length - done, offset + done);
        } catch (cause) {
          throw fail(`Cannot read ${target.length} bytes at ${hex(offset)}`, cause);
        }
        // The file was cut after its size was asked for.
        if (countBytes === 0) throw truncated(image, "what is read", offset, target.length);
        done += countBytes;
      }
    },
    [Symbol.dispose]() {
      closeSync(fd);
    },
  };
  return image;
}
