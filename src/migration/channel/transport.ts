// SPDX-License-Identifier: Apache-2.0
// From a migration address to a connected byte stream: a raw fd, non-blocking and close-on-exec.
// https://www.qemu.org/docs/master/devel/migration/main.html#transports
import { SysError } from "../../../ffi/error.ts";
import { close, setCloseOnExec, setNonBlocking, status, statusFlags } from "../../../ffi/fd.ts";
import { ECONNREFUSED, errorText } from "../../../ffi/libc.ts";
import { AF_UNIX, decodeAddress } from "../../../ffi/sockaddr.ts";
import {
  connect,
  isStreamSocket,
  localAddress,
  peerAddress,
  setNoDelay,
  socket,
  socketError,
} from "../../../ffi/socket.ts";
import { socketAddresses } from "../../backends/chardev/listener.ts";
import type { MigrationAddress } from "../../config/types.ts";
import { VmmError } from "../../errors.ts";
import { formatMigrationUri } from "../../qmp/migration-address.ts";
import type { Reactor, Watch } from "../../runtime/reactor.ts";
import { type RunningCommand, runCommand } from "./command.ts";

/** The file of a UNIX socket is there before its owner listens: who waits for the file may come between bind and listen. */
const NOT_YET_LISTENING_MS = 250;
const CONNECT_RETRY_MS = 2;

/** A connected byte stream. Whoever has it closes it. */
export interface Transport {
  readonly fd: number;
  /** False where nothing can come back: pipes, and the commands of `exec`. */
  readonly isDuplex: boolean;
  /** It can carry fds. */
  readonly isUnix: boolean;
  /** The address, for errors: `unix:/tmp/a.sock`. */
  readonly name: string;
  /**
   * For the command of an `exec` address: resolves when it has ended, rejects when it did so with an exit code other than
   * 0 or by a signal. A command that reads ends after `close()`. For all others it resolves at once.
   */
  finished(): Promise<void>;
  /** Nothing comes of it: the command of an `exec` address is ended. */
  abandon(): void;
  close(): void;
}

export type Direction = "outgoing" | "incoming";

/** Takes a named fd (QMP's `getfd`) out of its table: it is the caller's from then on. Undefined when there is none. */
export type FindFd = (name: string) => number | undefined;

export interface TransportOptions {
  /** Gives up when it is aborted: the promise is rejected with its reason. */
  signal?: AbortSignal;
  /** Where the names of `fd:NAME` are looked up. */
  findFd?: FindFd;
}

export type InetOrUnix = Extract<MigrationAddress, { type: "inet" | "unix" }>;

/**
 * Connects to where a migration goes. Of a host with several addresses each is tried; while a name server is asked, the
 * thread is blocked.
 *
 * @throws VmmError "connect-failed", worded as QEMU does; "fd-unusable", "command-failed", "transport-unsupported"
 */
export async function connectTransport(
  address: MigrationAddress,
  reactor: Reactor,
  options: TransportOptions = {},
): Promise<Transport> {
  options.signal?.throwIfAborted();
  if (isInetOrUnix(address)) return connectSocket(address, reactor, options.signal);
  return openTransport(address, "outgoing", options);
}

export function isInetOrUnix(address: MigrationAddress): address is InetOrUnix {
  return address.transport === "socket" && (address.type === "inet" || address.type === "unix");
}

/** The transports that are the same for both directions, or nearly so: nobody is waited for. */
export async function openTransport(
  address: Exclude<MigrationAddress, InetOrUnix>,
  direction: Direction,
  { findFd }: TransportOptions,
): Promise<Transport> {
  switch (address.transport) {
    case "exec":
      return openCommand(address, direction);
    case "file":
      throw new VmmError("transport-unsupported", "Migration requires streamable transport (eg unix)");
    case "socket":
      if (address.type === "fd") return openFd(address.str, direction, findFd);
      throw new VmmError(
        "transport-unsupported",
        `${formatMigrationUri(address)}: Baton does not support vsock migration; use unix, tcp, fd or exec`,
      );
  }
}

/** A transport over a connected socket of an `inet` or `unix` address. */
export function socketTransport(fd: number, address: InetOrUnix): Transport {
  if (address.type === "inet") setNoDelay(fd);
  return transportOf(fd, formatMigrationUri(address), { isDuplex: true, isUnix: address.type === "unix" });
}

function transportOf(
  fd: number,
  name: string,
  { isDuplex, isUnix }: { isDuplex: boolean; isUnix: boolean },
  command: Pick<RunningCommand, "ended" | "kill"> = { ended: Promise.resolve(), kill: () => {} },
): Transport {
  let isOpen = true;
  return {
    fd,
    isDuplex,
    isUnix,
    name,
    finished: () => command.ended,
    abandon: () => command.kill(),
    close() {
      if (isOpen) close(fd);
      isOpen = false;
    },
  };
}

