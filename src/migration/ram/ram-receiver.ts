// SPDX-License-Identifier: Apache-2.0
// Receives guest RAM from one or more connected sockets, in rounds, off the main thread, straight into its place.
//
// All streams end a round before one begins the next: a page may come on one stream now and on another in the next round, and
// the later one must win.
import { setNonBlocking } from "../../../ffi/fd.ts";
import { RamCrew, type RoundStats } from "./crew.ts";
import type { PageSource } from "./page-copier.ts";
import type { RamProgress } from "./shared.ts";
import { StreamReceiver } from "./stream-receiver.ts";
import type { RamPlace } from "./walk.ts";

export interface RamReceiverOptions extends RamPlace {
  /** Connected stream sockets, as many and in the same order as the sender's. They stay the caller's, and become non-blocking. */
  fds: readonly number[];
  /**
   * RAM that nobody has written: address of an empty bitmap in the linear memory, in which the receiver notes what it writes. Zero
   * pages then cost nothing. Absent: every page that is said to be zero is looked at.
   */
  freshBitmap?: number;
  /** The sender's RAM, when it sends pages by reference. It stays the caller's. */
  source?: PageSource;
}

export class RamReceiver implements AsyncDisposable {
  readonly #options: RamReceiverOptions;
  readonly #crew: RamCrew;
  #here: StreamReceiver[] | undefined;

  constructor(options: RamReceiverOptions) {
    this.#options = options;
    for (const fd of options.fds) setNonBlocking(fd, true);
    this.#crew = new RamCrew(options, options.fds, {
      kind: "receive",
      written: options.freshBitmap ?? 0,
      source: options.source,
    });
  }

  /** Of all rounds so far; at any time. */
  get progress(): RamProgress {
    return this.#crew.progress();
  }

  /**
   * Receives one round on all streams, and not a byte beyond it. RAM has the round's pages when this resolves.
   * @throws VmmError "ram-peer", "ram-stream", "ram-cancelled"; no other round is possible then
   */
  async receiveRound(): Promise<RoundStats> {
    const stats = await this.#crew.run({ bitmap: 0 });
    this.#crew.shared.nextRound();
    return stats;
  }

  /**
   * The same on the calling thread, for the last few pages of a guest that stands: no worker has to wake up.
   * @throws VmmError also "ram-timeout" after `timeoutMs`
   */
  receiveRoundNow(timeoutMs: number): RoundStats {
    const { memory, ramBase, ramSizeBytes, fds, freshBitmap: written = 0, source } = this.#options;
    const { shared } = this.#crew;
    this.#here ??= fds.map(
      (fd, stream) => new StreamReceiver({ memory, ramBase, ramSizeBytes, shared, fd, stream, written, source }),
    );
    const receivers = this.#here;
    const stats = this.#crew.runHere({ bitmap: 0 }, () => {
      for (const receiver of receivers) receiver.receiveRound(timeoutMs);
    });
    shared.nextRound();
    return stats;
  }

  /** Ends the round that is under way within 20 ms. */
  cancel(): void {
    this.#crew.cancel();
  }

  /** Ends the workers. The fds are free when this has resolved. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#crew.close();
  }
}
