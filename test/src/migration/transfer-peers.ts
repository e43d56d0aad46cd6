// SPDX-License-Identifier: Apache-2.0
// One side of a cpr-transfer by hand, for tests of the other: it says what no VMM would.
import { close } from "../../../ffi/fd.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import { connectTransport } from "../../../src/migration/channel/transport.ts";
import { TransportListener } from "../../../src/migration/channel/transport-listener.ts";
import { FRAME_HELLO } from "../../../src/migration/messages.ts";
import { Reactor } from "../../../src/runtime/reactor.ts";
import { assert } from "../../harness.ts";
import { unix } from "./transfers.ts";

export const reactor = new Reactor();

/** A channel to somebody who listens on a unix socket. */
export async function call(path: string): Promise<FrameChannel> {
  return new FrameChannel(await connectTransport(unix(path), reactor), reactor);
}

/** Listens on a unix socket; the channel of the one who calls. */
export async function listenFor(path: string): Promise<{ called: Promise<FrameChannel>; close(): void }> {
  const listener = await TransportListener.listen(unix(path), reactor);
  const called = listener.accept().then((transport) => new FrameChannel(transport, reactor));
  called.catch(() => {});
  return { called, close: () => listener.close() };
}

/** What a real source has said, to be said again otherwise. The fds are the real ones. */
export interface Hello extends Disposable {
  channel: FrameChannel;
  payload: Uint8Array;
  ramFd: number;
  fenceFd: number;
}

/** Plays the new side of a transfer that a source is about to begin, as far as its hello. */
export async function hearHello(path: string, begin: () => Promise<void>): Promise<Hello> {
  const { called } = await listenFor(path);
  await begin();
  const channel = await called;
  const { type, payload, fds } = (await channel.receive())!;
  assert.is(type, FRAME_HELLO);
  const [ramFd, fenceFd] = fds as [number, number];
  return {
    channel,
    payload: payload.slice(),
    ramFd,
    fenceFd,
    [Symbol.dispose]() {
      channel.close();
      for (const fd of fds.splice(0)) close(fd);
    },
  };
}
