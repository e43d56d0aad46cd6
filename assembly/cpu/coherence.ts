// SPDX-License-Identifier: Apache-2.0
// Translated code and other vCPUs that write it. Each vCPU has translated code of its own; SDM volume 3, 9.1.3 says what a guest may
// expect of code that another processor writes: that it is seen after a serializing instruction.
//
//   a page becomes code     PAGE_HAS_CODE is set, and taken from the write column of every vCPU's TLB: who writes the page from now
//                           on comes by. Who has looked into the column just before may still be about to write: the page is
//                           *fresh*. When each other vCPU has left the hot loop once, its code is translated again, and is settled
//   a page of code is       the writer forgets its own translation, appends the page to CODE_WRITES, and tells the others, who forget
//   written                 theirs before they take the next interrupt
//
// With one vCPU nothing of this is done.
import { CODE_WRITES_BASE, CPU_CACHES_BASE, CPU_CACHES_STRIDE_BYTES, CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES, PAGE_FLAGS_BASE } from "../layout.ts";
import { cpuCount } from "../irqchip/lapic.ts";
import { forgetCode, forgetPage, hasBlocks } from "./blocks.ts";
import {
  CACHE_FRESH_PAGES,
  CPU_CODE_WRITES_SEEN,
  CPU_INDEX,
  CPU_PENDING,
  CPU_PENDING_CODE,
  CPU_TURNS,
  PAGE_HAS_CODE,
  PAGE_IS_SETTLED,
} from "./layout.ts";
import { caches, cpu } from "./vcpu.ts";
import { protectPageIn } from "./write-tracking.ts";

/** CODE_WRITES: u32, how many there ever were; u32[…], a ring: page, and above it how often the ring had gone round. */
const RING_COUNT: u32 = 512;
const RING_START = 64;
const PAGE_BITS: u32 = 20;
const PAGE_NUMBERS: u32 = (1 << PAGE_BITS) - 1;

// CACHE_FRESH_PAGES.
/** u32: pages that wait for the others; u32: pages that came since. */
const WAITING_COUNT = 0;
const COMING_COUNT = 4;
/** u32: there were more pages than there is room for. */
const IS_FULL = 8;
/** u32[8]: CPU_TURNS of each vCPU when the waiting began. */
const TURNS = 32;
/** u32[…]: the pages, first those that wait. */
const PAGES = 64;
const MAX_PAGES: u32 = 0x1fe0;

@inline
function stateOf(index: u32): usize {
  return CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES;
}

@inline
function entryOf(position: u32): usize {
  return CODE_WRITES_BASE + RING_START + (position % RING_COUNT) * 4;
}

@inline
function stamped(page: u32, position: u32): u32 {
  return page | ((position / RING_COUNT) << PAGE_BITS);
}

// ── Pages that become code ──

/** PAGE_HAS_CODE has been set, or this vCPU translates code of this page for the first time. */
export function noteCode(page: u32, isNew: bool): void {
  const count = cpuCount();
  if (isNew) {
    for (let index: u32 = 0; index < count; index++) {
      protectPageIn(CPU_CACHES_BASE + index * CPU_CACHES_STRIDE_BYTES, <u64>page << 12);
    }
  }
  if (count == 1 || load<u8>(PAGE_FLAGS_BASE + <usize>page) & PAGE_IS_SETTLED) return;
  const fresh = caches + CACHE_FRESH_PAGES;
  const waiting = load<u32>(fresh, WAITING_COUNT);
  const coming = load<u32>(fresh, COMING_COUNT);
  if (waiting + coming == MAX_PAGES) {
    store<u32>(fresh, 1, IS_FULL);
    return;
  }
  store<u32>(fresh + (waiting + coming) * 4, page, PAGES);
  store<u32>(fresh, coming + 1, COMING_COUNT);
}

/** Before the hot loop: from now on RAM may be written. */
export function beginTurn(): void {
  if (cpuCount() == 1) return;
  // An exchange: what is looked up in the TLBs is looked up after it.
  atomic.add<u32>(cpu + CPU_TURNS, 1);
}

/** After it. What others have to know is done. */
export function endTurn(): void {
  if (cpuCount() == 1) return;
  atomic.store<u32>(cpu + CPU_TURNS, load<u32>(cpu, CPU_TURNS) + 1);
  const fresh = caches + CACHE_FRESH_PAGES;
  if (load<u32>(fresh, WAITING_COUNT) | load<u32>(fresh, COMING_COUNT)) settlePages(fresh);
}

function settlePages(fresh: usize): void {
  const waiting = load<u32>(fresh, WAITING_COUNT);
  if (waiting != 0) {
    if (!haveOthersTurned(fresh)) return;
    for (let position: u32 = 0; position < waiting; position++) settlePage(load<u32>(fresh + position * 4, PAGES));
  }
  if (load<u32>(fresh, IS_FULL)) {
    store<u32>(fresh, 0, IS_FULL);
    forgetCode();
  }
  const coming = load<u32>(fresh, COMING_COUNT);
  memory.copy(fresh + PAGES, fresh + PAGES + waiting * 4, coming * 4);
  store<u32>(fresh, coming, WAITING_COUNT);
  store<u32>(fresh, 0, COMING_COUNT);
  const count = cpuCount();
  for (let index: u32 = 0; index < count; index++) {
    store<u32>(fresh + index * 4, atomic.load<u32>(stateOf(index) + CPU_TURNS), TURNS);
  }
}

function haveOthersTurned(fresh: usize): bool {
  const own = load<u32>(cpu, CPU_INDEX);
  const count = cpuCount();
  for (let index: u32 = 0; index < count; index++) {
    const then = load<u32>(fresh + index * 4, TURNS);
    if (index != own && then & 1 && atomic.load<u32>(stateOf(index) + CPU_TURNS) == then) return false;
  }
  return true;
}

/** What was written when the page became code has arrived. */
function settlePage(page: u32): void {
  // It has been written since, and is no code any more, or fresh once more.
  if (!hasBlocks(page)) return;
  const flags = PAGE_FLAGS_BASE + <usize>page;
  if (load<u8>(flags) & PAGE_HAS_CODE) atomic.or<u8>(flags, PAGE_IS_SETTLED);
  forgetPage(page);
}

// ── Code that is written ──

/** This vCPU is about to write a page of code. */
export function publishCodeWrite(page: u32): void {
  const count = cpuCount();
  if (count == 1) return;
  const position = atomic.add<u32>(CODE_WRITES_BASE, 1);
  atomic.store<u32>(entryOf(position), stamped(page, position));
  const own = load<u32>(cpu, CPU_INDEX);
  for (let index: u32 = 0; index < count; index++) {
    if (index != own) atomic.or<u32>(stateOf(index) + CPU_PENDING, CPU_PENDING_CODE);
  }
}

/** CPU_PENDING_CODE is set. */
export function takeCodeWrites(): void {
  atomic.and<u32>(cpu + CPU_PENDING, ~CPU_PENDING_CODE);
  const end = atomic.load<u32>(CODE_WRITES_BASE);
  let position = load<u32>(cpu, CPU_CODE_WRITES_SEEN);
  store<u32>(cpu, end, CPU_CODE_WRITES_SEEN);
  for (; position != end; position++) {
    const entry = atomic.load<u32>(entryOf(position));
    const page = entry & PAGE_NUMBERS;
    // Not written yet, or another already.
    if (end - position > RING_COUNT / 2 || entry != stamped(page, position)) {
      forgetCode();
      return;
    }
    forgetPage(page);
  }
}
