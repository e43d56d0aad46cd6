// SPDX-License-Identifier: Apache-2.0
// Moving RAM while the guest runs: all of it, then what was written meanwhile, and again, until the rest fits into a pause.
import { DIRTY_BITMAP_SIZE_BYTES, PAGE_SIZE_BYTES, SCRATCH_BITMAPS } from "../../assembly/layout.ts";
import type { DirtyTracker } from "../accel/types.ts";
import { existingRanges } from "../memory/ram.ts";
import type { MigrationStats } from "../qmp/schema/migration.ts";
import type { Outgoing } from "./outgoing.ts";
import type { RoundStats } from "./ram/crew.ts";
import { type DirtyModule, loadDirtyModule } from "./ram/dirty-module.ts";
import type { RamProgress } from "./ram/shared.ts";

/** Where rounds of pages go: sockets, or a file. */
export interface RamSink {
  /** Of all rounds so far. */
  readonly progress: RamProgress;
  /** Takes the pages out of the bitmap at that address, and takes them along. */
  sendRound(bitmap: number): Promise<RoundStats>;
  cancel(): void;
  /** Has the round that is under way end in order, with what it has moved. */
  cut?(): void;
}

/** The bitmap of the pages of the next round. */
export const ROUND_BITMAP = SCRATCH_BITMAPS;
const BITMAP = ROUND_BITMAP;
/** A bitmap of the same size for whoever needs one more. */
export const SPARE_BITMAP = BITMAP + DIRTY_BITMAP_SIZE_BYTES;
/** So few pages take less than a pause does anyway. */
const FEW_PAGES = 64;
/** A round that leaves more than this share of what the one before left gains nothing. */
const WORTHWHILE = 0.7;
/** Rounds in which a guest may show that it writes too fast. */
const PATIENCE_ROUNDS = 2;
/** A round of less tells nothing about the bandwidth. */
const TELLING_BYTES = 2 ** 20;

export class Precopy {
  readonly #run: Outgoing;
  readonly #sink: RamSink;
  readonly #tracker: DirtyTracker;
  readonly #beforeRound: (() => Promise<void>) | undefined;
  readonly #module: DirtyModule;
  readonly #pageCount: number;
  readonly #startedMs = performance.now();
  #endedMs: number | undefined;
  /** Pages of RAM that never were written: they are zero, and need not be said to be. */
  #holePages = 0;
  #rounds = 0;
  /** What the round that is under way began with. */
  #roundPages = 0;
  #movedBefore = 0;
  #bytesPerMs = 0;
  #dirtyPagesPerSecond = 0;
  /** What had been moved when the guest stood. */
  #precopyBytes: number | undefined;
  #isCut = false;

  /** @param beforeRound tells the other side that a round begins */
  constructor(run: Outgoing, sink: RamSink, tracker: DirtyTracker, beforeRound?: () => Promise<void>) {
    this.#run = run;
    this.#sink = sink;
    this.#tracker = tracker;
    this.#beforeRound = beforeRound;
    this.#module = loadDirtyModule(run.vm.memory);
    this.#pageCount = run.vm.ram.backend.sizeBytes / PAGE_SIZE_BYTES;
    run.progress.ram = () => this.stats();
  }

