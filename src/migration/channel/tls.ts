// SPDX-License-Identifier: Apache-2.0
// TLS for the connections of a migration.
//
//   this process                                              the other one
//   migration ── socket pair ── worker: TLS 1.3 ── network ── worker ── socket pair ── migration
//
// The migration goes on reading and writing raw fds, RAM straight out of the guest's memory; the runtime's own TLS is at
// work in a thread per connection (tls-worker.ts), which needs nothing of the main thread: that blocks in the guest's pause.
import { close, duplicate, setCloseOnExec } from "../../../ffi/fd.ts";
import { socketPair } from "../../../ffi/socket.ts";
import { VmmError } from "../../errors.ts";
import { spawnWorker } from "../../runtime/entry.ts";
import type { TlsCredentials } from "./tls-credentials.ts";
import { TlsFailure } from "./tls-failure.ts";
import type { TlsOrder, TlsReport } from "./tls-worker.ts";
import type { Transport } from "./transport.ts";

/** How a connection looks to those who use it when the tunnel has broken. */
const BROKEN: readonly string[] = ["peer-gone", "peer-silent", "stream", "ram-peer", "ram-stream", "ram-timeout"];

export class TlsTunnels {
  readonly #credentials: TlsCredentials;
  readonly #hostname: string;
  readonly #failures: TlsFailure[] = [];

  /** `hostname` is for clients: what the server's certificate must be for. */
  constructor(credentials: TlsCredentials, hostname: string) {
    this.#credentials = credentials;
    this.#hostname = hostname;
  }

  /**
   * Takes a connected socket, whatever comes of it, and resolves with one on which TLS has been agreed and, unless
   * verify-peer is off, the peer's certificate checked.
   * @throws VmmError "tls" saying why not; the signal's reason
   */
  async secure(transport: Transport, signal: AbortSignal): Promise<Transport> {
    const failure = new TlsFailure();
    const secured = Promise.withResolvers<void>();
    const [near, innerFd] = socketPair();
    const outerFd = duplicate(transport.fd);
    transport.close();
    setCloseOnExec(outerFd, true);
    const worker = spawnWorker("migration/channel/tls-worker.ts", (error) => {
      failure.report(error.message);
      secured.reject(error);
    });
    worker.addEventListener("message", ({ data }: MessageEvent<TlsReport>) => {
      if (data.secured) secured.resolve();
      else secured.reject(new VmmError("tls", failure.reason ?? `${transport.name}: the connection has ended`));
    });
    const abort = (): void => {
      worker.postMessage("abort");
      secured.reject(signal.reason);
    };
    signal.addEventListener("abort", abort, { once: true });
    const { name } = transport;
    worker.postMessage({
      innerFd,
      outerFd,
      name,
      credentials: this.#credentials,
      hostname: this.#hostname,
      failure: failure.buffer,
    } satisfies TlsOrder);
    if (signal.aborted) abort();
    try {
      await secured.promise;
    } catch (error) {
      close(near);
      throw error;
    } finally {
      signal.removeEventListener("abort", abort);
    }
    this.#failures.push(failure);
    return new TunnelEnd(near, name);
  }

  /** Carries out `action`; when it fails because a tunnel broke, the error says why that was. */
  async explain<T>(action: () => Promise<T>): Promise<T> {
    try {
      return await action();
    } catch (error) {
      const reason = this.#failures.map((failure) => failure.reason).find((each) => each !== undefined);
      if (reason === undefined || !(error instanceof VmmError && BROKEN.includes(error.code))) throw error;
      throw new VmmError("tls", reason);
    }
  }
}

class TunnelEnd implements Transport {
  readonly fd: number;
  readonly name: string;
  readonly isDuplex = true;
  /** No fd would come out at the other end. */
  readonly isUnix = false;
  #isOpen = true;

  constructor(fd: number, name: string) {
    this.fd = fd;
    this.name = name;
  }

  finished(): Promise<void> {
    return Promise.resolve();
  }

  abandon(): void {}

  close(): void {
    if (this.#isOpen) close(this.fd);
    this.#isOpen = false;
  }
}
