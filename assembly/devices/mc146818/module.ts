// SPDX-License-Identifier: Apache-2.0
// An MC146818A real-time clock with PC CMOS RAM, driven by the host's realtime clock.
// Motorola MC146818A: https://www.nxp.com/docs/en/data-sheet/MC146818.pdf
//
// Nothing happens between accesses: each one first notes what the clock has passed since the last (`catchUp`). The host's
// timer is needed for interrupts alone, so there is a deadline only while an enabled interrupt is still to come.
import { acquire, release } from "../../lock.ts";
import { EVENT_TIMER } from "../../layout.ts";
import { monotonicNs, openBus, realtimeNs, setIrq, signal } from "../host.ts";
import { SECONDS_PER_DAY, dateOf, daysFromDate, floorDiv, monthOf, weekdayOf, yearOf } from "./calendar.ts";
import { FIELD_CMOS_U8X128, FIELD_LAST_CYCLE_I64, FIELD_PHASE_NS_U32, RTC_CMOS_SIZE_BYTES } from "./layout.ts";
import * as reg from "./registers.ts";

const NS_PER_SECOND: i64 = 1_000_000_000;
const NEVER: i64 = i64.MAX_VALUE;

/** The state page, field by field as in layout.ts. */
@unmanaged
class Rtc {
  index: u8;
  irqLevel: u8;
  private gap: u16;
  phaseNs: u32;
  offsetSeconds: i64;
  lastSecond: i64;
  lastCycle: i64;

  get address(): usize {
    return changetype<usize>(this);
  }

  get dividerHeld(): bool {
    return (getCmos(this, reg.REG_A) & reg.A_DIVIDER) > reg.A_DIVIDER_32768_HZ;
  }

  /** The time stands still, in CMOS. */
  get stopped(): bool {
    return (getCmos(this, reg.REG_B) & reg.B_SET) != 0 || this.dividerHeld;
  }

  /** The flags that interrupt. */
  get pending(): u8 {
    return getCmos(this, reg.REG_C) & getCmos(this, reg.REG_B) & (reg.C_PF | reg.C_AF | reg.C_UF);
  }
}

/**
 * Power-on values while VRT ("valid RAM and time") is clear, as in a page of zeros: the battery was just put in. From
 * then on this is the RESET pin, which stops interrupts and leaves time and RAM alone.
 */
export function reset(rtc: Rtc): void {
  if (
    offsetof<Rtc>("phaseNs") != FIELD_PHASE_NS_U32 ||
    offsetof<Rtc>("lastCycle") != FIELD_LAST_CYCLE_I64 ||
    offsetof<Rtc>() != FIELD_CMOS_U8X128
  ) {
    ERROR("class Rtc and layout.ts disagree");
  }
  acquire(rtc.address);
  const before = target(rtc);
  const hostNs = realtimeNs();
  if ((getCmos(rtc, reg.REG_D) & reg.D_VRT) == 0) {
    memory.fill(rtc.address + FIELD_CMOS_U8X128, 0, RTC_CMOS_SIZE_BYTES);
    setCmos(rtc, reg.REG_A, reg.DEFAULT_A);
    setCmos(rtc, reg.REG_B, reg.DEFAULT_B);
    setCmos(rtc, reg.REG_D, reg.D_VRT);
    rtc.phaseNs = 0;
    rtc.offsetSeconds = 0;
    rtc.lastSecond = secondAt(rtc, hostNs);
    rtc.lastCycle = cycleAt(rtc, hostNs);
  }
  catchUp(rtc, hostNs);
  setCmos(rtc, reg.REG_B, getCmos(rtc, reg.REG_B) & ~(reg.B_PIE | reg.B_AIE | reg.B_UIE | reg.B_SQWE));
  setCmos(rtc, reg.REG_C, 0);
  rtc.index = 0;
  updateIrq(rtc);
  if (target(rtc) != before) signal(EVENT_TIMER);
  release(rtc.address);
}

export function read(rtc: Rtc, offset: u32, sizeBytes: u32): u32 {
  if (sizeBytes != 1 || offset != reg.DATA) return openBus(sizeBytes);
  acquire(rtc.address);
  const before = target(rtc);
  const hostNs = realtimeNs();
  catchUp(rtc, hostNs);
  const value = readRegister(rtc, rtc.index, hostNs);
  if (target(rtc) != before) signal(EVENT_TIMER);
  release(rtc.address);
  return value;
}

