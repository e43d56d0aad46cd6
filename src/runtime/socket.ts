// SPDX-License-Identifier: Apache-2.0
// The runtime's own streams over sockets that ffi/ has made.
import { connect, Socket, type SocketConstructorOpts } from "node:net";
import type { Duplex } from "node:stream";
import { Gate } from "./gate.ts";

/**
 * The runtime's stream over the connected socket `fd`, which is the stream's from then on. Either direction can end
 * without the other. @throws Error when the runtime cannot use it; the fd is the caller's then
 */
export function adoptSocket(fd: number): Socket {
  const options: SocketConstructorOpts = { fd, allowHalfOpen: true, readable: true, writable: true };
  // Bun takes an fd where it connects, Deno where Node does.
  if ("Bun" in globalThis) return connect(options as unknown as Parameters<typeof connect>[0] & { port: number });
  return new Socket(options);
}

/** What TLS is put on. */
export interface TlsCarrier {
  stream: Duplex;
  /** Whether to leave what comes unread: nobody takes what TLS has decrypted. */
  holdBack(isHeldBack: boolean): void;
}

/** `adoptSocket` for a connection that TLS is put on. */
export function adoptUnderTls(fd: number): TlsCarrier {
  const socket = adoptSocket(fd);
  // Bun's TLS holds back by itself, on a socket, and hoards on any other stream; Deno's is the other way round.
  if ("Bun" in globalThis) return { stream: socket, holdBack: () => {} };
  const gate = new Gate(socket);
  return { stream: gate, holdBack: (isHeldBack) => gate.holdBack(isHeldBack) };
}
