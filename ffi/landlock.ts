// SPDX-License-Identifier: Apache-2.0
// Landlock: a process gives up all access to the file system but what it names, landlock(7), linux/landlock.h.
import { close, O_PATH, open } from "./fd.ts";
import { check, lazyCall } from "./libc.ts";
import { SYS } from "./unistd.ts";

const LANDLOCK_CREATE_RULESET_VERSION = 1;
const LANDLOCK_RULE_PATH_BENEATH = 1;

/** LANDLOCK_ACCESS_FS_*, those of ABI 3 (Linux 6.2). */
export const ACCESS = {
  EXECUTE: 1 << 0,
  WRITE_FILE: 1 << 1,
  READ_FILE: 1 << 2,
  READ_DIR: 1 << 3,
  REMOVE_DIR: 1 << 4,
  REMOVE_FILE: 1 << 5,
  MAKE_CHAR: 1 << 6,
  MAKE_DIR: 1 << 7,
  MAKE_REG: 1 << 8,
  MAKE_SOCK: 1 << 9,
  MAKE_FIFO: 1 << 10,
  MAKE_BLOCK: 1 << 11,
  MAKE_SYM: 1 << 12,
  REFER: 1 << 13,
  TRUNCATE: 1 << 14,
} as const;

/** What can be done with a file; the rest is of directories, and refused in rules about files. */
export const ACCESS_OF_FILES = ACCESS.EXECUTE | ACCESS.WRITE_FILE | ACCESS.READ_FILE | ACCESS.TRUNCATE;
const ACCESS_ALL = Object.values(ACCESS).reduce((all, right) => all | right, 0);

/** LANDLOCK_SCOPE_*, from ABI 6 (Linux 6.12) on. */
const SCOPE_ABSTRACT_UNIX_SOCKET = 1n << 0n;
const SCOPE_SIGNAL = 1n << 1n;
const ABI_WITH_SCOPES = 6;

/** struct landlock_ruleset_attr as of ABI 6: u64 handled_access_fs; u64 handled_access_net; u64 scoped. */
const RULESET_BYTES = 24;
/** struct landlock_path_beneath_attr, packed: u64 allowed_access; s32 parent_fd. */
const PATH_BENEATH_BYTES = 12;

const cCreateRuleset = lazyCall("long syscall(long number, const void *attribute, size_t size, unsigned int flags)");
const cAddRule = lazyCall(
  "long syscall(long number, int ruleset, int type, const void *attribute, unsigned int flags)",
);
const cRestrictSelf = lazyCall("long syscall(long number, int ruleset, unsigned int flags)");

/** 0 where the kernel has no Landlock, or was booted without it. */
export function landlockAbi(): number {
  return Math.max(0, cCreateRuleset(SYS.landlock_create_ruleset, null, 0, LANDLOCK_CREATE_RULESET_VERSION));
}

/** An empty ruleset, as an fd: it allows no access to any file, and with ABI 6 no signals and abstract sockets to others. */
export function createRuleset(abi: number): number {
  const scoped = abi >= ABI_WITH_SCOPES ? SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL : 0n;
  const attribute = BigUint64Array.of(BigInt(ACCESS_ALL), 0n, scoped);
  const sizeBytes = abi >= ABI_WITH_SCOPES ? RULESET_BYTES : 8;
  return check("landlock_create_ruleset", cCreateRuleset(SYS.landlock_create_ruleset, attribute, sizeBytes, 0));
}

/**
 * Allows `access` (bits of ACCESS) to a file, or to a directory with all beneath it.
 * @throws SysError ENOENT; EINVAL for rights of directories to a file; EBADFD for what is in no file system: a pipe, a socket
 */
export function allowPath(rulesetFd: number, path: string, access: number): void {
  const fd = open(path, O_PATH);
  try {
    const attribute = new Uint8Array(PATH_BENEATH_BYTES);
    const view = new DataView(attribute.buffer);
    view.setBigUint64(0, BigInt(access), true);
    view.setInt32(8, fd, true);
    const result = cAddRule(SYS.landlock_add_rule, rulesetFd, LANDLOCK_RULE_PATH_BENEATH, attribute, 0);
    check("landlock_add_rule", result, path);
  } finally {
    close(fd);
  }
}

/**
 * The calling thread, and what it starts and executes, has only that access from now on. Other threads of the process are not
 * restricted.
 */
export function restrictSelf(rulesetFd: number): void {
  check("landlock_restrict_self", cRestrictSelf(SYS.landlock_restrict_self, rulesetFd, 0));
}
