// SPDX-License-Identifier: Apache-2.0
// The character device on a stream socket: a server with one connection at a time, or a client.
import { SysError } from "../../../ffi/error.ts";
import { close } from "../../../ffi/fd.ts";
import { decodeAddress } from "../../../ffi/sockaddr.ts";
import { connect, SHUT_RDWR, setNoDelay, shutdown, socket, socketError } from "../../../ffi/socket.ts";
import type { ChardevSpec } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import type { Reactor, Watch } from "../../runtime/reactor.ts";
import { type HostChardevState, type Report, StreamChardev } from "./base.ts";
import { addressName, connectionName, type ListenerState, SocketListener, socketAddresses } from "./listener.ts";

export type SocketSpec = Extract<ChardevSpec, { backend: "socket" }>;

/** A connection that is being made: addresses that are left to try, and the socket in the making. */
interface Attempt {
  addresses: Uint8Array[];
  fd: number;
  watch: Watch | undefined;
}

export class SocketChardev extends StreamChardev<SocketSpec> {
  filename: string;
  #listener: SocketListener | undefined;
  #attempt: Attempt | undefined;
  #reconnectTimer: ReturnType<typeof setTimeout> | undefined;
  /** Says whether `ready()` waits, and settles it. */
  #waiting: PromiseWithResolvers<void> | undefined;

  private constructor(spec: SocketSpec, reactor: Reactor, report: Report, restored?: HostChardevState) {
    super(spec, reactor, report, restored);
    this.filename = restored?.filename ?? `disconnected:${addressName(spec.address)}${spec.server ? ",server=on" : ""}`;
  }

  /** A server listens at once; a client that does not reconnect must find its server, or this throws. */
  static open(spec: SocketSpec, reactor: Reactor, report: Report): SocketChardev {
    const device = new SocketChardev(spec, reactor, report);
    if (spec.server) {
      if (spec.wait) device.#wait();
      device.#listener = SocketListener.listen(spec.address, reactor, (fd, name) => device.#opened(fd, name));
      device.#disconnected();
    } else if (spec.reconnectMs !== undefined && spec.reconnectMs > 0) {
      device.#connect();
    } else {
      device.#wait();
      device.#connectTo(socketAddresses(spec.address, false));
    }
    return device;
  }

  static restore(spec: SocketSpec, reactor: Reactor, report: Report, state: HostChardevState): SocketChardev {
    const device = new SocketChardev(spec, reactor, report, state);
    const { listen, connection } = state.fds;
    if (listen !== undefined) {
      const saved: ListenerState = { fd: listen, address: spec.address };
      if (state.listenerFile !== undefined) saved.file = state.listenerFile;
      device.#listener = SocketListener.restore(saved, reactor, (fd, name) => device.#opened(fd, name));
    }
    if (connection !== undefined) device.openStream({ in: connection, out: connection }, state);
    return device;
  }

  /** A device over a connection that a `SocketListener` took; when the peer leaves it stays disconnected. */
  static accepted(spec: SocketSpec, fd: number, peerName: string, reactor: Reactor, report: Report): SocketChardev {
    const device = new SocketChardev(spec, reactor, report);
    device.#opened(fd, peerName);
    return device;
  }

  override ready(): Promise<void> {
    return this.#waiting?.promise ?? Promise.resolve();
  }

