// SPDX-License-Identifier: Apache-2.0
// Character devices by their specification and by their saved state.

import type { ChardevSpec } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import { type HostChardev, type HostChardevState, type Report, reportToStderr } from "./base.ts";
import { NullChardev } from "./null.ts";
import { openFile, openPipe, PlainChardev, plainFds } from "./plain.ts";
import { PtyChardev } from "./pty.ts";
import { SocketChardev } from "./socket.ts";
import { StdioChardev } from "./stdio.ts";

/**
 * Opens the back end of a character device.
 *
 * @param report hears of trouble that the device survives: a full disk, a peer that cannot be reached
 * @throws VmmError `chardev-open` when it cannot be opened
 * @example
 * const console = create({ backend: "socket", id: "c0", address: { type: "unix", path: "/tmp/c0" }, server: true, wait: false }, reactor);
 * console.attach(serialPort);
 */
export function create(spec: ChardevSpec, reactor: Reactor, report: Report = reportToStderr): HostChardev {
  try {
    return openBackend(spec, reactor, report);
  } catch (error) {
    if (error instanceof VmmError && error.code === "stdio-in-use") throw error;
    throw new VmmError("chardev-open", `Cannot open character device ${spec.id}`, { cause: error });
  }
}

function openBackend(spec: ChardevSpec, reactor: Reactor, report: Report): HostChardev {
  switch (spec.backend) {
    case "null":
      return new NullChardev(spec, false);
    case "file":
      return new PlainChardev(spec, reactor, report, openFile(spec));
    case "pipe":
      return new PlainChardev(spec, reactor, report, openPipe(spec));
    case "stdio":
      return StdioChardev.open(spec, reactor, report);
    case "pty":
      return PtyChardev.open(spec, reactor, report);
    case "socket":
      return SocketChardev.open(spec, reactor, report);
  }
}

/**
 * Takes over a saved device: its fds as they are, what was queued, its peer. Nothing is opened or bound, `opened` is not
 * called for a peer that was there already, and nothing is read or written until `thaw()`: until then the process that
 * saved the device may take it back.
 */
export function restore(state: HostChardevState, reactor: Reactor, report: Report = reportToStderr): HostChardev {
  const { spec } = state;
  switch (spec.backend) {
    case "null":
      return new NullChardev(spec, true);
    case "file":
    case "pipe":
      return new PlainChardev(spec, reactor, report, plainFds(state), state);
    case "stdio":
      return StdioChardev.restore(spec, reactor, report, state);
    case "pty":
      return PtyChardev.restore(spec, reactor, report, state);
    case "socket":
      return SocketChardev.restore(spec, reactor, report, state);
  }
}
