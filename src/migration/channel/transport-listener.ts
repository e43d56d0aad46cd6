// SPDX-License-Identifier: Apache-2.0
// Where an incoming migration is waited for.
import { isOpen, setCloseOnExec, setNonBlocking, status } from "../../../ffi/fd.ts";
import { isListening, localAddress } from "../../../ffi/socket.ts";
import { SocketListener } from "../../backends/chardev/listener.ts";
import type { MigrationAddress } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import { formatMigrationUri } from "../../qmp/migration-address.ts";
import type { SocketAddress } from "../../qmp/schema/migration.ts";
import type { Reactor } from "../../runtime/reactor.ts";
import {
  findFdOf,
  type InetOrUnix,
  isInetOrUnix,
  openTransport,
  socketTransport,
  type Transport,
  type TransportOptions,
} from "./transport.ts";

export interface ListenOptions extends Omit<TransportOptions, "signal"> {
  /** Listens on after a connection, until `close`: one `accept` after the other. */
  takesMany?: boolean;
}

/**
 * Takes one connection, if not told otherwise. With it the socket is closed and a unix socket's path is gone: whoever comes
 * later is refused, and whoever waits in the queue is hung up on. A connected fd or a command is there at once; an fd that
 * listens is listened on, and its path left alone.
 *
 * @example
 * const listener = await TransportListener.listen({ transport: "socket", type: "unix", path: "/tmp/in" }, reactor);
 * const transport = await listener.accept({ signal });
 */
export class TransportListener {
  /** For `socket-address` of query-migrate: numeric, with the port that was really bound. Undefined for a command. */
  readonly address: SocketAddress | undefined;
  readonly #name: string;
  readonly #takesMany: boolean;
  #listener: SocketListener | undefined;
  /** There already, but nobody has asked for it yet. */
  #transport: Transport | undefined;
  #waiting: PromiseWithResolvers<Transport> | undefined;

  private constructor(name: string, address: SocketAddress | undefined, takesMany: boolean) {
    this.#name = name;
    this.address = address;
    this.#takesMany = takesMany;
  }

  /**
   * Listens on a socket (mode 0600 for a unix one), opens the fd, or starts the command whose output is the stream.
   * @throws VmmError "listen-failed"; for an fd or a command as `connectTransport`
   */
  static async listen(
    address: MigrationAddress,
    reactor: Reactor,
    { findFd, takesMany = false }: ListenOptions = {},
  ): Promise<TransportListener> {
    const name = formatMigrationUri(address);
    if (isInetOrUnix(address)) return TransportListener.#listenOn(address, name, takesMany, reactor);
    const fdAddress = address.transport === "socket" && address.type === "fd" ? address : undefined;
    if (fdAddress !== undefined) {
      const fd = findFdOf(fdAddress.str, findFd);
      const opened = TransportListener.#listenOnFd(fd, fdAddress.str, takesMany, reactor);
      if (opened !== undefined) return opened;
      // No listening socket: what it is may be taken as a transport. It is looked for by the same name, and once only.
      const transport = await openTransport(fdAddress, "incoming", { findFd: () => fd });
      return TransportListener.#opened(transport, name, { type: "fd", str: fdAddress.str }, takesMany);
    }
    const transport = await openTransport(address, "incoming", findFd === undefined ? {} : { findFd });
    return TransportListener.#opened(transport, name, undefined, takesMany);
  }

  static #opened(
    transport: Transport,
    name: string,
    address: SocketAddress | undefined,
    takesMany: boolean,
  ): TransportListener {
    const opened = new TransportListener(name, address, takesMany);
    opened.#transport = transport;
    return opened;
  }

  static #listenOn(address: InetOrUnix, name: string, takesMany: boolean, reactor: Reactor): TransportListener {
    const { transport: _transport, ...spec } = address;
    let listener: SocketListener;
    try {
      listener = SocketListener.listen(spec, reactor, (fd) => opened.#accepted(socketTransport(fd, address)));
    } catch (error) {
      throw new VmmError("listen-failed", `Cannot listen on ${name}`, { cause: error });
    }
    const opened: TransportListener = new TransportListener(name, boundAddress(address, listener.fd), takesMany);
    opened.#listener = listener;
    return opened;
  }

  /** Undefined when it is no listening socket. The fd is the listener's from then on. */
  static #listenOnFd(fd: number, str: string, takesMany: boolean, reactor: Reactor): TransportListener | undefined {
    if (!isOpen(fd) || status(fd).kind !== "socket" || !isListening(fd)) return undefined;
    setCloseOnExec(fd, true);
    setNonBlocking(fd, true);
    const { path, host, port } = localAddress(fd);
    const spec =
      host === undefined
        ? ({ type: "unix", path: path ?? "" } as const)
        : ({ type: "inet", host, port: String(port) } as const);
    const address: InetOrUnix = { transport: "socket", ...spec };
    const listener = SocketListener.restore({ fd, address: spec, file: null }, reactor, (connection) =>
      opened.#accepted(socketTransport(connection, address)),
    );
    const opened: TransportListener = new TransportListener(`fd:${str}`, { type: "fd", str }, takesMany);
    opened.#listener = listener;
    return opened;
  }

  /**
   * The connection, or the next one. May be called again after it was aborted.
   * @throws VmmError "listener-closed" when `close` comes first or the connection has been taken; the signal's reason
   */
  async accept({ signal }: { signal?: AbortSignal } = {}): Promise<Transport> {
    signal?.throwIfAborted();
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
    if (this.#takesMany) {
      this.#listener?.pause();
    } else {
      this.#listener?.close();
      this.#listener = undefined;
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
