// SPDX-License-Identifier: Apache-2.0
// The ACPI fixed hardware of a machine without SMM: events, sleep control, PM timer, reset register, one GPE block.
// https://uefi.org/specs/ACPI/6.5/04_ACPI_Hardware_Specification.html
//
// The interrupt line is the SCI. The timer is computed from the host's monotonic clock and has 32 bits.
import { acquire, release } from "../../lock.ts";
import { EVENT_RESET, EVENT_SHUTDOWN, EVENT_SUSPEND, EVENT_TIMER } from "../../layout.ts";
import { monotonicNs, openBus, setIrq, signal } from "../host.ts";
import {
  FIELD_GPE0_STS_U16,
  FIELD_IRQ_LEVEL_U8,
  FIELD_TIMER_HALF_PERIODS_I64,
  FIELD_TIMER_OFFSET_NS_I64,
  PM_BLOCK_SIZE_BYTES,
  PM_TMR_FREQUENCY_HZ,
  SLP_TYP_S3,
  SLP_TYP_S5,
} from "./layout.ts";
import * as reg from "./registers.ts";

const NS_PER_SECOND: i64 = 1_000_000_000;
const NEVER: i64 = i64.MAX_VALUE;

/** The state page, field by field as in layout.ts. */
@unmanaged
class Pm {
  pm1Sts: u16;
  pm1En: u16;
  pm1Cnt: u16;
  gpe0Sts: u16;
  gpe0En: u16;
  rstCnt: u8;
  irqLevel: u8;
  private gap: u32;
  timerOffsetNs: i64;
  timerHalfPeriods: i64;

  get address(): usize {
    return changetype<usize>(this);
  }
}

/** Power-on values; the timer starts at 0. */
export function reset(pm: Pm): void {
  if (
    offsetof<Pm>("gpe0Sts") != FIELD_GPE0_STS_U16 ||
    offsetof<Pm>("irqLevel") != FIELD_IRQ_LEVEL_U8 ||
    offsetof<Pm>("timerOffsetNs") != FIELD_TIMER_OFFSET_NS_I64 ||
    offsetof<Pm>("timerHalfPeriods") != FIELD_TIMER_HALF_PERIODS_I64
  ) {
    ERROR("class Pm and layout.ts disagree");
  }
  acquire(pm.address);
  const before = target(pm);
  pm.pm1Sts = 0;
  pm.pm1En = 0;
  pm.pm1Cnt = reg.CNT_SCI_EN;
  pm.gpe0Sts = 0;
  pm.gpe0En = 0;
  pm.rstCnt = 0;
  pm.timerOffsetNs = -monotonicNs();
  pm.timerHalfPeriods = 0;
  updateSci(pm);
  if (target(pm) != before) signal(EVENT_TIMER);
  release(pm.address);
}

/** Any part of a register can be read and written: the specification has PM1 accessed by bytes or words. */
export function read(pm: Pm, offset: u32, sizeBytes: u32): u32 {
  if (!isInOneWord(offset, sizeBytes)) return openBus(sizeBytes);
  acquire(pm.address);
  const before = target(pm);
  const ticks = catchUp(pm);
  const word = readWord(pm, offset & ~3, <u32>ticks);
  if (target(pm) != before) signal(EVENT_TIMER);
  release(pm.address);
  return (word >> ((offset & 3) * 8)) & openBus(sizeBytes);
}

export function write(pm: Pm, offset: u32, sizeBytes: u32, value: u32): void {
  if (!isInOneWord(offset, sizeBytes)) return;
  const shift = (offset & 3) * 8;
  const mask = openBus(sizeBytes) << shift;
  acquire(pm.address);
  const before = target(pm);
  catchUp(pm);
  writeWord(pm, offset & ~3, (value << shift) & mask, mask);
  updateSci(pm);
  if (target(pm) != before) signal(EVENT_TIMER);
  release(pm.address);
}

/** Somebody pressed the power button. */
export function powerButton(pm: Pm): void {
  acquire(pm.address);
  pm.pm1Sts |= reg.PM1_PWRBTN;
  updateSci(pm);
  release(pm.address);
}

/** The machine left S3: to be called before the guest runs again, after a `reset` if there is one. */
export function wakeUp(pm: Pm): void {
  acquire(pm.address);
  pm.pm1Sts |= reg.PM1_WAK_STS;
  updateSci(pm);
  release(pm.address);
}

/** Sets status bit `gpe` (0 to 15) of GPE0. */
export function raiseGpe(pm: Pm, gpe: u32): void {
  if (gpe >= reg.GPE_COUNT) return;
  acquire(pm.address);
  pm.gpe0Sts |= <u16>(1 << <u16>gpe);
  updateSci(pm);
  release(pm.address);
}

/** To be called at the deadline; a call at any other time does no harm. The next deadline is to be asked for again. */
export function tick(pm: Pm): void {
  acquire(pm.address);
  catchUp(pm);
  release(pm.address);
}

