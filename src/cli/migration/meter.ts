// SPDX-License-Identifier: Apache-2.0
// What a person wants to know of a migration that is under way, from what query-migrate says again and again.
import type { MigrationInfo, MigrationStatus } from "../../qmp/schema/migration.ts";
import { estimateRemainingMs } from "./estimate.ts";

export interface Snapshot {
  status: MigrationStatus | undefined;
  /** By how much the guest is slowed down, 0 to 99. */
  throttlePercent: number;
  /** Absent while no RAM moves, or none has to. */
  ram?: RamSnapshot;
}

export interface RamSnapshot {
  totalBytes: number;
  /** What this round still has to move. */
  remainingBytes: number;
  round: number;
  /** On the wire, over the last seconds. */
  bytesPerSecond: number;
  /** How fast the guest writes, once that has been measured: after the first round. */
  dirtyBytesPerSecond: number | undefined;
  /** How long the guest would stand still if it were stopped now, once that is known. */
  expectedPauseMs: number | undefined;
  /** Until all is over; absent when that cannot be said. */
  remainingMs: number | undefined;
  /** No round has shown yet how fast the guest writes: it takes so long at least. */
  isAtLeast: boolean;
}

export interface MeterOptions {
  downtimeLimitMs: number;
  /** The guest runs meanwhile, and writes. */
  guestRuns: boolean;
}

interface Sample {
  ms: number;
  movedBytes: number;
  transferredBytes: number;
}

/** Rates are those of this time: long enough to be steady, short enough to follow a network that has changed. */
const WINDOW_MS = 5000;

export class Meter {
  readonly #options: MeterOptions;
  readonly #samples: Sample[] = [];
  #begin: Sample | undefined;
  #round = 0;
  #roundStartMs = 0;

  constructor(options: MeterOptions) {
    this.#options = options;
  }

  /** `nowMs` is when `info` was true. */
  add(info: MigrationInfo, nowMs: number): Snapshot {
    const snapshot = { status: info.status, throttlePercent: info["cpu-throttle-percentage"] ?? 0 };
    const ram = info.status === "active" && info.ram !== undefined ? this.#addRam(info, info.ram, nowMs) : undefined;
    return ram === undefined ? snapshot : { ...snapshot, ram };
  }

  #addRam(info: MigrationInfo, ram: NonNullable<MigrationInfo["ram"]>, nowMs: number): RamSnapshot | undefined {
    const round = ram["dirty-sync-count"];
    if (round === 0) return undefined;
    if (round !== this.#round) this.#roundStartMs = nowMs;
    this.#round = round;
    const pageBytes = ram["page-size"];
    this.#samples.push({
      ms: nowMs,
      movedBytes: (ram.normal + ram.duplicate) * pageBytes,
      transferredBytes: ram.transferred,
    });
    this.#begin ??= this.#samples[0]!;
    while (this.#samples.length > 2 && this.#samples[1]!.ms <= nowMs - WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0]!;
    const last = this.#samples.at(-1)!;
    const bytesPerMs = (last.transferredBytes - first.transferredBytes) / Math.max(last.ms - first.ms, 1);
    const { downtimeLimitMs, guestRuns } = this.#options;
    const isMeasured = round > 1;
    const dirtyBytesPerSecond = isMeasured && guestRuns ? ram["dirty-pages-rate"] * pageBytes : undefined;
    return {
      totalBytes: ram.total,
      remainingBytes: ram.remaining,
      round,
      bytesPerSecond: bytesPerMs * 1000,
      dirtyBytesPerSecond,
      expectedPauseMs: info["expected-downtime"],
      remainingMs: estimateRemainingMs({
        remainingBytes: ram.remaining,
        roundMs: nowMs - this.#roundStartMs,
        bytesPerMs: bytesPerMs * this.#ramPerWire(last),
        dirtyBytesPerMs: (dirtyBytesPerSecond ?? 0) / 1000,
        downtimeLimitMs,
      }),
      isAtLeast: guestRuns && !isMeasured,
    };
  }

  /** Bytes of RAM for a byte on the wire so far: more with zero pages and compression. Pages are counted in bursts. */
  #ramPerWire({ movedBytes, transferredBytes }: Sample): number {
    const moved = movedBytes - this.#begin!.movedBytes;
    const transferred = transferredBytes - this.#begin!.transferredBytes;
    return moved > 0 && transferred > 0 ? moved / transferred : 1;
  }
}