  /**
   * Starts to note what the guest writes, and moves RAM until what is left can go in the pause. The guest runs on. Called
   * again, it moves what has been written since.
   */
  async run(): Promise<void> {
    const { progress, signal } = this.#run;
    if (this.#tracker.isOn) this.#collect();
    else this.#begin();
    for (let leftBefore = Number.POSITIVE_INFINITY; !this.#isCut; ) {
      const startMs = performance.now();
      await this.#round();
      signal.throwIfAborted();
      if (this.#isCut) return;
      const left = this.#collect();
      this.#dirtyPagesPerSecond = (left * 1000) / Math.max(performance.now() - startMs, 1);
      const pauseMs = this.#bytesPerMs === 0 ? 0 : (left * PAGE_SIZE_BYTES) / this.#bytesPerMs;
      progress.expectedDowntimeMs = pauseMs;
      const isWorthwhile = left < leftBefore * WORTHWHILE;
      if (pauseMs <= this.#run.parameters["downtime-limit"] && (left <= FEW_PAGES || !isWorthwhile)) return;
      if (!isWorthwhile && this.#rounds > PATIENCE_ROUNDS) this.#slowDown();
      leftBefore = left;
    }
  }

  /** Has `run` end soon, whatever is left. */
  cut(): void {
    this.#isCut = true;
    this.#sink.cut?.();
  }

  /** The pages that are left at this moment, in the bitmap that `finish` gives. */
  collectRest(): number {
    this.#collect();
    return BITMAP;
  }

  /** Moves all of RAM of a guest that stands. */
  async runStopped(): Promise<void> {
    this.#precopyBytes = 0;
    this.#fillBitmap();
    await this.#round();
  }

  /**
   * The pages that are left when the guest stands, which `move` takes out of the bitmap. Synchronous when `move` is.
   */
  finish<T extends RoundStats | Promise<RoundStats>>(move: (bitmap: number) => T): T {
    this.#precopyBytes ??= this.#sink.progress.bytes;
    this.#beginRound(this.#tracker.isOn ? this.#collect() : 0);
    return move(BITMAP);
  }

  /** Stops noting what the guest writes, and lets it run at full speed. */
  end(): void {
    this.#endedMs ??= performance.now();
    if (this.throttlePercent > 0) this.#throttle(0);
    if (this.#tracker.isOn) this.#tracker.stop();
  }

  /** For `query-migrate`. */
  stats(): MigrationStats {
    const { normalPages, zeroPages, bytes } = this.#sink.progress;
    const moved = normalPages + zeroPages - this.#movedBefore;
    const elapsedMs = Math.max((this.#endedMs ?? performance.now()) - this.#startedMs, 1);
    const precopyBytes = this.#precopyBytes ?? bytes;
    return {
      transferred: bytes,
      remaining: Math.max(0, this.#roundPages - moved) * PAGE_SIZE_BYTES,
      total: this.#pageCount * PAGE_SIZE_BYTES,
      duplicate: zeroPages + this.#holePages,
      normal: normalPages,
      "normal-bytes": normalPages * PAGE_SIZE_BYTES,
      "dirty-pages-rate": Math.round(this.#dirtyPagesPerSecond),
      mbps: (bytes * 8) / 1000 / elapsedMs,
      "dirty-sync-count": this.#rounds,
      "postcopy-requests": 0,
      "page-size": PAGE_SIZE_BYTES,
      "multifd-bytes": this.#run.capabilities.multifd ? bytes : 0,
      "pages-per-second": Math.round(((normalPages + zeroPages) * 1000) / elapsedMs),
      "precopy-bytes": precopyBytes,
      "downtime-bytes": bytes - precopyBytes,
      "postcopy-bytes": 0,
      "dirty-sync-missed-zero-copy": 0,
    };
  }

  /** By how many percent auto-converge slows the guest down now. */
  get throttlePercent(): number {
    return this.#run.progress.throttlePercent;
  }

  #throttle(percent: number): void {
    const { vm, progress } = this.#run;
    vm.accel.throttle(percent);
    progress.throttlePercent = percent;
  }

  async #round(): Promise<void> {
    const { progress, signal } = this.#run;
    await this.#beforeRound?.();
    progress.pass(++this.#rounds);
    const { bytes, durationMs } = await untilAborted(signal, this.#sink, () => this.#sink.sendRound(BITMAP));
    if (bytes >= TELLING_BYTES) this.#bytesPerMs = bytes / Math.max(durationMs, 0.01);
  }

  /** From here on nothing that the guest writes is missed, and RAM as it was before is in the bitmap. */
  #begin(): void {
    this.#tracker.start();
    // The first one may report all of RAM, which is in the bitmap anyway.
    this.#tracker.collect(BITMAP);
    this.#fillBitmap();
  }

  /** Adds what the guest has written to the bitmap, and begins a round of it. Returns how many pages that is. */
  #collect(): number {
    this.#tracker.collect(BITMAP);
    const pages = this.#module.countDirty(BITMAP, this.#pageCount);
    this.#beginRound(pages);
    return pages;
  }

  #beginRound(pages: number): void {
    const { normalPages, zeroPages } = this.#sink.progress;
    this.#movedBefore = normalPages + zeroPages;
    this.#roundPages = pages;
  }

  /** All pages but those that no file has: what RAM goes into is zero before anything comes. */
  #fillBitmap(): void {
    const { memory, ram } = this.#run.vm;
    new Uint8Array(memory.buffer, BITMAP, DIRTY_BITMAP_SIZE_BYTES).fill(0);
    for (const { offset, sizeBytes } of existingRanges(ram)) {
      const first = Math.floor(offset / PAGE_SIZE_BYTES);
      this.#module.setRange(BITMAP, first, Math.ceil((offset + sizeBytes) / PAGE_SIZE_BYTES) - first);
    }
    const pages = this.#module.countDirty(BITMAP, this.#pageCount);
    this.#holePages = this.#pageCount - pages;
    this.#beginRound(pages);
  }

  /** Auto-converge: a guest that writes faster than its pages can be moved gets less time to run. */
  #slowDown(): void {
    const { capabilities, parameters } = this.#run;
    if (!capabilities["auto-converge"]) return;
    const percent =
      this.throttlePercent === 0
        ? parameters["cpu-throttle-initial"]
        : this.throttlePercent + parameters["cpu-throttle-increment"];
    this.#throttle(Math.min(percent, parameters["max-cpu-throttle"]));
  }
}

/** A round that `migrate_cancel` ends. */
export async function untilAborted<T>(
  signal: AbortSignal,
  sink: Pick<RamSink, "cancel">,
  action: () => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const cancel = (): void => sink.cancel();
  signal.addEventListener("abort", cancel, { once: true });
  try {
    return await action();
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}
