// SPDX-License-Identifier: Apache-2.0
// State files: written so that there is always a whole one, the old or the new, and read without trust.

import { existsSync, realpathSync, renameSync, statSync } from "node:fs";
import { open as openFile } from "node:fs/promises";
import { dirname } from "node:path";
import { unlessErrno } from "../../ffi/error.ts";
import {
  close,
  lockFile,
  O_CREAT,
  O_EXCL,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  open,
  pread,
  pwrite,
  status,
  sync,
  unlink,
} from "../../ffi/fd.ts";
import type { MigrationAddress } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { HEADER_SIZE_BYTES, MAX_IMAGE_SIZE_BYTES } from "../state/format.ts";
import { readHeader } from "../state/reader.ts";

export type FileAddress = Extract<MigrationAddress, { transport: "file" }>;

/** A name that nobody else uses, next to the file: rename(2) does not cross file systems. */
const PART_SUFFIX = ".part";
/** Others come and go. But a link that leads nowhere stays, and is there and not there each time. */
const MAX_ATTEMPTS = 10;

/**
 * A state file that is being written. A regular file is written beside its place and renamed into it when all of it is
 * on the disk; where that is not possible (a block device, an offset within a file) the header is written last.
 */
export class StateFileWriter {
  /** Where the image starts in `fd`. */
  readonly offset: number;
  readonly fd: number;
  readonly #path: string;
  readonly #partPath: string | undefined;
  #isOpen = true;

  private constructor(path: string, partPath: string | undefined, fd: number, offset: number) {
    this.#path = path;
    this.#partPath = partPath;
    this.fd = fd;
    this.offset = offset;
  }

  /** @throws VmmError "state-file" when it cannot be written; an older file is as it was then */
  static create({ filename, offset }: FileAddress): StateFileWriter {
    try {
      // A link stays a link: the file that it leads to is replaced.
      const path = existsSync(filename) ? realpathSync(filename) : filename;
      const existing = statSync(path, { throwIfNoEntry: false });
      if (existing !== undefined && !existing.isFile() && !existing.isBlockDevice()) {
        throw new VmmError("state-file", "It is neither a regular file nor a block device");
      }
      if (existing?.isBlockDevice() || offset !== 0) {
        const fd = open(path, O_RDWR | O_CREAT, 0o600);
        const writer = new StateFileWriter(path, undefined, fd, offset);
        // What was here before must not be taken for this image while it is half written.
        writer.write(new Uint8Array(HEADER_SIZE_BYTES), 0);
        sync(fd);
        return writer;
      }
      const partPath = `${path}${PART_SUFFIX}`;
      return new StateFileWriter(path, partPath, createPart(partPath), 0);
    } catch (error) {
      throw new VmmError("state-file", `The state file '${filename}' cannot be written`, { cause: error });
    }
  }

  /** Writes `bytes` at `at`, counted from the start of the image. */
  write(bytes: Uint8Array, at: number): void {
    for (let done = 0; done < bytes.length; ) {
      const written = pwrite(this.fd, bytes.subarray(done), this.offset + at + done);
      if (written === undefined || written === 0) throw new VmmError("state-file", `'${this.#path}' takes no more`);
      done += written;
    }
  }

  /** Waits until all that has been written is on the disk. Others have their turn meanwhile. */
  async sync(): Promise<void> {
    const file = await openFile(this.#partPath ?? this.#path, "r+");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
  }

  /** Writes the image, its header last, and makes the file what its name stands for, on the disk too. */
  commit(image: Uint8Array): void {
    try {
      this.write(image.subarray(HEADER_SIZE_BYTES), HEADER_SIZE_BYTES);
      if (this.#partPath === undefined) sync(this.fd);
      this.write(image.subarray(0, HEADER_SIZE_BYTES), 0);
      sync(this.fd);
      if (this.#partPath !== undefined) {
        if (!this.#isStillAt(this.#partPath)) {
          throw new VmmError("state-file", `'${this.#partPath}' was removed or replaced while it was written`);
        }
        renameSync(this.#partPath, this.#path);
        syncDirectory(this.#path);
      }
    } catch (error) {
      throw new VmmError("state-file", `The state file '${this.#path}' cannot be written`, { cause: error });
    }
    this.#close();
  }

  /** Gives up. No error when there is nothing left to give up. */
  discard(): void {
    if (!this.#isOpen) return;
    if (this.#partPath !== undefined && this.#isStillAt(this.#partPath)) unlink(this.#partPath);
    this.#close();
  }

  #isStillAt(path: string): boolean {
    const there = statSync(path, { bigint: true, throwIfNoEntry: false });
    const { device, inode } = status(this.fd);
    return there?.dev === device && there.ino === inode;
  }

  #close(): void {
    this.#isOpen = false;
    close(this.fd);
  }
}

/**
 * Two VMs that were told the same file must not take each other's half-written one for theirs: who writes it has a lock on
 * it. One that nobody has is what a killed VMM has left.
 */
function createPart(path: string): number {
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
    const fd = unlessErrno("EEXIST", () => open(path, O_RDWR | O_CREAT | O_EXCL, 0o600));
    if (fd !== undefined) {
      lockFile(fd, "exclusive");
      return fd;
    }
    // Left behind by a VM that died, or being written. When it is gone meanwhile, it is tried again.
    const left = unlessErrno("ENOENT", () => open(path, O_RDWR | O_NONBLOCK));
    if (left === undefined) continue;
    try {
      if (!lockFile(left, "exclusive")) {
        throw new VmmError("state-file", `'${path}' is being written by another VM`);
      }
      unlessErrno("ENOENT", () => unlink(path));
    } finally {
      close(left);
    }
  }
  throw new VmmError("state-file", `'${path}' is in the way: remove it`);
}

function syncDirectory(path: string): void {
  const fd = open(dirname(path), O_RDONLY);
  try {
    sync(fd);
  } finally {
    close(fd);
  }
}

/** A state file that is being read; `fd` is the caller's to close. */
export interface StateFile {
  image: Uint8Array;
  fd: number;
  /** Where the image starts in `fd`. */
  offset: number;
}

/** Opens a state file and reads the image at its start. @throws VmmError "state-file", "state-refused" */
export function openStateFile({ filename, offset }: FileAddress): StateFile {
  const fd = openForReading(filename);
  try {
    const header = readExactly(fd, offset, HEADER_SIZE_BYTES);
    const sizeBytes = readHeader(header);
    if (sizeBytes < HEADER_SIZE_BYTES || sizeBytes > MAX_IMAGE_SIZE_BYTES) {
      const message = `State image has ${sizeBytes} bytes by its header; the limit is ${MAX_IMAGE_SIZE_BYTES}`;
      throw new VmmError("state-refused", message);
    }
    return { image: readExactly(fd, offset, sizeBytes), fd, offset };
  } catch (error) {
    close(fd);
    throw new VmmError("state-refused", `'${filename}' cannot be loaded`, { cause: error });
  }
}

function openForReading(filename: string): number {
  try {
    return open(filename, O_RDONLY | O_NONBLOCK);
  } catch (error) {
    throw new VmmError("state-file", `The state file '${filename}' cannot be read`, { cause: error });
  }
}

function readExactly(fd: number, offset: number, sizeBytes: number): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  for (let done = 0; done < sizeBytes; ) {
    const count = pread(fd, bytes.subarray(done), offset + done);
    if (count === undefined || count === 0) {
      throw new VmmError("state-refused", `State image is cut short: ${done} of ${sizeBytes} bytes are there`);
    }
    done += count;
  }
  return bytes;
}
