// SPDX-License-Identifier: Apache-2.0
// What of the file system a sandboxed VMM has. Two kinds: what every process needs to start and run, which it can read, and what
// its command line names. Nothing of it can be executed, but for the loader of programs, without which no image starts.
import { lstatSync, readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { ACCESS, ACCESS_OF_FILES } from "../../ffi/landlock.ts";
import { LIVEUPDATE_DEVICE } from "../../ffi/liveupdate/abi.ts";
import { USERFAULTFD_DEVICE } from "../../ffi/userfaultfd/abi.ts";
import type { ChardevSpec, MachineSpec } from "../config/types.ts";

export interface PathRule {
  path: string;
  /** Bits of ACCESS. */
  access: number;
  /** Absent here, or nothing that rules are about (a pipe, a socket): no loss. */
  optional?: boolean;
}

const READ = ACCESS.READ_FILE | ACCESS.READ_DIR;
const WRITE = ACCESS.READ_FILE | ACCESS.WRITE_FILE | ACCESS.TRUNCATE;
/** Of a directory: to make, replace and remove files, sockets, pipes and links in it. */
const MANAGE =
  READ |
  WRITE |
  ACCESS.MAKE_REG |
  ACCESS.MAKE_SOCK |
  ACCESS.MAKE_FIFO |
  ACCESS.MAKE_SYM |
  ACCESS.REMOVE_FILE |
  ACCESS.REFER;

/** Libraries, name resolution, time zones; what the kernel says of processes, CPUs and devices. */
const SYSTEM_DIRS = ["/usr", "/lib", "/lib64", "/etc", "/proc", "/sys"];
const DEVICES = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "kvm"].map(
  (name) => `/dev/${name}`,
);
/** Of post-copy and of `cpr-reboot`. */
const RARE_DEVICES = [USERFAULTFD_DEVICE, LIVEUPDATE_DEVICE];
const STANDARD_FDS = [0, 1, 2].map((fd) => `/proc/self/fd/${fd}`);

export interface PathOptions {
  spec: MachineSpec;
  /** Program that the kernel loads programs with: PT_INTERP of the image. */
  loader: string;
  /** `--config` and the like: read once more when the program starts again. */
  readFiles: readonly string[];
  /** Of this VM alone. */
  privateDir: string;
}

/** All that is allowed. @throws what statSync throws for `allow` directories that are not there */
export function pathRules({ spec, loader, readFiles, privateDir }: PathOptions): PathRule[] {
  const optional = true;
  return [
    { path: loader, access: ACCESS.EXECUTE },
    ...[...SYSTEM_DIRS, ...libraryDirs()].map((path) => ({ path, access: READ, optional })),
    ...[...DEVICES, ...RARE_DEVICES, ...STANDARD_FDS].map((path) => ({ path, access: WRITE, optional })),
    { path: privateDir, access: MANAGE },
    // Of an empty one, as this one is at the end.
    { path: dirname(privateDir), access: ACCESS.REMOVE_DIR },
    ...[...readFiles, ...readBy(spec)].map((path) => ({ path, access: READ, optional })),
    ...writtenBy(spec).map(placeOf),
    ...(spec.sandbox?.allow ?? []).map((path) => ({ path, access: MANAGE })),
  ].map((rule) => ({ ...rule, access: isDirectory(rule.path) ? rule.access : rule.access & ACCESS_OF_FILES }));
}

/** Where the libraries of this program come from: not every distribution has them in the usual places. */
function libraryDirs(): string[] {
  const libraries = readFileSync("/proc/self/maps", "latin1").matchAll(/ (\/\S*\.so\S*)$/gm);
  return [...new Set([...libraries].map(([, path]) => dirname(path!)))];
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

function readBy({ kernel, initrd, bios, tlsCredentials = [], chardevs }: MachineSpec): string[] {
  const inputs = chardevs.flatMap((chardev) => (chardev.backend === "file" ? [chardev.inputPath] : []));
  return [kernel, initrd, bios, ...inputs, ...tlsCredentials.map(({ dir }) => dir)].filter(
    (path) => path !== undefined,
  );
}

function writtenBy({ chardevs, memoryBackends, pidfile, incoming }: MachineSpec): string[] {
  const sources = incoming.flatMap((source) => {
    if (!("address" in source)) return [];
    const { address } = source;
    if (address.transport === "file") return [address.filename];
    return address.transport === "socket" && address.type === "unix" ? [address.path] : [];
  });
  const ram = memoryBackends.map(({ memPath }) => memPath);
  return [...chardevs.flatMap(pathsOf), ...ram, pidfile, ...sources].filter((path) => path !== undefined);
}

function pathsOf(chardev: ChardevSpec): (string | undefined)[] {
  switch (chardev.backend) {
    case "file":
    case "pty":
      return [chardev.path];
    case "pipe":
      return [chardev.path, `${chardev.path}.in`, `${chardev.path}.out`];
    case "socket":
      return chardev.address.type === "unix" ? [chardev.address.path] : [];
    default:
      return [];
  }
}

/**
 * A device, a pipe or a directory is what it is; a file may be replaced, a socket is made anew, a link points elsewhere: they are
 * their directory's.
 */
function placeOf(path: string): PathRule {
  const status = lstatSync(path, { throwIfNoEntry: false });
  const isItself = status?.isCharacterDevice() || status?.isBlockDevice() || status?.isFIFO() || status?.isDirectory();
  return { path: isItself ? path : dirname(resolve(path)), access: MANAGE };
}
