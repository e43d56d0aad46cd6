// SPDX-License-Identifier: Apache-2.0
// The walk over the pages of a bitmap, which all streams of a transfer do together: each takes the next stripe of RAM that
// nobody has begun, so that none has to wait for a slow one.
import { PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import type { DirtyModule } from "./dirty-module.ts";
import { cancelled, type RamShared } from "./shared.ts";

/** 8 MiB. A multiple of 64, so that no two streams change the same word of a bitmap. */
const STRIPE_PAGES = 2048;
/** 1 MiB: how far a walk goes on when it is cut. */
const PIECE_PAGES = 256;

/** Where a stream works. */
export interface RamPlace {
  memory: WebAssembly.Memory;
  /** Where guest physical 0 is in the linear memory. */
  ramBase: number;
  ramSizeBytes: number;
}

/** What becomes of the pages of a walk. */
export interface PageSink {
  data(firstPage: number, pageCount: number): void;
  zero(firstPage: number, pageCount: number): void;
}

/**
 * Gives the sink the bitmap's pages in runs, by whether they are zero, and takes them out of the bitmap.
 *
 * A page's bit is cleared before the page is looked at: what is written to it from then on is for whoever tracks dirty pages,
 * and has the page protected since before this walk. A walk that is cut leaves the bits of the pages that it has not come to.
 */
export function walkPages(place: RamPlace, module: DirtyModule, shared: RamShared, sink: PageSink): void {
  const { bitmap } = shared;
  const visit = (firstPage: number, endPage: number): void => {
    module.clearRange(bitmap, firstPage, endPage - firstPage);
    for (let page = firstPage; page < endPage; ) {
      const address = place.ramBase + page * PAGE_SIZE_BYTES;
      const zeroCount = module.countLeadingZeroPages(address, endPage - page);
      if (zeroCount > 0) sink.zero(page, zeroCount);
      page += zeroCount;
      if (page >= endPage) return;
      // The page after the zero ones was not zero, whatever it is now.
      const rest = place.ramBase + (page + 1) * PAGE_SIZE_BYTES;
      const dataCount = 1 + module.countLeadingDataPages(rest, endPage - page - 1);
      sink.data(page, dataCount);
      page += dataCount;
    }
  };
  forEachRun(place, module, shared, bitmap, (firstPage, endPage) => {
    for (let page = firstPage; page < endPage && !shared.isCut; page += PIECE_PAGES) {
      visit(page, Math.min(page + PIECE_PAGES, endPage));
    }
  });
}

/** Calls `visit` for the runs of pages in the bitmap that this stream comes to. */
export function forEachRun(
  { ramSizeBytes }: RamPlace,
  module: DirtyModule,
  shared: RamShared,
  bitmap: number,
  visit: (firstPage: number, endPage: number) => void,
): void {
  const ramPages = ramSizeBytes / PAGE_SIZE_BYTES;
  for (;;) {
    const start = shared.claimStripe() * STRIPE_PAGES;
    if (start >= ramPages) return;
    const end = Math.min(start + STRIPE_PAGES, ramPages);
    for (let page = module.nextDirtyPage(bitmap, end, start); page < end; ) {
      if (shared.isStopped) throw cancelled();
      if (shared.isCut) return;
      const runEnd = module.nextCleanPage(bitmap, end, page);
      visit(page, runEnd);
      page = module.nextDirtyPage(bitmap, end, runEnd);
    }
  }
}
