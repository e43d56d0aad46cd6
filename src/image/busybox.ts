// SPDX-License-Identifier: Apache-2.0
// A busybox without libraries: apt's busybox-static, this machine's own, or a file that somebody names.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describeError, VmmError } from "../errors.ts";
import { findProgram } from "../runtime/program.ts";
import { fileOfPackage } from "./apt.ts";

export interface FoundBusybox {
  bytes: Uint8Array;
  from: string;
}

const PACKAGE = "busybox-static";
/** Since Debian 13 and Ubuntu 24.04 packages have their files below /usr. */
const PACKAGE_DIRS = ["bin", "usr/bin"];

const ELF64_X86_HEADER = [0x7f, 0x45, 0x4c, 0x46, 2, 1];
const E_MACHINE = 0x12;
const EM_X86_64 = 62;
const E_PHOFF = 0x20;
const E_PHENTSIZE = 0x36;
const E_PHNUM = 0x38;
const PT_INTERP = 3;

/** Why this program cannot run in a guest that has nothing else; undefined when it can. */
export function whyNotAlone(program: Uint8Array): string | undefined {
  const view = new DataView(program.buffer, program.byteOffset, program.byteLength);
  const isElf64 = program.length >= 0x40 && ELF64_X86_HEADER.every((byte, index) => program[index] === byte);
  if (!isElf64 || view.getUint16(E_MACHINE, true) !== EM_X86_64) return "is no program for x86-64";
  const tableOffset = Number(view.getBigUint64(E_PHOFF, true));
  const entrySizeBytes = view.getUint16(E_PHENTSIZE, true);
  const count = view.getUint16(E_PHNUM, true);
  if (tableOffset + count * entrySizeBytes > program.length) return "is damaged: its program headers are not in it";
  for (let index = 0; index < count; index++) {
    if (view.getUint32(tableOffset + index * entrySizeBytes, true) === PT_INTERP) {
      return "needs libraries: give one that is linked statically";
    }
  }
  return undefined;
}

function readBusybox(path: string): FoundBusybox {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw new VmmError("busybox-unusable", `${path}: Cannot read busybox`, { cause });
  }
  const problem = whyNotAlone(bytes);
  if (problem !== undefined) throw new VmmError("busybox-unusable", `${path} ${problem}`);
  return { bytes, from: path };
}

/** The first busybox on PATH. @throws VmmError "exec-failed" when there is none, "busybox-unusable" */
export function installedBusybox(): FoundBusybox {
  return readBusybox(findProgram("busybox"));
}

/**
 * @param wanted a file; when undefined apt's busybox is fetched, or when that fails this machine's own taken
 * @throws VmmError "busybox-unusable" with all reasons
 */
export function findBusybox(wanted: string | undefined, log: (line: string) => void): FoundBusybox {
  if (wanted !== undefined) return readBusybox(resolve(wanted));
  let aptError: unknown;
  try {
    log(`fetching ${PACKAGE}`);
    const { bytes, from } = fileOfPackage(PACKAGE, PACKAGE_DIRS, /^busybox$/);
    return { bytes, from };
  } catch (error) {
    aptError = error;
    log(describeError(error));
  }
  try {
    return installedBusybox();
  } catch (error) {
    throw new VmmError(
      "busybox-unusable",
      `There is no busybox that needs no libraries (${describeError(error)}): name one with --busybox`,
      { cause: aptError },
    );
  }
}