/** Monotonic time of the next `tick`, or -1. Changes are announced with EVENT_TIMER. */
export function nextDeadlineNs(pm: Pm): i64 {
  acquire(pm.address);
  const next = target(pm);
  release(pm.address);
  return next == NEVER ? -1 : next;
}

function isInOneWord(offset: u32, sizeBytes: u32): bool {
  return (
    (sizeBytes == 1 || sizeBytes == 2 || sizeBytes == 4) &&
    offset < <u32>PM_BLOCK_SIZE_BYTES &&
    (offset & 3) + sizeBytes <= 4
  );
}

function readWord(pm: Pm, offset: u32, ticks: u32): u32 {
  switch (offset) {
    case reg.PM1A_EVT:
      return <u32>pm.pm1Sts | (<u32>pm.pm1En << reg.ENABLE_SHIFT);
    case reg.PM1A_CNT:
      return <u32>pm.pm1Cnt | 0xffff_0000;
    case reg.PM_TMR:
      return ticks;
    case reg.RST_CNT:
      return <u32>pm.rstCnt | 0xffff_ff00;
    default:
      return <u32>pm.gpe0Sts | (<u32>pm.gpe0En << reg.ENABLE_SHIFT);
  }
}

/** `value` is 0 outside `mask`, the bytes written. */
function writeWord(pm: Pm, offset: u32, value: u32, mask: u32): void {
  const enable = <u16>(value >> reg.ENABLE_SHIFT);
  const enableMask = <u16>(mask >> reg.ENABLE_SHIFT);
  switch (offset) {
    case reg.PM1A_EVT:
      pm.pm1Sts &= ~(<u16>value);
      pm.pm1En = ((pm.pm1En & ~enableMask) | enable) & reg.PM1_EN_MASK;
      break;
    case reg.PM1A_CNT:
      writeControl(pm, (pm.pm1Cnt & ~(<u16>mask)) | <u16>value);
      break;
    case reg.RST_CNT:
      if ((mask & 0xff) == 0) break;
      pm.rstCnt = <u8>value & (reg.RST_SYS | reg.RST_FULL);
      if (<u8>value & reg.RST_CPU) signal(EVENT_RESET);
      break;
    case reg.GPE0:
      pm.gpe0Sts &= ~(<u16>value);
      pm.gpe0En = (pm.gpe0En & ~enableMask) | enable;
      break;
    // PM_TMR is read only.
  }
}

/** Without SMM nothing can leave ACPI mode, so SCI_EN stays set. */
function writeControl(pm: Pm, value: u16): void {
  pm.pm1Cnt = (value & (reg.CNT_BM_RLD | reg.CNT_SLP_TYP)) | reg.CNT_SCI_EN;
  if ((value & reg.CNT_SLP_EN) == 0) return;
  const sleepType: u16 = (value & reg.CNT_SLP_TYP) >> reg.CNT_SLP_TYP_SHIFT;
  if (sleepType == SLP_TYP_S5) signal(EVENT_SHUTDOWN);
  else if (sleepType == SLP_TYP_S3) signal(EVENT_SUSPEND);
}

/** Notes whether the top bit of the timer has toggled, and returns the timer in 64 bits. */
function catchUp(pm: Pm): i64 {
  const ticks = ticksOfNs(monotonicNs() + pm.timerOffsetNs);
  const halfPeriods = ticks >> reg.TIMER_HALF_PERIOD_SHIFT;
  if (halfPeriods != pm.timerHalfPeriods) {
    pm.timerHalfPeriods = halfPeriods;
    pm.pm1Sts |= reg.PM1_TMR;
    updateSci(pm);
  }
  return ticks;
}

/** Monotonic time at which the SCI will rise by itself. */
function target(pm: Pm): i64 {
  if (pm.irqLevel || (pm.pm1En & reg.PM1_TMR) == 0) return NEVER;
  return nsOfTicks((pm.timerHalfPeriods + 1) << reg.TIMER_HALF_PERIOD_SHIFT) - pm.timerOffsetNs;
}

/** In two parts because nanoseconds times the frequency leave 64 bits after 43 minutes. */
function ticksOfNs(ns: i64): i64 {
  const rest = ns % NS_PER_SECOND;
  return (ns / NS_PER_SECOND) * PM_TMR_FREQUENCY_HZ + (rest * PM_TMR_FREQUENCY_HZ) / NS_PER_SECOND;
}

/** Rounded up: at that time the tick has come. */
function nsOfTicks(ticks: i64): i64 {
  const rest = ticks % PM_TMR_FREQUENCY_HZ;
  const ns = (rest * NS_PER_SECOND + PM_TMR_FREQUENCY_HZ - 1) / PM_TMR_FREQUENCY_HZ;
  return (ticks / PM_TMR_FREQUENCY_HZ) * NS_PER_SECOND + ns;
}

function updateSci(pm: Pm): void {
  const level = u8((pm.pm1Sts & pm.pm1En) != 0 || (pm.gpe0Sts & pm.gpe0En) != 0);
  if (pm.irqLevel == level) return;
  pm.irqLevel = level;
  setIrq(pm.address, level);
}
