// SPDX-License-Identifier: Apache-2.0
// This vCPU's local APIC: its registers as the guest sees them, in memory or as MSRs, and what is to be delivered now.
// SDM volume 3, chapter 11. How other threads deliver to it, and why nothing of that needs a lock: irqchip/lapic.ts.
//
// The registers have the form of struct kvm_lapic_state at CPU_LAPIC: as in an xAPIC's page, ID in bits 31:24 even of an x2APIC. Two
// are made when they are asked for: the current count of the timer, and TPR's copy CR8.
//
// The vCPU's loop:
//   before each turn   `runTimers`, and when CPU_PENDING has CPU_PENDING_INTERRUPT and interrupts are allowed: `highestInterrupt`, and,
//                      if that is not -1, `acknowledge` for the vector
//   in HLT             the same, then CPU_PENDING is read once more: if it has a bit of which the vCPU would have to do something, from the
//                      start; if not, it sleeps until the word changes, for sleepNs()
// `highestInterrupt` clears the bit when there is nothing to deliver; whatever makes something deliverable sets it.
import { acknowledgePic, endOfInterrupt, isPicRaised, pitDeadline, runPit } from "../irqchip/chip.ts";
import {
  accept,
  BASE_BSP,
  BASE_ENABLE,
  BASE_X2APIC,
  clearVector,
  cpuCount,
  deliver,
  ERROR_ILLEGAL_REGISTER,
  ERROR_SEND_ILLEGAL,
  FIRST_VECTOR,
  getRegister,
  hasVector,
  highestVector,
  initLapic,
  isEnabled,
  isX2apic,
  LVT_MASKED,
  MODE_FIXED,
  MODE_INIT,
  MODE_LOWEST,
  MODE_MASK,
  MODE_SHIFT,
  noteError,
  nsOfTsc,
  runTimer,
  setDivide,
  setRegister,
  setVector,
  startTimer,
  stateOf,
  stopTimer,
  SVR_ENABLE,
  takesPic,
  TIMER_DEADLINE,
  TIMER_MODE,
  timerCount,
  timerDeadline,
  updatePpr,
  wake,
  widen,
  x2apicLdr,
} from "../irqchip/lapic.ts";
import {
  APIC_ARBITRATION_PRIORITY,
  APIC_CURRENT_COUNT,
  APIC_DFR,
  APIC_DIVIDE,
  APIC_EOI,
  APIC_ESR,
  APIC_ICR,
  APIC_ICR2,
  APIC_ID,
  APIC_INITIAL_COUNT,
  APIC_IRR,
  APIC_ISR,
  APIC_LDR,
  APIC_LVT_ERROR,
  APIC_LVT_LINT0,
  APIC_LVT_LINT1,
  APIC_LVT_PERFORMANCE,
  APIC_LVT_THERMAL,
  APIC_LVT_TIMER,
  APIC_PPR,
  APIC_REMOTE_READ,
  APIC_SELF_IPI,
  APIC_SVR,
  APIC_TMR,
  APIC_TPR,
  APIC_VERSION,
  CPU_APIC_ERRORS,
} from "../irqchip/layout.ts";
import {
  CPU_APIC_BASE,
  CPU_CR8,
  CPU_INDEX,
  CPU_PENDING,
  CPU_PENDING_INTERRUPT,
  CPU_TSC_DEADLINE,
} from "./layout.ts";
import { cpu, GP, hostTsc, raiseWith } from "./vcpu.ts";

/** IA32_APIC_BASE: bits that are always 0. MAXPHYADDR is 46, see page-walk.ts. */
const BASE_RESERVED: u64 = 0xffff_c000_0000_02ff;

const X2APIC_MSR_BASE: u32 = 0x800;

// ICR.
const ICR_LOGICAL: u32 = 0x800;
/** The APIC is always ready to send. */
const ICR_BUSY: u32 = 0x1000;
const ICR_ASSERT: u32 = 0x4000;
const ICR_LEVEL: u32 = 0x8000;
const ICR_SHORTHAND_SHIFT: u32 = 18;
const SHORTHAND_SELF: u32 = 1;
const SHORTHAND_ALL: u32 = 2;
const SHORTHAND_OTHERS: u32 = 3;
const ICR_X2APIC_RESERVED: u32 = 0xfff3_2000;

// What can be written, of each register.
const TPR_BITS: u32 = 0xff;
const SVR_BITS: u32 = 0x3ff;
const DIVIDE_BITS: u32 = 0xb;
const TIMER_BITS: u32 = 0x7_00ff;
const ERROR_BITS: u32 = 0x1_00ff;
const SENSOR_BITS: u32 = 0x1_07ff;
const LINT_BITS: u32 = 0x1_a7ff;
/** Delivery status and remote IRR: read-only, and no error to write. */
const LVT_READ_ONLY: u32 = 0x5000;

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
function reconsider(): void {
  if (findInterrupt() >= 0) wake(cpu, CPU_PENDING_INTERRUPT);
}

