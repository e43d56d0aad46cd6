// SPDX-License-Identifier: Apache-2.0
// File descriptors: open, read, write, flags. Every fd made here is close-on-exec until somebody says otherwise.
import { SysError } from "./error.ts";
import { check, EAGAIN, EINVAL, ENXIO, EOPNOTSUPP, EXDEV, lazyCall } from "./libc.ts";

/** fcntl.h, asm-generic/fcntl.h. */
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_NOCTTY = 0o400;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECTORY = 0o200000;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
/** openat: relative to the working directory. */
export const AT_FDCWD = -100;

/** linux/fcntl.h */
const F_GETFD = 1;
const F_SETFD = 2;
const F_GETFL = 3;
const F_SETFL = 4;
const F_DUPFD_CLOEXEC = 1030;
const FD_CLOEXEC = 1;

/** linux/close_range.h */
const CLOSE_RANGE_UNSHARE = 2;
/** More than any fd. */
const NO_FD = 0xffff_ffff;
// <asm/unistd_64.h>
const SYS_close_range = 436;

/** unistd.h */
export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

/** asm/stat.h, struct stat of x86-64. */
const STAT_SIZE_BYTES = 144;
const STAT_DEV = 0;
const STAT_INO = 8;
const STAT_MODE = 24;
const STAT_RDEV = 40;
const STAT_SIZE = 48;

/** bits/statfs.h, struct statfs of x86-64: `long f_type` comes first. */
const STATFS_SIZE_BYTES = 120;

/** linux/magic.h */
export const TMPFS_MAGIC = 0x0102_1994n;
export const HUGETLBFS_MAGIC = 0x9584_58f6n;

/** linux/stat.h: S_IFMT of st_mode. */
const S_IFMT = 0o170000;

/** `anonymous`: an eventfd, epoll fd, KVM fd and the like, which have no file type. */
export type FdKind = "fifo" | "character" | "directory" | "block" | "file" | "symlink" | "socket" | "anonymous";

export interface FdStatus {
  kind: FdKind;
  /** Permission bits, `0o600`. */
  mode: number;
  sizeBytes: number;
  device: bigint;
  inode: bigint;
  /** Device number of a character or block device. */
  deviceNumber: bigint;
}

const cOpenat = lazyCall("int openat(int dirFd, const char *path, int flags, unsigned int mode)");
// Linux has closed the fd when close is interrupted: a second call could close somebody else's.
const cClose = lazyCall("int close(int fd)", { retry: false });
const cRead = lazyCall("int64_t read(int fd, void *buffer, size_t count)");
const cWrite = lazyCall("int64_t write(int fd, const void *buffer, size_t count)");
const cPread = lazyCall("int64_t pread(int fd, void *buffer, size_t count, int64_t offset)");
const cPwrite = lazyCall("int64_t pwrite(int fd, const void *buffer, size_t count, int64_t offset)");
const cCopyFileRange = lazyCall(
  "int64_t copy_file_range(int fromFd, void *fromOffset, int toFd, void *toOffset, size_t count, unsigned int flags)",
);
const cPipe2 = lazyCall("int pipe2(void *fds, int flags)");
const cCloseRange = lazyCall("long syscall(long number, unsigned int first, unsigned int last, unsigned int flags)");
const cDup3 = lazyCall("int dup3(int oldFd, int newFd, int flags)");
const cFcntl = lazyCall("int fcntl(int fd, int command, long argument)");
const cFstat = lazyCall("int fstat(int fd, void *status)");
const cFstatfs = lazyCall("int fstatfs(int fd, void *status)");
const cReadlink = lazyCall("int64_t readlink(const char *path, void *buffer, size_t size)");
const cFtruncate = lazyCall("int ftruncate(int fd, int64_t length)");
const cFsync = lazyCall("int fsync(int fd)");
const cFlock = lazyCall("int flock(int fd, int operation)");
const cLseek = lazyCall("int64_t lseek(int fd, int64_t offset, int whence)");
const cUnlink = lazyCall("int unlink(const char *path)");
const cSymlink = lazyCall("int symlink(const char *target, const char *path)");
const cMkfifo = lazyCall("int mkfifo(const char *path, unsigned int mode)");

/** open(2). O_CLOEXEC is always added. */
export function open(path: string, flags: number, mode = 0): number {
  return openAt(AT_FDCWD, path, flags, mode);
}

