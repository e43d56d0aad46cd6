// SPDX-License-Identifier: Apache-2.0
// What the main thread and the workers that move RAM share: orders, progress and errors, in one small shared buffer.
import { waitForChange, wakeWaiters } from "../../../ffi/futex.ts";
import { describeError, VmmError } from "../../errors.ts";

/** Words of the crew. */
const COMMAND = 0;
const DONE = 1;
const STOP = 2;
const NEXT_STRIPE = 3;
const BITMAP = 4;
const PRESENT = 5;
const ROUND = 6;
const CUT = 7;
/** u64 at this index of the 64-bit view. */
const BANDWIDTH = 4;
const REQUESTS = 10;
const COMMITMENT = 11;
const HEADER_SIZE_BYTES = 64;

/** For each stream: u64 normal pages, zero pages, bytes; u32 sequence; i32 length of the error's text; the text. */
const STREAM_SIZE_BYTES = 1024;
const STREAM_SEQUENCE = 24;
const STREAM_ERROR_LENGTH = 28;
const STREAM_ERROR_CODE = 32;
const ERROR_CODE_SIZE_BYTES = 32;
const STREAM_ERROR = 64;

export const MAX_STREAMS = 8;

/** Order number that ends a worker. Others count up from 1. */
const ORDER_EXIT = -1;

const OPEN = 0;
const COMMITTED = 1;
const RELEASED = 2;

const STOP_CANCELLED = 1;
const STOP_FAILED = 2;

export interface RamProgress {
  /** Pages that travelled with their contents. */
  normalPages: number;
  zeroPages: number;
  /** On the wire or in the file, headers included; by reference: of the pages, too. */
  bytes: number;
}

export interface RamJob {
  /** Address of the bitmap of the pages to move. */
  bitmap: number;
  /** Files: address of the bitmap of the pages that the file has. */
  present?: number;
}

export function cancelled(): VmmError {
  return new VmmError("ram-cancelled", "Moving guest RAM was cancelled");
}

/** Both sides' view of the buffer. */
export class RamShared {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #longs: BigInt64Array;
  readonly #bytes: Uint8Array;

  constructor(buffer = new SharedArrayBuffer(HEADER_SIZE_BYTES + MAX_STREAMS * STREAM_SIZE_BYTES)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
    this.#longs = new BigInt64Array(buffer);
    this.#bytes = new Uint8Array(buffer);
  }

  // The main thread's part.

