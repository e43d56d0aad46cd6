// SPDX-License-Identifier: Apache-2.0
// /dev/liveupdate, the kernel's Live Update Orchestrator: open files that outlive a kexec, one function for each ioctl
// (https://docs.kernel.org/userspace-api/liveupdate.html).
//
// A session is an fd. Closing one that was created gives up what it preserved; closing one that was retrieved finishes it.
import { O_RDWR, open } from "../fd.ts";
import { check, lazyCall } from "../libc.ts";
import * as abi from "./abi.ts";

const cIoctl = lazyCall("int ioctl(int fd, unsigned long request, void *arg)");

function call(name: string, fd: number, request: number, raw: Uint8Array, detail: string): Uint8Array {
  check(name, cIoctl(fd, request, raw), detail);
  return raw;
}

/**
 * Opens the device, which one process can have open at a time; sessions live on without it.
 * @throws SysError ENOENT: the kernel has none or was not booted with it; EBUSY: open elsewhere; EIO: the sessions of the
 *   last kernel cannot be read
 */
export function openLiveUpdate(path: string = abi.LIVEUPDATE_DEVICE): number {
  return open(path, O_RDWR);
}

/** A new session's fd, close-on-exec. @throws SysError EEXIST: there is one of that name */
export function createSession(deviceFd: number, name: string): number {
  const raw = abi.sessionStruct(name);
  return abi.fdOf(call("CREATE_SESSION", deviceFd, abi.LIVEUPDATE_IOCTL_CREATE_SESSION, raw, name));
}

/** The fd, close-on-exec, of a session of the last kernel. @throws SysError ENOENT: none of that name; EINVAL: taken */
export function retrieveSession(deviceFd: number, name: string): number {
  const raw = abi.sessionStruct(name);
  return abi.fdOf(call("RETRIEVE_SESSION", deviceFd, abi.LIVEUPDATE_IOCTL_RETRIEVE_SESSION, raw, name));
}

/**
 * Has the file of `fd` outlive the next kexec, as `token`. Its size cannot change while the session is open.
 * @throws SysError ENOENT: the kernel preserves no such file; EBUSY: a session has it already
 */
export function preserveFd(sessionFd: number, fd: number, token: bigint): void {
  const raw = abi.sessionFdStruct(token, fd);
  call("PRESERVE_FD", sessionFd, abi.LIVEUPDATE_SESSION_PRESERVE_FD, raw, `session fd ${sessionFd}, fd ${fd}`);
}

/** An fd, close-on-exec, of a file of the last kernel. A failure is final: the kernel answers the same ever after. */
export function retrieveFd(sessionFd: number, token: bigint): number {
  const raw = abi.sessionFdStruct(token);
  const detail = `session fd ${sessionFd}, token ${token}`;
  return abi.fdOf(call("RETRIEVE_FD", sessionFd, abi.LIVEUPDATE_SESSION_RETRIEVE_FD, raw, detail));
}

/** The kernel lets go of a retrieved session's files: those not retrieved are freed, the others live as long as their fds. */
export function finishSession(sessionFd: number): void {
  call("FINISH", sessionFd, abi.LIVEUPDATE_SESSION_FINISH, abi.sessionFinishStruct(), `session fd ${sessionFd}`);
}