function endInterrupt(): void {
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
function isDeadlineMode(): bool {
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

function setTpr(value: u32): void {
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

// ── Registers in memory: 11.4.1 ──

export function readApic(offset: u32, sizeBytes: u32): u64 {
  const within = offset & 15;
  if (within + sizeBytes > 4) return 0;
  const register = offset & 0xff0;
  if (!isReadable(register)) {
    if (!isWritable(register)) noteError(cpu, ERROR_ILLEGAL_REGISTER);
    return 0;
  }
  const value = readRegister(register) >> (8 * within);
  return sizeBytes == 4 ? value : value & ((1 << (8 * sizeBytes)) - 1);
}

/** Anything but an aligned word is ignored. */
export function writeApic(offset: u32, sizeBytes: u32, value: u32): void {
  if (sizeBytes != 4 || offset & 15) return;
  switch (offset >> 4) {
    case APIC_ID >> 4:
      setRegister(cpu, APIC_ID, value & 0xff00_0000);
      break;
    case APIC_LDR >> 4:
      setRegister(cpu, APIC_LDR, value & 0xff00_0000);
      break;
    case APIC_DFR >> 4:
      setRegister(cpu, APIC_DFR, value | 0x0fff_ffff);
      break;
    case APIC_ICR >> 4:
      setRegister(cpu, APIC_ICR, value & ~ICR_BUSY);
      send(value, widen(getRegister(cpu, APIC_ICR2) >> 24));
      break;
    case APIC_ICR2 >> 4:
      setRegister(cpu, APIC_ICR2, value & 0xff00_0000);
      break;
    default:
      if (isWritable(offset)) writeRegister(offset, value);
      else if (!isReadable(offset)) noteError(cpu, ERROR_ILLEGAL_REGISTER);
      break;
  }
}

// ── Registers as MSRs: 11.12.1.2 ──

/** After #GP, 0. */
export function readX2apic(msr: u32): u64 {
  const register = (msr - X2APIC_MSR_BASE) << 4;
  if (!isX2apic(cpu) || !isReadable(register) || !isMsr(register)) {
    raiseWith(GP, 0);
    return 0;
  }
  if (register == APIC_ID) return getRegister(cpu, APIC_ID) >> 24;
  if (register == APIC_ICR) return getRegister(cpu, APIC_ICR) | (<u64>getRegister(cpu, APIC_ICR2) << 32);
  return readRegister(register);
}

/** False: #GP. */
export function writeX2apic(msr: u32, value: u64): bool {
  const register = (msr - X2APIC_MSR_BASE) << 4;
  const low = <u32>value;
  if (!isX2apic(cpu)) return raiseWith(GP, 0);
  if (register == APIC_ICR) {
    if (low & ICR_X2APIC_RESERVED) return raiseWith(GP, 0);
    setRegister(cpu, APIC_ICR, low & ~ICR_BUSY);
    setRegister(cpu, APIC_ICR2, <u32>(value >> 32));
    send(low, <u32>(value >> 32));
    return true;
  }
  if (value >> 32 != 0 || !isMsr(register)) return raiseWith(GP, 0);
  if (register == APIC_SELF_IPI) {
    if (low & ~0xff) return raiseWith(GP, 0);
    sendFixed(cpu, low);
    return true;
  }
  if (!isWritable(register) || low & ~x2apicBits(register)) return raiseWith(GP, 0);
  writeRegister(register, low);
  return true;
}

/** Registers that an xAPIC has and an x2APIC has not. */
function isMsr(register: u32): bool {
  return register != APIC_ARBITRATION_PRIORITY && register != APIC_REMOTE_READ && register != APIC_DFR && register != APIC_ICR2;
}

/** Bits that may be written to an x2APIC's register: others are #GP. */
function x2apicBits(register: u32): u32 {
  switch (register >> 4) {
    case APIC_EOI >> 4:
    case APIC_ESR >> 4:
      return 0;
    case APIC_TPR >> 4:
      return TPR_BITS;
    case APIC_SVR >> 4:
      return SVR_BITS;
    case APIC_INITIAL_COUNT >> 4:
      return 0xffff_ffff;
    case APIC_DIVIDE >> 4:
      return DIVIDE_BITS;
    default:
      return lvtBits(register) | LVT_READ_ONLY;
  }
}

// ── Registers ──

function isReadable(register: u32): bool {
  if (register >= <u32>APIC_ISR && register < <u32>APIC_ESR) return true;
  switch (register >> 4) {
    case APIC_ID >> 4:
    case APIC_VERSION >> 4:
    case APIC_TPR >> 4:
    case APIC_ARBITRATION_PRIORITY >> 4:
    case APIC_PPR >> 4:
    case APIC_REMOTE_READ >> 4:
    case APIC_LDR >> 4:
    case APIC_DFR >> 4:
    case APIC_SVR >> 4:
    case APIC_ESR >> 4:
    case APIC_ICR >> 4:
    case APIC_ICR2 >> 4:
    case APIC_LVT_TIMER >> 4:
    case APIC_LVT_THERMAL >> 4:
    case APIC_LVT_PERFORMANCE >> 4:
    case APIC_LVT_LINT0 >> 4:
    case APIC_LVT_LINT1 >> 4:
    case APIC_LVT_ERROR >> 4:
    case APIC_INITIAL_COUNT >> 4:
    case APIC_CURRENT_COUNT >> 4:
    case APIC_DIVIDE >> 4:
      return true;
    default:
      return false;
  }
}

/** Of those that are the same in both modes. */
function isWritable(register: u32): bool {
  switch (register >> 4) {
    case APIC_TPR >> 4:
    case APIC_EOI >> 4:
    case APIC_SVR >> 4:
    case APIC_ESR >> 4:
    case APIC_LVT_TIMER >> 4:
    case APIC_LVT_THERMAL >> 4:
    case APIC_LVT_PERFORMANCE >> 4:
    case APIC_LVT_LINT0 >> 4:
    case APIC_LVT_LINT1 >> 4:
    case APIC_LVT_ERROR >> 4:
    case APIC_INITIAL_COUNT >> 4:
    case APIC_DIVIDE >> 4:
      return true;
    default:
      return false;
  }
}

function readRegister(register: u32): u32 {
  if (register == APIC_CURRENT_COUNT) return isDeadlineMode() ? 0 : timerCount(cpu, hostTsc());
  return getRegister(cpu, register);
}

function writeRegister(register: u32, value: u32): void {
  switch (register >> 4) {
    case APIC_TPR >> 4:
      setTpr(value & TPR_BITS);
      break;
    case APIC_EOI >> 4:
      endInterrupt();
      break;
    case APIC_SVR >> 4:
      writeSvr(value & SVR_BITS);
      break;
    case APIC_ESR >> 4:
      // Whatever is written: what was seen since the last time can be read from now on.
      setRegister(cpu, APIC_ESR, atomic.xchg<i32>(cpu, 0, CPU_APIC_ERRORS));
      break;
    case APIC_INITIAL_COUNT >> 4:
      if (isDeadlineMode()) break;
      setRegister(cpu, APIC_INITIAL_COUNT, value);
      startTimer(cpu, value, hostTsc());
      break;
    case APIC_DIVIDE >> 4:
      setDivide(cpu, value & DIVIDE_BITS, hostTsc());
      break;
    default:
      writeLvt(register, value & lvtBits(register));
      break;
  }
}

function lvtBits(register: u32): u32 {
  switch (register >> 4) {
    case APIC_LVT_TIMER >> 4:
      return TIMER_BITS;
    case APIC_LVT_LINT0 >> 4:
    case APIC_LVT_LINT1 >> 4:
      return LINT_BITS;
    case APIC_LVT_ERROR >> 4:
      return ERROR_BITS;
    default:
      return SENSOR_BITS;
  }
}

/** Disabled by software, the APIC has all its LVT entries masked: 11.4.7.2. */
function writeSvr(value: u32): void {
  setRegister(cpu, APIC_SVR, value);
  if (value & SVR_ENABLE) return;
  for (let entry: u32 = APIC_LVT_TIMER; entry <= <u32>APIC_LVT_ERROR; entry += 0x10) {
    setRegister(cpu, entry, getRegister(cpu, entry) | LVT_MASKED);
  }
}

function writeLvt(register: u32, value: u32): void {
  const isOn = (getRegister(cpu, APIC_SVR) & SVR_ENABLE) != 0;
  const old = getRegister(cpu, register);
  setRegister(cpu, register, isOn ? value : value | LVT_MASKED);
  // To and from deadline mode the timer stops.
  if (register == APIC_LVT_TIMER && (old ^ value) & TIMER_DEADLINE) {
    setRegister(cpu, APIC_INITIAL_COUNT, 0);
    stopTimer(cpu);
    store<u64>(cpu, 0, CPU_TSC_DEADLINE);
  }
  if (register == APIC_LVT_LINT0) reconsider();
}

// ── Interprocessor interrupts: 11.6 ──

function send(command: u32, destination: u32): void {
  const mode = (command >> MODE_SHIFT) & MODE_MASK;
  const vector = command & 0xff;
  // INIT level de-assert: nothing that CPUs of today know.
  if (mode == MODE_INIT && (command & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL) return;
  if ((mode == MODE_FIXED || mode == MODE_LOWEST) && vector < FIRST_VECTOR) {
    noteError(cpu, ERROR_SEND_ILLEGAL);
    return;
  }
  switch ((command >> ICR_SHORTHAND_SHIFT) & 3) {
    case SHORTHAND_SELF:
      accept(cpu, mode, vector, false);
      break;
    case SHORTHAND_ALL:
      sendToAll(mode, vector, true);
      break;
    case SHORTHAND_OTHERS:
      sendToAll(mode, vector, false);
      break;
    default:
      deliver(destination, (command & ICR_LOGICAL) != 0, mode, vector, false);
      break;
  }
}

function sendToAll(mode: u32, vector: u32, toSelf: bool): void {
  for (let index: u32 = 0; index < cpuCount(); index++) {
    const page = stateOf(index);
    if (toSelf || page != cpu) accept(page, mode, vector, false);
  }
}

function sendFixed(page: usize, vector: u32): void {
  if (vector < FIRST_VECTOR) noteError(cpu, ERROR_SEND_ILLEGAL);
  else accept(page, MODE_FIXED, vector, false);
}
