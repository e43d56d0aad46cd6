// SPDX-License-Identifier: Apache-2.0
// Local APICs as any thread sees them: interrupts for them, and their timers. SDM volume 3, chapter 11.
//
// `page` is a vCPU's state page. There is no lock, because nobody needs two words to agree:
//   IRR             anybody sets bits, atomically; the vCPU alone clears them, atomically
//   TMR             anybody sets and clears bits, atomically, and before the bit in IRR: the vCPU, which looks at a bit of TMR only
//                   when it has seen that of IRR, sees what came with it
//   CPU_PENDING     anybody sets bits, after what they speak of; the vCPU clears them before it looks. So what comes after a look
//                   finds the bit clear, sets it and wakes; and whoever waits for CPU_PENDING to be another than it was does not miss it
//   SIPI vector     anybody writes it, before CPU_PENDING_SIPI
//   CPU_APIC_ERRORS anybody sets bits, atomically; the vCPU takes them
//   all others      the vCPU alone writes them. Who delivers an interrupt reads ID, LDR, DFR, SVR, an LVT entry or IA32_APIC_BASE:
//                   one word each, the old or the new one, as if the interrupt had come a little earlier or later
// Timers belong to the vCPU too. While it is parked, all of it is the main thread's.
import { CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES, IRQCHIP_BASE } from "../layout.ts";
import {
  CPU_APIC_BASE,
  CPU_CR8,
  CPU_LAPIC,
  CPU_LAPIC_SIZE_BYTES,
  CPU_PENDING,
  CPU_PENDING_ASLEEP,
  CPU_PENDING_INIT,
  CPU_PENDING_INTERRUPT,
  CPU_PENDING_NMI,
  CPU_PENDING_SIPI,
  CPU_SIPI_VECTOR,
  CPU_TSC_DEADLINE,
  CPU_TSC_OFFSET,
} from "../cpu/layout.ts";
import {
  APIC_CURRENT_COUNT,
  APIC_DFR,
  APIC_DIVIDE,
  APIC_ID,
  APIC_INITIAL_COUNT,
  APIC_IRR,
  APIC_LDR,
  APIC_LVT_ERROR,
  APIC_LVT_LINT0,
  APIC_LVT_TIMER,
  APIC_PPR,
  APIC_ISR,
  APIC_SVR,
  APIC_TMR,
  APIC_TPR,
  APIC_VERSION,
  CPU_APIC_ERRORS,
  CPU_APIC_TIMER_TARGET,
  IRQCHIP_ARBITER_U32,
  IRQCHIP_CPU_COUNT_U32,
  IRQCHIP_TSC_KHZ_U32,
} from "./layout.ts";

// IA32_APIC_BASE.
export const BASE_BSP: u64 = 0x100;
export const BASE_X2APIC: u64 = 0x400;
export const BASE_ENABLE: u64 = 0x800;
const BASE_DEFAULT: u64 = 0xfee0_0000;

export const SVR_ENABLE: u32 = 0x100;
/** Six LVT entries, an integrated APIC. */
const VERSION: u32 = 0x5_0014;

// Delivery modes, of ICR, LVT entries and redirections.
export const MODE_FIXED: u32 = 0;
export const MODE_LOWEST: u32 = 1;
export const MODE_NMI: u32 = 4;
export const MODE_INIT: u32 = 5;
export const MODE_STARTUP: u32 = 6;
export const MODE_EXTINT: u32 = 7;
export const MODE_SHIFT: u32 = 8;
export const MODE_MASK: u32 = 7;

export const LVT_MASKED: u32 = 0x1_0000;
export const TIMER_MODE: u32 = 0x6_0000;
export const TIMER_PERIODIC: u32 = 0x2_0000;
export const TIMER_DEADLINE: u32 = 0x4_0000;

// ESR.
export const ERROR_SEND_ILLEGAL: i32 = 0x20;
export const ERROR_RECEIVE_ILLEGAL: i32 = 0x40;
export const ERROR_ILLEGAL_REGISTER: i32 = 0x80;
/** Vectors below are the CPU's own. */
export const FIRST_VECTOR: u32 = 16;

