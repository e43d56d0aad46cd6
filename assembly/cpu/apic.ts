// SPDX-License-Identifier: Apache-2.0
// This vCPU's local APIC: what is to be delivered now, its timers, and how it is switched on and off. SDM volume 3, chapter 11. Its
// registers: apic-registers.ts; what it sends: apic-ipi.ts. How other threads deliver to it, and why nothing of that needs a lock:
// irqchip/lapic.ts.
//
// The vCPU's loop:
//   before each turn   `runTimers`, and when CPU_PENDING has CPU_PENDING_INTERRUPT and interrupts are allowed: `highestInterrupt`, and,
//                      if that is not -1, `acknowledge` for the vector
//   in HLT             the same, then CPU_PENDING is read once more: if it has a bit of which the vCPU would have to do something, from the
//                      start; if not, it sleeps until the word changes, for sleepNs()
// `highestInterrupt` clears the bit when there is nothing to deliver; whatever makes something deliverable sets it.
import { acknowledgePic, endOfInterrupt, isPicRaised, pitDeadline, runPit } from "../irqchip/chip.ts";
import {
  BASE_BSP,
  BASE_ENABLE,
  BASE_X2APIC,
  clearVector,
  getRegister,
  hasVector,
  highestVector,
  initLapic,
  isEnabled,
  nsOfTsc,
  runTimer,
  setRegister,
  setVector,
  takesPic,
  TIMER_DEADLINE,
  TIMER_MODE,
  timerDeadline,
  updatePpr,
  wake,
  x2apicLdr,
} from "../irqchip/lapic.ts";
import {
  APIC_ID,
  APIC_IRR,
  APIC_ISR,
  APIC_LDR,
  APIC_LVT_TIMER,
  APIC_PPR,
  APIC_SVR,
  APIC_TMR,
  APIC_TPR,
} from "../irqchip/layout.ts";
import { CPU_APIC_BASE, CPU_CR8, CPU_INDEX, CPU_PENDING, CPU_PENDING_INTERRUPT, CPU_TSC_DEADLINE } from "./layout.ts";
import { cpu, GP, hostTsc, raiseWith } from "./vcpu.ts";

/** IA32_APIC_BASE: bits that are always 0. MAXPHYADDR is 46, see page-walk.ts. */
const BASE_RESERVED: u64 = 0xffff_c000_0000_02ff;

/** The interrupt to be delivered is the PIC's, which tells its vector when it is acknowledged. */
export const EXTERNAL_INTERRUPT: i32 = 256;

const NEVER: u64 = u64.MAX_VALUE;

// ── Delivery ──

/**
 * Vector of the interrupt to be delivered now, EXTERNAL_INTERRUPT, or -1. -1 stays right until CPU_PENDING_INTERRUPT is set. RFLAGS.IF and the
 * interrupt shadow are the caller's business.
 */
export function highestInterrupt(): i32 {
  atomic.and<i32>(cpu, ~CPU_PENDING_INTERRUPT, CPU_PENDING);
  const vector = findInterrupt();
  if (vector >= 0) atomic.or<i32>(cpu, CPU_PENDING_INTERRUPT, CPU_PENDING);
  return vector;
}

function findInterrupt(): i32 {
  if (isPicRaised() && takesPic(cpu)) return EXTERNAL_INTERRUPT;
  if (!isEnabled(cpu)) return -1;
  const vector = highestVector(cpu, APIC_IRR);
  return vector >= 0 && <u32>(vector & 0xf0) > (getRegister(cpu, APIC_PPR) & 0xf0) ? vector : -1;
}

/** Takes the interrupt: its vector. When it is gone meanwhile, that of a spurious one. */
export function acknowledge(): u32 {
  const vector = findInterrupt();
  if (vector == EXTERNAL_INTERRUPT) return acknowledgePic();
  if (vector < 0) return takesPic(cpu) ? acknowledgePic() : getRegister(cpu, APIC_SVR) & 0xff;
  clearVector(cpu, APIC_IRR, vector);
  setVector(cpu, APIC_ISR, vector);
  updatePpr(cpu);
  return vector;
}

