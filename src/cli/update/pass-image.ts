// SPDX-License-Identifier: Apache-2.0
// A program for a VM in a sandbox, which can open none: it is read here, sealed in memory, and passed over the monitor's socket.
import { close, O_RDONLY, open } from "../../../ffi/fd.ts";
import { sendMessage } from "../../../ffi/scm.ts";
import { AF_UNIX, unixAddress } from "../../../ffi/sockaddr.ts";
import { connect, socket } from "../../../ffi/socket.ts";
import { VmmError } from "../../errors.ts";
import type { QmpClient } from "../../qmp/client.ts";
import { hashProgram, pinProgram } from "../../sandbox/image.ts";
import { connectMonitor, parseMonitorAddress } from "../monitor.ts";

/** What the VM calls the fd. */
const FD_NAME = "baton-update-image";

/** What `migrate-set-parameters` takes. */
export interface PassedImage {
  "cpr-exec-image": string;
  "cpr-exec-sha256": string;
}

/** Whether programs must be passed to that VM. One that cannot say so is older than sandboxes. */
export async function isSandboxed(qmp: QmpClient): Promise<boolean> {
  const commands = await qmp.execute("query-commands");
  if (!commands.some(({ name }) => name === "query-sandbox")) return false;
  return (await qmp.execute("query-sandbox")).enabled;
}

/**
 * Passes the program at `path` to the VM, by a connection of its own.
 * @throws VmmError "image", "monitor", QmpError, SysError
 */
export async function passImage(monitor: string, path: string): Promise<PassedImage> {
  const address = parseMonitorAddress(monitor);
  if (!("path" in address)) {
    throw new VmmError(
      "image",
      `No program can be passed to a VM in a sandbox by TCP: use a UNIX socket, not ${monitor}`,
    );
  }
  const imageFd = pin(path);
  try {
    const sha256 = await hashProgram(imageFd);
    const fd = socket(AF_UNIX);
    try {
      connect(fd, unixAddress(address.path));
    } catch (error) {
      close(fd);
      throw error;
    }
    await using qmp = await connectMonitor(monitor, fd);
    // It waits there for the command that names it.
    sendMessage(fd, new TextEncoder().encode("\n"), [imageFd]);
    await qmp.execute("getfd", { fdname: FD_NAME });
    return { "cpr-exec-image": FD_NAME, "cpr-exec-sha256": sha256 };
  } finally {
    close(imageFd);
  }
}

function pin(path: string): number {
  const fd = open(path, O_RDONLY);
  try {
    return pinProgram(fd);
  } finally {
    close(fd);
  }
}
