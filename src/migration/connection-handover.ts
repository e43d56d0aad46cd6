// SPDX-License-Identifier: Apache-2.0
// cpr-transfer with capability x-handover-connections: who is connected to the old process goes along with the guest.
//
//   old                                             new
//   freeze    nothing is read or written any more
//   tell      STOP and what precedes the pause
//     ── main: HANDOVER ──────────────────────────▶
//     ── cpr: CONNECTIONS, FDS … ─────────────────▶ checked, kept as fds
//     ◀── main: HELD ──────────────────────────────
//   ┌ pause, as without; what the guest writes stays in the state of its serial ports
//   └ point of no return                            the guest runs; the connections are restored and thawed
//   release   fds closed, nobody hung up on
//
// Whatever fails before the point of no return: the old side thaws, the new one closes its duplicates of the fds.
import { resolve } from "node:path";
import { close } from "../../ffi/fd.ts";
import { SCM_MAX_FD } from "../../ffi/scm.ts";
import type { HostChardevState } from "../backends/chardev/base.ts";
import type { SocketAddressSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { type ConnectionsState, mapConnections } from "../machine/connections-state.ts";
import { check } from "../qmp/schema/check.ts";
import { any, arrayOf, bool, num, struct, uint } from "../qmp/schema/types.ts";
import type { FrameChannel } from "./channel/frames.ts";
import { checkConnections } from "./connections-schema.ts";
import {
  expectFrame,
  FRAME_CONNECTIONS,
  FRAME_FDS,
  FRAME_HANDOVER,
  FRAME_HELD,
  MAX_STATE_FRAME_BYTES,
} from "./messages.ts";
import type { Outgoing } from "./outgoing.ts";

const NOTHING = new Uint8Array(0);
/** More than any process may have open by default. */
const MAX_FDS = 2 ** 20;

/** What the new side is told beside the connections. */
interface Circumstances {
  /** Chardevs of the serial ports. */
  serials: (string | null)[];
  /** Capability `events`: the clients that wanted them still do. */
  events: boolean;
  /** When the migration began, CLOCK_MONOTONIC, and how long its setup took: ms. */
  startedMs: number;
  setupMs: number;
}

const Message = struct({
  connections: any,
  fdCount: uint,
  serials: arrayOf(any),
  events: bool,
  startedMs: num,
  setupMs: num,
});

/** The old side's. */
export class ConnectionHandover {
  readonly #run: Outgoing;
  #queuedBytes = 0;
  #isStopTold = false;
  #isCommitted = false;

  private constructor(run: Outgoing) {
    this.#run = run;
  }

  /** Stops everything that reads. Running commands are waited for. When `run` fails, all goes on as it was. */
  static async freeze(run: Outgoing): Promise<ConnectionHandover> {
    const handover = new ConnectionHandover(run);
    run.onFailure(() => handover.tellResume());
    run.atEnd(() => handover.#end());
    await run.connections.freeze();
    for (const port of run.vm.devices.serialPorts) port.hold();
    return handover;
  }

  /** Tells the clients of the pause, and sends them. Can be repeated: what was sent before is void then. */
  async offer(main: FrameChannel, cpr: FrameChannel): Promise<void> {
    const { vm, connections, progress, capabilities } = this.#run;
    this.#isStopTold = vm.isRunning;
    if (vm.isRunning) vm.events.emit("STOP");
    progress.enter("active");
    progress.pass(2);
    progress.enter("device");
    this.#queuedBytes = connections.queuedBytes;
    const { payload, fds } = encode(connections.save().value, {
      serials: vm.spec.serials,
      events: capabilities.events,
      startedMs: progress.startedMs,
      setupMs: progress.setupMs,
    });
    await main.send(FRAME_HANDOVER, NOTHING);
    await cpr.send(FRAME_CONNECTIONS, payload, fds.slice(0, SCM_MAX_FD));
    for (let sent = SCM_MAX_FD; sent < fds.length; sent += SCM_MAX_FD) {
      await cpr.send(FRAME_FDS, NOTHING, fds.slice(sent, sent + SCM_MAX_FD));
    }
    await expectFrame(main, FRAME_HELD);
    this.#run.refuseToGoOn();
  }

  /**
   * Right before the guest is stopped, whose start again in case of failure is the caller's to tell.
   * @throws VmmError "guest-request" when clients were told something since `offer`: it has to be repeated
   */
  stopping(): void {
    if (this.#run.connections.queuedBytes !== this.#queuedBytes) {
      throw new VmmError("guest-request", "The VM had something to tell in the moment before the pause: try again");
    }
    this.#isStopTold = false;
  }

  /** Takes STOP back when the guest has not been stopped after all. */
  tellResume(): void {
    const { vm } = this.#run;
    if (this.#isStopTold && vm.isRunning) vm.events.emit("RESUME");
    this.#isStopTold = false;
  }

  /** The guest has gone: when the migration is over, so have the connections, and this VM ends. */
  commit(): void {
    this.#isCommitted = true;
  }

  #end(): void {
    const { vm, connections } = this.#run;
    if (this.#isCommitted) {
      connections.release();
      vm.leave();
      return;
    }
    connections.thaw();
    for (const port of vm.devices.serialPorts) port.release();
  }
}

/** Connections that have come, and wait for their guest. They are not touched before it runs here. */
export interface ReceivedConnections extends Circumstances {
  state: ConnectionsState;
  /** The guest does not come: closes the fds. Their peers notice nothing. */
  discard(): void;
}

/** The new side's: receives what `offer` sends. @throws VmmError; nothing is left open then */
export async function receiveConnections(main: FrameChannel, cpr: FrameChannel): Promise<ReceivedConnections> {
  const fds: number[] = [];
  const discard = (): void => {
    for (const fd of fds.splice(0)) close(fd);
  };
  try {
    const first = await expectFrame(cpr, FRAME_CONNECTIONS, { limitBytes: MAX_STATE_FRAME_BYTES });
    fds.push(...first.fds);
    const message = readMessage(first.payload);
    while (fds.length < message.fdCount) {
      const more = await expectFrame(cpr, FRAME_FDS, { limitBytes: 0 });
      if (more.fds.length === 0) throw refuse(`${fds.length} file descriptors instead of ${message.fdCount}`);
      fds.push(...more.fds);
    }
    const received = { ...circumstances(message), state: decode(message, fds), discard };
    await main.send(FRAME_HELD, NOTHING);
    return received;
  } catch (error) {
    discard();
    throw error;
  }
}

/** On the wire an fd is its place among the fds that are sent. */
function encode(state: ConnectionsState, circumstances: Circumstances): { payload: Uint8Array; fds: number[] } {
  const places = new Map<number, number>();
  const placeOf = (fd: number): number => {
    const place = places.get(fd) ?? places.size;
    places.set(fd, place);
    return place;
  };
  const connections = mapConnections(state, { fd: placeOf, chardev: withAbsolutePaths });
  for (const monitor of connections.monitors) {
    if ("listener" in monitor) monitor.listener.address = absolute(monitor.listener.address);
  }
  const text = JSON.stringify({ connections, fdCount: places.size, ...circumstances });
  return { payload: new TextEncoder().encode(text), fds: [...places.keys()] };
}

function readMessage(payload: Uint8Array): typeof Message.static & {} {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(payload));
    const message = check(Message, value, "handover");
    if (message.fdCount > MAX_FDS) throw refuse(`${message.fdCount} file descriptors, more than ${MAX_FDS}`);
    return message;
  } catch (cause) {
    throw new VmmError("state-refused", "The handover of the connections makes no sense", { cause });
  }
}

