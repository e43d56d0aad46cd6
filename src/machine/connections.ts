// SPDX-License-Identifier: Apache-2.0
// Everybody who is connected to a VM: the other ends of its serial ports and its monitors. They stay over an update.

import { close } from "../../ffi/fd.ts";
import type { HostChardev } from "../backends/chardev/base.ts";
import { reportToStderr } from "../backends/chardev/base.ts";
import { create, restore } from "../backends/chardev/create.ts";
import { type ListenerState, SocketListener } from "../backends/chardev/listener.ts";
import { SocketChardev, type SocketSpec } from "../backends/chardev/socket.ts";
import { withConnections } from "../config/carried-spec.ts";
import type { MachineSpec, MonitorSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { HmpSession, type HmpSessionState } from "../hmp/session.ts";
import { type MonitorPort, QmpSession, type QmpSessionState } from "../qmp/session.ts";
import type { QmpTarget } from "../qmp/target.ts";
import { Reactor } from "../runtime/reactor.ts";
import {
  type ClientState,
  type ConnectionsState,
  fdsOf,
  type MonitorState,
  mapConnections,
  monitorChardev,
  type SessionState,
} from "./connections-state.ts";
import type { SerialPort } from "./serial-port.ts";

type Session = QmpSession | HmpSession;

/** One monitor client: a chardev and, while somebody is there, a session. */
class MonitorClient {
  readonly chardev: HostChardev;
  readonly #spec: MonitorSpec;
  readonly #target: QmpTarget;
  readonly #onGone: (() => void) | undefined;
  #session: Session | undefined;

  constructor(chardev: HostChardev, spec: MonitorSpec, target: QmpTarget, state?: SessionState, onGone?: () => void) {
    this.chardev = chardev;
    this.#spec = spec;
    this.#target = target;
    this.#onGone = onGone;
    if (state !== undefined) this.#open(state);
    chardev.attach({
      inputSpaceBytes: () => this.#session?.inputSpaceBytes ?? 0,
      receive: (bytes) => this.#session?.receive(bytes),
      opened: () => this.#open(),
      closed: () => this.#closed(),
      drained: () => this.#session?.outputDrained(),
      ...(spec.mode === "control" ? { receiveFds: (fds: number[]) => this.#receiveFds(fds) } : {}),
    });
  }

  async freeze(): Promise<void> {
    await this.#session?.freeze();
    this.chardev.freeze();
  }

  thaw(): void {
    this.chardev.thaw();
    this.#session?.thaw();
  }

  save(): ClientState {
    const session = this.#session?.save();
    return { chardev: this.chardev.save(), session };
  }

  close(): void {
    this.#session?.close();
    this.chardev.close();
  }

  release(): void {
    this.#session?.close();
    this.chardev.release();
  }

  #open(state?: SessionState): void {
    const port: MonitorPort = {
      send: (bytes) => this.chardev.write(bytes),
      backlogBytes: () => this.chardev.queuedBytes,
      acceptInput: () => this.chardev.acceptInput(),
      drop: () => this.chardev.hangUp?.(),
    };
    this.#session =
      this.#spec.mode === "control"
        ? new QmpSession(this.#target, port, {
            pretty: this.#spec.pretty,
            ...(state === undefined ? {} : { state: state as QmpSessionState }),
          })
        : new HmpSession(this.#target, port, state === undefined ? {} : { state: state as HmpSessionState });
  }

  #receiveFds(fds: number[]): void {
    if (this.#session instanceof QmpSession) this.#session.receiveFds(fds);
    else for (const fd of fds) close(fd);
  }

  #closed(): void {
    this.#session?.close();
    this.#session = undefined;
    this.#onGone?.();
  }
}

/** A monitor on a listening socket: any number of clients at once. */
class MonitorServer {
  readonly spec: MonitorSpec;
  readonly listener: SocketListener;
  readonly clients = new Set<MonitorClient>();
  readonly #socket: SocketSpec;
  readonly #reactor: Reactor;
  readonly #target: QmpTarget;

  constructor(
    spec: MonitorSpec,
    socket: SocketSpec,
    reactor: Reactor,
    target: QmpTarget,
    state?: { listener: ListenerState; clients: ClientState[] },
  ) {
    this.spec = spec;
    this.#socket = socket;
    this.#reactor = reactor;
    this.#target = target;
    const onConnection = (fd: number, peerName: string): void => {
      this.#add(SocketChardev.accepted(socket, fd, peerName, reactor, reportToStderr));
    };
    this.listener =
      state === undefined
        ? SocketListener.listen(socket.address, reactor, onConnection)
        : SocketListener.restore(state.listener, reactor, onConnection);
    for (const { chardev, session } of state?.clients ?? []) {
      this.#add(SocketChardev.restore(this.#socket, this.#reactor, reportToStderr, chardev), session);
    }
  }

  get id(): string {
    return this.#socket.id;
  }

  #add(chardev: HostChardev, session?: SessionState): void {
    const client = new MonitorClient(chardev, this.spec, this.#target, session, () => {
      this.clients.delete(client);
      chardev.close();
    });
    this.clients.add(client);
  }
}

