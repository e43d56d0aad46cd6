// SPDX-License-Identifier: Apache-2.0
// Starting a program that an fd is open on, with chosen fds. The runtimes and posix_spawn(3) start programs by path, which a
// sandbox refuses, and do not agree on how a child gets an fd.
//
// What happens between clone(2) and execveat(2) must run no JavaScript. It is a list of libc calls instead, each a context
// of makecontext(3) that goes on with the next one:
//
//   clone(CLONE_VM | CLONE_VFORK) ─▶ dup2 ─▶ … ─▶ execveat ─ fails ─▶ note it ─▶ _exit
import { SysError } from "./error.ts";
import { AT_EMPTY_PATH, type ExecPlan, execAddresses } from "./exec.ts";
import { close, duplicate } from "./fd.ts";
import { addressOf, errno, type Foreign, libcFunction } from "./native.ts";
import { SIGCHLD, wait4 } from "./process.ts";
import { SIGSET_BYTES, withSignalsBlocked } from "./signal.ts";
import { SYS } from "./unistd.ts";

/** linux/sched.h */
const CLONE_VM = 0x100;
const CLONE_VFORK = 0x4000;

/** ucontext_t of glibc, sys/ucontext.h: what is set here; no version of it is larger than this. */
const UCONTEXT_BYTES = 1024;
const UC_LINK = 8;
const UC_STACK_SP = 16;
const UC_STACK_SIZE = 32;
const UC_SIGMASK = 296;
/** What libc's calls need, several times over. */
const STACK_BYTES = 16 * 1024;
const STEP_BYTES = UCONTEXT_BYTES + STACK_BYTES;
const ARGUMENT_COUNT = 6;

/** Fds that the child is given have numbers below this one. */
const MAX_GIVEN_FD = 10;
const EXIT_NOT_FOUND = 127;

interface Functions {
  clone: Foreign;
  getcontext: Foreign;
  makecontext: Foreign;
  addresses: Record<"setcontext" | "dup2" | "syscall" | "memset" | "_exit", bigint>;
}

let functions: Functions | undefined;

function libc(): Functions {
  if (functions !== undefined) return functions;
  const dlsym = libcFunction("uintptr_t dlsym(uintptr_t handle, const char *symbol)");
  const address = (name: string): bigint => BigInt(dlsym(0n, name) as number | bigint);
  const words = "abcdef".split("").map((name) => `uintptr_t ${name}`);
  functions = {
    clone: libcFunction("int clone(uintptr_t fn, uintptr_t stack, int flags, uintptr_t arg)"),
    getcontext: libcFunction("int getcontext(uintptr_t context)"),
    makecontext: libcFunction(`void makecontext(uintptr_t context, uintptr_t fn, int count, ${words.join(", ")})`),
    addresses: {
      setcontext: address("setcontext"),
      dup2: address("dup2"),
      syscall: address("syscall"),
      memset: address("memset"),
      _exit: address("_exit"),
    },
  };
  return functions;
}

/** A call of libc that the child makes. */
interface Step {
  call: Exclude<keyof Functions["addresses"], "setcontext">;
  args: readonly (number | bigint)[];
  /** Signals are blocked before this step and not after it: the program is to start with none blocked. */
  unblocksSignals?: boolean;
}

/** Which fd of this process is which number of the child's. */
export interface GivenFd {
  fd: number;
  asFd: number;
}

/**
 * Starts the program of a plan that has an fd, with standard input, output and error of this process unless `given` has
 * others, and no signal blocked. Returns its pid; it is the caller's to reap.
 * @throws SysError as `exec`
 */
export function spawnProgram(plan: ExecPlan<{ fd: number }>, given: readonly GivenFd[]): number {
  const { argv, envp } = execAddresses(plan);
  const empty = new Uint8Array(1);
  const failed = new Uint8Array(1);
  const own: number[] = [];
  const aside = (fd: number): number => {
    own.push(duplicate(fd, MAX_GIVEN_FD));
    return own.at(-1)!;
  };
  try {
    const programFd = aside(plan.program.fd);
    const steps: Step[] = [
      ...given.map(({ fd, asFd }): Step => ({ call: "dup2", args: [aside(fd), asFd] })),
      {
        call: "syscall",
        args: [SYS.execveat, programFd, addressOf(empty), argv, envp, AT_EMPTY_PATH],
        unblocksSignals: true,
      },
      { call: "memset", args: [addressOf(failed), 1, 1] },
      { call: "_exit", args: [EXIT_NOT_FOUND] },
    ];
    const [pid, error] = withSignalsBlocked(() => run(steps));
    if (pid < 0) throw new SysError("clone", error);
    if (failed[0] === 0) return pid;
    wait4(pid);
    throw new SysError("execveat", error, `fd ${plan.program.fd}`);
  } finally {
    for (const fd of own) close(fd);
  }
}

/**
 * Has a child make these calls; it ends or executes with the last. Returns its pid, and errno of whichever call failed last.
 *
 * SAFETY: the child shares this address space, and this thread stands still until it has executed or ended: `memory`, which is
 * its stacks, and what the steps point to are alive that long. It makes the calls listed and runs nothing else; of the
 * thread-local storage it writes errno. Signals are blocked but for the moment of execveat itself.
 */
function run(steps: readonly Step[]): [pid: number, errno: number] {
  const { clone, getcontext, makecontext, addresses } = libc();
  // With the stack that clone itself wants: the first step leaves it at once.
  const memory = new Uint8Array((steps.length + 1) * STEP_BYTES + 16);
  const view = new DataView(memory.buffer);
  const start = addressOf(memory);
  const first = Number(-start & 15n);
  const address = (offset: number): bigint => start + BigInt(offset);
  for (const [index, { call, args, unblocksSignals = false }] of steps.entries()) {
    const context = first + index * STEP_BYTES;
    getcontext(address(context));
    view.setBigUint64(context + UC_LINK, index + 1 < steps.length ? address(context + STEP_BYTES) : 0n, true);
    view.setBigUint64(context + UC_STACK_SP, address(context + UCONTEXT_BYTES), true);
    view.setBigUint64(context + UC_STACK_SIZE, BigInt(STACK_BYTES), true);
    if (unblocksSignals) memory.fill(0, context + UC_SIGMASK, context + UC_SIGMASK + SIGSET_BYTES);
    const words = Array.from({ length: ARGUMENT_COUNT }, (_, at) => args[at] ?? 0);
    makecontext(address(context), addresses[call], ARGUMENT_COUNT, ...words);
  }
  const stackTop = address(first + (steps.length + 1) * STEP_BYTES);
  const pid = clone(addresses.setcontext, stackTop, CLONE_VM | CLONE_VFORK | SIGCHLD, address(first)) as number;
  return [pid, errno()];
}
