// SPDX-License-Identifier: Apache-2.0
// Which VMM the demo starts: the release if there is one, else this very program.
import { accessSync, constants } from "node:fs";
import { basename, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { commandLine } from "../../runtime/program.ts";

/** Program and first arguments. `args` are the demo's own, which end this process's command line behind "demo". */
export function findVmm(args: readonly string[]): string[] {
  const [, ...leading] = commandLine().slice(0, -(args.length + 1));
  // A compiled binary has no script among its arguments.
  if (leading.length === 0) return [process.execPath];
  const release = fileURLToPath(new URL("../../../dist/baton", import.meta.url));
  return isExecutable(release) ? [release] : [process.execPath, ...leading];
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** For a person: paths below the working directory are shortened, programs found in PATH too. */
export function describeVmm([program, ...args]: readonly string[]): string {
  const path = relative(process.cwd(), program!);
  return [path.startsWith("..") ? basename(program!) : path, ...args].join(" ");
}
