// SPDX-License-Identifier: Apache-2.0
// Translated code: where it is, how one block finds the next, and how it is forgotten when the guest writes its code.
//
// A block is a run of instructions that ends with a branch, at the end of its page, or with an instruction that may change the
// mode. It belongs to a place in physical memory, an address as RIP has it and a mode: all three, because uops contain addresses. The
// base of CS, which real mode has, makes no difference to them: only `codeLinear` and who asks for pages know it.
//
//   jump cache   address ─▶ uop                for jumps whose target is found out when they are made
//   links        uop ─▶ uop                    for the others: within a page good for ever, between pages for an epoch,
//                                              which ends when the page tables change
//   hash         physical address ─▶ block     behind both
//
// Forgotten is only the way to a block, and its first uop is made one that looks the block up again: so nobody needs to know
// who has a link to it. When there is no more room, everything is forgotten.
import { PAGE_FLAGS_BASE } from "../layout.ts";
import { translateFetch } from "./access.ts";
import { noteCode, publishCodeWrite } from "./coherence.ts";
import { decodeBlock } from "./decode.ts";
import { linkEpochOf, newEpoch } from "./epochs.ts";
import {
  BLOCK_COUNT,
  BLOCK_SIZE_BYTES,
  CACHE_BLOCKS,
  CACHE_HASH,
  CACHE_JUMPS,
  CACHE_PAGE_BLOCKS,
  CACHE_UOPS,
  CACHE_UOPS_END,
  CPU_CODE_BASE,
  CPU_GLOBAL_EPOCH,
  CPU_LINK_EPOCH,
  CPU_MODE,
  CPU_NEXT_BLOCK,
  CPU_NEXT_UOP,
  HASH_COUNT,
  JUMP_COUNT,
  JUMP_SIZE_BYTES,
  PAGE_HAS_CODE,
  PAGE_IS_SETTLED,
} from "./layout.ts";
import { OP_STALE } from "./ops.ts";
import { isMapped } from "./page-walk.ts";
import { UOP_IMMEDIATE, UOP_LINK, UOP_LINK_EPOCH, UOP_OP, UOP_RIP, UOP_TARGET } from "./uop.ts";
import { caches, cpu, ramSizeBytes } from "./vcpu.ts";

// A block, BLOCK_SIZE_BYTES.
/** u32: its first uop. */
const BLOCK_UOP = 0;
/** u32[2]: the next in the list of the page that it begins in, and in that of the one that it reaches into; see `putInPage`. 0 for none. */
const BLOCK_NEXT_IN_PAGE = 4;
/** u32: number of the next block of the same hash; 0 for none. */
const BLOCK_NEXT_IN_HASH = 12;
/** u64: where it is. */
const BLOCK_PHYSICAL = 16;
const BLOCK_RIP = 24;
/** u64: physical page into which its last instruction reaches; NO_PAGE if none. */
const BLOCK_SECOND_PAGE = 32;
/** u32: its mode. */
const BLOCK_MODE = 40;

export const NO_PAGE: u64 = u64.MAX_VALUE;

/** Linear address of code at `rip`. */
export function codeLinear(rip: u64): u64 {
  const base = load<u64>(cpu, CPU_CODE_BASE);
  return base == 0 ? rip : (rip + base) & 0xffff_ffff;
}

@inline
function block(number: u32): usize {
  return caches + CACHE_BLOCKS + number * BLOCK_SIZE_BYTES;
}

@inline
function hashHead(physical: u64, mode: u32): usize {
  const hash = (<u32>physical ^ (<u32>(physical >> 12) * 0x9e37_79b1) ^ (mode << 4)) & (HASH_COUNT - 1);
  return caches + CACHE_HASH + hash * 4;
}

@inline
function pageHead(physical: u64): usize {
  return caches + CACHE_PAGE_BLOCKS + <usize>(physical >> 12) * 4;
}

/** 0 is no block. */
const FIRST_BLOCK: u32 = 1;
/** What a guest translates in its first milliseconds. */
const FIRST_BLOCKS_SIZE_BYTES = 0x1_0000;
const FIRST_UOPS_SIZE_BYTES = 0x4_0000;

/** All of it. */
export function forgetCode(): void {
  // Nothing was translated since: as after an update, whose pause would be longer by writing a megabyte.
  if (load<u32>(cpu, CPU_NEXT_BLOCK) != FIRST_BLOCK) {
    memory.fill(caches + CACHE_HASH, 0, HASH_COUNT * 4);
    memory.fill(caches + CACHE_PAGE_BLOCKS, 0, <usize>(ramSizeBytes >> 12) * 4);
    memory.fill(caches + CACHE_JUMPS, 0xff, JUMP_COUNT * JUMP_SIZE_BYTES);
    store<u32>(cpu, <u32>(caches + CACHE_UOPS), CPU_NEXT_UOP);
    store<u32>(cpu, FIRST_BLOCK, CPU_NEXT_BLOCK);
  }
  newEpoch();
}

