// SPDX-License-Identifier: Apache-2.0
// Programs as sealed files in memory: what was looked at is what is executed, whatever becomes of the file it came from.
import { createHash } from "node:crypto";
import { unlessErrno } from "../../ffi/error.ts";
import { close, pread, pwrite, status } from "../../ffi/fd.ts";
import {
  addSeals,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  F_SEAL_WRITE,
  getSeals,
  memfdCreate,
} from "../../ffi/memfd.ts";
import { VmmError } from "../errors.ts";

const SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
/** Many times a Baton. */
const MAX_IMAGE_BYTES = 2 ** 31;
const CHUNK_BYTES = 2 ** 22;
/** elf.h */
const PT_INTERP = 3;

/** A sealed executable copy of a program, which is the caller's to close. @throws SysError, VmmError "image" */
export function pinProgram(programFd: number): number {
  const sizeBytes = sizeOf(programFd);
  const fd = memfdCreate("baton", 0, { seals: 0, executable: true });
  try {
    const chunk = new Uint8Array(Math.min(CHUNK_BYTES, sizeBytes));
    for (let offset = 0; offset < sizeBytes; ) {
      const count = readChunk(programFd, chunk, offset, sizeBytes);
      offset += pwrite(fd, chunk.subarray(0, count), offset)!;
    }
    addSeals(fd, SEALS);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** SHA-256 as hexadecimal digits. Others have their turn meanwhile. @throws SysError, VmmError "image" */
export async function hashProgram(fd: number, signal?: AbortSignal): Promise<string> {
  const sizeBytes = sizeOf(fd);
  const hash = createHash("sha256");
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, sizeBytes));
  for (let offset = 0; offset < sizeBytes; ) {
    const count = readChunk(fd, chunk, offset, sizeBytes);
    hash.update(chunk.subarray(0, count));
    offset += count;
    await new Promise((resolve) => setTimeout(resolve, 0));
    signal?.throwIfAborted();
  }
  return hash.digest("hex");
}

function sizeOf(fd: number): number {
  const { kind, sizeBytes } = status(fd);
  if (kind !== "file") throw new VmmError("image", `A program is a file, and fd ${fd} is not: it is a ${kind}`);
  if (sizeBytes > MAX_IMAGE_BYTES) {
    throw new VmmError("image", `The program has ${sizeBytes} bytes, more than the limit of ${MAX_IMAGE_BYTES}`);
  }
  return sizeBytes;
}

function readChunk(fd: number, chunk: Uint8Array, offset: number, sizeBytes: number): number {
  const count = pread(fd, chunk.subarray(0, Math.min(chunk.length, sizeBytes - offset)), offset);
  if (!count) throw new VmmError("image", `The program ended after ${offset} of ${sizeBytes} bytes`);
  return count;
}

/** @throws VmmError "image" when what is in the file could still be changed, or it cannot be executed */
export function refuseUnsealed(fd: number, name: string): void {
  // Only files in memory have seals.
  const seals = unlessErrno("EINVAL", () => getSeals(fd));
  const how = "memfd_create(MFD_ALLOW_SEALING | MFD_EXEC), then F_SEAL_SEAL, SHRINK, GROW and WRITE";
  if (seals === undefined || (seals & SEALS) !== SEALS) {
    throw new VmmError("image", `The image '${name}' is no sealed file in memory: it takes ${how}`);
  }
  if ((status(fd).mode & 0o111) === 0)
    throw new VmmError("image", `The image '${name}' is not executable: it takes ${how}`);
}

/** The program that the kernel starts this ELF program with: its PT_INTERP. @throws VmmError "image" when it has none */
export function loaderOf(fd: number): string {
  const header = new Uint8Array(64);
  pread(fd, header, 0);
  const view = new DataView(header.buffer);
  // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum.
  const [offset, entryBytes, count] = [
    Number(view.getBigUint64(32, true)),
    view.getUint16(54, true),
    view.getUint16(56, true),
  ];
  const table = new Uint8Array(entryBytes * count);
  pread(fd, table, offset);
  const entries = new DataView(table.buffer);
  for (let at = 0; at + entryBytes <= table.length; at += entryBytes) {
    if (entries.getUint32(at, true) !== PT_INTERP) continue;
    // Elf64_Phdr: p_offset, p_filesz; a C string.
    const path = new Uint8Array(Math.min(4096, Number(entries.getBigUint64(at + 32, true))));
    pread(fd, path, entries.getBigUint64(at + 8, true));
    return new TextDecoder().decode(path).replace(/\0.*$/s, "");
  }
  throw new VmmError("image", "This program names no loader: it is not a Baton as it is built");
}
