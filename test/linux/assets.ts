// SPDX-License-Identifier: Apache-2.0
// What guests of these tests boot: the lab's kernels, a busybox, and a small Debian user land, kept in the same cache.
import { spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { whyNotAlone } from "../../src/image/busybox.ts";
import {
  type CpioEntry,
  encodeCpio,
  MODE_CHARACTER_DEVICE,
  MODE_DIRECTORY,
  MODE_FILE,
  MODE_PROGRAM,
  MODE_SYMLINK,
} from "../../src/image/cpio.ts";
import { cacheDir, findGuestKernel, findProgram, type GuestSeries } from "../lab/assets.ts";

const FETCH_COMMAND = "npm run lab -- --fetch";
const USERLAND_DIR = join(cacheDir, "userland");
/** Interpreter and library of the distribution's own Python are found by the name that it depends on. */
const PACKAGES = [
  "coreutils",
  "libacl1",
  "libattr1",
  "libc6",
  "libexpat1",
  "libgmp10",
  "libpcre2-8-0",
  "libselinux1",
  "zlib1g",
];
const FOLDERS = ["bin", "lib", "lib64", "usr/bin", "usr/lib"];
/** What no program here needs, and is most of it. */
const LEFT_OUT = /gconv|\/locale\/|getconf|test\//;

/** Why no Linux guest of this series can be started, for `skipIf`; undefined when one can. */
export function linuxMissing(series: GuestSeries): string | undefined {
  if (findGuestKernel(series) === undefined)
    return `no Debian cloud kernel ${series} in ${cacheDir} (${FETCH_COMMAND})`;
  return busyboxMissing();
}

function busyboxMissing(): string | undefined {
  const path = findProgram("busybox");
  if (path === undefined) return "no busybox (apt-get install busybox-static)";
  const problem = whyNotAlone(readFileSync(path));
  return problem === undefined ? undefined : `${path} ${problem} (apt-get install busybox-static)`;
}

export function userlandMissing(): string | undefined {
  return existsSync(USERLAND_DIR) ? undefined : `no Debian packages in ${USERLAND_DIR} (${FETCH_COMMAND})`;
}

export function readBusybox(): Uint8Array {
  return readFileSync(findProgram("busybox")!);
}

/** Downloads and unpacks packages; as the lab does with kernels. */
const FETCH_SCRIPT = `
  target=$1; shift
  test ! -e "$target" || exit 0
  mkdir -p download/userland
  (cd download/userland && apt-get download -q "$@")
  rm -rf "$target.partial"
  for package in download/userland/*.deb; do dpkg-deb --extract "$package" "$target.partial"; done
  mv "$target.partial" "$target"
  rm -rf download/userland
`;

/** Needs Debian's apt and a network, not root. Throws with apt's own words. */
export function fetchUserland(log: (line: string) => void): void {
  if (userlandMissing() === undefined) return;
  const { stdout } = spawnSync("apt-cache", ["depends", "python3-minimal"], { encoding: "utf8" });
  const python = /Depends: (python3\.\d+-minimal)/.exec(stdout ?? "")?.[1];
  if (python === undefined) {
    log("linux tests: apt knows no python3-minimal (apt-get update helps where it is in the archive)");
    return;
  }
  mkdirSync(cacheDir, { recursive: true });
  log(`linux tests: fetching ${python} and what it needs`);
  const packages = [...PACKAGES, python, `lib${python}`];
  const fetch = spawnSync("flock", ["lock", "sh", "-ec", FETCH_SCRIPT, "fetch", USERLAND_DIR, ...packages], {
    cwd: cacheDir,
    encoding: "utf8",
  });
  if (fetch.status !== 0) throw new Error(`Fetching ${python} failed: ${fetch.error?.message ?? fetch.stderr}`);
}

const text = (content: string): Uint8Array => new TextEncoder().encode(content);

/** An initramfs with that user land, and busybox as `/init`'s shell; `init` is what is run. Not packed: unpacking takes the guest longest. */
export function buildUserland(init: string): Uint8Array {
  const entries: CpioEntry[] = [
    ...["dev", "proc", "sys", "tmp", "usr", "root"].map((path) => ({ path, mode: MODE_DIRECTORY })),
    { path: "dev/console", mode: MODE_CHARACTER_DEVICE, device: [5, 1] },
    { path: "init", mode: MODE_PROGRAM, data: text(init) },
  ];
  for (const folder of FOLDERS) if (existsSync(join(USERLAND_DIR, folder))) add(entries, folder);
  if (!entries.some(({ path }) => path === "bin")) entries.push({ path: "bin", mode: MODE_DIRECTORY });
  entries.push({ path: "bin/busybox", mode: MODE_PROGRAM, data: readBusybox() });
  return encodeCpio(entries);
}

function add(entries: CpioEntry[], path: string): void {
  const full = join(USERLAND_DIR, path);
  const stat = lstatSync(full);
  if (LEFT_OUT.test(`${path}/`)) return;
  if (stat.isSymbolicLink()) {
    entries.push({ path, mode: MODE_SYMLINK, data: text(readlinkSync(full)) });
  } else if (stat.isDirectory()) {
    entries.push({ path, mode: MODE_DIRECTORY });
    for (const name of readdirSync(full).sort()) add(entries, `${path}/${name}`);
  } else {
    entries.push({ path, mode: stat.mode & 0o111 ? MODE_PROGRAM : MODE_FILE, data: readFileSync(full) });
  }
}
