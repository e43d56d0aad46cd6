// SPDX-License-Identifier: Apache-2.0
// Stream sockets, socket(7): always non-blocking, close-on-exec and without SIGPIPE.
import { SysError } from "./error.ts";
import { close } from "./fd.ts";
import { check, EADDRINUSE, EAGAIN, ECONNABORTED, ECONNREFUSED, EINPROGRESS, lazyCall } from "./libc.ts";
import { AF_UNIX, decodeAddress, type SocketAddress, unixAddress } from "./sockaddr.ts";

/** bits/socket_type.h */
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;

/** asm-generic/socket.h, linux/tcp.h */
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_TYPE = 3;
const SO_ERROR = 4;
const SO_SNDBUF = 7;
const SO_ACCEPTCONN = 30;
const SO_DOMAIN = 39;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;

/** linux/socket.h */
const MSG_PEEK = 0x2;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

export const SHUT_RD = 0;
export const SHUT_WR = 1;
export const SHUT_RDWR = 2;

const cSocket = lazyCall("int socket(int domain, int type, int protocol)");
const cSocketpair = lazyCall("int socketpair(int domain, int type, int protocol, void *fds)");
const cBind = lazyCall("int bind(int fd, const void *address, unsigned int length)");
const cListen = lazyCall("int listen(int fd, int backlog)");
const cAccept4 = lazyCall("int accept4(int fd, void *address, void *length, int flags)");
const cConnect = lazyCall("int connect(int fd, const void *address, unsigned int length)");
const cGetsockname = lazyCall("int getsockname(int fd, void *address, void *length)");
const cGetpeername = lazyCall("int getpeername(int fd, void *address, void *length)");
const cGetsockopt = lazyCall("int getsockopt(int fd, int level, int name, void *value, void *length)");
const cSetsockopt = lazyCall("int setsockopt(int fd, int level, int name, const void *value, unsigned int length)");
const cShutdown = lazyCall("int shutdown(int fd, int how)");
const cSend = lazyCall("int64_t send(int fd, const void *buffer, size_t length, int flags)");
const cRecv = lazyCall("int64_t recv(int fd, void *buffer, size_t length, int flags)");
const cFchmod = lazyCall("int fchmod(int fd, unsigned int mode)");
const cLstat = lazyCall("int lstat(const char *path, void *status)");
const cUnlink = lazyCall("int unlink(const char *path)");

/** A new stream socket of an address family (AF_*). */
export function socket(family: number): number {
  return check("socket", cSocket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), `family ${family}`);
}