/** Destination of interrupts for all, however wide destinations are. */
export const BROADCAST: u32 = 0xffff_ffff;
const NEVER: u64 = u64.MAX_VALUE;

@inline
export function stateOf(index: u32): usize {
  return <usize>CPU_STATE_BASE + <usize>index * <usize>CPU_STATE_STRIDE_BYTES;
}

@inline
export function cpuCount(): u32 {
  return load<u32>(IRQCHIP_BASE, IRQCHIP_CPU_COUNT_U32);
}

@inline
export function getRegister(page: usize, offset: u32): u32 {
  return atomic.load<u32>(page + offset, CPU_LAPIC);
}

@inline
export function setRegister(page: usize, offset: u32, value: u32): void {
  atomic.store<u32>(page + offset, value, CPU_LAPIC);
}

@inline
function wordOf(page: usize, bits: u32, vector: u32): usize {
  return page + CPU_LAPIC + bits + ((vector >> 5) << 4);
}

export function hasVector(page: usize, bits: u32, vector: u32): bool {
  return ((atomic.load<u32>(wordOf(page, bits, vector)) >> (vector & 31)) & 1) != 0;
}

export function setVector(page: usize, bits: u32, vector: u32): void {
  atomic.or<u32>(wordOf(page, bits, vector), 1 << (vector & 31));
}

export function clearVector(page: usize, bits: u32, vector: u32): void {
  atomic.and<u32>(wordOf(page, bits, vector), ~(1 << (vector & 31)));
}

/** The highest one that is set, or -1. */
export function highestVector(page: usize, bits: u32): i32 {
  for (let word: i32 = 7; word >= 0; word--) {
    const set = atomic.load<u32>(page + bits + (word << 4), CPU_LAPIC);
    if (set != 0) return (word << 5) + 31 - <i32>clz(set);
  }
  return -1;
}

@inline
export function isX2apic(page: usize): bool {
  return (atomic.load<u64>(page, CPU_APIC_BASE) & BASE_X2APIC) != 0;
}

@inline
export function isEnabled(page: usize): bool {
  return (atomic.load<u64>(page, CPU_APIC_BASE) & BASE_ENABLE) != 0;
}

@inline
function acceptsFixed(page: usize): bool {
  return isEnabled(page) && (getRegister(page, APIC_SVR) & SVR_ENABLE) != 0;
}

/** The PIC's INTR is this vCPU's. */
export function takesPic(page: usize): bool {
  if (!isEnabled(page)) return true;
  const lvt = getRegister(page, APIC_LVT_LINT0);
  return !(lvt & LVT_MASKED) && ((lvt >> MODE_SHIFT) & MODE_MASK) == MODE_EXTINT;
}

// ── Delivery ──

/** Ends the sleep of the vCPU that waits for the word at `address`. Not `atomic.wait` and `notify`: see ffi/futex.ts. */
@external("host", "wakeVcpu")
declare function wakeVcpu(address: u32): void;

/** Sets bits of CPU_PENDING; what they speak of is in place. */
export function wake(page: usize, bits: i32): void {
  if (atomic.or<i32>(page, bits, CPU_PENDING) & CPU_PENDING_ASLEEP) wakeVcpu(<u32>page + CPU_PENDING);
}

/** False: this APIC does not take it. */
export function accept(page: usize, mode: u32, vector: u32, isLevel: bool): bool {
  if (!isEnabled(page)) return false;
  switch (mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
      if (!acceptsFixed(page)) return false;
      if (vector < FIRST_VECTOR) {
        noteError(page, ERROR_RECEIVE_ILLEGAL);
        return false;
      }
      if (isLevel != hasVector(page, APIC_TMR, vector)) {
        if (isLevel) setVector(page, APIC_TMR, vector);
        else clearVector(page, APIC_TMR, vector);
      }
      setVector(page, APIC_IRR, vector);
      wake(page, CPU_PENDING_INTERRUPT);
      return true;
    case MODE_NMI:
      wake(page, CPU_PENDING_NMI);
      return true;
    case MODE_INIT:
      // A startup IPI from before it is void.
      atomic.and<i32>(page, ~CPU_PENDING_SIPI, CPU_PENDING);
      wake(page, CPU_PENDING_INIT);
      return true;
    case MODE_STARTUP:
      atomic.store<u32>(page, vector, CPU_SIPI_VECTOR);
      wake(page, CPU_PENDING_SIPI);
      return true;
    default:
      return false;
  }
}

