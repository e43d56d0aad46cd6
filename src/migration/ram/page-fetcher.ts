// SPDX-License-Identifier: Apache-2.0
// Post-copy, the new side: puts pages in their place as they come, and asks for those that somebody waits for. For a thread
// of its own, which must never touch guest RAM except through the userfaultfd, and needs nothing from any other thread:
// every other thread of the process may be waiting for a page.
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { IoMemory } from "../../../ffi/iov.ts";
import { POLLIN, PollSet } from "../../../ffi/poll.ts";
import { FaultableMemory } from "../../../ffi/userfaultfd/userfaultfd.ts";
import { VmmError } from "../../errors.ts";
import { type DirtyModule, loadDirtyModule } from "./dirty-module.ts";
import { BACKGROUND_PAGES } from "./page-server.ts";
import { RamSocket } from "./ram-socket.ts";
import {
  type RamRecord,
  RECORD_END_OF_ROUND,
  RECORD_HEADER_SIZE_BYTES,
  RECORD_PAGES,
  RECORD_REQUEST,
  RECORD_ZERO,
} from "./record.ts";
import { RecordInput } from "./record-input.ts";
import { RecordOutput } from "./record-output.ts";
import { cancelled, type RamShared } from "./shared.ts";
import type { RamPlace } from "./walk.ts";

/** How soon it is noticed that the work is to end. */
const LOOK_MS = 20;
const FAULTS = 0;
const URGENT = 1;
const BACKGROUND = 2;

export interface PageFetcherOptions extends RamPlace {
  shared: RamShared;
  stream: number;
  /** The background connection. Both are non-blocking. */
  fd: number;
  urgentFd: number;
  /** A userfaultfd. RAM is registered with it when `fetch` is called. */
  faultFd: number;
}

export class PageFetcher {
  readonly #options: PageFetcherOptions;
  readonly #module: DirtyModule;
  readonly #ram: FaultableMemory;
  readonly #ramPages: number;
  readonly #urgent: RecordInput;
  readonly #background: RecordInput;
  readonly #requests: RecordOutput;
  readonly #polled: PollSet;
  /** Pages that have been asked for and have not come. */
  readonly #requested = new Set<number>();
  #missingPages = 0;
  #backgroundPages = 0;
  #hasBackgroundEnded = false;

  constructor(options: PageFetcherOptions) {
    const { memory, ramBase, ramSizeBytes, fd, urgentFd, faultFd, stream, shared } = options;
    this.#options = options;
    this.#module = loadDirtyModule(memory);
    this.#ram = new FaultableMemory(faultFd, new IoMemory(new Uint8Array(memory.buffer, ramBase, ramSizeBytes)));
    this.#ramPages = ramSizeBytes / PAGE_SIZE_BYTES;
    const urgent = new RamSocket(urgentFd, stream, shared);
    const background = new RamSocket(fd, stream, shared);
    const [pages, zero] = [RECORD_PAGES, RECORD_ZERO] as const;
    this.#urgent = new RecordInput(urgent, this.#ramPages, [pages, zero], PAGE_SIZE_BYTES);
    const backgroundKinds = [pages, zero, RECORD_END_OF_ROUND] as const;
    const backgroundSizeBytes = BACKGROUND_PAGES * PAGE_SIZE_BYTES;
    this.#background = new RecordInput(background, this.#ramPages, backgroundKinds, backgroundSizeBytes);
    this.#requests = new RecordOutput(urgent);
    this.#polled = new PollSet([faultFd, urgentFd, fd]);
    for (const index of [FAULTS, URGENT, BACKGROUND]) this.#polled.want(index, POLLIN);
  }

  /**
   * Fetches the pages of the shared bitmap, which loses each as it comes.
   *
   * When that fails, who waits for a page goes on waiting if the guest has run here, as it can have only the right one; else
   * everybody goes on with whatever is there.
   * @throws VmmError "ram-peer", "ram-stream", "ram-cancelled"
   */
  fetch(): void {
    const { shared } = this.#options;
    try {
      this.#missingPages = this.#module.countDirty(shared.bitmap, this.#ramPages);
      while (this.#missingPages > 0 || !this.#hasBackgroundEnded) {
        if (shared.isStopped) throw cancelled();
        this.#polled.wait(LOOK_MS);
        if (this.#polled.events(FAULTS) !== 0) while (this.#ram.readFaults((offset) => this.#onFault(offset)));
        if (this.#polled.events(URGENT) !== 0) this.#takeAll(this.#urgent);
        if (this.#polled.events(BACKGROUND) !== 0) this.#takeBackground();
      }
    } catch (error) {
      if (shared.release()) this.#ram.unregister();
      throw error;
    }
    // Nobody would serve a fault any more once this thread has nothing to do.
    this.#ram.unregister();
  }

  #onFault(offset: number): void {
    const page = offset / PAGE_SIZE_BYTES;
    if (this.#requested.has(page)) return;
    if (this.#module.nextDirtyPage(this.#options.shared.bitmap, page + 1, page) !== page) {
      // Nobody has anything in it, or it has come meanwhile.
      this.#ram.placeZero(offset);
      return;
    }
    this.#requested.add(page);
    this.#options.shared.countRequest();
    this.#requests.put(RECORD_REQUEST, page, 1);
    this.#requests.flushAll();
  }

  #takeAll(input: RecordInput): void {
    for (let record = input.receive(); record !== undefined; record = input.receive())
      this.#take(record, input.payload);
  }

  /** One record: what is urgent comes first. */
  #takeBackground(): void {
    const record = this.#background.receive();
    if (record === undefined) return;
    if (record.kind !== RECORD_END_OF_ROUND) {
      this.#backgroundPages += record.pageCount;
      this.#take(record, this.#background.payload);
      return;
    }
    if (record.pageCount !== this.#backgroundPages) {
      throw new VmmError(
        "ram-stream",
        `Post-copy had ${this.#backgroundPages} pages in the background instead of ${record.pageCount}`,
      );
    }
    this.#hasBackgroundEnded = true;
    this.#polled.want(BACKGROUND, 0);
  }

  /** Places what is missing of a record's pages: those that have come another way belong to the guest already. */
  #take({ kind, firstPage, pageCount, payloadSizeBytes }: RamRecord, payload: IoMemory): void {
    const { shared, stream } = this.#options;
    const { bitmap } = shared;
    const end = firstPage + pageCount;
    let placed = 0;
    for (let page = this.#module.nextDirtyPage(bitmap, end, firstPage); page < end; ) {
      const runEnd = this.#module.nextCleanPage(bitmap, end, page);
      const offset = page * PAGE_SIZE_BYTES;
      if (kind === RECORD_PAGES) {
        this.#ram.place(offset, payload, (page - firstPage) * PAGE_SIZE_BYTES, (runEnd - page) * PAGE_SIZE_BYTES);
      }
      this.#module.clearRange(bitmap, page, runEnd - page);
      for (let index = page; index < runEnd; index++) {
        // Zero pages that nobody waits for stay what they are: not there.
        if (this.#requested.delete(index) && kind === RECORD_ZERO) this.#ram.placeZero(index * PAGE_SIZE_BYTES);
      }
      placed += runEnd - page;
      page = this.#module.nextDirtyPage(bitmap, end, runEnd);
    }
    this.#missingPages -= placed;
    const bytes = RECORD_HEADER_SIZE_BYTES + payloadSizeBytes;
    const isZero = kind === RECORD_ZERO;
    shared.addProgress(stream, { normalPages: isZero ? 0 : placed, zeroPages: isZero ? placed : 0, bytes });
  }
}
