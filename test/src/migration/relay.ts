// SPDX-License-Identifier: Apache-2.0
// A man in the middle of a cpr-transfer: passes frames on, fds included, and cuts all channels where a test wants it.
import { close } from "../../../ffi/fd.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import { connectTransport } from "../../../src/migration/channel/transport.ts";
import { TransportListener } from "../../../src/migration/channel/transport-listener.ts";
import { Reactor } from "../../../src/runtime/reactor.ts";
import type { Sockets } from "./transfers.ts";

const unix = (path: string) => ({ transport: "socket" as const, type: "unix" as const, path });

export class Relay implements AsyncDisposable {
  readonly #reactor = new Reactor();
  readonly #open: { close(): void }[] = [];
  readonly #cutAt: number;
  /** The frame came, and neither it nor any later one was passed on. */
  hasCut = false;

  private constructor(cutAt: number) {
    this.#cutAt = cutAt;
  }

  /** Stands at `front` for the new side, which is at `back`, until a frame of type `cutAt` comes. */
  static async start(front: Sockets, back: Sockets, cutAt: number): Promise<Relay> {
    const relay = new Relay(cutAt);
    for (const channel of ["main", "cpr"] as const) {
      const listener = await TransportListener.listen(unix(front[channel]), relay.#reactor, {
        findFd: () => undefined,
      });
      relay.#open.push(listener);
      void relay.#serve(listener, back[channel]).catch(() => relay.#closeAll());
    }
    return relay;
  }

  async #serve(listener: TransportListener, path: string): Promise<void> {
    const old = this.#channel(await listener.accept());
    const options = { signal: new AbortController().signal, findFd: () => undefined };
    const next = this.#channel(await connectTransport(unix(path), this.#reactor, options));
    await Promise.all([this.#pump(old, next), this.#pump(next, old)]);
  }

  #channel(transport: ConstructorParameters<typeof FrameChannel>[0]): FrameChannel {
    const channel = new FrameChannel(transport, this.#reactor);
    this.#open.push(channel);
    return channel;
  }

  async #pump(from: FrameChannel, to: FrameChannel): Promise<void> {
    for (;;) {
      const frame = await from.receive();
      if (frame === undefined) return to.close();
      try {
        if (frame.type !== this.#cutAt) await to.send(frame.type, frame.payload, frame.fds);
      } finally {
        for (const fd of frame.fds) close(fd);
      }
      if (frame.type !== this.#cutAt) continue;
      this.hasCut = true;
      this.#closeAll();
    }
  }

  #closeAll(): void {
    for (const each of this.#open.splice(0)) each.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closeAll();
    await this.#reactor.close();
  }
}
