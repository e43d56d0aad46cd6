// SPDX-License-Identifier: Apache-2.0
// Saved connections as they come from another process: every member is looked at before anything is made of it.
import { VmmError } from "../errors.ts";
import type { ConnectionsState, MonitorState } from "../machine/connections-state.ts";
import { check } from "../qmp/schema/check.ts";
import { any, arrayOf, bool, enumOf, int, optional, str, struct, type Type, uint, union } from "../qmp/schema/types.ts";

const Address = union({ type: enumOf("unix", "inet") }, "type", {
  unix: struct({ path: str }),
  inet: struct({ host: str, port: str, ipv4: optional(bool), ipv6: optional(bool) }),
});

const Chardev = union({ backend: enumOf("stdio", "file", "pipe", "pty", "null", "socket"), id: str }, "backend", {
  stdio: struct({ signal: bool }),
  file: struct({ path: str, append: bool, inputPath: optional(str) }),
  pipe: struct({ path: str }),
  pty: struct({ path: optional(str) }),
  null: struct({}),
  socket: struct({ address: Address, server: bool, wait: bool, reconnectMs: optional(uint) }),
});

const ChardevState = struct({
  spec: Chardev,
  fds: struct({
    in: optional(uint),
    out: optional(uint),
    pty: optional(uint),
    listen: optional(uint),
    connection: optional(uint),
  }),
  queued: str,
  connected: bool,
  filename: str,
  termios: optional(str),
  madeNonBlocking: optional(arrayOf(uint)),
  isForeign: optional(bool),
  /** A string or null. */
  listenerFile: optional(any),
});

const QmpSession = struct({
  negotiated: bool,
  pretty: bool,
  input: struct({
    pending: str,
    line: int,
    column: int,
    mode: enumOf("good", "skip", "resync"),
    depth: int,
    quote: int,
    ended: bool,
  }),
});

const HmpSession = struct({
  editor: struct({
    line: str,
    history: arrayOf(str),
    shown: int,
    sequence: enumOf("", "escape", "control"),
    afterReturn: bool,
    isTooLong: bool,
  }),
  pending: str,
  waiting: bool,
});

const MonitorMode = struct({ mode: enumOf("control", "readline"), chardev: str, pretty: bool });

function monitorType(mode: "control" | "readline"): Type {
  const client = struct({ chardev: ChardevState, session: optional(mode === "control" ? QmpSession : HmpSession) });
  return struct({
    spec: MonitorMode,
    client: optional(client),
    listener: optional(struct({ fd: uint, address: Address, file: optional(any) })),
    clients: optional(arrayOf(client)),
  });
}

const MonitorTypes = { control: monitorType("control"), readline: monitorType("readline") };
const Outline = struct({ chardevs: arrayOf(ChardevState), monitors: arrayOf(any) });

/** @throws VmmError "state-refused" naming the member that makes no sense */
export function checkConnections(value: unknown): ConnectionsState {
  try {
    const { chardevs, monitors } = check(Outline, value, "connections");
    return {
      chardevs: chardevs as ConnectionsState["chardevs"],
      monitors: monitors.map((monitor, index) => checkMonitor(monitor, `connections.monitors[${index}]`)),
    };
  } catch (cause) {
    throw new VmmError("state-refused", "The connections of the other side are none that this version knows", {
      cause,
    });
  }
}

function checkMonitor(value: unknown, name: string): MonitorState {
  const { spec } = check(
    struct({ spec: MonitorMode, client: optional(any), listener: optional(any), clients: optional(any) }),
    value,
    name,
  );
  const monitor = check(MonitorTypes[spec.mode], value, name) as MonitorState;
  const isServer = "listener" in monitor && "clients" in monitor;
  if (isServer === "client" in monitor) {
    throw new VmmError("state-refused", `${name} must have either 'client' or 'listener' and 'clients'`);
  }
  return monitor;
}