async function connectSocket(
  address: InetOrUnix,
  reactor: Reactor,
  signal: AbortSignal | undefined,
): Promise<Transport> {
  let failure: unknown;
  const mayWaitMs = address.type === "unix" ? NOT_YET_LISTENING_MS : 0;
  for (const raw of addressesOf(address)) {
    try {
      return socketTransport(await connectFd(raw, { reactor, signal, mayWaitMs }), address);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      failure = error;
    }
  }
  throw connectFailed(address, failure);
}

interface ConnectOptions {
  reactor: Reactor;
  signal: AbortSignal | undefined;
  /** How long nobody may be listening. */
  mayWaitMs: number;
}

/** @throws SysError, the signal's reason */
async function connectFd(raw: Uint8Array, { reactor, signal, mayWaitMs }: ConnectOptions): Promise<number> {
  const deadlineMs = performance.now() + mayWaitMs;
  for (;;) {
    const fd = socket(decodeAddress(raw).family);
    try {
      if (connect(fd, raw) === "connecting") {
        await untilWritable(fd, reactor, signal);
        const errno = socketError(fd);
        if (errno !== 0) throw new SysError("connect", errno);
      }
      return fd;
    } catch (error) {
      close(fd);
      const isRefused = error instanceof SysError && error.errno === ECONNREFUSED;
      if (!isRefused || performance.now() >= deadlineMs) throw error;
    }
    await new Promise((wake) => setTimeout(wake, CONNECT_RETRY_MS));
    signal?.throwIfAborted();
  }
}

function addressesOf(address: InetOrUnix): Uint8Array[] {
  try {
    return socketAddresses(address, false);
  } catch (error) {
    throw error instanceof SysError ? connectFailed(address, error) : error;
  }
}

function connectFailed(address: InetOrUnix, failure: unknown): VmmError {
  const target = address.type === "unix" ? address.path : `${address.host}:${address.port}`;
  // The words are the whole reason: a cause would say the same again.
  const reason = failure instanceof SysError ? `: ${errorText(failure.errno)}` : "";
  return new VmmError("connect-failed", `Failed to connect to '${target}'${reason}`);
}

function untilWritable(fd: number, reactor: Reactor, signal: AbortSignal | undefined): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const watch: Watch = reactor.watch(fd, { writable: true }, () => resolve());
  const abort = (): void => reject(signal?.reason);
  signal?.addEventListener("abort", abort, { once: true });
  return promise.finally(() => {
    signal?.removeEventListener("abort", abort);
    watch.close();
  });
}

function openFd(text: string, direction: Direction, findFd: FindFd | undefined): Transport {
  const fd = findFdOf(text, findFd);
  try {
    return fdTransport(fd, `fd:${text}`, direction);
  } catch (error) {
    if (!isFdNumber(text)) close(fd);
    throw error;
  }
}

/** A number names an fd that this process has inherited, anything else one of QMP's `getfd`. */
export function findFdOf(text: string, findFd: FindFd | undefined): number {
  const fd = isFdNumber(text) ? Number(text) : findFd?.(text);
  if (fd === undefined) throw new VmmError("fd-unusable", `File descriptor named '${text}' has not been found`);
  return fd;
}

function isFdNumber(text: string): boolean {
  return /^\d+$/.test(text);
}

function fdTransport(fd: number, name: string, direction: Direction): Transport {
  let isSocket: boolean;
  try {
    isSocket = checkFd(fd, direction) === "socket";
  } catch (error) {
    throw new VmmError("fd-unusable", `Migration cannot use ${name}`, { cause: error });
  }
  setCloseOnExec(fd, true);
  setNonBlocking(fd, true);
  if (!isSocket) return transportOf(fd, name, { isDuplex: false, isUnix: false });
  const isUnix = localAddress(fd).family === AF_UNIX;
  if (!isUnix) setNoDelay(fd);
  return transportOf(fd, name, { isDuplex: true, isUnix });
}

/** O_ACCMODE and its values, asm-generic/fcntl.h. */
const ACCESS_MODE = 3;
const READ_ONLY = 0;
const WRITE_ONLY = 1;

function checkFd(fd: number, direction: Direction): "socket" | "fifo" {
  const { kind } = status(fd);
  if (kind === "socket") {
    if (!isStreamSocket(fd)) throw new VmmError("fd-unusable", "It is no stream socket");
    // Throws for one that listens, or was never connected.
    peerAddress(fd);
    return kind;
  }
  if (kind !== "fifo") throw new VmmError("fd-unusable", `It is no socket and no pipe (${kind})`);
  const wrongMode = direction === "outgoing" ? READ_ONLY : WRITE_ONLY;
  if ((statusFlags(fd) & ACCESS_MODE) === wrongMode) {
    throw new VmmError("fd-unusable", `It is the wrong end of a pipe for ${direction} migration`);
  }
  return kind;
}

async function openCommand({ args }: { args: string[] }, direction: Direction): Promise<Transport> {
  const name = formatMigrationUri({ transport: "exec", args });
  const { fd, ...command } = await runCommand(args, direction === "outgoing" ? "stdin" : "stdout");
  return transportOf(fd, name, { isDuplex: false, isUnix: false }, command);
}
