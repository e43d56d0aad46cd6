// SPDX-License-Identifier: Apache-2.0
// A process in a sandbox that tries what it is told to, and prints what came of it: `refused ERRNO`, or `done`. What it
// executes prints for itself.
//
//   confined.ts ATTEMPT DIR    DIR: the one directory whose files it may use
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { SysError } from "../../../ffi/error.ts";
import { AT_EMPTY_PATH, planExec } from "../../../ffi/exec.ts";
import {
  close,
  O_CREAT,
  O_DIRECTORY,
  O_PATH,
  O_RDONLY,
  O_WRONLY,
  open,
  pread,
  pwrite,
  status,
} from "../../../ffi/fd.ts";
import { ACCESS } from "../../../ffi/landlock.ts";
import { check, lazyCall } from "../../../ffi/libc.ts";
import { memfdCreate } from "../../../ffi/memfd.ts";
import { addressOf } from "../../../ffi/native.ts";
import { kill, wait4 } from "../../../ffi/process.ts";
import { AF_UNIX } from "../../../ffi/sockaddr.ts";
import { socket } from "../../../ffi/socket.ts";
import { spawnProgram } from "../../../ffi/spawn.ts";
import { SYS } from "../../../ffi/unistd.ts";
import { restrict } from "../../../src/sandbox/enter.ts";
import { loaderOf, pinProgram } from "../../../src/sandbox/image.ts";
import { isSandboxed } from "../../../src/sandbox/state.ts";

const [attempt = "", dir = ""] = process.argv.slice(2);
const ECHO = "/bin/echo";

const syscall = lazyCall(
  "long syscall(long number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f)",
);
const string = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`);
const call = (name: string, number: number, ...args: (number | bigint)[]): number => {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args;
  return check(name, syscall(number, a, b, c, d, e, f));
};

/** As whoever had taken over the process would. */
function execveat(fd: number, path: string, flags: number): void {
  const { argv, envp } = planExec({ fd }, ["echo", "executed"], {});
  const bytes = string(path);
  call("execveat", SYS.execveat, fd, addressOf(bytes), addressOf(argv.pointers), addressOf(envp.pointers), flags);
}

function execve(path: string): void {
  const { argv, envp } = planExec({ path }, ["echo", "executed"], {});
  call("execve", SYS.execve, addressOf(string(path)), addressOf(argv.pointers), addressOf(envp.pointers));
}

const echoFd = open(ECHO, O_RDONLY);
const pinned = pinProgram(echoFd);
const script = join(dir, "script");
writeFileSync(script, `#!${ECHO}\n`, { mode: 0o755 });

/** A file in memory made under the filter, with echo in it. */
function ownImage(): number {
  const fd = memfdCreate("own", 0, { seals: 0 });
  const bytes = new Uint8Array(status(echoFd).sizeBytes);
  pread(echoFd, bytes, 0);
  pwrite(fd, bytes, 0);
  return fd;
}

const CLONE_NEWUSER = 0x1000_0000;
const CLONE_NEWNS = 0x0002_0000;
const PTRACE_TRACEME = 0;
const AF_ALG = 38;
const X32 = 0x4000_0000;
const UNKNOWN_SYSCALL = 460;
const TIOCSTI = 0x5412;
const MFD_CLOEXEC = 1;
const MFD_EXEC = 0x10;

const ATTEMPTS: Record<string, () => unknown> = {
  "execve of a path": () => execve(ECHO),
  "execve of a pinned image by path": () => execve(`/proc/self/fd/${pinned}`),
  "execveat of a path": () => execveat(-100, ECHO, 0),
  "execveat of a path relative to a directory": () => execveat(open("/bin", O_RDONLY | O_DIRECTORY), "echo", 0),
  "execveat of an open program": () => execveat(echoFd, "", AT_EMPTY_PATH),
  "execveat of an O_PATH fd": () => execveat(open(ECHO, O_PATH), "", AT_EMPTY_PATH),
  "execveat of a path beside a pinned fd": () => execveat(pinned, ECHO, AT_EMPTY_PATH),
  "execveat of a script": () => execveat(open(script, O_RDONLY), "", AT_EMPTY_PATH),
  "execveat of a file in memory of its own": () => execveat(ownImage(), "", AT_EMPTY_PATH),
  "making that executable": () => call("fchmod", SYS.fchmod, ownImage(), 0o755),
  "making an executable file in memory": () => memfdCreate("own", 0, { executable: true }),
  "making a file in memory that says nothing of it": () =>
    call("memfd_create", SYS.memfd_create, addressOf(string("own")), MFD_CLOEXEC),
  "making one that says both": () =>
    call("memfd_create", SYS.memfd_create, addressOf(string("own")), MFD_CLOEXEC | MFD_EXEC | 8),
  "execveat of a pinned image": () => execveat(pinned, "", AT_EMPTY_PATH),
  "spawning a pinned image": () => wait4(spawnProgram(planExec({ fd: pinned }, ["echo", "executed"], {}), [])),

  "reading a file elsewhere": () => open("/root/../home", O_RDONLY | O_DIRECTORY),
  "writing a file elsewhere": () => open(join(dir, "../written"), O_WRONLY | O_CREAT, 0o600),
  "writing a file that is allowed": () => close(open(join(dir, "written"), O_WRONLY | O_CREAT, 0o600)),
  "a signal to another process": () => kill(process.ppid, 0),
  "a socket": () => close(socket(AF_UNIX)),
  "a socket of the kernel's cryptography": () => socket(AF_ALG),
  "typing into a terminal": () => call("ioctl", SYS.ioctl, 0, TIOCSTI, addressOf(string("x"))),
  "a system call that nobody knows": () => call("unknown", UNKNOWN_SYSCALL),
  "being found in a sandbox": () => {
    if (!isSandboxed()) throw new Error("isSandboxed() says no");
  },

  ptrace: () => call("ptrace", SYS.ptrace, PTRACE_TRACEME),
  "another process's memory": () => call("process_vm_readv", SYS.process_vm_readv, process.ppid),
  mount: () => call("mount", SYS.mount),
  unshare: () => call("unshare", SYS.unshare, CLONE_NEWUSER),
  "a clone with namespaces": () => call("clone", SYS.clone, CLONE_NEWNS),
  setuid: () => call("setuid", SYS.setuid, 0),
  bpf: () => call("bpf", SYS.bpf),
  "loading a kernel": () => call("kexec_load", SYS.kexec_load),
  "loading a module": () => call("finit_module", SYS.finit_module),
  "a system call of x32": () => call("getpid", X32 + SYS.getpid),
};

const READ = ACCESS.READ_FILE | ACCESS.READ_DIR;
restrict([
  { path: loaderOf(pinned), access: ACCESS.EXECUTE },
  ...["/usr", "/lib", "/lib64", "/etc", "/proc"].map((path) => ({ path, access: READ, optional: true })),
  { path: dir, access: READ | ACCESS.WRITE_FILE | ACCESS.MAKE_REG },
]);

let outcome = "done";
try {
  ATTEMPTS[attempt]!();
} catch (error) {
  if (!(error instanceof SysError)) throw error;
  outcome = `refused ${error.code}`;
}
process.stdout.write(`${outcome}\n`);
process.exit(0);
