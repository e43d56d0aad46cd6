// SPDX-License-Identifier: Apache-2.0
// Pseudo-terminals, pty(7).
import { close, O_CLOEXEC, O_NOCTTY, O_NONBLOCK, O_RDWR, open } from "./fd.ts";
import { check, lazyCall } from "./libc.ts";
import { getTermios, rawTermios, setTermios } from "./termios.ts";

const cPosixOpenpt = lazyCall("int posix_openpt(int flags)");
const cGrantpt = lazyCall("int grantpt(int fd)");
const cUnlockpt = lazyCall("int unlockpt(int fd)");
/** Answers the error number itself, not -1 with errno. */
const cPtsname = lazyCall("int ptsname_r(int fd, void *buffer, size_t size)");

export interface Pty {
  /** The master, non-blocking and close-on-exec. */
  fd: number;
  /** Path of the slave: `/dev/pts/3`. */
  name: string;
}

/** A new pseudo-terminal in raw mode. Nobody has the slave open: the master reports a hang-up until somebody does. */
export function openPty(): Pty {
  const fd = check("posix_openpt", cPosixOpenpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  try {
    check("grantpt", cGrantpt(fd), `fd ${fd}`);
    check("unlockpt", cUnlockpt(fd), `fd ${fd}`);
    const name = ptyName(fd);
    // The settings belong to the slave and stay when it is closed; closing it also starts the hang-up state.
    const slaveFd = open(name, O_RDWR | O_NOCTTY);
    try {
      setTermios(slaveFd, rawTermios(getTermios(slaveFd), { signals: false, postProcessOutput: false }));
    } finally {
      close(slaveFd);
    }
    return { fd, name };
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** Path of the slave of a master. */
export function ptyName(fd: number): string {
  const buffer = new Uint8Array(128);
  check("ptsname_r", -cPtsname(fd, buffer, buffer.length), `fd ${fd}`);
  return new TextDecoder().decode(buffer.subarray(0, buffer.indexOf(0)));
}