/** openat(2). O_CLOEXEC is always added. */
export function openAt(dirFd: number, path: string, flags: number, mode = 0): number {
  return check(dirFd === AT_FDCWD ? "open" : "openat", cOpenat(dirFd, path, flags | O_CLOEXEC, mode), path);
}

export function close(fd: number): void {
  const result = cClose(fd);
  if (result < 0) check("close", result, `fd ${fd}`);
}

/** Bytes read; 0 at the end of the file; `undefined` when a non-blocking fd has nothing. */
export function read(fd: number, buffer: Uint8Array): number | undefined {
  return transferred("read", cRead(fd, buffer, buffer.byteLength), fd);
}

/** Bytes written, perhaps fewer than given; `undefined` when a non-blocking fd takes none. */
export function write(fd: number, bytes: Uint8Array): number | undefined {
  return transferred("write", cWrite(fd, bytes, bytes.byteLength), fd);
}

export function pread(fd: number, buffer: Uint8Array, offset: number | bigint): number | undefined {
  return transferred("pread", cPread(fd, buffer, buffer.byteLength, offset), fd);
}

export function pwrite(fd: number, bytes: Uint8Array, offset: number | bigint): number | undefined {
  return transferred("pwrite", cPwrite(fd, bytes, bytes.byteLength, offset), fd);
}

/**
 * copy_file_range(2): the kernel copies from one file to another. Bytes copied, perhaps fewer than asked, 0 at the end of
 * `fromFd`; `undefined` where it cannot for these files (other file systems, huge pages).
 */
export function copyFileRange(
  fromFd: number,
  fromOffset: number,
  toFd: number,
  toOffset: number,
  sizeBytes: number,
): number | undefined {
  const offsets = BigInt64Array.of(BigInt(fromOffset), BigInt(toOffset));
  const result = cCopyFileRange(fromFd, offsets.subarray(0, 1), toFd, offsets.subarray(1), sizeBytes, 0);
  if (result === -EXDEV || result === -EINVAL || result === -EOPNOTSUPP) return undefined;
  return check("copy_file_range", result, `fd ${fromFd} to fd ${toFd}, ${sizeBytes} bytes`);
}

function transferred(syscall: string, result: number, fd: number): number | undefined {
  if (result >= 0) return result;
  if (result === -EAGAIN) return undefined;
  throw new SysError(syscall, -result, `fd ${fd}`);
}

/** Both ends of a new pipe. `flags`: O_NONBLOCK. */
export function pipe(flags = 0): { readFd: number; writeFd: number } {
  const fds = new Int32Array(2);
  check("pipe2", cPipe2(fds, flags | O_CLOEXEC));
  return { readFd: fds[0]!, writeFd: fds[1]! };
}

/** A close-on-exec duplicate: the lowest free number from `minimumFd` on. */
export function duplicate(fd: number, minimumFd = 0): number {
  return check("fcntl", cFcntl(fd, F_DUPFD_CLOEXEC, minimumFd), `fd ${fd}, F_DUPFD_CLOEXEC`);
}

/** Makes `newFd` a close-on-exec duplicate of `fd`, closing what it was. */
export function duplicateTo(fd: number, newFd: number): void {
  check("dup3", cDup3(fd, newFd, O_CLOEXEC), `fd ${fd}, fd ${newFd}`);
}

/**
 * The calling thread's table of fds is its own from now on: what it opens, closes and duplicates is nothing to the other threads of the
 * process. For what leads to an exec, which takes this table.
 */
export function separateFds(): void {
  check("close_range", cCloseRange(SYS_close_range, NO_FD, NO_FD, CLOSE_RANGE_UNSHARE), "CLOSE_RANGE_UNSHARE");
}

export function setCloseOnExec(fd: number, closeOnExec: boolean): void {
  check("fcntl", cFcntl(fd, F_SETFD, closeOnExec ? FD_CLOEXEC : 0), `fd ${fd}, F_SETFD`);
}

export function isCloseOnExec(fd: number): boolean {
  return (check("fcntl", cFcntl(fd, F_GETFD, 0), `fd ${fd}, F_GETFD`) & FD_CLOEXEC) !== 0;
}

/** Whether the number is an open fd of this process. */
export function isOpen(fd: number): boolean {
  return cFcntl(fd, F_GETFD, 0) >= 0;
}