/** Has the kernel give pages to what will be written first. */
export function touchCode(): void {
  forgetCode();
  memory.fill(caches + CACHE_BLOCKS, 0, FIRST_BLOCKS_SIZE_BYTES);
  memory.fill(caches + CACHE_UOPS, 0, FIRST_UOPS_SIZE_BYTES);
}

/** Bits of an address in which modes never meet in the jump cache: all canonical addresses have them alike. */
const JUMP_MODE_SHIFT = 56;

/** Code is another in another mode: that of a debugger, which runs one instruction at a time, too. */
@inline
export function jumpKey(rip: u64): u64 {
  return rip ^ (<u64>load<u32>(cpu, CPU_MODE) << JUMP_MODE_SHIFT);
}

@inline
export function jumpEntry(rip: u64): usize {
  return caches + CACHE_JUMPS + (<u32>(rip ^ (rip >> 15)) & (JUMP_COUNT - 1)) * JUMP_SIZE_BYTES;
}

/** First uop of the code at an address; 0: an exception was raised. */
export function findCode(rip: u64): usize {
  const entry = jumpEntry(rip);
  const epoch = load<u32>(entry, 12);
  const isGood = epoch == load<u32>(cpu, CPU_GLOBAL_EPOCH) || epoch == load<u32>(cpu, CPU_LINK_EPOCH);
  const key = jumpKey(rip);
  // What is stale sends the hot loop here.
  const isKnown = load<u64>(entry) == key && isGood;
  if (isKnown && load<u16>(load<u32>(entry, 8), UOP_OP) != OP_STALE) return load<u32>(entry, 8);
  const uop = lookUp(rip);
  if (uop == 0) return 0;
  store<u64>(entry, key);
  store<u32>(entry, <u32>uop, 8);
  // A fetch from tables may have begun another.
  store<u32>(entry, epochOf(uop, rip), 12);
  return uop;
}

function lookUp(rip: u64): usize {
  const linear = codeLinear(rip);
  const physical = translateFetch(linear);
  if (!isMapped(physical)) return 0;
  const mode = load<u32>(cpu, CPU_MODE);
  for (let number = load<u32>(hashHead(physical, mode)); number != 0; ) {
    const found = block(number);
    if (
      load<u64>(found, BLOCK_PHYSICAL) == physical &&
      load<u64>(found, BLOCK_RIP) == rip &&
      load<u32>(found, BLOCK_MODE) == mode
    ) {
      const second = load<u64>(found, BLOCK_SECOND_PAGE);
      if (second == NO_PAGE) return load<u32>(found, BLOCK_UOP);
      // Its last instruction begins in this page.
      const place = translateFetch((linear | 0xfff) + 1);
      if (!isMapped(place)) return 0;
      if (place == second) return load<u32>(found, BLOCK_UOP);
    }
    number = load<u32>(found, BLOCK_NEXT_IN_HASH);
  }
  return translateCode(rip, physical, mode);
}

function translateCode(rip: u64, physical: u64, mode: u32): usize {
  if (load<u32>(cpu, CPU_NEXT_BLOCK) == BLOCK_COUNT || load<u32>(cpu, CPU_NEXT_UOP) >= <u32>(caches + CACHE_UOPS_END)) {
    forgetCode();
  }
  // Before the bytes are read: who writes them later comes by.
  if (physical < ramSizeBytes) markCode(physical);
  const uop = load<u32>(cpu, CPU_NEXT_UOP);
  const second = decodeBlock(rip, physical);
  // Its first instruction cannot be fetched.
  if (load<u32>(cpu, CPU_NEXT_UOP) == uop) return 0;
  const number = load<u32>(cpu, CPU_NEXT_BLOCK);
  store<u32>(cpu, number + 1, CPU_NEXT_BLOCK);
  const made = block(number);
  const hash = hashHead(physical, mode);
  store<u32>(made, uop, BLOCK_UOP);
  store<u32>(made, mode, BLOCK_MODE);
  store<u64>(made, physical, BLOCK_PHYSICAL);
  store<u64>(made, rip, BLOCK_RIP);
  store<u64>(made, second, BLOCK_SECOND_PAGE);
  // What is no RAM is translated each time it is run.
  if (physical >= ramSizeBytes) return uop;
  store<u32>(made, load<u32>(hash), BLOCK_NEXT_IN_HASH);
  store<u32>(hash, number);
  putInPage(made, number, physical, 0);
  if (second < ramSizeBytes) putInPage(made, number, second, 1);
  return uop;
}

/** `which`: the page that it begins in, or the other one. */
function putInPage(made: usize, number: u32, physical: u64, which: u32): void {
  const head = pageHead(physical);
  store<u32>(made + which * 4, load<u32>(head), BLOCK_NEXT_IN_PAGE);
  store<u32>(head, (number << 1) | which);
}

