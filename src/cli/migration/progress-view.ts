// SPDX-License-Identifier: Apache-2.0
// How far a migration has come, on a terminal as a bar that is written over, elsewhere as a line now and then.
import { formatSize } from "../../hmp/size.ts";
import type { Terminal } from "../terminal.ts";
import type { RamSnapshot, Snapshot } from "./meter.ts";

/** A log has a line so often. */
const LINE_INTERVAL_MS = 2000;
const BAR_CELLS = 20;

const WAITING: Readonly<Record<string, string>> = {
  setup: "getting ready; a stream waits until the other side takes it",
  active: "the guest's RAM stays where it is",
  device: "the guest stands; its state follows",
  cancelling: "being cancelled",
  failing: "it has failed",
};

export class ProgressView {
  readonly #terminal: Terminal;
  #lineMs: number;

  constructor(terminal: Terminal, startMs: number) {
    this.#terminal = terminal;
    this.#lineMs = startMs;
  }

  show(snapshot: Snapshot, nowMs: number): void {
    if (this.#terminal.isFancy) {
      this.#terminal.progress(describeSnapshot(snapshot, { bar: true }));
    } else if (nowMs - this.#lineMs >= LINE_INTERVAL_MS) {
      this.#lineMs = nowMs;
      this.#terminal.print(describeSnapshot(snapshot, { bar: false }));
    }
  }

  /** Something that stays. */
  note(text: string): void {
    this.#terminal.print(text);
  }

  /** Takes the bar away. */
  end(): void {
    if (this.#terminal.isFancy) this.#terminal.print();
  }
}

export function describeSnapshot({ status, throttlePercent, ram }: Snapshot, { bar }: { bar: boolean }): string {
  if (ram === undefined) return WAITING[status ?? ""] ?? `status ${status}`;
  // Rounded down: 100 % is said of nothing that still moves.
  const percent = Math.floor((1 - ram.remainingBytes / Math.max(ram.totalBytes, 1)) * 100);
  const filled = Math.round((percent * BAR_CELLS) / 100);
  const cells = `[${"#".repeat(filled)}${"-".repeat(BAR_CELLS - filled)}] ${String(percent).padStart(3)}`;
  const parts = [
    `${bar ? cells : percent} % of ${formatSize(ram.totalBytes)}`,
    `round ${ram.round}`,
    `${formatSize(ram.remainingBytes)} left`,
    `${formatSize(ram.bytesPerSecond)}/s`,
    describeEnd(ram),
    ...(ram.dirtyBytesPerSecond === undefined ? [] : [`guest writes ${formatSize(ram.dirtyBytesPerSecond)}/s`]),
    ...(ram.expectedPauseMs === undefined ? [] : [`pause ${ram.expectedPauseMs} ms`]),
    ...(throttlePercent === 0 ? [] : [`slowed down by ${throttlePercent} %`]),
  ];
  return parts.join(", ");
}

function describeEnd({ remainingMs, isAtLeast }: RamSnapshot): string {
  if (remainingMs === undefined) return isAtLeast ? "end not known yet" : "no end in sight";
  return `${isAtLeast ? "at least " : ""}${formatDuration(remainingMs)} to go`;
}

/** `0.4 s`, `42 s`, `3:05`, `1:02:03`. */
export function formatDuration(ms: number): string {
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const two = (value: number): string => String(value).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${two(seconds % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}
