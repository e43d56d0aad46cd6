// SPDX-License-Identifier: Apache-2.0
// eventfd(2): a counter that wakes whoever polls it.
import { read, write } from "./fd.ts";
import { check, lazyCall } from "./libc.ts";

/** linux/eventfd.h */
const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

const cEventfd = lazyCall("int eventfd(unsigned int initial, int flags)");

/** A non-blocking, close-on-exec eventfd. */
export function eventfd(initial = 0): number {
  return check("eventfd", cEventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK));
}

/** Adds to the counter: wakes those who wait for it. */
export function signalEventfd(fd: number, count = 1n): void {
  write(fd, new Uint8Array(new BigUint64Array([count]).buffer));
}

/** Takes the counter and sets it to 0; 0 when nothing was signalled. */
export function takeEventfd(fd: number): bigint {
  const counter = new BigUint64Array(1);
  return read(fd, new Uint8Array(counter.buffer)) === undefined ? 0n : counter[0]!;
}
