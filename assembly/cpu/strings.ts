// SPDX-License-Identifier: Apache-2.0
// String instructions. One with REP does some of its repetitions at a time and is then run again, so that interrupts are taken
// in between, and after a page fault it goes on where it was. SDM volume 2, REP.
//
// MOVS and STOS of RAM do as many at once as there are up to the end of a page.
import { isPlain, readValue, toRead, toWrite, writeValue } from "./access.ts";
import { DF, FLAGS_SUB, setLazyFlags, TF } from "./flags.ts";
import { CPU_FLAG_RESULT, CPU_RFLAGS, SEGMENT_ES } from "./layout.ts";
import { linear, tableAddress } from "./operands.ts";
import { loadAt, maskOf, RAX, RCX, RDI, RSI, setRegister, storeAt } from "./registers.ts";
import { COLD_ADDRESS_SIZE, COLD_CODE, COLD_FORM, COLD_SIZE, FORM_F3 } from "./uop.ts";
import { cpu, hasFaulted } from "./vcpu.ts";

/** Repetitions at a time that are done one by one. */
const MAX_STEPS: u64 = 256;
/** What as many at once as there are in a page cost in the same measure. */
const STEPS_OF_MANY: u64 = 16;
const PAGE_BYTES: u64 = 4096;

@inline
function isDown(): bool {
  return (load<u64>(cpu, CPU_RFLAGS) & DF) != 0;
}

function advance(register: usize, addressSize: u32, distance: i64): void {
  setRegister(cpu + register, addressSize, loadAt(cpu + register, addressSize) + distance);
}

/** One repetition. False: an exception was raised. */
function step(pc: usize, code: u32, sizeBytes: u32, addressSize: u32): bool {
  const distance: i64 = isDown() ? -(<i64>sizeBytes) : sizeBytes;
  const source = tableAddress(pc, load<u64>(cpu, RSI));
  const destination = linear(SEGMENT_ES, load<u64>(cpu, RDI), addressSize);
  switch (code & ~1) {
    case 0xa4: {
      const value = readValue(source, sizeBytes);
      if (hasFaulted() || !writeValue(destination, sizeBytes, value)) return false;
      advance(RSI, addressSize, distance);
      advance(RDI, addressSize, distance);
      return true;
    }
    case 0xa6: {
      const first = readValue(source, sizeBytes);
      if (hasFaulted()) return false;
      const second = readValue(destination, sizeBytes);
      if (hasFaulted()) return false;
      setLazyFlags(FLAGS_SUB, sizeBytes, (first - second) & maskOf(sizeBytes), first);
      advance(RSI, addressSize, distance);
      advance(RDI, addressSize, distance);
      return true;
    }
    case 0xaa:
      if (!writeValue(destination, sizeBytes, load<u64>(cpu, RAX))) return false;
      advance(RDI, addressSize, distance);
      return true;
    case 0xac: {
      const value = readValue(source, sizeBytes);
      if (hasFaulted()) return false;
      setRegister(cpu + RAX, sizeBytes, value);
      advance(RSI, addressSize, distance);
      return true;
    }
    default: {
      const first = loadAt(cpu + RAX, sizeBytes);
      const second = readValue(destination, sizeBytes);
      if (hasFaulted()) return false;
      setLazyFlags(FLAGS_SUB, sizeBytes, (first - second) & maskOf(sizeBytes), first);
      advance(RDI, addressSize, distance);
      return true;
    }
  }
}

/** Without REP. False: an exception was raised. */
export function execString(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  return step(pc, code, load<u8>(pc, COLD_SIZE), load<u8>(pc, COLD_ADDRESS_SIZE));
}

/** Repetitions since `takeRepetitions`, in steps: they count as instructions against the budget of a run. */
let repetitions: u64 = 0;

export function takeRepetitions(): i32 {
  const count = <i32>repetitions;
  repetitions = 0;
  return count;
}

/**
 * With REP. CPU_RIP is that of the next instruction. False: an exception was raised, or there is more to do; what was done before
 * it is done. So a guest's one instruction keeps the vCPU from nothing else.
 */