/** What query-chardev tells of one. */
export interface ConnectionInfo {
  id: string;
  filename: string;
  isOpen: boolean;
}

export class Connections {
  readonly #reactor = new Reactor();
  readonly #target: QmpTarget;
  readonly #chardevs = new Map<string, HostChardev>();
  readonly #clients = new Map<MonitorSpec, MonitorClient>();
  readonly #servers: MonitorServer[] = [];

  /** Opens everything that the spec names, or takes over what `state` has. */
  constructor(spec: MachineSpec, target: QmpTarget, state?: ConnectionsState) {
    this.#target = target;
    if (state === undefined) this.#open(spec);
    else this.#restore(state);
  }

  /** Connects the guest's serial ports with their chardevs. */
  attachPorts(serialPorts: readonly SerialPort[]): void {
    for (const port of serialPorts) {
      const chardev = port.chardevId === null ? undefined : this.#chardevs.get(port.chardevId);
      if (chardev !== undefined) port.attach(chardev);
    }
  }

  #open(spec: MachineSpec): void {
    const monitorOf = new Map(spec.monitors.map((monitor) => [monitor.chardev, monitor]));
    for (const chardevSpec of spec.chardevs) {
      const monitor = monitorOf.get(chardevSpec.id);
      if (monitor !== undefined && chardevSpec.backend === "socket" && chardevSpec.server && !chardevSpec.wait) {
        const server = new MonitorServer(monitor, chardevSpec, this.#reactor, this.#target);
        this.#servers.push(server);
        server.listener.resume();
        continue;
      }
      const chardev = create(chardevSpec, this.#reactor);
      this.#chardevs.set(chardevSpec.id, chardev);
      if (monitor !== undefined) this.#clients.set(monitor, new MonitorClient(chardev, monitor, this.#target));
    }
  }

  #restore(state: ConnectionsState): void {
    for (const chardev of state.chardevs) {
      attempt(`character device ${chardev.spec.id}`, () => {
        this.#chardevs.set(chardev.spec.id, restore(chardev, this.#reactor));
      });
    }
    for (const monitor of state.monitors) {
      attempt(`monitor ${monitor.spec.chardev}`, () => this.#restoreMonitor(monitor));
    }
  }

  #restoreMonitor(monitor: MonitorState): void {
    if ("listener" in monitor) {
      const { spec, listener, clients } = monitor;
      const socket = monitorChardev(monitor) as SocketSpec;
      this.#servers.push(new MonitorServer(spec, socket, this.#reactor, this.#target, { listener, clients }));
    } else {
      const { spec, client } = monitor;
      const chardev = restore(client.chardev, this.#reactor);
      this.#chardevs.set(chardev.id, chardev);
      this.#clients.set(spec, new MonitorClient(chardev, spec, this.#target, client.session));
    }
  }

  /** Resolves when every peer that the configuration waits for (`wait=on`) has come. */
  async ready(): Promise<void> {
    await Promise.all([...this.#chardevs.values()].map((chardev) => chardev.ready()));
  }

  info(): ConnectionInfo[] {
    const chardevs = [...this.#chardevs.values()].map(({ id, filename, connected }) => ({
      id,
      filename,
      isOpen: connected,
    }));
    const servers = this.#servers.map(({ id, listener, clients }) => ({
      id,
      filename: clients.size > 0 ? listener.name : `disconnected:${listener.name}`,
      isOpen: clients.size > 0,
    }));
    return [...chardevs, ...servers];
  }

  /** Stops everything that reads: no command starts any more, the running ones are finished. */
  async freeze(): Promise<void> {
    for (const { listener } of this.#servers) listener.pause();
    await Promise.all(this.#allClients().map((client) => client.freeze()));
    for (const chardev of this.#chardevs.values()) chardev.freeze();
  }

  thaw(): void {
    for (const chardev of this.#chardevs.values()) attempt(`character device ${chardev.id}`, () => chardev.thaw());
    for (const client of this.#allClients()) attempt(`a client of ${client.chardev.id}`, () => client.thaw());
    for (const { id, listener } of this.#servers) attempt(`monitor ${id}`, () => listener.resume());
  }

  /** State of everything, and the fds that must stay open. Only after `freeze`. */
  save(): { value: ConnectionsState; fds: number[] } {
    const ofMonitors = new Set([...this.#clients.values()].map(({ chardev }) => chardev));
    const value: ConnectionsState = {
      chardevs: [...this.#chardevs.values()]
        .filter((chardev) => !ofMonitors.has(chardev))
        .map((chardev) => chardev.save()),
      monitors: [
        ...[...this.#clients].map(([spec, client]) => ({ spec, client: client.save() })),
        ...this.#servers.map(({ spec, listener, clients }) => ({
          spec,
          listener: listener.save(),
          clients: [...clients].map((client) => client.save()),
        })),
      ],
    };
    return { value, fds: fdsOf(value) };
  }

  /** Output that clients have not taken yet. While everything is frozen it can only grow. */
  get queuedBytes(): number {
    const chardevs = new Set([...this.#chardevs.values(), ...this.#allClients().map(({ chardev }) => chardev)]);
    return [...chardevs].reduce((sum, { queuedBytes }) => sum + queuedBytes, 0);
  }

  /**
   * Takes over connections that another process has frozen and will never touch again, in addition to those that are
   * here. `serials` are its serial ports: those of this VM get its chardevs, and what they had is closed. Returns what the
   * machine is then. Everything waits for `thaw`.
   */
  adopt(
    state: ConnectionsState,
    serials: readonly (string | null)[],
    { spec, ports }: { spec: MachineSpec; ports: readonly SerialPort[] },
  ): MachineSpec {
    const merged = withConnections(spec, {
      chardevs: state.chardevs.map((chardev) => chardev.spec),
      monitors: state.monitors.map((monitor) => ({ spec: monitor.spec, chardev: monitorChardev(monitor) })),
      serials,
    });
    for (const id of merged.replaced) {
      this.#chardevs.get(id)?.close();
      this.#chardevs.delete(id);
    }
    this.#restore(mapConnections(state, { id: (id) => merged.names.get(id) ?? id }));
    for (const port of ports) {
      const { instance } = port.device;
      const chardev = merged.ports.has(instance) ? this.#chardevs.get(merged.spec.serials[instance]!) : undefined;
      if (chardev !== undefined) port.attach(chardev);
    }
    return merged.spec;
  }

  /** After the connections went to another process: lets go of them without anybody's noticing. */
  release(): void {
    for (const client of this.#allClients()) client.release();
    for (const { listener } of this.#servers) listener.release();
    for (const chardev of this.#chardevs.values()) chardev.release();
    this.#clients.clear();
    this.#servers.length = 0;
    this.#chardevs.clear();
  }

  /** Waits for output that is still queued, but not longer than `timeoutMs`. */
  async drain(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    const queued = (): boolean =>
      [...this.#chardevs.values(), ...this.#allClients().map(({ chardev }) => chardev)].some(
        ({ queuedBytes }) => queuedBytes > 0,
      );
    while (queued() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async close(): Promise<void> {
    for (const client of this.#allClients()) client.close();
    for (const { listener } of this.#servers) listener.close();
    for (const chardev of this.#chardevs.values()) chardev.close();
    await this.#reactor.close();
  }

  #allClients(): MonitorClient[] {
    return [...this.#clients.values(), ...this.#servers.flatMap(({ clients }) => [...clients])];
  }
}

/** One connection that cannot go on is no reason for the others, or the guest, not to. */
function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    reportToStderr(new VmmError("connection-lost", `The connection of ${what} is lost`, { cause: error }));
  }
}
