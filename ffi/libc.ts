// SPDX-License-Identifier: Apache-2.0
// libc functions that answer as the kernel does: the result, or -errno.
import { SysError } from "./error.ts";
import { errno, type Foreign, libcFunction } from "./native.ts";

/** asm-generic/errno-base.h, asm-generic/errno.h (x86-64): the values that code decides on. */
export const EPERM = 1;
export const ENOENT = 2;
export const ESRCH = 3;
export const EINTR = 4;
export const EIO = 5;
export const EBADF = 9;
export const ENXIO = 6;
export const EAGAIN = 11;
export const EACCES = 13;
export const EEXIST = 17;
export const EXDEV = 18;
export const EINVAL = 22;
export const ENOSPC = 28;
export const EPIPE = 32;
export const ENAMETOOLONG = 36;
export const ENOSYS = 38;
export const EBADFD = 77;
export const EOPNOTSUPP = 95;
export const EAFNOSUPPORT = 97;
export const EADDRINUSE = 98;
export const ECONNABORTED = 103;
export const ECONNRESET = 104;
export const ENOTCONN = 107;
export const ECONNREFUSED = 111;
export const ETIMEDOUT = 110;
export const EINPROGRESS = 115;

/** What koffi takes for a parameter. Buffers are typed arrays: Deno's koffi refuses a DataView. */
export type Argument = number | bigint | string | ArrayBufferView | null;

/** A call into libc: its result, or -errno. */
export type Call = (...args: Argument[]) => number;

/**
 * Declares a libc function by its C prototype (variadic ones with fixed arguments, `ssize_t` as `int64_t`). The
 * declaration costs koffi 10–40 µs, so it is made at the first call: start-up pays only for what it uses.
 *
 * A call that a signal interrupts is made again, unless `retry` is false.
 */
export function lazyCall(prototype: string, { retry = true } = {}): Call {
  let foreign: Foreign | undefined;
  return (...args) => {
    foreign ??= libcFunction(prototype);
    for (;;) {
      const result = Number(foreign(...args));
      if (result !== -1) return result;
      const code = errno();
      if (code !== EINTR || !retry) return -code;
    }
  };
}

/** Passes a result on, or throws the SysError that a negative one stands for. */
export function check(syscall: string, result: number, detail = ""): number {
  if (result < 0) throw new SysError(syscall, -result, detail);
  return result;
}

let strerror: Foreign | undefined;

/** What an errno means, in libc's words: "No such file or directory". */
export function errorText(code: number): string {
  strerror ??= libcFunction("const char *strerror(int code)");
  return strerror(code) as string;
}