export function write(rtc: Rtc, offset: u32, sizeBytes: u32, value: u32): void {
  if (sizeBytes != 1 || offset > <u32>reg.DATA) return;
  acquire(rtc.address);
  if (offset == reg.INDEX) {
    rtc.index = <u8>value & reg.INDEX_MASK;
  } else {
    const before = target(rtc);
    const hostNs = realtimeNs();
    catchUp(rtc, hostNs);
    writeRegister(rtc, rtc.index, <u8>value, hostNs);
    if (target(rtc) != before) signal(EVENT_TIMER);
  }
  release(rtc.address);
}

/** To be called at the deadline; a call at any other time does no harm. The next deadline is to be asked for again. */
export function tick(rtc: Rtc): void {
  acquire(rtc.address);
  catchUp(rtc, realtimeNs());
  release(rtc.address);
}

/** Monotonic time of the next `tick`, or -1. Changes are announced with EVENT_TIMER. */
export function nextDeadlineNs(rtc: Rtc): i64 {
  acquire(rtc.address);
  const next = target(rtc);
  const hostNs = realtimeNs();
  // When the host's clock was set back, what the flags have noted lies in the future: the tick will put that right.
  const waitNs = secondAt(rtc, hostNs) < rtc.lastSecond ? 0 : max<i64>(next - hostNs, 0);
  release(rtc.address);
  return next == NEVER ? -1 : monotonicNs() + waitNs;
}

function readRegister(rtc: Rtc, index: u8, hostNs: i64): u8 {
  switch (index) {
    case reg.REG_A:
      return getCmos(rtc, reg.REG_A) | (updateInProgress(rtc, hostNs) ? reg.A_UIP : 0);
    case reg.REG_C: {
      const flags = getCmos(rtc, reg.REG_C) | (rtc.irqLevel ? reg.C_IRQF : 0);
      setCmos(rtc, reg.REG_C, 0);
      updateIrq(rtc);
      return flags;
    }
    default:
      return isTime(index) && !rtc.stopped ? timeByte(rtc, index, secondAt(rtc, hostNs)) : getCmos(rtc, index);
  }
}

function writeRegister(rtc: Rtc, index: u8, value: u8, hostNs: i64): void {
  switch (index) {
    case reg.REG_A:
      writeControl(rtc, value & ~reg.A_UIP, getCmos(rtc, reg.REG_B), hostNs);
      break;
    case reg.REG_B:
      // SET going high clears UIE.
      writeControl(rtc, getCmos(rtc, reg.REG_A), value & reg.B_SET ? value & ~reg.B_UIE : value, hostNs);
      break;
    case reg.REG_C:
    case reg.REG_D:
      break;
    default:
      if (isTime(index) && !rtc.stopped) {
        stopClock(rtc, hostNs);
        setCmos(rtc, index, value);
        startClock(rtc, hostNs);
      } else {
        setCmos(rtc, index, value);
      }
  }
}

function writeControl(rtc: Rtc, a: u8, b: u8, hostNs: i64): void {
  const wasStopped = rtc.stopped;
  const wasHeld = rtc.dividerHeld;
  const stops = (b & reg.B_SET) != 0 || (a & reg.A_DIVIDER) > reg.A_DIVIDER_32768_HZ;
  // In the old format: a new one applies to what the guest writes from now on.
  if (!wasStopped && stops) stopClock(rtc, hostNs);
  setCmos(rtc, reg.REG_A, a);
  setCmos(rtc, reg.REG_B, b);
  if (wasHeld && !rtc.dividerHeld) {
    rtc.phaseNs = <u32>floorMod(reg.DIVIDER_RESTART_NS - hostNs, NS_PER_SECOND);
    rtc.lastCycle = cycleAt(rtc, hostNs);
  }
  if (wasStopped && !stops) startClock(rtc, hostNs);
  updateIrq(rtc);
}

function stopClock(rtc: Rtc, hostNs: i64): void {
  const second = secondAt(rtc, hostNs);
  for (let index: u8 = reg.SECONDS; index <= reg.YEAR; index++) {
    if (isTime(index)) setCmos(rtc, index, timeByte(rtc, index, second));
  }
  setCmos(rtc, reg.CENTURY, timeByte(rtc, reg.CENTURY, second));
}

