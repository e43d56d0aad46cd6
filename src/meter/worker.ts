// SPDX-License-Identifier: Apache-2.0
// The sampling thread of the pause meter: looks again and again at counters in a mapped memory file. Protocol: protocol.ts.
//
// A sample of one counter takes 55 ns in Bun and 80 ns in Deno, most of it for the clock: performance.now() counts
// nanoseconds in both and costs 25 and 70 ns. Its offset to CLOCK_MONOTONIC is measured for each window.
import { monotonicMs } from "../../ffi/clock.ts";
import { SysError } from "../../ffi/error.ts";
import { close, O_RDONLY, open } from "../../ffi/fd.ts";
import { waitForChange } from "../../ffi/futex.ts";
import { mapOver } from "../../ffi/mmap.ts";
import { SCHED_BATCH, setSchedulingPolicy } from "../../ffi/process.ts";
import {
  COMMAND,
  COMMAND_EXIT,
  COMMAND_IDLE,
  COMMAND_SAMPLE,
  type CounterWindow,
  type MeteredStandstill,
  type MeterMessage,
  type MeterSetup,
  type MeterWindow,
} from "./protocol.ts";
import { type Standstill, StandstillTracker } from "./standstill.ts";

declare const self: {
  onmessage: ((event: { data: MeterSetup }) => void) | null;
  postMessage(message: MeterMessage): void;
};

const PAGE_SIZE_BYTES = 4096;
const WASM_PAGE_SIZE_BYTES = 65536;
const NS_PER_MS = 1e6;
/** Samples between two naps. */
const BATCH = 64;
/** With the kernel's timer slack a nap takes about twice this. */
const NAP_MS = 0.05;
const WARM_UP_MS = 30;
/** Bounds that differ by less than this, or by less than this share of the standstill, are one figure. */
const TOLERANCE_NS = 50_000;
const TOLERANCE_SHARE = 0.05;

/**
 * (module (import "" "m" (memory 1 65536 shared)) (func (export "peek") (param i32) (result i32) local.get 0 i32.load))
 *
 * A plain load behind a call, because neither way to read a word in JavaScript will do. Both JITs may move a plain load out
 * of the loop. And JavaScriptCore compiles `Atomics.load` to a locked read-modify-write: it faults on a read-only
 * mapping, gives a private one a page of its own that never changes again, and takes the cache line from the guest.
 */
const PEEK_MODULE = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...[0x01, 0x06, 0x01, 0x60, 0x01, 0x7f, 0x01, 0x7f],
  ...[0x02, 0x0a, 0x01, 0x00, 0x01, 0x6d, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x07, 0x08, 0x01, 0x04, 0x70, 0x65, 0x65, 0x6b, 0x00, 0x00],
  ...[0x0a, 0x09, 0x01, 0x07, 0x00, 0x20, 0x00, 0x28, 0x02, 0x00, 0x0b],
);

type Peek = (address: number) => number;

/** Maps the page of every counter and returns the counters' addresses in the memory that `peek` reads. */
function mapCounters(path: string, counterOffsets: number[]): { peek: Peek; addresses: Int32Array } {
  const pages = [...new Set(counterOffsets.map((offset) => Math.floor(offset / PAGE_SIZE_BYTES)))];
  const wasmPages = Math.max(1, Math.ceil((pages.length * PAGE_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES));
  const memory = new WebAssembly.Memory({ initial: wasmPages, maximum: wasmPages, shared: true });
  const view = new Uint8Array(memory.buffer);
  const fd = open(path, O_RDONLY);
  try {
    for (const [slot, page] of pages.entries()) {
      // A private mapping shows the file's own pages as long as nobody writes to it, and makes sure that nothing done
      // here can reach the guest. The mapping, not the fd, keeps the file alive when the process observed execs.
      const fileOffset = page * PAGE_SIZE_BYTES;
      mapOver(view, slot * PAGE_SIZE_BYTES, { fd, fileOffset, sizeBytes: PAGE_SIZE_BYTES, private: true });
    }
  } finally {
    close(fd);
  }
  const addresses = counterOffsets.map((offset) => {
    const slot = pages.indexOf(Math.floor(offset / PAGE_SIZE_BYTES));
    return slot * PAGE_SIZE_BYTES + (offset % PAGE_SIZE_BYTES);
  });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(PEEK_MODULE), { "": { m: memory } });
  return { peek: (exports as unknown as { peek: Peek }).peek, addresses: Int32Array.from(addresses) };
}

/** CLOCK_MONOTONIC minus performance.now(), in ms, from the tightest of a few bracketed readings. */
function clockOffsetMs(): number {
  let offset = 0;
  let narrowest = Number.POSITIVE_INFINITY;
  for (let attempt = 0; attempt < 20; attempt++) {
    const before = performance.now();
    const monotonic = monotonicMs();
    const after = performance.now();
    if (after - before >= narrowest) continue;
    narrowest = after - before;
    offset = monotonic - (before + after) / 2;
  }
  return offset;
}

class Sampler {
  readonly #command: Int32Array;
  readonly #peek: Peek;
  readonly #addresses: Int32Array;
  readonly #values: Int32Array;
  readonly #trackers: StandstillTracker[];
  readonly #offsets: number[];
  #samples = 0;
  #gapMs = 0;
  #startMs = 0;
  #endMs = 0;

