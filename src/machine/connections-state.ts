// SPDX-License-Identifier: Apache-2.0
// Saved connections: which fds and names are in them, and the same with others.
import type { HostChardevState } from "../backends/chardev/base.ts";
import type { ListenerState } from "../backends/chardev/listener.ts";
import type { SocketSpec } from "../backends/chardev/socket.ts";
import type { ChardevSpec, MonitorSpec } from "../config/types.ts";
import type { HmpSessionState } from "../hmp/session.ts";
import type { QmpSessionState } from "../qmp/session.ts";

export type SessionState = QmpSessionState | HmpSessionState;

export interface ClientState {
  chardev: HostChardevState;
  /** Absent while nobody is connected. */
  session: SessionState | undefined;
}

export type MonitorState =
  | { spec: MonitorSpec; client: ClientState }
  | { spec: MonitorSpec; listener: ListenerState; clients: ClientState[] };

/** Saved form of all connections: plain JSON, with the numbers of fds that stay open. */
export interface ConnectionsState {
  chardevs: HostChardevState[];
  monitors: MonitorState[];
}

/** What becomes of a chardev's state, and of a listener's. */
export interface ConnectionsMapping {
  fd(fd: number): number;
  id(id: string): string;
  /** What else changes. */
  chardev(state: HostChardevState): HostChardevState;
}

const SAME: ConnectionsMapping = { fd: (fd) => fd, id: (id) => id, chardev: (state) => state };

/** A copy with other fds or names. Each fd is asked for wherever it occurs. */
export function mapConnections(state: ConnectionsState, mapping: Partial<ConnectionsMapping>): ConnectionsState {
  const { fd, id, chardev } = { ...SAME, ...mapping };
  const mapChardev = (saved: HostChardevState): HostChardevState =>
    chardev({
      ...saved,
      spec: { ...saved.spec, id: id(saved.spec.id) },
      fds: Object.fromEntries(Object.entries(saved.fds).map(([role, number]) => [role, fd(number)])),
      ...(saved.madeNonBlocking === undefined ? {} : { madeNonBlocking: saved.madeNonBlocking.map(fd) }),
    });
  const mapClient = (client: ClientState): ClientState => ({ ...client, chardev: mapChardev(client.chardev) });
  return {
    chardevs: state.chardevs.map(mapChardev),
    monitors: state.monitors.map((monitor) => {
      const spec = { ...monitor.spec, chardev: id(monitor.spec.chardev) };
      if ("client" in monitor) return { spec, client: mapClient(monitor.client) };
      const { listener, clients } = monitor;
      return { spec, listener: { ...listener, fd: fd(listener.fd) }, clients: clients.map(mapClient) };
    }),
  };
}

/** All fds, each once. */
export function fdsOf(state: ConnectionsState): number[] {
  const fds = new Set<number>();
  mapConnections(state, {
    fd: (fd) => {
      fds.add(fd);
      return fd;
    },
  });
  return [...fds];
}

/** The chardev that a monitor's state was saved from. */
export function monitorChardev(monitor: MonitorState): ChardevSpec {
  return "client" in monitor ? monitor.client.chardev.spec : serverSpec(monitor.spec.chardev, monitor.listener);
}

/** The chardev of a monitor on a listening socket. */
export function serverSpec(id: string, { address }: ListenerState): SocketSpec {
  return { backend: "socket", id, address, server: true, wait: false };
}
