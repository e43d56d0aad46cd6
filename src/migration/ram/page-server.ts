// SPDX-License-Identifier: Apache-2.0
// Post-copy, the old side: sends the pages that the other side lacks, those that the guest waits for before all others. For a
// thread of its own; the guest stands, and RAM changes no more.
//
// Two connections: on the urgent one come requests and go the pages asked for, so that they never wait behind the others,
// which go on the background one. Background pages begin when the guest is the other side's.
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { IoMemory } from "../../../ffi/iov.ts";
import { POLLIN, POLLOUT, PollSet } from "../../../ffi/poll.ts";
import { type DirtyModule, loadDirtyModule } from "./dirty-module.ts";
import { RamSocket } from "./ram-socket.ts";
import { RECORD_END_OF_ROUND, RECORD_HEADER_SIZE_BYTES, RECORD_PAGES, RECORD_REQUEST, RECORD_ZERO } from "./record.ts";
import { RecordInput } from "./record-input.ts";
import { RecordOutput } from "./record-output.ts";
import { cancelled, type RamShared } from "./shared.ts";
import type { RamPlace } from "./walk.ts";

/** Pages of one background record: 128 KiB. Requests are looked for after each. */
export const BACKGROUND_PAGES = 32;
/** How soon it is noticed that the work is to end, or that the background may begin. */
const LOOK_MS = 20;
/** A bandwidth limit holds over this time, and no longer pause is caught up with. */
const PACE_MS = 50;
const URGENT = 0;
const BACKGROUND = 1;

export interface PageServerOptions extends RamPlace {
  shared: RamShared;
  stream: number;
  /** The background connection. Both are non-blocking. */
  fd: number;
  urgentFd: number;
}

export class PageServer {
  readonly #options: PageServerOptions;
  readonly #module: DirtyModule;
  readonly #ram: IoMemory;
  readonly #ramPages: number;
  readonly #requests: RecordInput;
  readonly #urgent: RecordOutput;
  readonly #background: RecordOutput;
  readonly #polled: PollSet;
  /** Where the background is in RAM. */
  #cursor = 0;
  #backgroundPages = 0;
  #hasEnded = false;
  /** When the next bytes may go, on `performance.now()`'s clock. */
  #nextMs = 0;

  constructor(options: PageServerOptions) {
    const { memory, ramBase, ramSizeBytes, fd, urgentFd, stream, shared } = options;
    this.#options = options;
    this.#module = loadDirtyModule(memory);
    this.#ram = new IoMemory(new Uint8Array(memory.buffer, ramBase, ramSizeBytes));
    this.#ramPages = ramSizeBytes / PAGE_SIZE_BYTES;
    const urgent = new RamSocket(urgentFd, stream, shared);
    this.#requests = new RecordInput(urgent, this.#ramPages, [RECORD_REQUEST], 0);
    this.#urgent = new RecordOutput(urgent);
    this.#background = new RecordOutput(new RamSocket(fd, stream, shared));
    this.#polled = new PollSet([urgentFd, fd]);
    this.#polled.want(URGENT, POLLIN);
  }

  /** Serves the pages of the shared bitmap until it is cancelled. @throws VmmError "ram-cancelled", "ram-peer", "ram-stream" */
  serve(): never {
    const { shared } = this.#options;
    for (;;) {
      if (shared.isStopped) throw cancelled();
      const delayMs = this.#backgroundDelayMs();
      this.#polled.want(BACKGROUND, delayMs === 0 ? POLLOUT : 0);
      this.#polled.wait(Math.min(delayMs, LOOK_MS));
      if (this.#polled.events(URGENT) !== 0) this.#serveRequests();
      // An error of the connection is among the events, asked for or not.
      if (this.#polled.events(BACKGROUND) !== 0) this.#sendBackground();
    }
  }

  /** How long the background has to wait, other than for its socket. */
  #backgroundDelayMs(): number {
    if (this.#background.isPending) return 0;
    if (!this.#options.shared.isCommitted || this.#hasEnded) return Number.POSITIVE_INFINITY;
    return Math.max(0, this.#nextMs - performance.now());
  }

  #serveRequests(): void {
    const { shared, ramBase } = this.#options;
    for (let record = this.#requests.receive(); record !== undefined; record = this.#requests.receive()) {
      const page = record.firstPage;
      shared.countRequest();
      // Sent even if it is on its way in the background already: there it may be behind others.
      this.#module.clearRange(shared.bitmap, page, 1);
      const isZero = this.#module.countLeadingZeroPages(ramBase + page * PAGE_SIZE_BYTES, 1) === 1;
      this.#count(this.#put(this.#urgent, page, 1, isZero), 1, isZero);
      this.#urgent.flushAll();
      // A guest that wants this page is likely to want the next one.
      this.#cursor = page + 1;
    }
  }

  #sendBackground(): void {
    this.#background.flush();
    if (this.#background.isPending || this.#hasEnded || !this.#options.shared.isCommitted) return;
    const { shared, ramBase } = this.#options;
    const { bitmap } = shared;
    const first = this.#nextMissing();
    if (first === undefined) {
      this.#background.put(RECORD_END_OF_ROUND, 0, this.#backgroundPages);
      this.#hasEnded = true;
    } else {
      const address = ramBase + first * PAGE_SIZE_BYTES;
      const limit = Math.min(first + BACKGROUND_PAGES, this.#ramPages);
      const runPages = this.#module.nextCleanPage(bitmap, limit, first) - first;
      const zeroPages = this.#module.countLeadingZeroPages(address, runPages);
      const pages = zeroPages > 0 ? zeroPages : this.#module.countLeadingDataPages(address, runPages);
      this.#module.clearRange(bitmap, first, pages);
      this.#cursor = first + pages;
      this.#backgroundPages += pages;
      const bytes = this.#put(this.#background, first, pages, zeroPages > 0);
      this.#count(bytes, pages, zeroPages > 0);
      this.#pace(bytes);
    }
    this.#background.flush();
  }

  /** The next page from the cursor on that the other side lacks, around the end of RAM. */
  #nextMissing(): number | undefined {
    const { bitmap } = this.#options.shared;
    const next = this.#module.nextDirtyPage(bitmap, this.#ramPages, Math.min(this.#cursor, this.#ramPages));
    if (next < this.#ramPages) return next;
    const first = this.#module.nextDirtyPage(bitmap, this.#ramPages, 0);
    return first < this.#ramPages ? first : undefined;
  }

  #put(output: RecordOutput, page: number, pageCount: number, isZero: boolean): number {
    if (isZero) return output.put(RECORD_ZERO, page, pageCount);
    return output.put(RECORD_PAGES, page, pageCount, this.#ram, page * PAGE_SIZE_BYTES, pageCount * PAGE_SIZE_BYTES);
  }

  #count(bytes: number, pages: number, isZero: boolean): void {
    const { shared, stream } = this.#options;
    shared.addProgress(stream, { normalPages: isZero ? 0 : pages, zeroPages: isZero ? pages : 0, bytes });
  }

  #pace(bytes: number): void {
    const { bandwidth } = this.#options.shared;
    if (bandwidth === 0 || bytes === RECORD_HEADER_SIZE_BYTES) return;
    this.#nextMs = Math.max(this.#nextMs, performance.now() - PACE_MS) + (bytes / bandwidth) * 1000;
  }
}