/** An error of the APIC's own interrupt is one that is known already: this ends. */
export function noteError(page: usize, error: i32): void {
  if (!(atomic.or<i32>(page, error, CPU_APIC_ERRORS) & error)) deliverLocal(page, APIC_LVT_ERROR);
}

/** What an LVT entry says is to be done. */
export function deliverLocal(page: usize, entry: u32): void {
  const lvt = getRegister(page, entry);
  if (!(lvt & LVT_MASKED)) accept(page, (lvt >> MODE_SHIFT) & MODE_MASK, lvt & 0xff, false);
}

/** The PIC's INTR has gone up: it is LINT0 of all vCPUs. As an ExtINT the first that takes it has it. */
export function raiseLint0(): void {
  for (let index: u32 = 0; index < cpuCount(); index++) {
    const page = stateOf(index);
    if (takesPic(page)) {
      wake(page, CPU_PENDING_INTERRUPT);
      return;
    }
    deliverLocal(page, APIC_LVT_LINT0);
  }
}

/** A destination of 8 bits, of the I/O APIC or an xAPIC, as one of 32. */
export function widen(destination: u32): u32 {
  return destination == 0xff ? BROADCAST : destination;
}

/** An interrupt message for whom it may concern. False: nobody takes it. */
export function deliver(destination: u32, isLogical: bool, mode: u32, vector: u32, isLevel: bool): bool {
  if (mode == MODE_LOWEST) return deliverToOne(destination, isLogical, vector, isLevel);
  let isAccepted = false;
  for (let index: u32 = 0; index < cpuCount(); index++) {
    const page = stateOf(index);
    if (matches(page, destination, isLogical) && accept(page, mode, vector, isLevel)) isAccepted = true;
  }
  return isAccepted;
}

/** Lowest priority: they take turns, because priorities of vCPUs at work are no longer right when they are compared. */
function deliverToOne(destination: u32, isLogical: bool, vector: u32, isLevel: bool): bool {
  let count: u32 = 0;
  for (let index: u32 = 0; index < cpuCount(); index++) {
    const page = stateOf(index);
    if (acceptsFixed(page) && matches(page, destination, isLogical)) count++;
  }
  if (count == 0) return false;
  let turn = atomic.add<u32>(IRQCHIP_BASE, 1, IRQCHIP_ARBITER_U32) % count;
  for (let index: u32 = 0; index < cpuCount(); index++) {
    const page = stateOf(index);
    if (acceptsFixed(page) && matches(page, destination, isLogical) && turn-- == 0) {
      return accept(page, MODE_FIXED, vector, isLevel);
    }
  }
  return false;
}

function matches(page: usize, destination: u32, isLogical: bool): bool {
  if (destination == BROADCAST) return true;
  if (!isLogical) return destination == getRegister(page, APIC_ID) >> 24;
  const logical = getRegister(page, APIC_LDR);
  if (isX2apic(page)) return logical >> 16 == destination >> 16 && (logical & destination & 0xffff) != 0;
  if (destination > 0xff) return false;
  const own = logical >> 24;
  switch (getRegister(page, APIC_DFR) >> 28) {
    case 0xf:
      return (own & destination) != 0;
    case 0:
      return own >> 4 == destination >> 4 && (own & destination & 0xf) != 0;
    default:
      return false;
  }
}

// ── Registers that depend on others ──

/** LDR of an x2APIC: 11.12.10.2. */
export function x2apicLdr(id: u32): u32 {
  return ((id >> 4) << 16) | (1 << (id & 15));
}