/** Two connected unix stream sockets. */
export function socketPair(): [number, number] {
  const fds = new Int32Array(2);
  check("socketpair", cSocketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
  return [fds[0]!, fds[1]!];
}

/**
 * Binds and listens. A unix socket's file is made with mode 0600; a file left behind by a server that has ended is
 * replaced, any other file is not touched (EADDRINUSE).
 */
export function listen(address: Uint8Array, backlog = 16): number {
  const { family } = decodeAddress(address);
  const fd = socket(family);
  try {
    if (family === AF_UNIX) bindUnix(fd, address);
    else {
      setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      bind(fd, address);
    }
    check("listen", cListen(fd, backlog), `fd ${fd}`);
  } catch (error) {
    close(fd);
    throw error;
  }
  return fd;
}

function bindUnix(fd: number, address: Uint8Array): void {
  // Linux takes the file's mode from the unbound socket (unix_bind_bsd in net/unix/af_unix.c): there is no moment in
  // which others could connect, and no need to touch the umask that all threads share.
  check("fchmod", cFchmod(fd, 0o600), `fd ${fd}`);
  const result = cBind(fd, address, address.byteLength);
  if (result !== -EADDRINUSE || !unlinkStaleSocket(describe(address))) {
    check("bind", result, describe(address));
    return;
  }
  bind(fd, address);
}

/** Binds to an address of `resolve` or `unixAddress`. */
export function bind(fd: number, address: Uint8Array): void {
  check("bind", cBind(fd, address, address.byteLength), describe(address));
}

/**
 * Removes a socket file that belongs to no socket any more; false when it is something else or still in use.
 *
 * The probe is a datagram socket: connecting it to a stream socket fails with EPROTOTYPE when somebody is there, and
 * the other side never notices.
 */
export function unlinkStaleSocket(path: string): boolean {
  if (!isSocketFile(path)) return false;
  const probe = check("socket", cSocket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const address = unixAddress(path);
  const result = cConnect(probe, address, address.byteLength);
  close(probe);
  return result === -ECONNREFUSED && cUnlink(path) === 0;
}

function isSocketFile(path: string): boolean {
  const status = new Uint32Array(36);
  return cLstat(path, status) === 0 && (status[6]! & 0o170000) === 0o140000;
}

/** The next connection, or `undefined` when there is none. A client that gave up in the queue is skipped. */
export function accept(fd: number): number | undefined {
  for (;;) {
    const result = cAccept4(fd, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (result >= 0) return result;
    if (result === -EAGAIN) return undefined;
    if (result !== -ECONNABORTED) throw new SysError("accept4", -result, `fd ${fd}`);
  }
}

/** Starts connecting; `connecting` means: wait until the fd is writable, then ask `socketError`. */
export function connect(fd: number, address: Uint8Array): "connected" | "connecting" {
  const result = cConnect(fd, address, address.byteLength);
  if (result === -EINPROGRESS) return "connecting";
  check("connect", result, describe(address));
  return "connected";
}

/** Takes the pending error of a socket: an errno, 0 for none. */
export function socketError(fd: number): number {
  return getOption(fd, SO_ERROR, "SO_ERROR");
}

/** Whether a socket is one of streams. */
export function isStreamSocket(fd: number): boolean {
  return getOption(fd, SO_TYPE, "SO_TYPE") === SOCK_STREAM;
}

/** Whether a socket listens. */
export function isListening(fd: number): boolean {
  return getOption(fd, SO_ACCEPTCONN, "SO_ACCEPTCONN") !== 0;
}

function getOption(fd: number, option: number, name: string): number {
  const value = new Int32Array(1);
  check("getsockopt", cGetsockopt(fd, SOL_SOCKET, option, value, new Uint32Array([4])), `fd ${fd}, ${name}`);
  return value[0]!;
}

/** Whether the stream has come to its end, or broke; false when there is input to read first, undefined for neither. */
export function hasEnded(fd: number): boolean | undefined {
  const result = cRecv(fd, new Uint8Array(1), 1, MSG_PEEK | MSG_DONTWAIT);
  if (result === -EAGAIN) return undefined;
  return result <= 0;
}

/**
 * Lets a unix socket take that much at once, as far as the system's limit allows: its two ends then wake each other less often.
 * Other sockets are left alone: TCP finds its own size.
 */
export function widenUnixSocket(fd: number, sizeBytes: number): void {
  if (getOption(fd, SO_DOMAIN, "SO_DOMAIN") === AF_UNIX) setOption(fd, SOL_SOCKET, SO_SNDBUF, sizeBytes);
}

function setOption(fd: number, level: number, name: number, value: number): void {
  check("setsockopt", cSetsockopt(fd, level, name, new Int32Array([value]), 4), `fd ${fd}, ${level}, ${name}`);
}

/** Sends small writes of a TCP socket at once. */
export function setNoDelay(fd: number): void {
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

/** The address the socket is bound to. */
export function localAddress(fd: number): SocketAddress {
  return queryAddress("getsockname", cGetsockname, fd);
}

/** The address of the peer. */
export function peerAddress(fd: number): SocketAddress {
  return queryAddress("getpeername", cGetpeername, fd);
}

function queryAddress(syscall: string, call: typeof cGetsockname, fd: number): SocketAddress {
  const raw = new Uint8Array(128);
  const length = new Uint32Array([raw.byteLength]);
  check(syscall, call(fd, raw, length), `fd ${fd}`);
  return decodeAddress(raw.subarray(0, length[0]!));
}

/** Ends one or both directions for everybody who shares the socket (SHUT_*); a socket whose peer has gone is fine. */
export function shutdown(fd: number, how: number): void {
  cShutdown(fd, how);
}

/** Bytes sent, perhaps fewer than given; `undefined` when the socket takes none. Never raises SIGPIPE. */
export function send(fd: number, bytes: Uint8Array): number | undefined {
  const result = cSend(fd, bytes, bytes.byteLength, MSG_NOSIGNAL);
  if (result >= 0) return result;
  if (result === -EAGAIN) return undefined;
  throw new SysError("send", -result, `fd ${fd}`);
}

function describe(address: Uint8Array): string {
  const decoded = decodeAddress(address);
  return decoded.path ?? `${decoded.host}:${decoded.port}`;
}
