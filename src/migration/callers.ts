// SPDX-License-Identifier: Apache-2.0
// Whoever connects to where a guest is waited for: the first who begins as agreed is it. Strangers are turned away, and
// take nobody's place.
import { describeError, VmmError } from "../errors.ts";
import type { Reactor } from "../runtime/reactor.ts";
import { type Frame, FrameChannel } from "./channel/frames.ts";
import type { Transport } from "./channel/transport.ts";
import type { TransportListener } from "./channel/transport-listener.ts";
import { discardFds, expectFrame, refusePeer } from "./messages.ts";

/** Who connects says at once what it wants. */
const FIRST_FRAME_TIMEOUT_MS = 5000;
/** More than that wait in the kernel's queue until somebody has been turned away. */
const MAX_CALLERS = 16;

/** A connection, and the frame that it began with. */
export interface Caller {
  channel: FrameChannel;
  first: Frame;
}

export interface CallerOptions {
  /** Of the first frame. */
  type: number;
  limitBytes?: number;
  /** Gives up when it is aborted: the promise is rejected with its reason. */
  signal: AbortSignal;
  /** Throws what is wrong with the first frame. */
  check?(first: Frame, channel: FrameChannel): void;
  /** Hears of everybody who was turned away. */
  onRefused(message: string): void;
}

/**
 * Takes connections of a listener until one begins with the right frame; the listener stays open. Of a listener with one
 * connection only (an fd, a command) that one has to be it.
 * @throws VmmError what was wrong with the last one, when nobody else can come; the signal's reason
 */
export async function awaitCaller(
  listener: TransportListener,
  reactor: Reactor,
  options: CallerOptions,
): Promise<Caller> {
  const { signal, onRefused } = options;
  const found = Promise.withResolvers<Caller>();
  const over = new AbortController();
  const unheard = new Map<FrameChannel, Promise<void>>();
  let lastFailure: unknown;

  const hear = async (channel: FrameChannel): Promise<void> => {
    try {
      const { type, limitBytes, check } = options;
      const first = await expectFrame(channel, type, { timeoutMs: FIRST_FRAME_TIMEOUT_MS, limitBytes });
      unheard.delete(channel);
      try {
        if (over.signal.aborted) throw new VmmError("busy", "Somebody else is being served");
        check?.(first, channel);
      } catch (error) {
        discardFds(first);
        throw error;
      }
      over.abort();
      found.resolve({ channel, first });
    } catch (error) {
      unheard.delete(channel);
      lastFailure = error;
      if (!over.signal.aborted) onRefused(describeError(error));
      await refusePeer(channel, error);
      channel.close();
    }
  };

  const takeAll = async (): Promise<void> => {
    for (;;) {
      const transport: Transport = await listener.accept({ signal: over.signal });
      const channel = new FrameChannel(transport, reactor);
      unheard.set(channel, hear(channel));
      if (unheard.size >= MAX_CALLERS) await Promise.race(unheard.values());
    }
  };
  const taken = takeAll().catch(async (error) => {
    await Promise.all(unheard.values());
    found.reject(lastFailure ?? error);
  });

  const abort = (): void => {
    found.reject(signal.reason);
    over.abort();
  };
  signal.addEventListener("abort", abort, { once: true });
  if (signal.aborted) abort();
  try {
    return await found.promise;
  } finally {
    signal.removeEventListener("abort", abort);
    over.abort();
    for (const channel of unheard.keys()) channel.close();
    await taken;
  }
}
