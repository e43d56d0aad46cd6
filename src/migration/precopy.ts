// SPDX-License-Identifier: Apache-2.0
// Moving RAM while the guest runs: all of it, then what was written meanwhile, and again, until the rest fits into a pause.
import { DIRTY_BITMAP_SIZE_BYTES, PAGE_SIZE_BYTES, SCRATCH_BITMAPS } from "../../assembly/layout.ts";
import type { DirtyTracker } from "../accel/types.ts";
import type { Vm } from "../machine/vm.ts";
import { existingRanges } from "../memory/ram.ts";
import type { MigrationStats } from "../qmp/schema/migration.ts";
import type { Outgoing } from "./outgoing.ts";
import type { MigrationProgress } from "./progress.ts";
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
}

export interface PrecopyOptions {
  vm: Vm;
  tracker: DirtyTracker;
  sink: RamSink;
  progress: MigrationProgress;
  signal: AbortSignal;
  /** The pause may take so long, in ms. */
  downtimeLimitMs: number;
  /** Slows a guest down that writes faster than its pages can be moved. */
  autoConverge?: { initialPercent: number; incrementPercent: number; maximumPercent: number };
  /** Tells the other side that a round begins. */
  beforeRound?(): Promise<void>;
}

/** What is the same wherever RAM goes. */
export function precopyOptions(run: Outgoing, sink: RamSink, tracker: DirtyTracker): PrecopyOptions {
  const { vm, progress, signal, parameters, capabilities } = run;
  return {
    vm,
    tracker,
    sink,
    progress,
    signal,
    downtimeLimitMs: parameters["downtime-limit"],
    ...(capabilities["auto-converge"]
      ? {
          autoConverge: {
            initialPercent: parameters["cpu-throttle-initial"],
            incrementPercent: parameters["cpu-throttle-increment"],
            maximumPercent: parameters["max-cpu-throttle"],
          },
        }
      : {}),
  };
}

