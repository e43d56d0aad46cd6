// SPDX-License-Identifier: Apache-2.0
// The 8254 interval timer of a PC, with port 61. Everything here is called with the lock; `now` is the devices' clock.
// Intel 8254 data sheet (order number 231164). Channel 0 is IRQ 0; 1 is for itself; 2 has its gate and output in port 61.
//
// Nothing happens between accesses: what a counter shows follows from when it began. The one clock pulse that it takes to load a count is left out.
import { IRQCHIP_BASE } from "../layout.ts";
import {
  EXTRA_HELD_NS_I64,
  EXTRA_IS_WAITING_U32,
  EXTRA_NEXT_COUNT_U32,
  EXTRA_NEXT_TIME_I64,
  EXTRA_SIZE_BYTES,
  IRQCHIP_PIT,
  IRQCHIP_PIT_DEADLINE_I64,
  IRQCHIP_PIT_EXTRAS,
  PIT_BCD_U8,
  PIT_CHANNEL_COUNT,
  PIT_CHANNEL_SIZE_BYTES,
  PIT_COUNT_LATCHED_U8,
  PIT_COUNT_LOAD_TIME_I64,
  PIT_COUNT_U32,
  PIT_FLAGS_HPET_LEGACY,
  PIT_FLAGS_SPEAKER_DATA_ON,
  PIT_FLAGS_U32,
  PIT_GATE_U8,
  PIT_LATCHED_COUNT_U16,
  PIT_MODE_U8,
  PIT_READ_STATE_U8,
  PIT_RW_MODE_U8,
  PIT_SIZE_BYTES,
  PIT_STATUS_LATCHED_U8,
  PIT_STATUS_U8,
  PIT_WRITE_LATCH_U8,
  PIT_WRITE_STATE_U8,
} from "./layout.ts";

const PIT: usize = IRQCHIP_BASE + IRQCHIP_PIT;
const EXTRAS: usize = IRQCHIP_BASE + IRQCHIP_PIT_EXTRAS;

const CHANNEL_COUNT: u32 = PIT_CHANNEL_COUNT;
export const PIT_HZ: i64 = 1_193_182;
const NS_PER_SECOND: i64 = 1_000_000_000;
export const PIT_NEVER: i64 = i64.MAX_VALUE;

const CONTROL_PORT: u32 = 0x43;
const SYSTEM_PORT: u32 = 0x61;
const SPEAKER_CHANNEL: u32 = 2;

// Control word.
const READ_BACK: u32 = 3;
/** Active low. */
const READ_BACK_NO_COUNT: u32 = 0x20;
const READ_BACK_NO_STATUS: u32 = 0x10;
const STATUS_OUT: u32 = 0x80;
const STATUS_NULL_COUNT: u32 = 0x40;

// Of RW_MODE, READ_STATE, WRITE_STATE and COUNT_LATCHED: which byte. The first three values are those of the control word.
const LSB: u32 = 1;
const MSB: u32 = 2;
const WORD_LSB: u32 = 3;
const WORD_MSB: u32 = 4;

// Port 61.
const SYSTEM_GATE: u32 = 0x01;
const SYSTEM_SPEAKER: u32 = 0x02;
/** Toggles with the refresh of RAM. */
const SYSTEM_REFRESH_SHIFT: u32 = 4;
const REFRESH_NS_SHIFT: i64 = 14;
const SYSTEM_OUT_SHIFT: u32 = 5;

/** A counter that was never programmed. */
const MODE_NONE: u32 = 0xff;
const BINARY_MODULUS: i64 = 0x1_0000;
const BCD_MODULUS: i64 = 10_000;

@inline
function channelOf(number: u32): usize {
  return PIT + <usize>number * PIT_CHANNEL_SIZE_BYTES;
}

@inline
function extraOf(channel: usize): usize {
  return EXTRAS + ((channel - PIT) / PIT_CHANNEL_SIZE_BYTES) * EXTRA_SIZE_BYTES;
}

@inline
function get(channel: usize, field: usize): u32 {
  return load<u8>(channel + field);
}

@inline
function set(channel: usize, field: usize, value: u32): void {
  store<u8>(channel + field, <u8>value);
}