  /** Has every worker do one job. */
  order(job: RamJob): void {
    this.prepare(job);
    Atomics.store(this.#words, DONE, 0);
    Atomics.add(this.#words, COMMAND, 1);
    Atomics.notify(this.#words, COMMAND);
  }

  /** What a job reads, for one that the calling thread does itself. */
  prepare(job: RamJob): void {
    Atomics.store(this.#words, BITMAP, job.bitmap);
    Atomics.store(this.#words, PRESENT, job.present ?? 0);
    Atomics.store(this.#words, NEXT_STRIPE, 0);
  }

  orderExit(): void {
    Atomics.store(this.#words, COMMAND, ORDER_EXIT);
    Atomics.notify(this.#words, COMMAND);
  }

  get doneCount(): number {
    return Atomics.load(this.#words, DONE);
  }

  /** Resolves when the count may be another than `seen`. */
  async whenDoneChanges(seen: number): Promise<void> {
    const { async, value } = Atomics.waitAsync(this.#words, DONE, seen);
    if (async) await value;
  }

  cancel(): void {
    this.#stop(STOP_CANCELLED);
  }

  /** Has a round that is being sent end early, in good order: the pages that have not gone keep their bits. */
  cut(): void {
    Atomics.store(this.#words, CUT, 1);
  }

  /** Post-copy: the guest is the other side's, or runs here, for good. False when `release` came first. */
  commit(): boolean {
    return Atomics.compareExchange(this.#words, COMMITMENT, OPEN, COMMITTED) === OPEN;
  }

  get isCommitted(): boolean {
    return Atomics.load(this.#words, COMMITMENT) === COMMITTED;
  }

  /** Post-copy: pages that a guest asked for because it needed them at once. */
  get requests(): number {
    return Atomics.load(this.#words, REQUESTS);
  }

  nextRound(): void {
    Atomics.add(this.#words, ROUND, 1);
  }

  /** Bytes per second of all streams together, 0 for no limit. */
  set bandwidth(bytesPerSecond: number) {
    Atomics.store(this.#longs, BANDWIDTH, BigInt(Math.floor(bytesPerSecond)));
  }

  get bandwidth(): number {
    return Number(Atomics.load(this.#longs, BANDWIDTH));
  }

  progress(streamCount: number): RamProgress {
    const sum = (field: number): number => {
      let total = 0;
      for (let stream = 0; stream < streamCount; stream++) {
        total += Number(Atomics.load(this.#longs, (this.#base(stream) >> 3) + field));
      }
      return total;
    };
    return { normalPages: sum(0), zeroPages: sum(1), bytes: sum(2) };
  }

  /** The error of a stream, if it had one. */
  errorOf(stream: number): VmmError | undefined {
    const base = this.#base(stream);
    const length = Atomics.load(this.#words, (base + STREAM_ERROR_LENGTH) >> 2);
    if (length === 0) return undefined;
    // TextDecoder takes no shared memory.
    const text = new TextDecoder().decode(this.#bytes.slice(base + STREAM_ERROR, base + STREAM_ERROR + length));
    const code = this.#bytes.slice(base + STREAM_ERROR_CODE, base + STREAM_ERROR_CODE + ERROR_CODE_SIZE_BYTES);
    return new VmmError(new TextDecoder().decode(code.subarray(0, code.indexOf(0))), text);
  }

  // The workers' part.

  /** Waits for an order other than `seen`; undefined when it is to end. */
  waitForOrder(seen: number): number | undefined {
    for (;;) {
      const order = Atomics.load(this.#words, COMMAND);
      if (order === ORDER_EXIT) return undefined;
      if (order !== seen) return order;
      Atomics.wait(this.#words, COMMAND, seen);
    }
  }

  reportDone(): void {
    Atomics.add(this.#words, DONE, 1);
    Atomics.notify(this.#words, DONE);
  }

  /** Keeps the error for the main thread and stops the other streams. */
  reportError(stream: number, error: unknown): void {
    const base = this.#base(stream);
    const code = error instanceof VmmError ? error.code : "ram-worker";
    const put = (text: string, at: number, sizeBytes: number): number => {
      const bytes = new TextEncoder().encode(text).subarray(0, sizeBytes);
      this.#bytes.set(bytes, base + at);
      return bytes.length;
    };
    this.#bytes.fill(0, base + STREAM_ERROR_CODE, base + STREAM_ERROR);
    put(code, STREAM_ERROR_CODE, ERROR_CODE_SIZE_BYTES - 1);
    const length = put(describeError(error), STREAM_ERROR, STREAM_SIZE_BYTES - STREAM_ERROR);
    Atomics.store(this.#words, (base + STREAM_ERROR_LENGTH) >> 2, length);
    this.#stop(STOP_FAILED);
  }

  get isCut(): boolean {
    return Atomics.load(this.#words, CUT) !== 0;
  }

  countRequest(): void {
    Atomics.add(this.#words, REQUESTS, 1);
  }

  /** Post-copy: false when `commit` came first. */
  release(): boolean {
    return Atomics.compareExchange(this.#words, COMMITMENT, OPEN, RELEASED) === OPEN;
  }

  get bitmap(): number {
    return Atomics.load(this.#words, BITMAP);
  }

  get present(): number {
    return Atomics.load(this.#words, PRESENT);
  }

  get round(): number {
    return Atomics.load(this.#words, ROUND);
  }

  /** The next stripe that nobody has begun. */
  claimStripe(): number {
    return Atomics.add(this.#words, NEXT_STRIPE, 1);
  }

  /** True when the work is to end: cancelled, or another stream has failed. */
  get isStopped(): boolean {
    return Atomics.load(this.#words, STOP) !== 0;
  }

  /** Sleeps, less long when the work is to end. */
  sleep(timeoutMs: number): void {
    waitForChange(this.#words, STOP, 0, timeoutMs);
  }

  /** Number of the stream's next record. */
  sequence(stream: number): number {
    return Atomics.load(this.#words, (this.#base(stream) + STREAM_SEQUENCE) >> 2) >>> 0;
  }

  setSequence(stream: number, value: number): void {
    Atomics.store(this.#words, (this.#base(stream) + STREAM_SEQUENCE) >> 2, value | 0);
  }

  addProgress(stream: number, { normalPages, zeroPages, bytes }: RamProgress): void {
    const at = this.#base(stream) >> 3;
    Atomics.add(this.#longs, at, BigInt(normalPages));
    Atomics.add(this.#longs, at + 1, BigInt(zeroPages));
    Atomics.add(this.#longs, at + 2, BigInt(bytes));
  }

  #base(stream: number): number {
    return HEADER_SIZE_BYTES + stream * STREAM_SIZE_BYTES;
  }

  /** The first reason stays. */
  #stop(reason: number): void {
    Atomics.compareExchange(this.#words, STOP, 0, reason);
    wakeWaiters(this.#words, STOP);
  }
}
