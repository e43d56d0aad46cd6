// SPDX-License-Identifier: Apache-2.0
// The monitor of a running VM, for the verbs that control it.
import { UsageError } from "../config/usage.ts";
import { VmmError } from "../errors.ts";
import { type ConnectedSocket, connect, type QmpAddress, type QmpClient } from "../qmp/client.ts";

/** A monitor answers within milliseconds; what does not in this time is busy with another client, or no monitor. */
const CONNECT_TIMEOUT_MS = 5000;

/** `HOST:PORT`, or else the path of a UNIX socket, with or without QEMU's `unix:` and `tcp:` in front. */
export function parseMonitorAddress(text: string): Exclude<QmpAddress, ConnectedSocket> {
  const path = /^unix:(.+)$/.exec(text)?.[1];
  if (path !== undefined) return { path };
  const inet = /^(?:tcp:)?(?:\[([^\]]+)\]|([^:/]+)):(\d{1,5})$/.exec(text);
  if (inet === null) return { path: text };
  return { host: (inet[1] ?? inet[2])!, port: Number(inet[3]) };
}

/**
 * @param fd connected to it already, and the client's from then on
 * @throws VmmError naming the socket, with the reason as its cause
 */
export async function connectMonitor(socket: string, fd?: number): Promise<QmpClient> {
  const timeout = new VmmError("monitor-silent", `No QMP greeting within ${CONNECT_TIMEOUT_MS / 1000} s`);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(timeout), CONNECT_TIMEOUT_MS);
  try {
    return await connect(fd === undefined ? parseMonitorAddress(socket) : { fd }, { signal: abort.signal });
  } catch (cause) {
    throw new VmmError("monitor", `The monitor at ${socket} cannot be reached: is it the VM's -qmp socket?`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

/** The one positional argument of a verb. @throws UsageError */
export function onlySocket(verb: string, [socket, extra]: readonly string[]): string {
  if (socket === undefined) throw new UsageError(`${verb}: Give the VM's QMP socket: baton ${verb} SOCKET`);
  if (extra !== undefined) throw new UsageError(`${verb}: Unexpected argument '${extra}'`);
  return socket;
}
