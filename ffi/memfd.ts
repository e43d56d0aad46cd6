// SPDX-License-Identifier: Apache-2.0
// Memory files, memfd_create(2): guest RAM and pinned binary images.
import { close, truncate } from "./fd.ts";
import { check, EINVAL, EPERM, lazyCall } from "./libc.ts";

/** linux/memfd.h */
const MFD_CLOEXEC = 0x1;
const MFD_ALLOW_SEALING = 0x2;
const MFD_HUGETLB = 0x4;
export const MFD_NOEXEC_SEAL = 0x8;
export const MFD_EXEC = 0x10;
const MFD_HUGE_SHIFT = 26;

/** linux/fcntl.h */
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
export const F_SEAL_SEAL = 0x1;
export const F_SEAL_SHRINK = 0x2;
export const F_SEAL_GROW = 0x4;
export const F_SEAL_WRITE = 0x8;
export const F_SEAL_FUTURE_WRITE = 0x10;
const F_SEAL_EXEC = 0x20;

const cMemfdCreate = lazyCall("int memfd_create(const char *name, unsigned int flags)");
const cFcntl = lazyCall("int fcntl(int fd, int command, long argument)");

export interface MemfdOptions {
  /** Seals (F_SEAL_*) to add once the size is set; left out: the file cannot be sealed at all. */
  seals?: number;
  /** Back the file with huge pages of this size (a power of two); 0 means the system's default size. */
  hugePageSizeBytes?: number;
  /** The file may be executed. Without it nobody can make it executable, on kernels from 6.3 on. */
  executable?: boolean;
}

/** A close-on-exec memory file of `sizeBytes` zero bytes. `name` shows up in /proc/PID/fd and maps. */
export function memfdCreate(name: string, sizeBytes: number, options: MemfdOptions = {}): number {
  let flags = MFD_CLOEXEC;
  if (options.seals !== undefined) flags |= MFD_ALLOW_SEALING;
  if (options.hugePageSizeBytes !== undefined) {
    flags |= MFD_HUGETLB;
    if (options.hugePageSizeBytes > 0) flags |= Math.log2(options.hugePageSizeBytes) << MFD_HUGE_SHIFT;
  }
  let result = cMemfdCreate(name, (flags | (options.executable ? MFD_EXEC : MFD_NOEXEC_SEAL)) >>> 0);
  // Kernels before 6.3 know neither, and make every memfd executable.
  if (result === -EINVAL) result = cMemfdCreate(name, flags >>> 0);
  const fd = check("memfd_create", result, name);
  try {
    if (sizeBytes > 0) truncate(fd, sizeBytes);
    // MFD_NOEXEC_SEAL allows sealing by itself.
    if (options.seals === undefined) refuseSeals(fd);
    else if (options.seals !== 0) addSeals(fd, options.seals);
  } catch (error) {
    close(fd);
    throw error;
  }
  return fd;
}

/** Adds seals; they can never be taken away again. */
export function addSeals(fd: number, seals: number): void {
  check("fcntl", cFcntl(fd, F_ADD_SEALS, seals), `fd ${fd}, F_ADD_SEALS`);
}

function refuseSeals(fd: number): void {
  const result = cFcntl(fd, F_ADD_SEALS, F_SEAL_SEAL);
  // It is so already where the kernel has not allowed sealing.
  if (result !== -EPERM) check("fcntl", result, `fd ${fd}, F_ADD_SEALS`);
}

/** The F_SEAL_* bits that are set, but for F_SEAL_EXEC: that is the kernel's, and not about what is in the file. */
export function getSeals(fd: number): number {
  return check("fcntl", cFcntl(fd, F_GET_SEALS, 0), `fd ${fd}, F_GET_SEALS`) & ~F_SEAL_EXEC;
}
