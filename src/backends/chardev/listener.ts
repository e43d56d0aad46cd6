// SPDX-License-Identifier: Apache-2.0
// A listening socket: takes connections as they come, and survives an update without being bound again.
import { lstatSync } from "node:fs";
import { SysError } from "../../../ffi/error.ts";
import { close, unlink } from "../../../ffi/fd.ts";
import { AF_INET, AF_INET6, AF_UNSPEC, resolve, type SocketAddress, unixAddress } from "../../../ffi/sockaddr.ts";
import { accept, listen, localAddress, peerAddress, setNoDelay } from "../../../ffi/socket.ts";
import type { SocketAddressSpec } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import type { Reactor, Watch } from "../../runtime/reactor.ts";

/** Saved form of a listener. */
export interface ListenerState {
  fd: number;
  address: SocketAddressSpec;
  /** Which file the socket has, so that another one in its place is known as such; null when it has none. */
  file?: string | null;
}

/** Takes a connection: the fd is the handler's to close. `peerName` is as QEMU shows it in `query-chardev`. */
export type ConnectionHandler = (fd: number, peerName: string) => void;

/** Out of file descriptors: the connection stays in the queue, and asking again at once would only spin. */
const ACCEPT_RETRY_MS = 200;

/**
 * Accepts connections while it runs; it starts paused. While it is paused connections wait in the kernel's queue, so
 * nobody who connects during an update is turned away.
 */
export class SocketListener {
  readonly fd: number;
  readonly address: SocketAddressSpec;
  readonly #reactor: Reactor;
  readonly #onConnection: ConnectionHandler;
  readonly #file: string | undefined;
  #watch: Watch | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;

  private constructor(state: ListenerState, reactor: Reactor, onConnection: ConnectionHandler) {
    this.fd = state.fd;
    this.address = state.address;
    this.#reactor = reactor;
    this.#onConnection = onConnection;
    this.#file = state.file === undefined ? fileIdentity(state.address) : (state.file ?? undefined);
  }

  /** Binds and listens. Of a host with several addresses the first that works is used. */
  static listen(address: SocketAddressSpec, reactor: Reactor, onConnection: ConnectionHandler): SocketListener {
    const fd = firstThatWorks(socketAddresses(address, true), (raw) => listen(raw));
    return new SocketListener({ fd, address }, reactor, onConnection);
  }

  static restore(state: ListenerState, reactor: Reactor, onConnection: ConnectionHandler): SocketListener {
    return new SocketListener(state, reactor, onConnection);
  }

  /** As QEMU shows it: `unix:/tmp/a.sock,server=on`, `tcp:127.0.0.1:4444,server=on`. */
  get name(): string {
    return `${addressName(this.address, this.fd)},server=on`;
  }

  /** Accepts what is waiting and what comes. */
  resume(): void {
    clearTimeout(this.#retry);
    if (this.#watch === undefined) {
      this.#watch = this.#reactor.watch(this.fd, { readable: true }, () => this.#accept());
    } else {
      this.#watch.arm({ readable: true });
    }
  }

  pause(): void {
    clearTimeout(this.#retry);
    this.#watch?.close();
    this.#watch = undefined;
  }

  save(): ListenerState {
    return { fd: this.fd, address: this.address, file: this.#file ?? null };
  }

  /** Stops listening and removes the socket file. */
  close(): void {
    const file = fileIdentity(this.address);
    // A file that somebody else has put there since stays.
    if (this.address.type === "unix" && file !== undefined && file === this.#file) unlink(this.address.path);
    this.release();
  }

  /** Closes the fd only: another process listens on. */
  release(): void {
    this.pause();
    close(this.fd);
  }

  #accept(): void {
    try {
      // The handler may pause the listener, and then the next connection is not for now.
      while (this.#watch !== undefined) {
        const fd = accept(this.fd);
        if (fd === undefined) break;
        if (this.address.type === "inet") setNoDelay(fd);
        this.#onConnection(fd, connectionName(fd, this.address, true));
      }
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.#retry = setTimeout(() => this.#watch?.arm({ readable: true }), ACCEPT_RETRY_MS);
      return;
    }
    this.#watch?.arm({ readable: true });
  }
}

/** Tries addresses in turn; throws what the last one threw. */
export function firstThatWorks<T>(addresses: readonly Uint8Array[], attempt: (address: Uint8Array) => T): T {
  let failure: unknown;
  for (const address of addresses) {
    try {
      return attempt(address);
    } catch (error) {
      failure = error;
    }
  }
  throw failure;
}

/** The addresses to bind to or to connect to. May ask a name server. */
export function socketAddresses(address: SocketAddressSpec, passive: boolean): Uint8Array[] {
  if (address.type === "unix") return [unixAddress(address.path)];
  let family = AF_UNSPEC;
  if (address.ipv4 !== address.ipv6) {
    if (address.ipv4 === true || address.ipv6 === false) family = AF_INET;
    else family = AF_INET6;
  }
  try {
    return resolve(address.host, address.port, { family, passive });
  } catch (error) {
    throw new VmmError("address-unknown", `No address for ${address.host}:${address.port}`, { cause: error });
  }
}

/** `unix:PATH` or `tcp:HOST:PORT`; with an fd the port that was really bound, for a configured port 0. */
export function addressName(address: SocketAddressSpec, fd?: number): string {
  if (address.type === "unix") return `unix:${address.path}`;
  const port = fd === undefined ? address.port : String(localAddress(fd).port);
  return `tcp:${address.host}:${port}`;
}

/** An established connection as QEMU shows it: `tcp:127.0.0.1:4444,server=on <-> 127.0.0.1:53412`. */
export function connectionName(fd: number, address: SocketAddressSpec, isServer: boolean): string {
  const suffix = isServer ? ",server=on" : "";
  if (address.type === "unix") return `unix:${address.path}${suffix}`;
  try {
    return `tcp:${inetName(localAddress(fd))}${suffix} <-> ${inetName(peerAddress(fd))}`;
  } catch {
    // The peer has hung up already; reading from the connection will say so.
    return `${addressName(address)}${suffix}`;
  }
}

function inetName({ family, host, port }: SocketAddress): string {
  return family === AF_INET6 ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Device and inode number of a unix socket's file, if it is there and can be looked at. */
function fileIdentity(address: SocketAddressSpec): string | undefined {
  if (address.type !== "unix") return undefined;
  try {
    const { dev, ino } = lstatSync(address.path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}