@inline
function modeOf(channel: usize): u32 {
  return get(channel, PIT_MODE_U8);
}

/** Starts anew at its end by itself. */
@inline
function isPeriodic(channel: usize): bool {
  return modeOf(channel) == 2 || modeOf(channel) == 3;
}

/** Starts when its gate rises. */
@inline
function isTriggered(channel: usize): bool {
  return modeOf(channel) == 1 || modeOf(channel) == 5;
}

@inline
function isWaiting(channel: usize): bool {
  return load<u32>(extraOf(channel), EXTRA_IS_WAITING_U32) != 0;
}

@inline
function setWaiting(channel: usize, value: bool): void {
  store<u32>(extraOf(channel), u32(value), EXTRA_IS_WAITING_U32);
}

@inline
function loadTime(channel: usize): i64 {
  return load<i64>(channel, PIT_COUNT_LOAD_TIME_I64);
}

@inline
function setLoadTime(channel: usize, time: i64): void {
  store<i64>(channel, time, PIT_COUNT_LOAD_TIME_I64);
}

@inline
function setDeadline(deadline: i64): void {
  atomic.store<i64>(IRQCHIP_BASE, deadline, IRQCHIP_PIT_DEADLINE_I64);
}

/** When channel 0 has its next edge; read without the lock. */
@inline
export function deadlineOfPit(): i64 {
  return atomic.load<i64>(IRQCHIP_BASE, IRQCHIP_PIT_DEADLINE_I64);
}

export function resetPit(now: i64): void {
  memory.fill(PIT, 0, PIT_SIZE_BYTES);
  memory.fill(EXTRAS, 0, PIT_CHANNEL_COUNT * EXTRA_SIZE_BYTES);
  for (let number: u32 = 0; number < CHANNEL_COUNT; number++) {
    const channel = channelOf(number);
    store<u32>(channel, <u32>BINARY_MODULUS, PIT_COUNT_U32);
    set(channel, PIT_MODE_U8, MODE_NONE);
    set(channel, PIT_GATE_U8, u32(number != SPEAKER_CHANNEL));
    setLoadTime(channel, now);
  }
  setDeadline(PIT_NEVER);
}

/**
 * After the state was set from outside. A count that has run out may have done so after it was saved, and then nobody has heard of it: its edge comes
 * again.
 */
export function restorePit(now: i64): void {
  memory.fill(EXTRAS, 0, PIT_CHANNEL_COUNT * EXTRA_SIZE_BYTES);
  for (let number: u32 = 0; number < CHANNEL_COUNT; number++) {
    const channel = channelOf(number);
    if (loadTime(channel) > now) setLoadTime(channel, now);
    // KVM's counters go on with their gates closed.
    if (!get(channel, PIT_GATE_U8)) store<i64>(extraOf(channel), max<i64>(now - loadTime(channel), 0), EXTRA_HELD_NS_I64);
  }
  schedule(isPeriodic(channelOf(0)) ? ticksAt(channelOf(0), now) : 0);
}

/** Before the state is read from outside: a counter that stands still has no time at which it began, one to come has to do. */
export function settlePit(now: i64): void {
  for (let number: u32 = 0; number < CHANNEL_COUNT; number++) {
    const channel = channelOf(number);
    const extra = extraOf(channel);
    settle(channel, now);
    if (isHeld(channel)) setLoadTime(channel, now - load<i64>(extra, EXTRA_HELD_NS_I64));
    const next = load<u32>(extra, EXTRA_NEXT_COUNT_U32);
    if (next != 0 && (isPeriodic(channel) || isWaiting(channel))) store<u32>(channel, next, PIT_COUNT_U32);
  }
}

// ── Counting ──

/** Its gate keeps it from counting. */
@inline
function isHeld(channel: usize): bool {
  return !get(channel, PIT_GATE_U8) && !isTriggered(channel);
}

