// SPDX-License-Identifier: Apache-2.0
// Replacing the program image of this process, and keeping its old address space alive for a moment (execveat(2),
// clone(2)).
import { SysError, unlessErrno } from "./error.ts";
import { lazyCall } from "./libc.ts";
import { mapStack } from "./mmap.ts";
import { addressOf, errno, type Foreign, libcFunction } from "./native.ts";
import { kill, SIGKILL } from "./process.ts";
import { withSignalsBlocked } from "./signal.ts";

const SYS_EXECVEAT = 322; // <asm/unistd_64.h>
const AT_FDCWD = -100; // <linux/fcntl.h>
export const AT_EMPTY_PATH = 0x1000;
const CLONE_VM = 0x100; // <linux/sched.h>
const CLONE_FILES = 0x400;
const HOLDER_STACK_BYTES = 64 * 1024;

const cExecveat = lazyCall(
  "long syscall(long number, int fd, const char *path, uintptr_t argv, uintptr_t envp, int flags)",
);

/** A NULL-terminated array of C strings. `bytes` must stay referenced until the call that takes `pointers` is over. */
function stringArray(strings: readonly string[]): { pointers: BigUint64Array; bytes: Uint8Array[] } {
  const bytes = strings.map((text) => new TextEncoder().encode(`${text}\0`));
  const pointers = new BigUint64Array(bytes.length + 1);
  for (const [index, text] of bytes.entries()) pointers[index] = addressOf(text);
  return { pointers, bytes };
}

/** What program to run: by path, or the one that an fd is open on, wherever it has gone meanwhile. */
export type Program = { path: string } | { fd: number };

/** What a later exec needs, encoded beforehand: nothing of it is left to do inside the pause. */
export interface ExecPlan<P extends Program = Program> {
  program: P;
  argv: ReturnType<typeof stringArray>;
  envp: ReturnType<typeof stringArray>;
}

/** Prepares an exec. @throws TypeError when a string has a NUL in it */
export function planExec<P extends Program>(
  program: P,
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): ExecPlan<P> {
  const variables = Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]));
  for (const text of [...argv, ...variables]) {
    if (text.includes("\0"))
      throw new TypeError(`Program argument or variable contains a NUL: ${JSON.stringify(text)}`);
  }
  return { program, argv: stringArray(argv), envp: stringArray(variables) };
}

/** What execve(2) takes; good as long as the plan is referenced. */
export function execAddresses({ argv, envp }: ExecPlan): { argv: bigint; envp: bigint } {
  return { argv: addressOf(argv.pointers), envp: addressOf(envp.pointers) };
}

/**
 * Replaces this process's program. Returns only by throwing: the process is as it was then.
 *
 * SAFETY: on success nothing of this program runs any more, in any thread: what must survive is in fds without
 * FD_CLOEXEC. The kernel copies the strings before it returns or commits; the plan keeps them alive until then.
 *
 * @throws SysError E2BIG, ENOENT (of a missing interpreter), EACCES, ENOEXEC, …
 */
export function exec(plan: ExecPlan): never {
  const { program } = plan;
  const { argv, envp } = execAddresses(plan);
  const [fd, path, flags] = "fd" in program ? [program.fd, "", AT_EMPTY_PATH] : [AT_FDCWD, program.path, 0];
  const result = cExecveat(SYS_EXECVEAT, fd, path, argv, envp, flags);
  throw new SysError("execveat", -result, path === "" ? `fd ${fd}` : path);
}

/**
 * Starts a process that does nothing but share this address space and these fds, and returns its pid.
 *
 * exec destroys the caller's address space before the new program starts, at a cost that grows with mapped RAM, unless
 * somebody else still uses it. This process does, until `killHolder`, or for `seconds` when nobody comes for it.
 *
 * SAFETY: the child runs libc's sleep() on a stack of its own and touches nothing else. It shares the caller's
 * thread-local storage, of which sleep() writes only errno, and only when a signal interrupts it.
 */
export function holdAddressSpace(seconds: number): number {
  const { clone, sleep, stackTop } = readyHolder();
  // The child inherits the mask and the handlers: a signal to the process group must not run the runtime's in it.
  return withSignalsBlocked(() => {
    const pid = clone(sleep, stackTop, CLONE_VM | CLONE_FILES, seconds) as number;
    const failure = errno();
    if (pid < 0) throw new SysError("clone", failure);
    return pid;
  });
}

/** What a holder is made from: one stack for the life of the process, because an exec that fails must not cost a mapping. */
interface HolderParts {
  clone: Foreign;
  sleep: bigint;
  stackTop: bigint;
}

let holderParts: HolderParts | undefined;

/** Does beforehand what `holdAddressSpace` would do the first time. */
export function readyHolder(): HolderParts {
  holderParts ??= {
    clone: libcFunction("int clone(uintptr_t fn, uintptr_t stack, int flags, uintptr_t arg)"),
    sleep: libcFunction("uintptr_t dlsym(uintptr_t handle, const char *symbol)")(0n, "sleep") as bigint,
    stackTop: mapStack(HOLDER_STACK_BYTES) + BigInt(HOLDER_STACK_BYTES) - 64n,
  };
  return holderParts;
}

/**
 * Kills a holder. Its memory is torn down by the kernel as it dies, which `reapChild` waits for.
 * @throws RangeError for 1 and below: kill(2) would take that for init, or for whole groups of processes
 */
export function killHolder(pid: number): void {
  if (!(pid > 1)) throw new RangeError(`Process ${pid} is no holder of an address space`);
  unlessErrno("ESRCH", () => kill(pid, SIGKILL));
}