export function updatePpr(page: usize): void {
  const tpr = getRegister(page, APIC_TPR);
  const inService = highestVector(page, APIC_ISR);
  const servicePriority: u32 = inService < 0 ? 0 : inService & 0xf0;
  setRegister(page, APIC_PPR, (tpr & 0xf0) >= servicePriority ? tpr : servicePriority);
}

/** State after INIT; IA32_APIC_BASE and ID stay. */
export function initLapic(page: usize): void {
  const isBsp = (load<u64>(page, CPU_APIC_BASE) & BASE_BSP) != 0;
  const id = getRegister(page, APIC_ID);
  const ldr = isX2apic(page) ? getRegister(page, APIC_LDR) : 0;
  for (let offset: u32 = 0; offset < <u32>CPU_LAPIC_SIZE_BYTES; offset += 4) setRegister(page, offset, 0);
  setRegister(page, APIC_ID, id);
  setRegister(page, APIC_VERSION, VERSION);
  setRegister(page, APIC_LDR, ldr);
  setRegister(page, APIC_DFR, 0xffff_ffff);
  setRegister(page, APIC_SVR, 0xff);
  for (let entry: u32 = APIC_LVT_TIMER; entry <= <u32>APIC_LVT_ERROR; entry += 0x10) setRegister(page, entry, LVT_MASKED);
  // As KVM, for systems that use the PIC and never look at the APIC.
  if (isBsp) setRegister(page, APIC_LVT_LINT0, MODE_EXTINT << MODE_SHIFT);
  store<u64>(page, 0, CPU_APIC_TIMER_TARGET);
  store<u64>(page, 0, CPU_TSC_DEADLINE);
  atomic.store<i32>(page, 0, CPU_APIC_ERRORS);
}

/** INIT, of a vCPU that is parked or the caller's. */
export function initLapicOf(index: u32): void {
  const page = stateOf(index);
  initLapic(page);
  store<u64>(page, 0, CPU_CR8);
}

/** Power-on state. */
export function resetLapic(index: u32): void {
  const page = stateOf(index);
  atomic.store<u64>(page, BASE_DEFAULT | BASE_ENABLE | (index == 0 ? BASE_BSP : 0), CPU_APIC_BASE);
  setRegister(page, APIC_ID, index << 24);
  initLapic(page);
}

// ── State in KVM's form, see src/accel/wasm/irqchip-state.ts. The vCPU is parked ──

/** CURRENT_COUNT, which is not among the registers in the state page. */
export function currentCount(index: u32, now: u64): u32 {
  const page = stateOf(index);
  return isDeadline(page) ? 0 : timerCount(page, now);
}

/**
 * After registers and IA32_APIC_BASE were set, in whatever order with IA32_TSC_DEADLINE. A count that has run out may have done so unseen (KVM's
 * timers run out before their interrupts are in IRR), so it does once more: one interrupt too many is harmless, one too few is not.
 */
export function lapicRestored(index: u32, now: u64): void {
  const page = stateOf(index);
  const count = getRegister(page, APIC_CURRENT_COUNT);
  const initial = getRegister(page, APIC_INITIAL_COUNT);
  setRegister(page, APIC_VERSION, VERSION);
  setRegister(page, APIC_CURRENT_COUNT, 0);
  if (isX2apic(page)) {
    setRegister(page, APIC_ID, index << 24);
    setRegister(page, APIC_LDR, x2apicLdr(index));
  }
  stopTimer(page);
  if (initial != 0 && !isDeadline(page)) {
    if (count != 0) startTimer(page, count, now);
    else if (isPeriodic(page)) startTimer(page, initial, now);
    else store<u64>(page, max<u64>(now, 1), CPU_APIC_TIMER_TARGET);
  }
  atomic.store<i32>(page, 0, CPU_APIC_ERRORS);
  store<u64>(page, getRegister(page, APIC_TPR) >> 4, CPU_CR8);
  updatePpr(page);
  wake(page, CPU_PENDING_INTERRUPT);
}