/** A page of RAM whose code is translated: writes to it are noticed from now on. */
export function markCode(physical: u64): void {
  const flags = PAGE_FLAGS_BASE + <usize>(physical >> 12);
  const isNew = !(load<u8>(flags) & PAGE_HAS_CODE);
  if (isNew) {
    atomic.and<u8>(flags, ~(<u8>PAGE_IS_SETTLED));
    atomic.or<u8>(flags, PAGE_HAS_CODE);
  }
  if (isNew || !hasBlocks(<u32>(physical >> 12))) noteCode(<u32>(physical >> 12), isNew);
}

/** This vCPU has translated code of a page of RAM. */
export function hasBlocks(page: u32): bool {
  return load<u32>(pageHead(<u64>page << 12)) != 0;
}

/** The guest writes a page that has code. What runs at the moment ends with the instruction at hand: see `run` in hot.ts. */
export function invalidateCode(physical: u64): void {
  const page = <u32>(physical >> 12);
  atomic.and<u8>(PAGE_FLAGS_BASE + <usize>page, ~(<u8>(PAGE_HAS_CODE | PAGE_IS_SETTLED)));
  forgetPage(page);
  publishCodeWrite(page);
}

/** What this vCPU has translated of a page. */
export function forgetPage(page: u32): void {
  const head = pageHead(<u64>page << 12);
  for (let element = load<u32>(head); element != 0; ) {
    const number = element >> 1;
    const gone = block(number);
    unhash(number);
    const uop = load<u32>(gone, BLOCK_UOP);
    store<u16>(uop, OP_STALE, UOP_OP);
    store<u32>(uop, 0, UOP_IMMEDIATE);
    element = load<u32>(gone + (element & 1) * 4, BLOCK_NEXT_IN_PAGE);
  }
  store<u32>(head, 0);
  isStale = true;
}

/** Code was forgotten: the loop leaves after the instruction that did it. */
export let isStale: bool = false;

export function clearStale(): void {
  isStale = false;
}

function unhash(number: u32): void {
  const gone = block(number);
  let link = hashHead(load<u64>(gone, BLOCK_PHYSICAL), load<u32>(gone, BLOCK_MODE));
  while (load<u32>(link) != number) {
    if (load<u32>(link) == 0) return;
    link = block(load<u32>(link)) + BLOCK_NEXT_IN_HASH;
  }
  store<u32>(link, load<u32>(gone, BLOCK_NEXT_IN_HASH));
}

/** The block that a uop is in. */
function blockOf(uop: usize): usize {
  let low: u32 = 1;
  let high = load<u32>(cpu, CPU_NEXT_BLOCK) - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (load<u32>(block(middle), BLOCK_UOP) <= <u32>uop) low = middle;
    else high = middle - 1;
  }
  return block(low);
}

/** Linear address of the instruction that a uop is of. */
export function ripOf(uop: usize): u64 {
  return (load<u64>(blockOf(uop), BLOCK_RIP) & ~(<u64>0xfff)) + load<u16>(uop, UOP_RIP);
}

/** From the first uop of a block that was forgotten to what is there now. 0: an exception was raised. */
export function followStale(uop: usize): usize {
  const epoch = load<u32>(cpu, CPU_GLOBAL_EPOCH);
  const found = findCode(ripOf(uop));
  // All code was forgotten, this uop with it.
  if (found == 0 || load<u32>(cpu, CPU_GLOBAL_EPOCH) != epoch) return found;
  const made = blockOf(found);
  // Who has a link to the old one may go on without asking, until this one is forgotten in turn.
  const isSamePlace = load<u64>(made, BLOCK_PHYSICAL) == load<u64>(blockOf(uop), BLOCK_PHYSICAL);
  if (isSamePlace && load<u64>(made, BLOCK_SECOND_PAGE) == NO_PAGE) store<u32>(uop, <u32>found, UOP_IMMEDIATE);
  return found;
}

/** How long a way to this block is good. */
function epochOf(uop: usize, rip: u64): u32 {
  if (load<u64>(blockOf(uop), BLOCK_SECOND_PAGE) != NO_PAGE) return load<u32>(cpu, CPU_LINK_EPOCH);
  return linkEpochOf(codeLinear(rip));
}

/** Follows a link of a branch for the first time, or in a new epoch. 0: an exception was raised. */
export function follow(uop: usize, offset: u32): usize {
  const target = load<u64>(uop + offset, UOP_TARGET);
  const epoch = load<u32>(cpu, CPU_GLOBAL_EPOCH);
  const found = findCode(target);
  if (found == 0) return 0;
  // All code was forgotten, this uop with it.
  if (load<u32>(cpu, CPU_GLOBAL_EPOCH) != epoch) return found;
  const here = ripOf(uop);
  const isSamePage = ((codeLinear(here) ^ codeLinear(target)) & ~(<u64>0xfff)) == 0 && load<u64>(blockOf(found), BLOCK_SECOND_PAGE) == NO_PAGE;
  store<u32>(uop + offset, <u32>found, UOP_LINK);
  // 0 is no epoch, but good for ever.
  store<u32>(uop + offset, isSamePage ? 0 : epochOf(found, target), UOP_LINK_EPOCH);
  return found;
}