/** The count as a number of ticks. */
function countOf(channel: usize): i64 {
  const count = load<u32>(channel, PIT_COUNT_U32);
  if (!get(channel, PIT_BCD_U8)) return max<u32>(count, 1);
  if (count >= <u32>BINARY_MODULUS) return BCD_MODULUS;
  return max<i64>((count >> 12) * 1000 + ((count >> 8) & 15) * 100 + ((count >> 4) & 15) * 10 + (count & 15), 1);
}

function toBcd(value: u32): u32 {
  return (((value / 1000) % 10) << 12) | (((value / 100) % 10) << 8) | (((value / 10) % 10) << 4) | (value % 10);
}

function ticksOfNs(ns: i64): i64 {
  return (ns / NS_PER_SECOND) * PIT_HZ + ((ns % NS_PER_SECOND) * PIT_HZ) / NS_PER_SECOND;
}

/** Rounded up: by then there were so many. */
function nsOfTicks(ticks: i64): i64 {
  return (ticks / PIT_HZ) * NS_PER_SECOND + ((ticks % PIT_HZ) * NS_PER_SECOND + PIT_HZ - 1) / PIT_HZ;
}

/** Ticks since the counter began. */
function ticksAt(channel: usize, now: i64): i64 {
  const ns = isHeld(channel) ? load<i64>(extraOf(channel), EXTRA_HELD_NS_I64) : now - loadTime(channel);
  return ns <= 0 ? 0 : ticksOfNs(ns);
}

/** A new count of a periodic counter that has come to its turn. */
function settle(channel: usize, now: i64): void {
  const extra = extraOf(channel);
  const next = load<u32>(extra, EXTRA_NEXT_COUNT_U32);
  if (next == 0 || !isPeriodic(channel) || isHeld(channel)) return;
  const time = load<i64>(extra, EXTRA_NEXT_TIME_I64);
  if (now < time) return;
  store<u32>(channel, next, PIT_COUNT_U32);
  store<u32>(extra, 0, EXTRA_NEXT_COUNT_U32);
  setLoadTime(channel, time);
}

/** What the counter shows, in binary. */
function counterOf(channel: usize, now: i64): u32 {
  const count = countOf(channel);
  if (isWaiting(channel)) return <u32>count;
  const ticks = ticksAt(channel, now);
  switch (modeOf(channel)) {
    case 2:
      return <u32>(count - (ticks % count));
    case 3:
      return <u32>(count - ((2 * ticks) % count));
    default: {
      const modulus = get(channel, PIT_BCD_U8) ? BCD_MODULUS : BINARY_MODULUS;
      return <u32>((count - (ticks % modulus) + modulus) % modulus);
    }
  }
}

function readableCount(channel: usize, now: i64): u32 {
  const value = counterOf(channel, now);
  return get(channel, PIT_BCD_U8) ? toBcd(value) : value & 0xffff;
}

function outputOf(channel: usize, now: i64): u32 {
  const mode = modeOf(channel);
  if (mode == MODE_NONE) return 0;
  if (isWaiting(channel)) return u32(mode != 0);
  const count = countOf(channel);
  const ticks = ticksAt(channel, now);
  switch (mode) {
    case 0:
    case 1:
      return u32(ticks >= count);
    case 2:
      return u32(isHeld(channel) || ticks % count != count - 1);
    case 3:
      return u32(isHeld(channel) || ticks % count < (count + 1) / 2);
    default:
      return u32(ticks != count);
  }
}

// ── Channel 0's edges ──

/** Announces the first edge after `ticks`, of which 0 is the beginning. */
function schedule(ticks: i64): void {
  const channel = channelOf(0);
  const count = countOf(channel);
  const isOff = modeOf(channel) == MODE_NONE || (load<u32>(PIT, PIT_FLAGS_U32) & PIT_FLAGS_HPET_LEGACY) != 0;
  let edge: i64;
  if (isOff || isWaiting(channel)) edge = 0;
  else if (isPeriodic(channel)) edge = (ticks / count + 1) * count;
  // In mode 4 the output is low for one tick.
  else edge = modeOf(channel) >= 4 ? count + 1 : count;
  setDeadline(edge <= ticks ? PIT_NEVER : loadTime(channel) + nsOfTicks(edge));
}

