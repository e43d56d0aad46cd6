// SPDX-License-Identifier: Apache-2.0
// Terminal settings that a runtime would change behind the program's back.
import { close, duplicateTo, O_RDWR, open } from "../../ffi/fd.ts";
import { isTerminal } from "../../ffi/termios.ts";

const STANDARD_FDS = [0, 1, 2];

let isKept = false;

/**
 * At exit, leaves terminals as the program has set them.
 *
 * Bun remembers the settings of terminals on fds 0 to 2 when it starts and restores them at the very end. After an exec
 * out of raw mode those are the raw ones. So the last thing to do is to take the terminals away from these fds.
 */
export function keepTerminalsAtExit(): void {
  if (isKept || !("Bun" in globalThis)) return;
  isKept = true;
  process.on("exit", () => {
    const nullFd = open("/dev/null", O_RDWR);
    for (const fd of STANDARD_FDS) if (isTerminal(fd)) duplicateTo(nullFd, fd);
    close(nullFd);
  });
}