/** The phase within the second goes on: setting the time does not touch the divider. */
function startClock(rtc: Rtc, hostNs: i64): void {
  const days = daysFromDate(
    decode(rtc, getCmos(rtc, reg.CENTURY)) * 100 + decode(rtc, getCmos(rtc, reg.YEAR)),
    decode(rtc, getCmos(rtc, reg.MONTH)),
    decode(rtc, getCmos(rtc, reg.DATE_OF_MONTH)),
  );
  const second =
    days * SECONDS_PER_DAY +
    decodeHour(rtc, getCmos(rtc, reg.HOURS)) * 3600 +
    decode(rtc, getCmos(rtc, reg.MINUTES)) * 60 +
    decode(rtc, getCmos(rtc, reg.SECONDS));
  rtc.offsetSeconds += second - secondAt(rtc, hostNs);
  rtc.lastSecond = second;
  rtc.lastCycle = cycleAt(rtc, hostNs);
}

/** Sets the flags of everything that came since the last call. They are set whether or not they interrupt. */
function catchUp(rtc: Rtc, hostNs: i64): void {
  if (rtc.dividerHeld) return;
  let flags: u8 = 0;
  const cycle = cycleAt(rtc, hostNs);
  const shift = periodShift(rtc);
  if (shift != 0 && cycle >> shift != rtc.lastCycle >> shift) flags |= reg.C_PF;
  rtc.lastCycle = cycle;
  if (!rtc.stopped) {
    const second = secondAt(rtc, hostNs);
    const last = rtc.lastSecond;
    if (second != last) {
      flags |= reg.C_UF;
      // A host clock set back makes one update, at the second where it is now.
      if (nextAlarm(rtc, second > last ? last : second - 1) <= second) flags |= reg.C_AF;
      rtc.lastSecond = second;
    }
  }
  setCmos(rtc, reg.REG_C, getCmos(rtc, reg.REG_C) | flags);
  updateIrq(rtc);
}

/** Host realtime at which the interrupt line will rise by itself. */
function target(rtc: Rtc): i64 {
  if (rtc.dividerHeld || rtc.irqLevel) return NEVER;
  const enabled = getCmos(rtc, reg.REG_B);
  let next = NEVER;
  const shift = periodShift(rtc);
  if (enabled & reg.B_PIE && shift != 0) next = hostNsOfCycle(rtc, ((rtc.lastCycle >> shift) + 1) << shift);
  if (rtc.stopped) return next;
  if (enabled & reg.B_UIE) next = min(next, hostNsOfSecond(rtc, rtc.lastSecond + 1));
  if (enabled & reg.B_AIE) {
    const alarm = nextAlarm(rtc, rtc.lastSecond);
    if (alarm != NEVER) next = min(next, hostNsOfSecond(rtc, alarm));
  }
  return next;
}

/** log2 of the periodic interrupt's period in crystal cycles, 0 for none. */
function periodShift(rtc: Rtc): i64 {
  const rate = getCmos(rtc, reg.REG_A) & reg.A_RATE;
  if (rate == 0) return 0;
  // With a 32,768 Hz crystal the two fastest rates do not exist, and stand for 256 and 128 Hz.
  return rate <= 2 ? rate + 6 : rate - 1;
}

/** First second after `second` that the alarm bytes match. They are compared as they stand, like the chip does. */
function nextAlarm(rtc: Rtc, second: i64): i64 {
  if (!canMatch(rtc, reg.SECONDS_ALARM, 60) || !canMatch(rtc, reg.MINUTES_ALARM, 60)) return NEVER;
  for (let at = second + 1; at <= second + SECONDS_PER_DAY; ) {
    const ofDay = floorMod(at, SECONDS_PER_DAY);
    if (!matches(rtc, reg.HOURS_ALARM, ofDay / 3600)) at += 3600 - (ofDay % 3600);
    else if (!matches(rtc, reg.MINUTES_ALARM, (ofDay / 60) % 60)) at += 60 - (ofDay % 60);
    else if (!matches(rtc, reg.SECONDS_ALARM, ofDay % 60)) at++;
    else return at;
  }
  return NEVER;
}

function matches(rtc: Rtc, alarmIndex: u8, value: i64): bool {
  const alarm = getCmos(rtc, alarmIndex);
  if (alarm >= reg.ALARM_ANY) return true;
  return alarm == (alarmIndex == reg.HOURS_ALARM ? encodeHour(rtc, value) : encode(rtc, value));
}

function canMatch(rtc: Rtc, alarmIndex: u8, valueCount: i64): bool {
  for (let value: i64 = 0; value < valueCount; value++) {
    if (matches(rtc, alarmIndex, value)) return true;
  }
  return false;
}

