// SPDX-License-Identifier: Apache-2.0
// Whether a vCPU is alive, told from two looks at it while it runs: does it get on, do its timer and its interrupts come?
import * as abi from "../../../ffi/kvm/abi.ts";
import type { StateReader, StateSection } from "../../state/reader.ts";
import { REGISTER_ORDER } from "./boot-state.ts";
import { TSC_SECTION } from "./tsc.ts";
import { VCPU_SECTION } from "./vcpu-state.ts";

/** linux/kvm.h */
const KVM_MP_STATE_RUNNABLE = 0;
const KVM_MP_STATE_HALTED = 3;
const RFLAGS_IF = 1n << 9n;
/** Local APIC registers and their bits, Intel SDM vol. 3, 12.4 and 12.5. */
const APIC_PPR = 0xa0;
const APIC_SVR = 0xf0;
const APIC_SVR_ENABLED = 1 << 8;
const APIC_IRR = 0x200;
const APIC_IRR_REGISTERS = 8;
const APIC_REGISTER_STRIDE = 0x10;
const APIC_LVTT = 0x320;
const APIC_LVT_MASKED = 1 << 16;
const APIC_TIMER_MODE_MASK = 0x6_0000;
const APIC_TIMER_MODE_PERIODIC = 0x2_0000;
const APIC_TIMER_MODE_TSCDEADLINE = 0x4_0000;
const APIC_TMICT = 0x380;
const APIC_TMCCT = 0x390;
const MSR_IA32_TSC_DEADLINE = 0x6e0;
/** A guest's time may be off by so much before it counts as wrong: the looks themselves are delayed on a loaded host. */
const TIME_TOLERANCE_MS = 500;

/** What one look at the guest found. */
export interface VcpuLook {
  /** A state image of that moment. */
  state: StateReader;
  /** CLOCK_MONOTONIC of that moment. */
  atMs: number;
  /** CPU time that each vCPU's thread has used before this look, in ns. */
  cpuNs: readonly number[];
  /** It is the state that the guest was started from. */
  isStart?: boolean;
}

/** What is wrong with the vCPUs of a guest that ran between two looks, in words; empty when nothing is. */
export function findStandstills(before: VcpuLook, after: VcpuLook, cpuCount: number): string[] {
  const problems: string[] = [];
  const tscBefore = readTsc(before.state);
  const time = describeTime(before, after);
  if (time !== undefined) problems.push(time);
  for (let index = 0; index < cpuCount; index++) {
    const [old, now] = [before, after].map(({ state }) => readVcpu(state.section(VCPU_SECTION, index))) as [Vcpu, Vcpu];
    if (before.isStart) continue;
    const hasRun = after.cpuNs[index] !== before.cpuNs[index];
    if (now.mpState === KVM_MP_STATE_RUNNABLE && !hasRun) problems.push(`vCPU ${index} does not run`);
    if (now.waitingVector !== undefined && now.waitingVector === old.waitingVector) {
      problems.push(`vCPU ${index} sleeps, and interrupt 0x${now.waitingVector.toString(16)} does not wake it up`);
    }
    if (now.deadline !== 0n && now.deadline === old.deadline && tscBefore !== undefined && now.deadline < tscBefore) {
      problems.push(`The timer of vCPU ${index} is overdue`);
    }
    if (now.periodicCount !== undefined && now.periodicCount === old.periodicCount) {
      problems.push(`The timer of vCPU ${index} stands still`);
    }
  }
  return problems;
}

interface Vcpu {
  mpState: number;
  /** Of an interrupt that a halted vCPU would take. */
  waitingVector: number | undefined;
  /** In TSC ticks, 0 when none is armed. */
  deadline: bigint;
  /** What is left of the period of a timer that runs. */
  periodicCount: number | undefined;
}

function readVcpu(section: StateSection): Vcpu {
  const mpState = viewOf(section, "mp_state").getUint32(0, true);
  const rflags = viewOf(section, "regs").getBigUint64(REGISTER_ORDER.indexOf("rflags") * 8, true);
  const lapic = viewOf(section, "lapic");
  const register = (offset: number): number => lapic.getUint32(offset, true);
  const isWaiting = mpState === KVM_MP_STATE_HALTED && (rflags & RFLAGS_IF) !== 0n;
  const isEnabled = (register(APIC_SVR) & APIC_SVR_ENABLED) !== 0;
  const vector = highestVector(lapic);
  const isDue = isWaiting && isEnabled && vector !== undefined && vector >> 4 > (register(APIC_PPR) & 0xff) >> 4;
  const lvtt = register(APIC_LVTT);
  const mode = (lvtt & APIC_LVT_MASKED) === 0 ? lvtt & APIC_TIMER_MODE_MASK : undefined;
  const isPeriodic = mode === APIC_TIMER_MODE_PERIODIC && register(APIC_TMICT) !== 0;
  return {
    mpState,
    waitingVector: isDue ? vector : undefined,
    deadline: mode === APIC_TIMER_MODE_TSCDEADLINE ? readMsr(viewOf(section, "msrs"), MSR_IA32_TSC_DEADLINE) : 0n,
    periodicCount: isPeriodic ? register(APIC_TMCCT) : undefined,
  };
}

function viewOf(section: StateSection, part: string): DataView {
  const bytes = section.part(part);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function highestVector(lapic: DataView): number | undefined {
  for (let index = APIC_IRR_REGISTERS - 1; index >= 0; index--) {
    const bits = lapic.getUint32(APIC_IRR + index * APIC_REGISTER_STRIDE, true);
    if (bits !== 0) return index * 32 + 31 - Math.clz32(bits);
  }
  return undefined;
}

/** 0 for one that is not in the list. */
function readMsr(list: DataView, index: number): bigint {
  for (let entry = abi.KVM_MSRS_HEADER_SIZE_BYTES; entry < list.byteLength; entry += abi.KVM_MSR_ENTRY_SIZE_BYTES) {
    if (list.getUint32(entry, true) === index) return list.getBigUint64(entry + 8, true);
  }
  return 0n;
}

/** vCPU 0's; undefined in an image that does not tell. */
function readTsc(state: StateReader): bigint | undefined {
  const section = state.find(TSC_SECTION);
  return section === undefined
    ? undefined
    : viewOf(section, "msr").getBigUint64(abi.KVM_MSRS_HEADER_SIZE_BYTES + 8, true);
}

/** What is wrong with the guest's time, if anything is. */
function describeTime(before: VcpuLook, after: VcpuLook): string | undefined {
  const [from, to] = [readTsc(before.state), readTsc(after.state)];
  const section = after.state.find(TSC_SECTION);
  if (from === undefined || to === undefined || section === undefined) return undefined;
  const khz = viewOf(section, "frequency").getUint32(0, true);
  // KVM does not always know it.
  if (khz === 0) return undefined;
  const passedMs = Number(BigInt.asIntN(64, to - from)) / khz;
  const elapsedMs = after.atMs - before.atMs;
  if (Math.abs(passedMs - elapsedMs) <= TIME_TOLERANCE_MS) return undefined;
  return `The guest's TSC went on by ${Math.round(passedMs)} ms in ${Math.round(elapsedMs)} ms`;
}