  constructor(setup: MeterSetup) {
    const { peek, addresses } = mapCounters(setup.path, setup.counterOffsets);
    this.#command = new Int32Array(setup.control);
    this.#peek = peek;
    this.#addresses = addresses;
    this.#values = new Int32Array(addresses.length);
    this.#offsets = setup.counterOffsets;
    this.#trackers = setup.counterOffsets.map(() => new StandstillTracker(setup.thresholdNs / NS_PER_MS));
  }

  #reset(): void {
    for (const tracker of this.#trackers) tracker.reset();
    this.#samples = 0;
    this.#gapMs = 0;
    this.#startMs = performance.now();
    this.#endMs = this.#startMs;
  }

  /** Takes a batch of samples. The clock is read once for each: `after` of one sample is `before` of the next. */
  #sample(): void {
    const peek = this.#peek;
    const addresses = this.#addresses;
    const values = this.#values;
    const trackers = this.#trackers;
    let before = this.#endMs;
    let gapMs = this.#gapMs;
    for (let round = 0; round < BATCH; round++) {
      // The low half of a little-endian counter is enough: it cannot pass through 2^32 values between two samples.
      for (let index = 0; index < values.length; index++) values[index] = peek(addresses[index]!);
      const after = performance.now();
      if (after - before > gapMs) gapMs = after - before;
      for (let index = 0; index < values.length; index++) trackers[index]!.observe(values[index]!, before, after);
      before = after;
    }
    this.#samples += BATCH;
    this.#gapMs = gapMs;
    this.#endMs = before;
  }

  /** Gets the loop compiled, so that the first window is as good as the others. */
  warmUp(): void {
    this.#reset();
    while (this.#endMs - this.#startMs < WARM_UP_MS) this.#sample();
  }

  run(): MeterWindow {
    const offsetMs = clockOffsetMs();
    this.#reset();
    this.#sample();
    self.postMessage({ kind: "armed" });
    // Between batches it sleeps: a meter that spins takes a core from what it measures, and on two cores that lengthens
    // the pause by more than the naps blur it.
    for (;;) {
      waitForChange(this.#command, COMMAND, COMMAND_SAMPLE, NAP_MS);
      if (Atomics.load(this.#command, COMMAND) !== COMMAND_SAMPLE) break;
      this.#sample();
    }
    return this.#window(offsetMs);
  }

  #window(offsetMs: number): MeterWindow {
    const perCounter = this.#trackers.map((tracker, index): CounterWindow => {
      tracker.finish();
      return {
        offset: this.#offsets[index]!,
        changes: tracker.changes,
        longest: toNs(tracker.longest, offsetMs),
        last: toNs(tracker.last, offsetMs),
        longestPossibleNs: Math.round(tracker.longestPossible * NS_PER_MS),
        standstills: tracker.listed.map((standstill) => toNs(standstill, offsetMs)),
        unlisted: tracker.unlisted,
      };
    });
    const longestStandstillNs = Math.max(...perCounter.map((counter) => counter.longest.atLeastNs));
    const longestPossibleNs = Math.max(...perCounter.map((counter) => counter.longestPossibleNs));
    const toleranceNs = Math.max(TOLERANCE_NS, longestStandstillNs * TOLERANCE_SHARE);
    return {
      startNs: Math.round((this.#startMs + offsetMs) * NS_PER_MS),
      endNs: Math.round((this.#endMs + offsetMs) * NS_PER_MS),
      samples: this.#samples,
      meterGapNs: Math.round(this.#gapMs * NS_PER_MS),
      longestStandstillNs,
      longestPossibleNs,
      isDisturbed: longestPossibleNs - longestStandstillNs > toleranceNs,
      perCounter,
    };
  }
}

function toNs(standstill: Standstill, offsetMs: number): MeteredStandstill {
  return {
    startNs: Math.round((standstill.start + offsetMs) * NS_PER_MS),
    endNs: Math.round((standstill.end + offsetMs) * NS_PER_MS),
    atLeastNs: Math.round(standstill.atLeast * NS_PER_MS),
    atMostNs: Math.round(standstill.atMost * NS_PER_MS),
  };
}

function serve(setup: MeterSetup): void {
  // A meter that preempts threads of what it measures lengthened the pause of a VMM on two cores by 1 ms.
  try {
    setSchedulingPolicy(SCHED_BATCH);
  } catch (error) {
    // Where a sandbox forbids it, the figures are a little higher.
    if (!(error instanceof SysError)) throw error;
  }
  const command = new Int32Array(setup.control);
  let sampler: Sampler;
  try {
    sampler = new Sampler(setup);
    sampler.warmUp();
  } catch (error) {
    self.postMessage({ kind: "failed", message: error instanceof Error ? error.message : String(error) });
    return;
  }
  self.postMessage({ kind: "ready" });
  for (;;) {
    const wanted = Atomics.load(command, COMMAND);
    if (wanted === COMMAND_EXIT) return;
    if (wanted === COMMAND_IDLE) Atomics.wait(command, COMMAND, COMMAND_IDLE);
    else self.postMessage({ kind: "window", window: sampler.run() });
  }
}

self.onmessage = (event) => serve(event.data);
