// SPDX-License-Identifier: Apache-2.0
// What the verbs that control a running VM have in common: the socket, and waiting for no longer than is sensible.
import { parseArgs } from "node:util";
import { UsageError } from "../config/usage.ts";
import { VmmError } from "../errors.ts";
import { connect, type QmpAddress, type QmpClient } from "../qmp/client.ts";

/** A monitor of Baton answers within milliseconds; one that does not in this time is busy with another client or is none. */
const CONNECT_TIMEOUT_MS = 5000;

/** `HOST:PORT`, or else the path of a UNIX socket, with or without QEMU's `unix:` and `tcp:` in front. */
export function parseMonitorAddress(text: string): QmpAddress {
  const path = /^unix:(.+)$/.exec(text)?.[1];
  if (path !== undefined) return { path };
  const inet = /^(?:tcp:)?(?:\[([^\]]+)\]|([^:/]+)):(\d{1,5})$/.exec(text);
  if (inet === null) return { path: text };
  return { host: (inet[1] ?? inet[2])!, port: Number(inet[3]) };
}

/** @throws VmmError naming the socket, with the reason as its cause */
export async function connectMonitor(socket: string): Promise<QmpClient> {
  const timeout = new VmmError("monitor-silent", `No QMP greeting within ${CONNECT_TIMEOUT_MS / 1000} s`);
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(timeout), CONNECT_TIMEOUT_MS);
  try {
    return await connect(parseMonitorAddress(socket), { signal: abort.signal });
  } catch (cause) {
    throw new VmmError("monitor", `The monitor at ${socket} cannot be reached: is it the VM's -qmp socket?`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

export interface VerbOptions {
  socket: string;
  json: boolean;
  /** Options of this verb alone, by name. */
  values: Record<string, string | undefined>;
}

/** Reads `SOCKET [--json] [OPTION…]`; undefined when help is wanted. `names` are the verb's own options. @throws UsageError */
export function parseVerb(
  verb: string,
  args: readonly string[],
  names: readonly string[] = [],
): VerbOptions | undefined {
  const own = Object.fromEntries(names.map((name) => [name, { type: "string" as const }]));
  let parsed: { values: Record<string, string | boolean | undefined>; positionals: string[] };
  try {
    const options = { json: { type: "boolean" as const }, help: { type: "boolean" as const }, ...own };
    parsed = parseArgs({ args: [...args], allowPositionals: true, options });
  } catch (cause) {
    throw new UsageError(`${verb}: ${(cause as Error).message}`);
  }
  const { values, positionals } = parsed;
  if (values.help === true) return undefined;
  const [socket, extra] = positionals;
  if (socket === undefined) throw new UsageError(`${verb}: Give the VM's QMP socket: baton ${verb} SOCKET`);
  if (extra !== undefined) throw new UsageError(`${verb}: Unexpected argument '${extra}'`);
  return {
    socket,
    json: values.json === true,
    values: Object.fromEntries(names.map((name) => [name, values[name] as string | undefined])),
  };
}