/** True: IRQ 0 has to have an edge. Those that have passed unseen are one. */
export function passPit(now: i64): bool {
  if (now < deadlineOfPit()) return false;
  const channel = channelOf(0);
  settle(channel, now);
  schedule(isPeriodic(channel) ? ticksAt(channel, now) : i64.MAX_VALUE);
  return true;
}

// ── Registers ──

/** Ports 40 to 43, and 61. */
export function readPit(port: u32, now: i64): u32 {
  if (port == SYSTEM_PORT) return readSystemPort(now);
  if (port == CONTROL_PORT) return 0;
  const channel = channelOf(port & 3);
  settle(channel, now);
  if (get(channel, PIT_STATUS_LATCHED_U8)) {
    set(channel, PIT_STATUS_LATCHED_U8, 0);
    return get(channel, PIT_STATUS_U8);
  }
  const latched = get(channel, PIT_COUNT_LATCHED_U8);
  if (latched != 0) {
    const value: u32 = load<u16>(channel, PIT_LATCHED_COUNT_U16);
    set(channel, PIT_COUNT_LATCHED_U8, latched == WORD_LSB ? MSB : 0);
    return latched == MSB ? value >> 8 : value & 0xff;
  }
  const value = readableCount(channel, now);
  switch (get(channel, PIT_READ_STATE_U8)) {
    case MSB:
      return value >> 8;
    case WORD_LSB:
      set(channel, PIT_READ_STATE_U8, WORD_MSB);
      return value & 0xff;
    case WORD_MSB:
      set(channel, PIT_READ_STATE_U8, WORD_LSB);
      return value >> 8;
    default:
      return value & 0xff;
  }
}

export function writePit(port: u32, value: u32, now: i64): void {
  if (port == SYSTEM_PORT) writeSystemPort(value, now);
  else if (port == CONTROL_PORT) writeControl(value, now);
  else writeCount(channelOf(port & 3), value, now);
}

function writeControl(value: u32, now: i64): void {
  if (value >> 6 == READ_BACK) {
    for (let number: u32 = 0; number < CHANNEL_COUNT; number++) {
      if (!(value & (2 << number))) continue;
      if (!(value & READ_BACK_NO_COUNT)) latchCount(channelOf(number), now);
      if (!(value & READ_BACK_NO_STATUS)) latchStatus(channelOf(number), now);
    }
    return;
  }
  const channel = channelOf(value >> 6);
  const access = (value >> 4) & 3;
  if (access == 0) {
    latchCount(channel, now);
    return;
  }
  set(channel, PIT_RW_MODE_U8, access);
  set(channel, PIT_READ_STATE_U8, access);
  set(channel, PIT_WRITE_STATE_U8, access);
  set(channel, PIT_COUNT_LATCHED_U8, 0);
  set(channel, PIT_STATUS_LATCHED_U8, 0);
  // Modes 6 and 7 are 2 and 3.
  const mode = (value >> 1) & 7;
  set(channel, PIT_MODE_U8, mode > 5 ? mode - 4 : mode);
  set(channel, PIT_BCD_U8, value & 1);
  setWaiting(channel, true);
  store<u32>(extraOf(channel), 0, EXTRA_NEXT_COUNT_U32);
  if (channel == channelOf(0)) schedule(0);
}

/** Only the first of several latch commands counts, until its value is read. */
function latchCount(channel: usize, now: i64): void {
  if (get(channel, PIT_COUNT_LATCHED_U8)) return;
  settle(channel, now);
  store<u16>(channel, <u16>readableCount(channel, now), PIT_LATCHED_COUNT_U16);
  set(channel, PIT_COUNT_LATCHED_U8, get(channel, PIT_RW_MODE_U8));
}

function latchStatus(channel: usize, now: i64): void {
  if (get(channel, PIT_STATUS_LATCHED_U8)) return;
  settle(channel, now);
  const isNull = isWaiting(channel) || load<u32>(extraOf(channel), EXTRA_NEXT_COUNT_U32) != 0;
  let status = (get(channel, PIT_RW_MODE_U8) << 4) | ((modeOf(channel) & 7) << 1) | get(channel, PIT_BCD_U8);
  if (outputOf(channel, now)) status |= STATUS_OUT;
  if (isNull) status |= STATUS_NULL_COUNT;
  set(channel, PIT_STATUS_U8, status);
  set(channel, PIT_STATUS_LATCHED_U8, 1);
}