export function execRepeated(pc: usize): bool {
  const code = <u32>load<u16>(pc, COLD_CODE);
  const sizeBytes = <u32>load<u8>(pc, COLD_SIZE);
  const addressSize = <u32>load<u8>(pc, COLD_ADDRESS_SIZE);
  const kind = code & ~1;
  const isCompare = kind == 0xa6 || kind == 0xae;
  const wantsEqual = (load<u8>(pc, COLD_FORM) & FORM_F3) != 0;
  // A debugger's single step is one repetition.
  const isStep = (load<u64>(cpu, CPU_RFLAGS) & TF) != 0;
  const most = isStep ? 1 : MAX_STEPS;
  let steps: u64 = 0;
  while (true) {
    const count = loadAt(cpu + RCX, addressSize);
    // AMD: a count of 32 bits that is 0 leaves the upper half alone.
    if (count == 0) return true;
    if (steps >= most) return false;
    let done: u64 = 0;
    if (!isDown() && !isStep) {
      if (kind == 0xaa) done = fillMany(count, sizeBytes, addressSize);
      else if (kind == 0xa4) done = moveMany(pc, count, sizeBytes, addressSize);
    }
    if (hasFaulted()) return false;
    if (done != 0) {
      steps += STEPS_OF_MANY;
      repetitions += STEPS_OF_MANY;
    } else {
      if (!step(pc, code, sizeBytes, addressSize)) return false;
      done = 1;
      steps++;
      repetitions++;
    }
    setRegister(cpu + RCX, addressSize, count - done);
    if (isCompare && (load<u64>(cpu, CPU_FLAG_RESULT) == 0) != wantsEqual) return true;
  }
}

/** How many operands fit between an address and the end of its page, and before its offset is 0 again; 0 for less than two. */
function countInPage(address: u64, offset: u64, count: u64, sizeBytes: u32, addressSize: u32): u64 {
  const room = min<u64>(PAGE_BYTES - (address & (PAGE_BYTES - 1)), maskOf(addressSize) - (offset & maskOf(addressSize)));
  const many = min<u64>(room / sizeBytes, count);
  return many < 2 ? 0 : many;
}

/** STOS: as many as go at once; 0 for none. */
function fillMany(count: u64, sizeBytes: u32, addressSize: u32): u64 {
  const destination = linear(SEGMENT_ES, load<u64>(cpu, RDI), addressSize);
  const many = countInPage(destination, load<u64>(cpu, RDI), count, sizeBytes, addressSize);
  if (many == 0) return 0;
  const bytes = <u32>many * sizeBytes;
  const place = toWrite(destination, sizeBytes);
  if (place == 0 || !isPlain(place)) return 0;
  const value = loadAt(cpu + RAX, sizeBytes);
  const pattern = value & 0xff;
  if (value == (pattern * 0x0101_0101_0101_0101 & maskOf(sizeBytes))) memory.fill(place, <u8>pattern, bytes);
  else for (let offset: u32 = 0; offset < bytes; offset += sizeBytes) storeAt(place + offset, sizeBytes, value);
  advance(RDI, addressSize, bytes);
  return many;
}

/** MOVS: as many as go at once; 0 for none. */
function moveMany(pc: usize, count: u64, sizeBytes: u32, addressSize: u32): u64 {
  const source = tableAddress(pc, load<u64>(cpu, RSI));
  const destination = linear(SEGMENT_ES, load<u64>(cpu, RDI), addressSize);
  const many = min<u64>(
    countInPage(source, load<u64>(cpu, RSI), count, sizeBytes, addressSize),
    countInPage(destination, load<u64>(cpu, RDI), count, sizeBytes, addressSize),
  );
  if (many == 0) return 0;
  const bytes = <u32>many * sizeBytes;
  const from = toRead(source, sizeBytes);
  if (from == 0 || !isPlain(from)) return 0;
  const place = toWrite(destination, sizeBytes);
  if (place == 0 || !isPlain(place)) return 0;
  // One that overlaps with what it has written repeats it.
  if (place > from && place < from + bytes) {
    for (let offset: u32 = 0; offset < bytes; offset += sizeBytes) {
      storeAt(place + offset, sizeBytes, loadAt(from + offset, sizeBytes));
    }
  } else memory.copy(place, from, bytes);
  advance(RSI, addressSize, bytes);
  advance(RDI, addressSize, bytes);
  return many;
}
