// SPDX-License-Identifier: Apache-2.0
// Sends guest RAM on one or more connected sockets, in rounds, off the main thread.
//
// A round has the pages of one bitmap: what a DirtyTracker collected. Collect first, then send: a page that the guest writes
// while it is being sent is then in the next round. What else travels on the sockets goes before a round or after it.
import { setNonBlocking } from "../../../ffi/fd.ts";
import { widenUnixSocket } from "../../../ffi/socket.ts";
import { RamCrew, type RoundStats } from "./crew.ts";
import type { RamProgress } from "./shared.ts";
import { StreamSender } from "./stream-sender.ts";
import type { RamPlace } from "./walk.ts";

/** Measured: less makes the two sides wait for each other, more does not fit into the processor's caches. */
const SOCKET_SIZE_BYTES = 1 << 20;

export interface RamSenderOptions extends RamPlace {
  /** Connected stream sockets, one worker each. They stay the caller's, and become non-blocking. */
  fds: readonly number[];
  /** Bytes per second of all streams together; absent or 0: no limit. */
  bandwidth?: number;
  /** Packs pages with zstd of this level; absent or 0: sends them as they are. */
  zstdLevel?: number;
  /** The receiver has this RAM's file and takes the pages out of it: no byte of them goes over the sockets. */
  isByReference?: boolean;
}

export class RamSender implements AsyncDisposable {
  readonly #options: RamSenderOptions;
  readonly #crew: RamCrew;
  #here: StreamSender[] | undefined;

  constructor(options: RamSenderOptions) {
    this.#options = options;
    for (const fd of options.fds) {
      setNonBlocking(fd, true);
      widenUnixSocket(fd, SOCKET_SIZE_BYTES);
    }
    this.#crew = new RamCrew(options, options.fds, {
      kind: "send",
      zstdLevel: options.zstdLevel ?? 0,
      isByReference: options.isByReference ?? false,
    });
    this.bandwidth = options.bandwidth ?? 0;
  }

  /** May be changed while a round is under way. */
  set bandwidth(bytesPerSecond: number) {
    this.#crew.shared.bandwidth = bytesPerSecond;
  }

  /** Of all rounds so far; at any time. */
  get progress(): RamProgress {
    return this.#crew.progress();
  }

  /**
   * Sends the pages of the bitmap at `bitmap`, an address in the linear memory, and clears it meanwhile: nobody else may touch it.
   * @throws VmmError "ram-peer", "ram-stream", "ram-cancelled"; no other round is possible then
   */
  async sendRound(bitmap: number): Promise<RoundStats> {
    const stats = await this.#crew.run({ bitmap });
    this.#crew.shared.nextRound();
    return stats;
  }

  /**
   * The same on the calling thread, on the first stream, for the last few pages of a guest that stands: no worker has to wake up,
   * no limit applies. @throws VmmError also "ram-timeout" after `timeoutMs`
   */
  sendRoundNow(bitmap: number, timeoutMs: number): RoundStats {
    if (this.#crew.shared.isCut) throw new Error("A round was cut: the pages that are left go by post-copy");
    const senders = this.prepareNow();
    const stats = this.#crew.runHere({ bitmap }, () => {
      // The first one takes all pages, and leaves the ends of the round to the others.
      for (const sender of senders) sender.sendRound(timeoutMs);
    });
    this.#crew.shared.nextRound();
    return stats;
  }

  /** What `sendRoundNow` needs, made beforehand: outside the guest's pause. */
  prepareNow(): readonly StreamSender[] {
    const { memory, ramBase, ramSizeBytes, fds, isByReference = false } = this.#options;
    const { shared } = this.#crew;
    const common = { memory, ramBase, ramSizeBytes, shared, streamCount: fds.length, zstdLevel: 0, isByReference };
    this.#here ??= fds.map((fd, stream) => new StreamSender({ ...common, fd, stream }));
    return this.#here;
  }

  /** Has `sendRound` end early, in good order: bits of pages that have not gone stay in the bitmap. No later round sends anything. */
  cut(): void {
    this.#crew.shared.cut();
  }

  /** Ends the round that is under way within 20 ms. The streams are in the middle of something then. */
  cancel(): void {
    this.#crew.cancel();
  }

  /** Ends the workers. The fds are free when this has resolved. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#crew.close();
  }
}
