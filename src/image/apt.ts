// SPDX-License-Identifier: Apache-2.0
// Files out of packages of Debian and Ubuntu, without root and without installing anything: apt downloads and checks
// against the signed lists, dpkg-deb unpacks.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VmmError } from "../errors.ts";

export interface PackageFile {
  /** Name in its directory. */
  name: string;
  bytes: Uint8Array;
  /** The package and its version. */
  from: string;
}

const DOWNLOAD_TIMEOUT_MS = 600_000;
/** Of what a program said, in an error message. */
const SAID_MAX_CHARACTERS = 400;

function run(command: string, args: string[], cwd?: string): string {
  const { error, status, stdout, stderr } = spawnSync(command, args, {
    encoding: "utf8",
    env: { ...process.env, LC_ALL: "C" },
    timeout: DOWNLOAD_TIMEOUT_MS,
    ...(cwd === undefined ? {} : { cwd }),
  });
  if ((error as NodeJS.ErrnoException | undefined)?.code === "ENOENT") {
    throw new VmmError("apt-missing", `${command} is not installed: only Debian, Ubuntu and their like have it`);
  }
  if (error !== undefined || status !== 0) {
    // Errors, without the warnings around them.
    const errors = (stderr ?? "").split("\n").filter((line) => /^(E|dpkg-deb: error):/.test(line));
    const said = (errors.length > 0 ? errors.join(" ") : (stderr ?? "").trim()).slice(0, SAID_MAX_CHARACTERS);
    throw new VmmError("apt-failed", `${[command, ...args].join(" ")} failed: ${error?.message ?? said}`);
  }
  return stdout;
}

/**
 * The package with a kernel in it that one of `names`, packages without contents, asks for now.
 * @throws VmmError "apt-missing", "apt-failed"
 */
export function currentKernelPackage(names: readonly string[]): string {
  for (const name of names) {
    let listed: string;
    try {
      listed = run("apt-cache", ["depends", name]);
    } catch (error) {
      if ((error as VmmError).code === "apt-missing") throw error;
      continue;
    }
    const found = /^ *\|?Depends: (linux-image-\S+)$/m.exec(listed)?.[1];
    if (found !== undefined) return found;
  }
  throw new VmmError(
    "apt-failed",
    `apt knows no package ${names.join(" or ")}: its lists may be missing (apt-get update, as root)`,
  );
}

/**
 * The first file of `directory`, in the package, whose name matches.
 * @throws VmmError "apt-missing", "apt-failed"
 */
export function fileOfPackage(packageName: string, directories: readonly string[], pattern: RegExp): PackageFile {
  const dir = mkdtempSync(join(tmpdir(), "baton-image-"));
  try {
    run("apt-get", ["download", "-q", packageName], dir);
    const archive = readdirSync(dir).find((name) => name.endsWith(".deb"));
    if (archive === undefined) throw new VmmError("apt-failed", `apt-get download ${packageName} left no package`);
    run("dpkg-deb", ["--extract", join(dir, archive), join(dir, "tree")]);
    for (const directory of directories) {
      const name = listDirectory(join(dir, "tree", directory)).find((entry) => pattern.test(entry));
      if (name === undefined) continue;
      const version = archive.split("_")[1]?.replace("%3a", ":") ?? "";
      return {
        name,
        bytes: readFileSync(join(dir, "tree", directory, name)),
        from: `${packageName} ${version}`.trim(),
      };
    }
    throw new VmmError("apt-failed", `${archive} has no ${pattern.source} in ${directories.join(" or ")}`);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function listDirectory(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
