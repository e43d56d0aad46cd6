// SPDX-License-Identifier: Apache-2.0
// The main thread's hold on the workers of one transfer of guest RAM: one for each stream, all doing the same job.
import { VmmError } from "../../errors.ts";
import { spawnWorker } from "../../runtime/entry.ts";
import { cancelled, MAX_STREAMS, type RamJob, type RamProgress, RamShared } from "./shared.ts";
import type { RamPlace } from "./walk.ts";
import type { RamWorkerStart } from "./worker.ts";

export interface RoundStats extends RamProgress {
  durationMs: number;
}

export class RamCrew {
  readonly shared = new RamShared();
  readonly #workers: Worker[];
  #isBusy = false;
  #isCancelled = false;
  #death: VmmError | undefined;
  #onDeath: (() => void) | undefined;

  /** Starts a worker for each of `fds`, which stay the caller's and must be open until `close` has resolved. */
  constructor({ memory, ramBase, ramSizeBytes }: RamPlace, fds: readonly number[], work: RamWorkerStart["work"]) {
    const streamCount = fds.length;
    if (streamCount < 1 || streamCount > MAX_STREAMS) {
      throw new RangeError(`Guest RAM moves in 1 to ${MAX_STREAMS} streams, not ${streamCount}`);
    }
    this.#workers = fds.map((fd, stream) => {
      const worker = spawnWorker("migration/ram/worker.ts", (error) => {
        this.#death = error;
        this.#onDeath?.();
      });
      const start = { memory, ramBase, ramSizeBytes, shared: this.shared.buffer, fd, stream, streamCount, work };
      worker.postMessage(start satisfies RamWorkerStart);
      return worker;
    });
  }

  get streamCount(): number {
    return this.#workers.length;
  }

  /** Of all jobs so far; at any time. */
  progress(): RamProgress {
    return this.shared.progress(this.streamCount);
  }

  /** Ends the job that is being done, which then fails with "ram-cancelled", and allows no other. */
  cancel(): void {
    this.#isCancelled = true;
    this.shared.cancel();
  }

  /** Does one job on all streams. @throws VmmError the first that a stream had; no other job is possible then */
  run(job: RamJob): Promise<RoundStats> {
    return this.#measured(async () => {
      const death = Promise.withResolvers<void>();
      this.#onDeath = death.resolve;
      this.shared.order(job);
      for (let done = this.shared.doneCount; done < this.streamCount; done = this.shared.doneCount) {
        if (this.#death !== undefined) break;
        await Promise.race([this.shared.whenDoneChanges(done), death.promise]);
      }
    });
  }

  /** One job that the calling thread does, with no worker. */
  runHere(job: RamJob, action: () => void): RoundStats {
    const [before, startMs] = this.#begin();
    try {
      this.shared.prepare(job);
      action();
    } catch (error) {
      this.shared.reportError(0, error);
    }
    return this.#end(before, startMs);
  }

  async #measured(action: () => Promise<void>): Promise<RoundStats> {
    const [before, startMs] = this.#begin();
    await action();
    return this.#end(before, startMs);
  }

  #begin(): [RamProgress, number] {
    if (this.#isBusy) throw new VmmError("ram-busy", "Guest RAM is being moved already");
    this.#throwError();
    this.#isBusy = true;
    return [this.progress(), performance.now()];
  }

  #end(before: RamProgress, startMs: number): RoundStats {
    this.#isBusy = false;
    this.#throwError();
    const after = this.progress();
    return {
      normalPages: after.normalPages - before.normalPages,
      zeroPages: after.zeroPages - before.zeroPages,
      bytes: after.bytes - before.bytes,
      durationMs: performance.now() - startMs,
    };
  }

  /** A stream that ends because another has failed says so, too: the cause comes first. */
  #throwError(): void {
    if (this.#isCancelled) throw cancelled();
    if (this.#death !== undefined) throw this.#death;
    const errors = this.#workers.map((_, stream) => this.shared.errorOf(stream)).filter((error) => error !== undefined);
    const error = errors.find(({ code }) => code !== "ram-cancelled") ?? errors[0];
    if (error !== undefined) throw error;
  }

  /** Ends the workers; what they are doing is cancelled. Resolves when they use the fds no more. */
  async close(): Promise<void> {
    if (this.#isBusy) {
      this.cancel();
      for (let done = this.shared.doneCount; done < this.streamCount; done = this.shared.doneCount) {
        if (this.#death !== undefined) break;
        await this.shared.whenDoneChanges(done);
      }
    }
    this.shared.orderExit();
  }
}