function writeCount(channel: usize, value: u32, now: i64): void {
  switch (get(channel, PIT_WRITE_STATE_U8)) {
    case MSB:
      loadCount(channel, value << 8, now);
      break;
    case WORD_LSB:
      set(channel, PIT_WRITE_LATCH_U8, value);
      set(channel, PIT_WRITE_STATE_U8, WORD_MSB);
      // The first byte stops a count to an interrupt.
      if (modeOf(channel) == 0) {
        setWaiting(channel, true);
        if (channel == channelOf(0)) schedule(0);
      }
      break;
    case WORD_MSB:
      set(channel, PIT_WRITE_STATE_U8, WORD_LSB);
      loadCount(channel, get(channel, PIT_WRITE_LATCH_U8) | (value << 8), now);
      break;
    default:
      loadCount(channel, value, now);
      break;
  }
}

function loadCount(channel: usize, value: u32, now: i64): void {
  const extra = extraOf(channel);
  const count = value == 0 ? <u32>BINARY_MODULUS : value;
  settle(channel, now);
  if (isTriggered(channel) || (isPeriodic(channel) && !isWaiting(channel))) {
    // What runs runs to its end.
    store<u32>(extra, count, EXTRA_NEXT_COUNT_U32);
    const period = countOf(channel);
    store<i64>(extra, loadTime(channel) + nsOfTicks((ticksAt(channel, now) / period + 1) * period), EXTRA_NEXT_TIME_I64);
    return;
  }
  store<u32>(channel, count, PIT_COUNT_U32);
  store<i64>(extra, 0, EXTRA_HELD_NS_I64);
  setLoadTime(channel, now);
  setWaiting(channel, false);
  if (channel == channelOf(0)) schedule(0);
}

// ── Port 61 ──

function readSystemPort(now: i64): u32 {
  const channel = channelOf(SPEAKER_CHANNEL);
  settle(channel, now);
  const refresh = <u32>(now >> REFRESH_NS_SHIFT) & 1;
  return (
    get(channel, PIT_GATE_U8) |
    (load<u32>(PIT, PIT_FLAGS_U32) & PIT_FLAGS_SPEAKER_DATA_ON) |
    (refresh << SYSTEM_REFRESH_SHIFT) |
    (outputOf(channel, now) << SYSTEM_OUT_SHIFT)
  );
}

function writeSystemPort(value: u32, now: i64): void {
  const flags = load<u32>(PIT, PIT_FLAGS_U32) & ~PIT_FLAGS_SPEAKER_DATA_ON;
  store<u32>(PIT, value & SYSTEM_SPEAKER ? flags | PIT_FLAGS_SPEAKER_DATA_ON : flags, PIT_FLAGS_U32);
  setGate(channelOf(SPEAKER_CHANNEL), value & SYSTEM_GATE, now);
}

function setGate(channel: usize, gate: u32, now: i64): void {
  const extra = extraOf(channel);
  if (gate == get(channel, PIT_GATE_U8)) return;
  settle(channel, now);
  set(channel, PIT_GATE_U8, gate);
  if (!gate) store<i64>(extra, now - loadTime(channel), EXTRA_HELD_NS_I64);
  else if (isTriggered(channel) || isPeriodic(channel)) restart(channel, now);
  else setLoadTime(channel, now - load<i64>(extra, EXTRA_HELD_NS_I64));
}

/** A rising gate has these modes begin, with the count that was written last. */
function restart(channel: usize, now: i64): void {
  const extra = extraOf(channel);
  const next = load<u32>(extra, EXTRA_NEXT_COUNT_U32);
  if (next != 0) store<u32>(channel, next, PIT_COUNT_U32);
  store<u32>(extra, 0, EXTRA_NEXT_COUNT_U32);
  // A periodic one waits for its count, and for nothing else.
  if (isTriggered(channel)) setWaiting(channel, false);
  setLoadTime(channel, now);
}