function updateInProgress(rtc: Rtc, hostNs: i64): bool {
  return !rtc.stopped && floorMod(hostNs + rtc.phaseNs, NS_PER_SECOND) >= NS_PER_SECOND - reg.UIP_LEAD_NS;
}

function isTime(index: u8): bool {
  if (index == reg.CENTURY) return true;
  return index <= reg.YEAR && index != reg.SECONDS_ALARM && index != reg.MINUTES_ALARM && index != reg.HOURS_ALARM;
}

function timeByte(rtc: Rtc, index: u8, second: i64): u8 {
  const days = floorDiv(second, SECONDS_PER_DAY);
  const ofDay = floorMod(second, SECONDS_PER_DAY);
  switch (index) {
    case reg.SECONDS:
      return encode(rtc, ofDay % 60);
    case reg.MINUTES:
      return encode(rtc, (ofDay / 60) % 60);
    case reg.HOURS:
      return encodeHour(rtc, ofDay / 3600);
    case reg.DAY_OF_WEEK:
      return encode(rtc, weekdayOf(days) + 1);
    case reg.DATE_OF_MONTH:
      return encode(rtc, dateOf(days));
    case reg.MONTH:
      return encode(rtc, monthOf(days));
    case reg.YEAR:
      return encode(rtc, floorMod(yearOf(days), 100));
    default:
      return encode(rtc, floorMod(floorDiv(yearOf(days), 100), 100));
  }
}

function encode(rtc: Rtc, value: i64): u8 {
  return <u8>(getCmos(rtc, reg.REG_B) & reg.B_DM_BINARY ? value : ((value / 10) << 4) | (value % 10));
}

function decode(rtc: Rtc, byte: u8): i64 {
  return getCmos(rtc, reg.REG_B) & reg.B_DM_BINARY ? byte : (byte >> 4) * 10 + (byte & 0x0f);
}

function encodeHour(rtc: Rtc, hour: i64): u8 {
  if (getCmos(rtc, reg.REG_B) & reg.B_24H) return encode(rtc, hour);
  return encode(rtc, hour % 12 == 0 ? 12 : hour % 12) | (hour >= 12 ? reg.HOURS_PM : 0);
}

function decodeHour(rtc: Rtc, byte: u8): i64 {
  if (getCmos(rtc, reg.REG_B) & reg.B_24H) return decode(rtc, byte);
  return (decode(rtc, byte & ~reg.HOURS_PM) % 12) + (byte & reg.HOURS_PM ? 12 : 0);
}

function secondAt(rtc: Rtc, hostNs: i64): i64 {
  return floorDiv(hostNs + rtc.phaseNs, NS_PER_SECOND) + rtc.offsetSeconds;
}

function cycleAt(rtc: Rtc, hostNs: i64): i64 {
  const ns = floorMod(hostNs + rtc.phaseNs, NS_PER_SECOND);
  return secondAt(rtc, hostNs) * reg.CRYSTAL_HZ + (ns * reg.CRYSTAL_HZ) / NS_PER_SECOND;
}

function hostNsOfSecond(rtc: Rtc, second: i64): i64 {
  return (second - rtc.offsetSeconds) * NS_PER_SECOND - rtc.phaseNs;
}

/** Rounded up: at that time the cycle has begun. */
function hostNsOfCycle(rtc: Rtc, cycle: i64): i64 {
  const ofSecond = floorMod(cycle, reg.CRYSTAL_HZ);
  const ns = (ofSecond * NS_PER_SECOND + reg.CRYSTAL_HZ - 1) / reg.CRYSTAL_HZ;
  return hostNsOfSecond(rtc, floorDiv(cycle, reg.CRYSTAL_HZ)) + ns;
}

function floorMod(dividend: i64, divisor: i64): i64 {
  return dividend - floorDiv(dividend, divisor) * divisor;
}

function updateIrq(rtc: Rtc): void {
  const level = u8(rtc.pending != 0);
  if (rtc.irqLevel == level) return;
  rtc.irqLevel = level;
  setIrq(rtc.address, level);
}

function getCmos(rtc: Rtc, index: u8): u8 {
  return load<u8>(rtc.address + index, FIELD_CMOS_U8X128);
}

function setCmos(rtc: Rtc, index: u8, value: u8): void {
  store<u8>(rtc.address + index, value, FIELD_CMOS_U8X128);
}