/** The bitmap of the pages of the next round. */
const BITMAP = SCRATCH_BITMAPS;
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
  readonly #options: PrecopyOptions;
  readonly #module: DirtyModule;
  readonly #pageCount: number;
  readonly #startedMs = performance.now();
  /** Pages of RAM that never were written: they are zero, and need not be said to be. */
  #holePages = 0;
  #rounds = 0;
  /** What the round that is under way began with. */
  #roundPages = 0;
  #movedBefore = 0;
  #bytesPerMs = 0;
  #dirtyPagesPerSecond = 0;
  #downtimeBytes = 0;
  #throttlePercent = 0;

  constructor(options: PrecopyOptions) {
    this.#options = options;
    this.#module = loadDirtyModule(options.vm.memory);
    this.#pageCount = options.vm.ram.backend.sizeBytes / PAGE_SIZE_BYTES;
    options.progress.ram = () => this.stats();
  }

  /** Starts to note what the guest writes, and moves RAM until what is left can go in the pause. The guest runs on. */
  async run(): Promise<void> {
    const { tracker, signal, downtimeLimitMs, progress } = this.#options;
    tracker.start();
    // The first one may report all of RAM, which is in the bitmap of the first round anyway.
    tracker.collect(BITMAP);
    this.#fillBitmap();
    for (let leftBefore = Number.POSITIVE_INFINITY; ; ) {
      const startMs = performance.now();
      await this.#round();
      signal.throwIfAborted();
      tracker.collect(BITMAP);
      const left = this.#module.countDirty(BITMAP, this.#pageCount);
      this.#dirtyPagesPerSecond = (left * 1000) / Math.max(performance.now() - startMs, 1);
      const pauseMs = this.#bytesPerMs === 0 ? 0 : (left * PAGE_SIZE_BYTES) / this.#bytesPerMs;
      progress.expectedDowntimeMs = pauseMs;
      this.#beginRound(left);
      const isWorthwhile = left < leftBefore * WORTHWHILE;
      if (pauseMs <= downtimeLimitMs && (left <= FEW_PAGES || !isWorthwhile)) return;
      if (!isWorthwhile && this.#rounds > PATIENCE_ROUNDS) this.#slowDown();
      leftBefore = left;
    }
  }

  /** Moves all of RAM of a guest that stands. */
  async runStopped(): Promise<void> {
    this.#fillBitmap();
    await this.#round();
  }

  /**
   * The pages that are left when the guest stands, which `move` takes out of the bitmap. Synchronous when `move` is.
   */
  finish<T extends RoundStats | Promise<RoundStats>>(move: (bitmap: number) => T): T {
    const { tracker } = this.#options;
    if (tracker.isOn) tracker.collect(BITMAP);
    this.#beginRound(this.#module.countDirty(BITMAP, this.#pageCount));
    this.#downtimeBytes = this.#roundPages * PAGE_SIZE_BYTES;
    return move(BITMAP);
  }

  /** Stops noting what the guest writes, and lets it run at full speed. */
  end(): void {
    const { vm, tracker } = this.#options;
    if (this.#throttlePercent > 0) vm.accel.throttle(0);
    this.#throttlePercent = 0;
    if (tracker.isOn) tracker.stop();
  }

  /** For `query-migrate`. */
  stats(): MigrationStats {
    const { sink } = this.#options;
    const { normalPages, zeroPages, bytes } = sink.progress;
    const moved = normalPages + zeroPages - this.#movedBefore;
    const elapsedMs = Math.max(performance.now() - this.#startedMs, 1);
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
      "multifd-bytes": 0,
      "pages-per-second": Math.round(((normalPages + zeroPages) * 1000) / elapsedMs),
      "precopy-bytes": Math.max(0, bytes - this.#downtimeBytes),
      "downtime-bytes": this.#downtimeBytes,
      "postcopy-bytes": 0,
      "dirty-sync-missed-zero-copy": 0,
    };
  }

  /** By how many percent auto-converge slows the guest down now. */
  get throttlePercent(): number {
    return this.#throttlePercent;
  }

  async #round(): Promise<void> {
    const { sink, progress, signal, beforeRound } = this.#options;
    await beforeRound?.();
    progress.pass(++this.#rounds);
    const abort = (): void => sink.cancel();
    signal.addEventListener("abort", abort, { once: true });
    try {
      signal.throwIfAborted();
      const { bytes, durationMs } = await sink.sendRound(BITMAP);
      if (bytes >= TELLING_BYTES) this.#bytesPerMs = bytes / Math.max(durationMs, 0.01);
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  #beginRound(pages: number): void {
    const { normalPages, zeroPages } = this.#options.sink.progress;
    this.#movedBefore = normalPages + zeroPages;
    this.#roundPages = pages;
  }

  /** All pages but those that no file has: what RAM goes into is zero before anything comes. */
  #fillBitmap(): void {
    const { memory, ram } = this.#options.vm;
    new Uint8Array(memory.buffer, BITMAP, DIRTY_BITMAP_SIZE_BYTES).fill(0);
    for (const { offset, sizeBytes } of existingRanges(ram)) {
      const first = Math.floor(offset / PAGE_SIZE_BYTES);
      this.#module.setRange(BITMAP, first, Math.ceil((offset + sizeBytes) / PAGE_SIZE_BYTES) - first);
    }
    const pages = this.#module.countDirty(BITMAP, this.#pageCount);
    this.#holePages = this.#pageCount - pages;
    this.#beginRound(pages);
  }

  #slowDown(): void {
    const { autoConverge, vm } = this.#options;
    if (autoConverge === undefined) return;
    const { initialPercent, incrementPercent, maximumPercent } = autoConverge;
    const percent = this.#throttlePercent === 0 ? initialPercent : this.#throttlePercent + incrementPercent;
    this.#throttlePercent = Math.min(percent, maximumPercent);
    vm.accel.throttle(this.#throttlePercent);
  }
}
