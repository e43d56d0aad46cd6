// SPDX-License-Identifier: Apache-2.0
// The pause meter: what the guest observes of an update, measured from outside the VMM.
//
// A guest payload increments counters in its RAM; the meter maps the same memory file and finds their longest
// standstill. It holds a mapping of its own, so it keeps measuring when the VMM execs, dies or hands over.
import { wakeWaiters } from "../../ffi/futex.ts";
import { spawnWorker } from "../runtime/entry.ts";
import {
  COMMAND,
  COMMAND_EXIT,
  COMMAND_IDLE,
  COMMAND_SAMPLE,
  CONTROL_SIZE_BYTES,
  type MeterMessage,
  type MeterSetup,
  type MeterWindow,
} from "./protocol.ts";

export type { CounterWindow, MeteredStandstill, MeterWindow } from "./protocol.ts";

export interface MeterOptions {
  /** Process that has the memory file open; left out: this one. */
  pid?: number;
  /** Number of the fd in that process. */
  fd?: number;
  /** Instead of `pid` and `fd`: a path that can be opened, as /proc/PID/fd/N. */
  path?: string;
  /** Byte offsets of little-endian 64-bit counters in the file; multiples of 8. Counters only ever grow. */
  counterOffsets: number[];
  /** Standstills of at least this length are listed one by one. Default: 100 µs. */
  thresholdNs?: number;
}

/**
 * Measures the standstills of counters in a memory file.
 *
 * While armed it looks every 0.1 ms or so, for which it needs a core now and then; `isDisturbed` says when it did not
 * get one in time.
 *
 * @example
 * const meter = await PauseMeter.open({ pid, fd: 7, counterOffsets: [0x8000] });
 * await meter.arm();
 * await update();
 * const { longestStandstillNs, longestPossibleNs, meterGapNs } = await meter.disarm();
 * await meter.close();
 */
export class PauseMeter implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #command: Int32Array;
  #isArmed = false;
  #waiting: { resolve(message: MeterMessage): void; reject(error: Error): void } | undefined;

  private constructor(control: SharedArrayBuffer) {
    this.#command = new Int32Array(control);
    this.#worker = spawnWorker("meter/worker.ts", (error) => this.#waiting?.reject(error));
    this.#worker.onmessage = (event: MessageEvent) => this.#waiting?.resolve(event.data as MeterMessage);
  }

  /** Maps the counters and warms the sampling loop up. */
  static async open(options: MeterOptions): Promise<PauseMeter> {
    const { pid, fd, path, counterOffsets, thresholdNs = 100_000 } = options;
    if (path === undefined && fd === undefined) throw new TypeError("The pause meter needs a path or an fd");
    if (counterOffsets.length === 0) throw new TypeError("The pause meter needs at least one counter");
    for (const offset of counterOffsets) {
      if (!Number.isSafeInteger(offset) || offset < 0 || offset % 8 !== 0) {
        throw new RangeError(`Counter offset ${offset} is not a multiple of 8`);
      }
    }
    const control = new SharedArrayBuffer(CONTROL_SIZE_BYTES);
    const meter = new PauseMeter(control);
    const setup: MeterSetup = {
      control,
      path: path ?? `/proc/${pid ?? "self"}/fd/${fd}`,
      counterOffsets,
      thresholdNs,
    };
    const answer = meter.#next();
    meter.#worker.postMessage(setup);
    const message = await answer;
    if (message.kind === "failed") {
      meter.#worker.terminate();
      throw new Error(`The pause meter cannot map ${setup.path}: ${message.message}`);
    }
    return meter;
  }

  #next(): Promise<MeterMessage> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  #tell(command: number): void {
    Atomics.store(this.#command, COMMAND, command);
    Atomics.notify(this.#command, COMMAND);
    wakeWaiters(this.#command, COMMAND);
  }

  /** Starts a window. When this resolves, sampling is under way. */
  async arm(): Promise<void> {
    if (this.#isArmed) throw new Error("The pause meter is already armed");
    this.#isArmed = true;
    const answer = this.#next();
    this.#tell(COMMAND_SAMPLE);
    await answer;
  }

  /** Ends the window and gives what was seen in it. */
  async disarm(): Promise<MeterWindow> {
    if (!this.#isArmed) throw new Error("The pause meter is not armed");
    this.#isArmed = false;
    const answer = this.#next();
    this.#tell(COMMAND_IDLE);
    const message = await answer;
    if (message.kind !== "window") throw new Error(`Unexpected message of the pause meter: ${message.kind}`);
    return message.window;
  }

  /** Ends the sampling thread. An open window is lost. */
  async close(): Promise<void> {
    this.#tell(COMMAND_EXIT);
    this.#worker.terminate();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
