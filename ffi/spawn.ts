// SPDX-License-Identifier: Apache-2.0
// Starting a program that an fd is open on, with chosen fds (posix_spawn(3)). The runtimes start programs by path, and do not
// agree on how a child gets an fd.
import { type ExecPlan, execAddresses } from "./exec.ts";
import { close, duplicate } from "./fd.ts";
import { check, lazyCall } from "./libc.ts";
import { SIGSET_BYTES } from "./signal.ts";

/** bits/types: posix_spawn_file_actions_t and posix_spawnattr_t of glibc; musl's are as large. */
const FILE_ACTIONS_BYTES = 80;
const ATTRIBUTES_BYTES = 336;
/** spawn.h */
const POSIX_SPAWN_SETSIGMASK = 0x08;

// These return an error number, not -1.
const cActionsInit = lazyCall("int posix_spawn_file_actions_init(void *actions)");
const cActionsDup2 = lazyCall("int posix_spawn_file_actions_adddup2(void *actions, int fd, int newFd)");
const cActionsDestroy = lazyCall("int posix_spawn_file_actions_destroy(void *actions)");
const cAttributesInit = lazyCall("int posix_spawnattr_init(void *attributes)");
const cAttributesFlags = lazyCall("int posix_spawnattr_setflags(void *attributes, short flags)");
const cAttributesMask = lazyCall("int posix_spawnattr_setsigmask(void *attributes, const void *mask)");
const cAttributesDestroy = lazyCall("int posix_spawnattr_destroy(void *attributes)");
const cSpawn = lazyCall(
  "int posix_spawn(void *pid, const char *path, const void *actions, const void *attributes, uintptr_t argv, uintptr_t envp)",
);

/**
 * Starts the program of a plan that has an fd, with standard input, output and error of this process, `fds` as its numbers from
 * `firstFd` on, and no signal blocked. Returns its pid; it is the caller's to reap.
 * @throws SysError as `exec`
 */
export function spawnProgram(plan: ExecPlan<{ fd: number }>, fds: readonly number[], firstFd: number): number {
  const actions = new Uint8Array(FILE_ACTIONS_BYTES);
  const attributes = new Uint8Array(ATTRIBUTES_BYTES);
  const pid = new Int32Array(1);
  const { argv, envp } = execAddresses(plan);
  check("posix_spawn_file_actions_init", -cActionsInit(actions));
  check("posix_spawnattr_init", -cAttributesInit(attributes));
  const sources: number[] = [];
  try {
    for (const [index, fd] of fds.entries()) {
      // From above, so that no number is overwritten before it is used.
      const source = duplicate(fd, firstFd + fds.length);
      sources.push(source);
      check("posix_spawn_file_actions_adddup2", -cActionsDup2(actions, source, firstFd + index), `fd ${fd}`);
    }
    check("posix_spawnattr_setflags", -cAttributesFlags(attributes, POSIX_SPAWN_SETSIGMASK));
    check("posix_spawnattr_setsigmask", -cAttributesMask(attributes, new Uint8Array(SIGSET_BYTES)));
    const program = duplicate(plan.program.fd, firstFd + fds.length);
    sources.push(program);
    // The child has this process's fds until it executes, so that the path means the same to it.
    const path = `/proc/self/fd/${program}`;
    check("posix_spawn", -cSpawn(pid, path, actions, attributes, argv, envp), path);
  } finally {
    for (const fd of sources) close(fd);
    cActionsDestroy(actions);
    cAttributesDestroy(attributes);
  }
  return pid[0]!;
}