function circumstances({ serials, events, startedMs, setupMs }: typeof Message.static & {}): Circumstances {
  const ids = serials.map((id) => {
    if (id !== null && typeof id !== "string") throw refuse(`a serial port with the chardev ${JSON.stringify(id)}`);
    return id;
  });
  return { serials: ids, events, startedMs, setupMs };
}

function decode({ connections, fdCount }: typeof Message.static & {}, fds: readonly number[]): ConnectionsState {
  if (fds.length !== fdCount) throw refuse(`${fds.length} file descriptors instead of ${fdCount}`);
  const used = new Set<number>();
  const state = mapConnections(checkConnections(connections), {
    fd: (place) => {
      const fd = fds[place];
      if (fd === undefined) throw refuse(`file descriptor ${place} of ${fds.length}`);
      used.add(fd);
      return fd;
    },
    chardev: (saved) => (saved.spec.backend === "stdio" ? { ...saved, isForeign: true } : saved),
  });
  if (used.size !== fds.length) throw refuse(`${fds.length - used.size} file descriptors that belong to nothing`);
  return state;
}

function refuse(what: string): VmmError {
  return new VmmError("state-refused", `The handover of the connections has ${what}`);
}

/** A path is looked up again when a socket is closed or connected anew, by a process that may be in another directory. */
function withAbsolutePaths(state: HostChardevState): HostChardevState {
  const { spec } = state;
  if (spec.backend === "socket") return { ...state, spec: { ...spec, address: absolute(spec.address) } };
  if (spec.backend === "pty" && spec.path !== undefined) {
    return { ...state, spec: { ...spec, path: resolve(spec.path) } };
  }
  return state;
}

function absolute(address: SocketAddressSpec): SocketAddressSpec {
  return address.type === "unix" ? { ...address, path: resolve(address.path) } : address;
}
