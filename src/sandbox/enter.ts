// SPDX-License-Identifier: Apache-2.0
// `-sandbox on`: how a process gets into its sandbox, on one page.
//
//   baton -sandbox on …     pin        its own program, copied into sealed memory
//                           give up    new privileges, capabilities, the file system but for some paths, most system calls
//                           exec       that copy, with the same command line
//   (the same process)      start      finds itself sandboxed, and starts the VM
//
// Why it executes itself: Landlock restricts a thread and what that starts, and a runtime has threads before the first line of
// JavaScript runs. The exec ends them all, and every thread from then on is of the restricted one.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { dropCapabilities } from "../../ffi/capabilities.ts";
import { exec, planExec } from "../../ffi/exec.ts";
import { close, O_RDONLY, open, status } from "../../ffi/fd.ts";
import { allowPath, createRuleset, landlockAbi, restrictSelf } from "../../ffi/landlock.ts";
import { EACCES, EBADFD, ENOENT, ENXIO } from "../../ffi/libc.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import { installFilter, setNoNewPrivileges } from "../../ffi/seccomp.ts";
import type { MachineSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { isCompiled } from "../runtime/entry.ts";
import { commandLine, environment, NATIVE_DIR_VARIABLE } from "../runtime/program.ts";
import { sandboxFilter } from "./filter.ts";
import { loaderOf, pinProgram } from "./image.ts";
import { type PathRule, pathRules } from "./paths.ts";
import { PRIVATE_DIR_PREFIX } from "./state.ts";

/** LANDLOCK_ACCESS_FS_TRUNCATE, Linux 6.2. */
const LEAST_LANDLOCK_ABI = 3;
/** Of paths that need not be there, and of what is in no file system that rules could be about: a pipe, a socket. */
const PASSED_OVER: readonly unknown[] = [ENOENT, EACCES, ENXIO, EBADFD];
/** Of a file's permissions. */
const EXECUTABLE = 0o111;

/**
 * Starts this program again, in the sandbox that the spec asks for. Returns only by throwing.
 * @throws VmmError "sandbox" when this kernel, or this program, cannot have one; nothing is restricted then
 */
export function enterSandbox(spec: MachineSpec, readFiles: readonly string[]): never {
  if (!isCompiled()) {
    throw new VmmError(
      "sandbox",
      "-sandbox on is for the compiled program, dist/baton: a script is read from the file system, and cannot be pinned",
    );
  }
  const unable = whyNoSandbox();
  if (unable !== undefined) throw new VmmError("sandbox", `-sandbox on is not possible here: ${unable}`);
  const ownFd = open("/proc/self/exe", O_RDONLY);
  const imageFd = pin(ownFd);
  const privateDir = mkdtempSync(join(tmpdir(), PRIVATE_DIR_PREFIX));
  try {
    const rules = pathRules({ spec, loader: loaderOf(imageFd), readFiles, privateDir });
    const plan = planExec({ fd: imageFd }, commandLine(), { ...environment(), [NATIVE_DIR_VARIABLE]: privateDir });
    restrict(rules);
    return exec(plan);
  } catch (error) {
    rmSync(privateDir, { recursive: true });
    throw error;
  }
}

/** What this kernel lacks; undefined when it has all that a sandbox is made of. */
export function whyNoSandbox(): string | undefined {
  const abi = landlockAbi();
  const has = abi === 0 ? "has none, or was booted without it (lsm=)" : `has version ${abi}`;
  if (abi < LEAST_LANDLOCK_ABI)
    return `it takes Landlock version ${LEAST_LANDLOCK_ABI} (Linux 6.2), and this kernel ${has}`;
  const fd = memfdCreate("baton-probe", 0);
  try {
    // One that cannot keep a file in memory from being executed would let a process make programs for itself.
    if ((status(fd).mode & EXECUTABLE) !== 0) return "it takes Linux 6.3: older ones have no MFD_NOEXEC_SEAL";
  } finally {
    close(fd);
  }
  return undefined;
}

/**
 * The calling thread, and what it starts and executes, has nothing but this from now on; the filter is for the other threads,
 * too. It cannot be undone.
 * @throws VmmError "sandbox", SysError
 */
export function restrict(rules: readonly PathRule[]): void {
  const filter = sandboxFilter();
  const rulesetFd = makeRuleset(landlockAbi(), rules);
  setNoNewPrivileges();
  dropCapabilities();
  restrictSelf(rulesetFd);
  close(rulesetFd);
  installFilter(filter);
}

function makeRuleset(abi: number, rules: readonly PathRule[]): number {
  const rulesetFd = createRuleset(abi);
  for (const { path, access, optional } of rules) {
    try {
      allowPath(rulesetFd, path, access);
    } catch (cause) {
      if (optional && PASSED_OVER.includes((cause as { errno?: number }).errno)) continue;
      throw new VmmError("sandbox", `-sandbox on: access to ${path} cannot be allowed`, { cause });
    }
  }
  return rulesetFd;
}

function pin(programFd: number): number {
  try {
    return pinProgram(programFd);
  } catch (cause) {
    throw new VmmError("sandbox", "-sandbox on: this program cannot be pinned in memory", { cause });
  } finally {
    close(programFd);
  }
}
