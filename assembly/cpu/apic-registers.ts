// SPDX-License-Identifier: Apache-2.0
// Registers of this vCPU's local APIC as the guest sees them, in memory or as MSRs. SDM volume 3, 11.4.1 and 11.12.1.
//
// They have the form of struct kvm_lapic_state at CPU_LAPIC: as in an xAPIC's page, ID in bits 31:24 even of an x2APIC. Two are made
// when they are asked for: the current count of the timer, and TPR's copy CR8.
import {
  ERROR_ILLEGAL_REGISTER,
  getRegister,
  isX2apic,
  LVT_MASKED,
  noteError,
  setDivide,
  setRegister,
  startTimer,
  stopTimer,
  SVR_ENABLE,
  TIMER_DEADLINE,
  timerCount,
  widen,
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
  APIC_TPR,
  APIC_VERSION,
  CPU_APIC_ERRORS,
} from "../irqchip/layout.ts";
import { send, sendFixed } from "./apic-ipi.ts";
import { endInterrupt, isDeadlineMode, reconsider, setTpr } from "./apic.ts";
import { CPU_TSC_DEADLINE } from "./layout.ts";
import { cpu, GP, hostTsc, raiseWith } from "./vcpu.ts";

const X2APIC_MSR_BASE: u32 = 0x800;

// ICR.
/** The APIC is always ready to send. */
const ICR_BUSY: u32 = 0x1000;
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

// ── In memory: 11.4.1 ──

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

// ── As MSRs: 11.12.1.2 ──

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

// ── In both ways ──

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