/** Status flags of the open file (O_APPEND, O_NONBLOCK, access mode). */
export function statusFlags(fd: number): number {
  return check("fcntl", cFcntl(fd, F_GETFL, 0), `fd ${fd}, F_GETFL`);
}

/** O_NONBLOCK belongs to the open file, so everybody who shares it (a shell and its stdin, say) is affected. */
export function setNonBlocking(fd: number, nonBlocking: boolean): void {
  const flags = statusFlags(fd);
  const wanted = nonBlocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (wanted !== flags) check("fcntl", cFcntl(fd, F_SETFL, wanted), `fd ${fd}, F_SETFL`);
}

function kindOf(fileType: number): FdKind {
  switch (fileType) {
    case 0o010000:
      return "fifo";
    case 0o020000:
      return "character";
    case 0o040000:
      return "directory";
    case 0o060000:
      return "block";
    case 0o100000:
      return "file";
    case 0o120000:
      return "symlink";
    case 0o140000:
      return "socket";
    default:
      return "anonymous";
  }
}

export function status(fd: number): FdStatus {
  const raw = new Uint8Array(STAT_SIZE_BYTES);
  check("fstat", cFstat(fd, raw), `fd ${fd}`);
  const view = new DataView(raw.buffer);
  const mode = view.getUint32(STAT_MODE, true);
  return {
    kind: kindOf(mode & S_IFMT),
    mode: mode & 0o7777,
    sizeBytes: Number(view.getBigInt64(STAT_SIZE, true)),
    device: view.getBigUint64(STAT_DEV, true),
    inode: view.getBigUint64(STAT_INO, true),
    deviceNumber: view.getBigUint64(STAT_RDEV, true),
  };
}

/** What kind of file system the file is on (`*_MAGIC`). A memfd's is tmpfs, with huge pages hugetlbfs. */
export function fileSystemType(fd: number): bigint {
  const raw = new BigUint64Array(STATFS_SIZE_BYTES / 8);
  check("fstatfs", cFstatfs(fd, raw), `fd ${fd}`);
  return raw[0]!;
}

/** What the fd was opened as, from /proc: a path, or `socket:[1234]`, `anon_inode:kvm-vm`, `/memfd:ram (deleted)`. */
export function fdPath(fd: number): string {
  const buffer = new Uint8Array(4096);
  const length = check("readlink", cReadlink(`/proc/self/fd/${fd}`, buffer, buffer.length), `fd ${fd}`);
  return new TextDecoder().decode(buffer.subarray(0, length));
}

export function truncate(fd: number, sizeBytes: number | bigint): void {
  check("ftruncate", cFtruncate(fd, sizeBytes), `fd ${fd}, ${sizeBytes}`);
}

export function sync(fd: number): void {
  check("fsync", cFsync(fd), `fd ${fd}`);
}

/** sys/file.h */
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/**
 * flock(2) without waiting: false when another open file has a lock that excludes this one. It is the open file's: whoever shares
 * that has the lock, over fork, exec and SCM_RIGHTS, until the last of them closes it.
 */
export function lockFile(fd: number, kind: "shared" | "exclusive"): boolean {
  const result = cFlock(fd, (kind === "shared" ? LOCK_SH : LOCK_EX) | LOCK_NB);
  if (result === -EAGAIN) return false;
  check("flock", result, `fd ${fd}`);
  return true;
}

/** lseek(2): the new position. */
export function seek(fd: number, offset: number | bigint, whence = SEEK_SET): number {
  return check("lseek", cLseek(fd, offset, whence), `fd ${fd}, ${offset}`);
}

/** The first byte at or after `offset` that is not in a hole; undefined when there is none. */
export function seekData(fd: number, offset: number): number | undefined {
  const result = cLseek(fd, offset, SEEK_DATA);
  return result === -ENXIO ? undefined : check("lseek", result, `fd ${fd}, ${offset}, SEEK_DATA`);
}

/** The first byte at or after `offset` that is in a hole; the end of the file counts as one. */
export function seekHole(fd: number, offset: number): number {
  return seek(fd, offset, SEEK_HOLE);
}

export function unlink(path: string): void {
  check("unlink", cUnlink(path), path);
}

/** Makes `path` a symbolic link to `target`. */
export function symlink(target: string, path: string): void {
  check("symlink", cSymlink(target, path), path);
}

export function makeFifo(path: string, mode = 0o600): void {
  check("mkfifo", cMkfifo(path, mode), path);
}
