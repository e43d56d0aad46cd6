// SPDX-License-Identifier: Apache-2.0
// Where an incoming migration is waited for.
import { localAddress } from "../../../ffi/socket.ts";
import { SocketListener } from "../../backends/chardev/listener.ts";
import type { MigrationAddress } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import { formatMigrationUri } from "../../qmp/migration-address.ts";
import type { SocketAddress } from "../../qmp/schema/migration.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import {
  type InetOrUnix,
  isInetOrUnix,
  openTransport,
  socketTransport,
  type Transport,
  type TransportOptions,
} from "./transport.ts";

/**
 * Takes connections. With the last one the socket is closed and a unix socket's path is gone: whoever comes later is
 * refused, and whoever waits in the queue is hung up on. An fd or a command is there at once, and is the only one.
 *
 * @example
 * const listener = await TransportListener.listen({ transport: "socket", type: "unix", path: "/tmp/in" }, reactor);
 * const transport = await listener.accept({ signal });
 */
export class TransportListener {
  /** For `socket-address` of query-migrate: numeric, with the port that was really bound. Undefined for a command. */
  readonly address: SocketAddress | undefined;
  readonly #name: string;
  #listener: SocketListener | undefined;
  /** There already, but nobody has asked for it yet. */
  #transport: Transport | undefined;
  #waiting: PromiseWithResolvers<Transport> | undefined;
  #isLast = true;

  private constructor(name: string, address: SocketAddress | undefined) {
    this.#name = name;
    this.address = address;
  }

  /**
   * Listens on a socket (mode 0600 for a unix one), opens the fd, or starts the command whose output is the stream.
   * @throws VmmError "listen-failed"; for an fd or a command as `connectTransport`
   */
  static async listen(
    address: MigrationAddress,
    reactor: Reactor,
    options: Omit<TransportOptions, "signal"> = {},
  ): Promise<TransportListener> {
    const name = formatMigrationUri(address);
    if (isInetOrUnix(address)) return TransportListener.#listenOn(address, name, reactor);
    const fdAddress = address.transport === "socket" && address.type === "fd" ? address : undefined;
    const opened = new TransportListener(name, fdAddress && { type: "fd", str: fdAddress.str });
    opened.#transport = await openTransport(address, "incoming", options);
    return opened;
  }

  static #listenOn(address: InetOrUnix, name: string, reactor: Reactor): TransportListener {
    const { transport: _transport, ...spec } = address;
    let listener: SocketListener;
    try {
      listener = SocketListener.listen(spec, reactor, (fd) => opened.#accepted(socketTransport(fd, address)));
    } catch (error) {
      throw new VmmError("listen-failed", `Cannot listen on ${name}`, { cause: error });
    }
    const opened: TransportListener = new TransportListener(name, boundAddress(address, listener.fd));
    opened.#listener = listener;
    return opened;
  }

  /**
   * The next connection, which is the last unless `isLast` is false. May be called again after it was aborted.
   * @throws VmmError "listener-closed" when `close` comes first or the last connection has been taken; the signal's reason
   */
  async accept({ signal, isLast = true }: { signal?: AbortSignal; isLast?: boolean } = {}): Promise<Transport> {
    signal?.throwIfAborted();
    this.#isLast = isLast;
    if (this.#waiting !== undefined) throw new Error(`An accept() on ${this.#name} is under way`);
    const transport = this.#transport;
    if (transport !== undefined) {
      this.#transport = undefined;
      return transport;
    }
    const listener = this.#listener;
    if (listener === undefined) throw this.#closedError();
    this.#waiting = Promise.withResolvers<Transport>();
    const { promise, reject } = this.#waiting;
    const abort = (): void => {
      listener.pause();
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    listener.resume();
    try {
      return await promise;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#waiting = undefined;
    }
  }

  /** Stops listening and removes the path of a unix socket if it is still ours. Closes what nobody has taken. */
  close(): void {
    this.#listener?.close();
    this.#listener = undefined;
    this.#transport?.close();
    this.#transport = undefined;
    this.#waiting?.reject(this.#closedError());
  }

  #accepted(transport: Transport): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (this.#isLast) {
      this.#listener?.close();
      this.#listener = undefined;
    } else {
      this.#listener?.pause();
    }
    waiting?.resolve(transport);
  }

  #closedError(): VmmError {
    return new VmmError("listener-closed", `${this.#name} does not wait for a migration any more`);
  }
}

function boundAddress(address: InetOrUnix, fd: number): SocketAddress {
  if (address.type === "unix") return { type: "unix", path: address.path };
  const { host, port } = localAddress(fd);
  return { type: "inet", host: host ?? "", port: String(port) };
}