// ── The timer: 11.5.4. `now` is the host's TSC ──

@inline
function tscKhz(): u64 {
  return load<u32>(IRQCHIP_BASE, IRQCHIP_TSC_KHZ_U32);
}

/** Rounded up: by then so much time has passed. For less than half an hour. */
export function tscOfNs(ns: u64): u64 {
  return (ns * tscKhz() + 999_999) / 1_000_000;
}

/** For less than half an hour. */
export function nsOfTsc(ticks: u64): u64 {
  return (ticks * 1_000_000) / tscKhz();
}

/** log2 of the divisor. */
function divideShift(page: usize): u32 {
  const divide = getRegister(page, APIC_DIVIDE);
  return (((divide & 3) | ((divide >> 1) & 4)) + 1) & 7;
}

/** The bus clock, which is divided, has 1 GHz. */
function nsOfCount(page: usize, count: u32): u64 {
  return <u64>count << divideShift(page);
}

/** Starts to count down from there, or stops at 0. Not in deadline mode. */
export function startTimer(page: usize, count: u32, now: u64): void {
  store<u64>(page, count == 0 ? 0 : now + tscOfNs(nsOfCount(page, count)), CPU_APIC_TIMER_TARGET);
}

export function stopTimer(page: usize): void {
  store<u64>(page, 0, CPU_APIC_TIMER_TARGET);
}

/** The current count. */
export function timerCount(page: usize, now: u64): u32 {
  const target = load<u64>(page, CPU_APIC_TIMER_TARGET);
  if (target == 0) return 0;
  let left: u64 = 0;
  if (target > now) left = target - now;
  else if (isPeriodic(page)) left = periodOf(page) - ((now - target) % periodOf(page));
  const count = nsOfTsc(left) >> divideShift(page);
  // Times are rounded up.
  return <u32>min<u64>(count, getRegister(page, APIC_INITIAL_COUNT));
}

/** The divisor has changed; what is left of the count stays. */
export function setDivide(page: usize, divide: u32, now: u64): void {
  const isRunning = load<u64>(page, CPU_APIC_TIMER_TARGET) != 0;
  const count = timerCount(page, now);
  setRegister(page, APIC_DIVIDE, divide);
  if (isRunning) startTimer(page, max<u32>(count, 1), now);
}

@inline
function isPeriodic(page: usize): bool {
  return (getRegister(page, APIC_LVT_TIMER) & TIMER_MODE) == TIMER_PERIODIC;
}

@inline
function isDeadline(page: usize): bool {
  return (getRegister(page, APIC_LVT_TIMER) & TIMER_MODE) == TIMER_DEADLINE;
}

function periodOf(page: usize): u64 {
  return max<u64>(tscOfNs(nsOfCount(page, getRegister(page, APIC_INITIAL_COUNT))), 1);
}

/** Host TSC at which there is something to do. */
export function timerDeadline(page: usize): u64 {
  if (!isDeadline(page)) {
    const target = load<u64>(page, CPU_APIC_TIMER_TARGET);
    return target == 0 ? NEVER : target;
  }
  const deadline = load<u64>(page, CPU_TSC_DEADLINE);
  if (deadline == 0) return NEVER;
  const offset = load<i64>(page, CPU_TSC_OFFSET);
  const target = deadline - <u64>offset;
  // Beyond the end of the host's TSC, or before it began.
  if (offset < 0 && target < deadline) return NEVER;
  if (offset > 0 && target > deadline) return 0;
  return target;
}

/** Delivers the timer's interrupt when it is due. Periods that have passed unseen make one. */
export function runTimer(page: usize, now: u64): void {
  const target = timerDeadline(page);
  if (now < target) return;
  if (isDeadline(page)) store<u64>(page, 0, CPU_TSC_DEADLINE);
  else if (isPeriodic(page)) {
    const period = periodOf(page);
    store<u64>(page, target + ((now - target) / period + 1) * period, CPU_APIC_TIMER_TARGET);
  } else stopTimer(page);
  deliverLocal(page, APIC_LVT_TIMER);
}