  override freeze(): void {
    super.freeze();
    this.#listener?.pause();
    clearTimeout(this.#reconnectTimer);
    // Not connected yet is not connected: the attempt is made again.
    this.#abandonAttempt();
  }

  override save(): HostChardevState {
    const state = super.save();
    const file = this.#listener?.save().file;
    return file === undefined ? state : { ...state, listenerFile: file };
  }

  hangUp(): void {
    if (this.closed || this.openFds.in === undefined) return;
    // The peer learns of it even if somebody else still has the connection open.
    shutdown(this.openFds.in, SHUT_RDWR);
    this.#lost();
  }

  protected override thawed(): void {
    if (!this.connected) this.#seekPeer(0);
  }

  protected savedFds(): Record<string, number> {
    const fds: Record<string, number> = {};
    if (this.#listener !== undefined) fds.listen = this.#listener.fd;
    if (this.openFds.in !== undefined) fds.connection = this.openFds.in;
    return fds;
  }

  protected override dispose(undo: boolean): void {
    clearTimeout(this.#reconnectTimer);
    this.#abandonAttempt();
    if (undo) this.#listener?.close();
    else this.#listener?.release();
    this.#listener = undefined;
    // The peer learns of it even if somebody else still has the connection open.
    if (undo && this.openFds.in !== undefined) shutdown(this.openFds.in, SHUT_RDWR);
    this.#waiting?.reject(new VmmError("chardev-closed", `Character device ${this.id} was closed`));
    this.#waiting = undefined;
  }

  /** A peer that only ended its own side still gets what is queued. */
  protected inputEnded(error?: SysError): void {
    if (error === undefined && this.queuedBytes > 0) return;
    this.#lost();
  }

  protected override outputDrained(): void {
    if (this.hasInputEnded) this.#lost();
  }

  protected outputFailed(): void {
    this.#lost();
  }

  #wait(): void {
    this.#waiting = Promise.withResolvers<void>();
    // Whoever calls ready() gets the failure; when nobody does it is reported, not unhandled.
    this.#waiting.promise.catch(() => {});
  }

  #opened(fd: number, name: string): void {
    this.#listener?.pause();
    this.filename = name;
    this.openStream({ in: fd, out: fd });
    this.reportAgain("connect");
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }

  #lost(): void {
    this.closeStream();
    if (!this.closed) this.#disconnected();
  }

  #disconnected(): void {
    if (this.connected) return;
    const name = this.#listener?.name ?? `${addressName(this.spec.address)}${this.spec.server ? ",server=on" : ""}`;
    this.filename = `disconnected:${name}`;
    if (!this.frozen) this.#seekPeer(this.spec.reconnectMs ?? 0);
  }

  /** Waits for the next peer, in the way of a server or of a client. A client that does not reconnect does nothing. */
  #seekPeer(delayMs: number): void {
    if (this.#listener !== undefined) this.#listener.resume();
    else if (!this.spec.server && (this.spec.reconnectMs || this.#waiting !== undefined)) {
      clearTimeout(this.#reconnectTimer);
      this.#reconnectTimer = setTimeout(() => this.#connect(), delayMs);
    }
  }

  /** Connects, and tries again later when that fails. */
  #connect(): void {
    try {
      this.#connectTo(socketAddresses(this.spec.address, false));
    } catch (error) {
      this.#connectFailed(error);
    }
  }

  #connectFailed(error: unknown): void {
    this.reportOnce("connect", `cannot connect to ${addressName(this.spec.address)}`, error);
    this.#waiting?.reject(error);
    this.#waiting = undefined;
    this.#seekPeer(this.spec.reconnectMs ?? 0);
  }

  /** Tries addresses in turn; throws when the last one is refused at once. */
  #connectTo(addresses: Uint8Array[]): void {
    const [address, ...rest] = addresses;
    if (address === undefined)
      throw new VmmError("address-unknown", `No address for ${addressName(this.spec.address)}`);
    const fd = socket(decodeAddress(address).family);
    try {
      if (connect(fd, address) === "connecting") {
        const attempt: Attempt = { addresses: rest, fd, watch: undefined };
        this.#attempt = attempt;
        attempt.watch = this.reactor.watch(fd, { writable: true }, () => this.#connectEnded(attempt));
        return;
      }
    } catch (error) {
      close(fd);
      if (rest.length === 0) throw error;
      this.#connectTo(rest);
      return;
    }
    this.#connected(fd);
  }

  #connectEnded(attempt: Attempt): void {
    attempt.watch?.close();
    this.#attempt = undefined;
    const errno = socketError(attempt.fd);
    if (errno === 0) {
      this.#connected(attempt.fd);
      return;
    }
    close(attempt.fd);
    try {
      if (attempt.addresses.length === 0) throw new SysError("connect", errno, addressName(this.spec.address));
      this.#connectTo(attempt.addresses);
    } catch (error) {
      this.#connectFailed(error);
    }
  }

  #connected(fd: number): void {
    if (this.spec.address.type === "inet") setNoDelay(fd);
    this.#opened(fd, connectionName(fd, this.spec.address, false));
  }

  #abandonAttempt(): void {
    if (this.#attempt === undefined) return;
    this.#attempt.watch?.close();
    close(this.#attempt.fd);
    this.#attempt = undefined;
  }
}
