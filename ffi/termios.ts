// SPDX-License-Identifier: Apache-2.0
// Terminal settings, termios(3).
import { check, lazyCall } from "./libc.ts";

/**
 * struct termios of glibc (bits/termios-struct.h): u32 c_iflag, c_oflag, c_cflag, c_lflag; u8 c_line, c_cc[32]; speeds.
 */
const TERMIOS_SIZE_BYTES = 60;
const C_IFLAG = 0;
const C_OFLAG = 1;
const C_CFLAG = 2;
const C_LFLAG = 3;
const C_CC_BYTE = 17;

/** asm-generic/termbits.h, termbits-common.h */
const IGNBRK = 0o1;
const BRKINT = 0o2;
const PARMRK = 0o10;
const ISTRIP = 0o40;
const INLCR = 0o100;
const IGNCR = 0o200;
const ICRNL = 0o400;
const IXON = 0o2000;
const OPOST = 0o1;
const CSIZE = 0o60;
const CS8 = 0o60;
const PARENB = 0o400;
const ISIG = 0o1;
const ICANON = 0o2;
const ECHO = 0o10;
const ECHONL = 0o100;
const IEXTEN = 0o100000;
const VTIME = 5;
const VMIN = 6;
const TCSANOW = 0;

const cTcgetattr = lazyCall("int tcgetattr(int fd, void *termios)");
const cTcsetattr = lazyCall("int tcsetattr(int fd, int when, const void *termios)");

export interface RawModeOptions {
  /** ^C, ^Z and ^\ make signals instead of bytes. */
  signals: boolean;
  /** Line feeds get their carriage return on output. */
  postProcessOutput: boolean;
}

export function isTerminal(fd: number): boolean {
  return cTcgetattr(fd, new Uint8Array(TERMIOS_SIZE_BYTES)) >= 0;
}

/** The settings as an opaque value for `setTermios`. */
export function getTermios(fd: number): Uint8Array {
  const termios = new Uint8Array(TERMIOS_SIZE_BYTES);
  check("tcgetattr", cTcgetattr(fd, termios), `fd ${fd}`);
  return termios;
}

export function setTermios(fd: number, termios: Uint8Array): void {
  if (termios.byteLength !== TERMIOS_SIZE_BYTES) throw new RangeError(`Not a termios: ${termios.byteLength} bytes`);
  check("tcsetattr", cTcsetattr(fd, TCSANOW, termios), `fd ${fd}`);
}

/** `termios` with every byte passed on at once and unchanged, without echo. */
export function rawTermios(termios: Uint8Array, options: RawModeOptions): Uint8Array {
  const raw = termios.slice();
  const flags = new Uint32Array(raw.buffer, 0, 4);
  flags[C_IFLAG]! &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
  if (options.postProcessOutput) flags[C_OFLAG]! |= OPOST;
  else flags[C_OFLAG]! &= ~OPOST;
  flags[C_CFLAG] = (flags[C_CFLAG]! & ~(CSIZE | PARENB)) | CS8;
  flags[C_LFLAG]! &= ~(ECHO | ECHONL | ICANON | IEXTEN | ISIG);
  if (options.signals) flags[C_LFLAG]! |= ISIG;
  raw[C_CC_BYTE + VMIN] = 1;
  raw[C_CC_BYTE + VTIME] = 0;
  return raw;
}