/** Something has changed that may have kept an interrupt back. */
export function reconsider(): void {
  if (findInterrupt() >= 0) wake(cpu, CPU_PENDING_INTERRUPT);
}

export function endInterrupt(): void {
  const vector = highestVector(cpu, APIC_ISR);
  if (vector < 0) return;
  clearVector(cpu, APIC_ISR, vector);
  updatePpr(cpu);
  if (hasVector(cpu, APIC_TMR, vector)) endOfInterrupt(vector);
  reconsider();
}

// ── Time ──

/** Host TSC at which `runTimers` has something to do; u64.MAX_VALUE for never. */
export function nextDeadline(): u64 {
  const own = timerDeadline(cpu);
  return load<u32>(cpu, CPU_INDEX) == 0 ? min<u64>(own, pitDeadline(hostTsc())) : own;
}

/** How long that is from now, for atomic.wait: 0 when it is due, -1 for never. */
export function sleepNs(): i64 {
  const deadline = nextDeadline();
  if (deadline == NEVER) return -1;
  const now = hostTsc();
  // Half an hour is as good as never, and does not overflow.
  return deadline <= now ? 0 : <i64>nsOfTsc(min<u64>(deadline - now, <u64>1 << 42)) + 1;
}

/** Delivers what timers have to deliver. The PIT's is the first vCPU's business. */
export function runTimers(): void {
  runTimer(cpu, hostTsc());
  if (load<u32>(cpu, CPU_INDEX) == 0) runPit();
}

export function readTscDeadline(): u64 {
  return load<u64>(cpu, CPU_TSC_DEADLINE);
}

/** Without effect in other modes of the timer: 11.5.4.1. */
export function writeTscDeadline(value: u64): void {
  if (isEnabled(cpu) && isDeadlineMode()) store<u64>(cpu, value, CPU_TSC_DEADLINE);
}

@inline
export function isDeadlineMode(): bool {
  return (getRegister(cpu, APIC_LVT_TIMER) & TIMER_MODE) == TIMER_DEADLINE;
}

// ── CR8, IA32_APIC_BASE, INIT ──

export function readCr8(): u64 {
  return getRegister(cpu, APIC_TPR) >> 4;
}

/** False: #GP. */
export function writeCr8(value: u64): bool {
  if (value > 15) return raiseWith(GP, 0);
  setTpr(<u32>value << 4);
  return true;
}

export function setTpr(value: u32): void {
  setRegister(cpu, APIC_TPR, value);
  store<u64>(cpu, value >> 4, CPU_CR8);
  updatePpr(cpu);
  reconsider();
}

/** The vCPU's part of INIT that is its APIC's. */
export function initApic(): void {
  initLapic(cpu);
  store<u64>(cpu, 0, CPU_CR8);
}

/** False: #GP. 11.4.3, 11.12.1, 11.12.5. */
export function writeApicBase(value: u64): bool {
  const old = load<u64>(cpu, CPU_APIC_BASE);
  const wasX2apic = (old & BASE_X2APIC) != 0;
  const isOn = (value & BASE_ENABLE) != 0;
  const toX2apic = (value & BASE_X2APIC) != 0;
  if (value & BASE_RESERVED || (toX2apic && !isOn)) return raiseWith(GP, 0);
  // From x2APIC mode only to disabled, from disabled only to xAPIC mode.
  if (wasX2apic && isOn && !toX2apic) return raiseWith(GP, 0);
  if (!(old & BASE_ENABLE) && toX2apic) return raiseWith(GP, 0);
  atomic.store<u64>(cpu, (value & ~BASE_BSP) | (old & BASE_BSP), CPU_APIC_BASE);
  const index = load<u32>(cpu, CPU_INDEX);
  if (old & BASE_ENABLE && !isOn) {
    initApic();
    setRegister(cpu, APIC_ID, index << 24);
  }
  if (toX2apic && !wasX2apic) {
    setRegister(cpu, APIC_ID, index << 24);
    setRegister(cpu, APIC_LDR, x2apicLdr(index));
  }
  reconsider();
  return true;
}
