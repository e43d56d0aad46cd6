// SPDX-License-Identifier: Apache-2.0
// Writes cpio archives in the "newc" form, the one that Linux unpacks as an initramfs
// (https://docs.kernel.org/driver-api/early-userspace/buffer-format.html).
//
// | part   | content                                                              |
// |--------|----------------------------------------------------------------------|
// | header | "070701", then 13 numbers of 8 hexadecimal digits                     |
// | name   | path without leading slash, NUL-terminated, padded with header to 4   |
// | data   | the file's bytes, padded to 4                                         |
//
// The last entry is named "TRAILER!!!".

export interface CpioEntry {
  /** Path without a leading slash. Parent folders must come first. */
  path: string;
  mode: number;
  data?: Uint8Array;
  /** For a device node: its major and minor number. */
  device?: [major: number, minor: number];
}

export const MODE_DIRECTORY = 0o040755;
export const MODE_FILE = 0o100644;
export const MODE_PROGRAM = 0o100755;
/** Its data is where it leads. */
export const MODE_SYMLINK = 0o120777;
export const MODE_CHARACTER_DEVICE = 0o020600;

const MAGIC = "070701";
const TRAILER = "TRAILER!!!";
const ALIGNMENT_BYTES = 4;

function padding(lengthBytes: number): Uint8Array {
  return new Uint8Array((ALIGNMENT_BYTES - (lengthBytes % ALIGNMENT_BYTES)) % ALIGNMENT_BYTES);
}

function encodeEntry(entry: CpioEntry, inode: number): Uint8Array[] {
  const data = entry.data ?? new Uint8Array(0);
  const name = new TextEncoder().encode(`${entry.path}\0`);
  const isDirectory = (entry.mode & 0o170000) === 0o040000;
  const [major, minor] = entry.device ?? [0, 0];
  const fields = [
    inode,
    entry.mode,
    0, // uid
    0, // gid
    isDirectory ? 2 : 1, // links
    0, // mtime: archives of equal content are equal
    data.length,
    0, // device of the file system, major
    0, // and minor
    major,
    minor,
    name.length,
    0, // checksum, unused in this form
  ];
  const header = MAGIC + fields.map((field) => field.toString(16).toUpperCase().padStart(8, "0")).join("");
  return [new TextEncoder().encode(header), name, padding(header.length + name.length), data, padding(data.length)];
}

/** One archive of all entries, in their order. */
export function encodeCpio(entries: CpioEntry[]): Uint8Array {
  const parts = [...entries, { path: TRAILER, mode: 0 }].flatMap((entry, index) => encodeEntry(entry, index + 1));
  const archive = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    archive.set(part, offset);
    offset += part.length;
  }
  return archive;
}
