// SPDX-License-Identifier: Apache-2.0
// The state of one vCPU in KVM's own structs: what is saved, and the order in which it goes back.
//
// Order of restoring, and why (https://docs.kernel.org/virt/kvm/api.html and arch/x86/kvm/x86.c):
//   CPUID      when the vCPU is made, since KVM takes none from a vCPU that has run: before all else, because since
//              Linux 6.13 MSRs that it does not announce can be neither read nor written
//   sregs      CR4 and the APIC base decide how XSAVE and the LAPIC page are understood
//   xcrs       before xsave, which checks its features against XCR0
//   lapic      after the APIC base, before TSC_DEADLINE, which arms only a timer in deadline mode
//   TSC offset instead of the TSC itself: the guest's TSC goes on as if nothing had happened, in another boot after it was
//              moved there (tsc.ts). Before the MSRs, because TSC_DEADLINE arms a timer by the distance to the guest's TSC
//   msrs       TSC_DEADLINE last of them
//   mp_state, then events: setting the mp_state of a halted vCPU may drop a pending SIPI
import * as abi from "../../../ffi/kvm/abi.ts";
import { VmmError } from "../../errors.ts";
import { readHostTime } from "../../machine/clock-origin.ts";
import type { StateSection } from "../../state/reader.ts";
import type { BindSection, PartPlan, StateWriter } from "../../state/writer.ts";
import { MSR_IA32_TSC, type TscMove, type TscPlace, writeTsc } from "./tsc.ts";
import type { StateSystem, StateVcpu } from "./types.ts";

export const VCPU_SECTION = "vcpu";
export const VCPU_SECTION_VERSION = 1;

/**
 * MSRs that Linux uses and KVM keeps, but does not list (Intel SDM vol. 4): memory types, and the banks of the machine
 * check architecture.
 */
const unlistedMsrs = (): number[] => [
  ...range(0x200, 16), // IA32_MTRR_PHYSBASE0 to PHYSMASK7
  ...[0x250, 0x258, 0x259], // IA32_MTRR_FIX64K, FIX16K
  ...range(0x268, 8), // IA32_MTRR_FIX4K
  0x2ff, // IA32_MTRR_DEF_TYPE
  ...[0x17a, 0x17b], // IA32_MCG_STATUS, IA32_MCG_CTL
  ...range(0x400, 32, 4), // IA32_MC0_CTL to IA32_MC31_CTL; nobody injects errors, so the banks have nothing to report
];

function range(first: number, count: number, step = 1): number[] {
  return Array.from({ length: count }, (_, index) => first + index * step);
}

const MSR_IA32_TSC_DEADLINE = 0x6e0;
/** Writing these makes KVM write the wall clock into guest RAM; a guest that wants to know it asks each time. */
const WALL_CLOCK_MSRS: readonly number[] = [0x11, 0x4b56_4d00];
/** Local APIC register LVTT, and its timer mode "TSC deadline" (Intel SDM vol. 3, 12.5.4). */
const APIC_LVTT = 0x320;
const APIC_TIMER_MODE_MASK = 0x6_0000;
const APIC_TIMER_MODE_TSCDEADLINE = 0x4_0000;

interface StructPart {
  name: string;
  type: string;
  sizeBytes: number;
  get: readonly [name: string, request: number];
  set: readonly [name: string, request: number];
}

const REGS: StructPart = {
  name: "regs",
  type: "struct kvm_regs",
  sizeBytes: abi.KVM_REGS_SIZE_BYTES,
  get: ["KVM_GET_REGS", abi.KVM_GET_REGS],
  set: ["KVM_SET_REGS", abi.KVM_SET_REGS],
};
const SREGS: StructPart = {
  name: "sregs",
  type: "struct kvm_sregs",
  sizeBytes: abi.KVM_SREGS_SIZE_BYTES,
  get: ["KVM_GET_SREGS", abi.KVM_GET_SREGS],
  set: ["KVM_SET_SREGS", abi.KVM_SET_SREGS],
};
/** Has the PDPTRs of a 32-bit PAE guest, which need not be what memory now says. */
const SREGS2: StructPart = {
  name: "sregs2",
  type: "struct kvm_sregs2",
  sizeBytes: abi.KVM_SREGS2_SIZE_BYTES,
  get: ["KVM_GET_SREGS2", abi.KVM_GET_SREGS2],
  set: ["KVM_SET_SREGS2", abi.KVM_SET_SREGS2],
};
const XCRS: StructPart = {
  name: "xcrs",
  type: "struct kvm_xcrs",
  sizeBytes: abi.KVM_XCRS_SIZE_BYTES,
  get: ["KVM_GET_XCRS", abi.KVM_GET_XCRS],
  set: ["KVM_SET_XCRS", abi.KVM_SET_XCRS],
};
const DEBUGREGS: StructPart = {
  name: "debugregs",
  type: "struct kvm_debugregs",
  sizeBytes: abi.KVM_DEBUGREGS_SIZE_BYTES,
  get: ["KVM_GET_DEBUGREGS", abi.KVM_GET_DEBUGREGS],
  set: ["KVM_SET_DEBUGREGS", abi.KVM_SET_DEBUGREGS],
};
const LAPIC: StructPart = {
  name: "lapic",
  type: "struct kvm_lapic_state",
  sizeBytes: abi.KVM_LAPIC_STATE_SIZE_BYTES,
  get: ["KVM_GET_LAPIC", abi.KVM_GET_LAPIC],
  set: ["KVM_SET_LAPIC", abi.KVM_SET_LAPIC],
};
const MP_STATE: StructPart = {
  name: "mp_state",
  type: "struct kvm_mp_state",
  sizeBytes: abi.KVM_MP_STATE_SIZE_BYTES,
  get: ["KVM_GET_MP_STATE", abi.KVM_GET_MP_STATE],
  set: ["KVM_SET_MP_STATE", abi.KVM_SET_MP_STATE],
};
const EVENTS: StructPart = {
  name: "events",
  type: "struct kvm_vcpu_events",
  sizeBytes: abi.KVM_VCPU_EVENTS_SIZE_BYTES,
  get: ["KVM_GET_VCPU_EVENTS", abi.KVM_GET_VCPU_EVENTS],
  set: ["KVM_SET_VCPU_EVENTS", abi.KVM_SET_VCPU_EVENTS],
};

/** What the host's KVM can save; the same for all vCPUs of a VM. */
export interface VcpuProfile {
  sregs: StructPart;
  xsave: StructPart;
  hasTscOffset: boolean;
  /** Of a vCPU that nobody gave another frequency. */
  tscKhz: number;
  /** MSRs that are saved, TSC_DEADLINE last. */
  msrIndices: Uint32Array;
}

/** Asks the host once, with a vCPU whose CPUID is set and that has not run yet. */
export function probeVcpu(system: StateSystem, vcpu: StateVcpu): VcpuProfile {
  // KVM_GET_XSAVE2 differs from KVM_GET_XSAVE only for states of more than 4096 bytes.
  const xsaveSizeBytes = Math.max(system.checkExtension(abi.KVM_CAP_XSAVE2), abi.KVM_XSAVE_SIZE_BYTES);
  const isLarge = xsaveSizeBytes > abi.KVM_XSAVE_SIZE_BYTES;
  const hasTscOffset = vcpu.hasTscOffset();
  return {
    sregs: system.checkExtension(abi.KVM_CAP_SREGS2) > 0 ? SREGS2 : SREGS,
    xsave: {
      name: "xsave",
      type: "struct kvm_xsave",
      sizeBytes: xsaveSizeBytes,
      get: isLarge ? ["KVM_GET_XSAVE2", abi.KVM_GET_XSAVE2] : ["KVM_GET_XSAVE", abi.KVM_GET_XSAVE],
      set: ["KVM_SET_XSAVE", abi.KVM_SET_XSAVE],
    },
    hasTscOffset,
    tscKhz: vcpu.tscKhz(),
    msrIndices: settableMsrs(vcpu, system.msrIndices(), hasTscOffset),
  };
}

/** A struct kvm_msrs with all data zero. */
export function msrList(indices: Uint32Array, into?: Uint8Array): Uint8Array {
  const list = into ?? new Uint8Array(msrListSizeBytes(indices.length));
  const view = new DataView(list.buffer, list.byteOffset, list.byteLength);
  view.setUint32(0, indices.length, true);
  for (const [position, index] of indices.entries()) {
    view.setUint32(abi.KVM_MSRS_HEADER_SIZE_BYTES + position * abi.KVM_MSR_ENTRY_SIZE_BYTES, index, true);
  }
  return list;
}

function msrListSizeBytes(count: number): number {
  return abi.KVM_MSRS_HEADER_SIZE_BYTES + count * abi.KVM_MSR_ENTRY_SIZE_BYTES;
}

/** The MSRs of `indices` that can be read and written back; KVM lists some that this CPU model has not. */
function settableMsrs(vcpu: StateVcpu, indices: Uint32Array, hasTscOffset: boolean): Uint32Array {
  const settable: number[] = [];
  for (const index of new Set([...indices, ...unlistedMsrs()])) {
    if (WALL_CLOCK_MSRS.includes(index) || index === MSR_IA32_TSC_DEADLINE || (index === MSR_IA32_TSC && hasTscOffset))
      continue;
    const one = msrList(Uint32Array.of(index));
    if (vcpu.getMsrs(one) === 1 && vcpu.setMsrs(one) === 1) settable.push(index);
  }
  if (indices.includes(MSR_IA32_TSC_DEADLINE)) settable.push(MSR_IA32_TSC_DEADLINE);
  return Uint32Array.from(settable);
}

/** Plans the section of one vCPU. `tsc` is for the first, whose TSC tells that of all. */
export function planVcpu(
  writer: StateWriter,
  vcpu: StateVcpu,
  index: number,
  profile: VcpuProfile,
  cpuid: Uint8Array,
  tsc?: () => TscPlace,
): BindSection {
  // Reading the events delivers the payload of a pending exception to CR2 and DR6, reading the mp_state settles INIT and
  // SIPI: both come before the registers that they change. The LAPIC comes last, see `VmState.plan`.
  const structs = [EVENTS, MP_STATE, REGS, profile.sregs, profile.xsave, XCRS, DEBUGREGS, LAPIC];
  const plain: PartPlan[] = structs.map(({ name, type, sizeBytes }) => ({ name, type, sizeBytes }));
  const section = writer.plan({ id: VCPU_SECTION, instance: index, version: VCPU_SECTION_VERSION }, [
    ...plain,
    { name: "cpuid", type: "struct kvm_cpuid2", sizeBytes: cpuid.length },
    { name: "msrs", type: "struct kvm_msrs", sizeBytes: msrListSizeBytes(profile.msrIndices.length) },
    ...(profile.hasTscOffset ? [{ name: "tsc-offset", type: "u64", sizeBytes: 8 }] : []),
  ]);
  return () => {
    const reads = structs.map(({ name, get }) => ({ name: get[0], request: get[1], into: writer.view(section, name) }));
    writer.view(section, "cpuid").set(cpuid);
    const msrs = msrList(profile.msrIndices, writer.view(section, "msrs"));
    const tscOffset = profile.hasTscOffset ? writer.view(section, "tsc-offset") : undefined;
    const tscPlace = tsc?.();
    return () => {
      for (const { name, request, into } of reads) vcpu.transfer(name, request, into);
      const read = vcpu.getMsrs(msrs);
      if (read !== profile.msrIndices.length) {
        throw new VmmError("msr", `MSR 0x${profile.msrIndices[read]!.toString(16)} of vCPU ${index} could not be read`);
      }
      if (tscOffset !== undefined) vcpu.getTscOffset(tscOffset);
      if (tscPlace === undefined) return;
      const { realtimeNs } = readHostTime(() => {
        if (vcpu.getMsrs(tscPlace.msr) !== 1) throw new VmmError("msr", `IA32_TSC of vCPU ${index} could not be read`);
      });
      tscPlace.realtimeNs.setBigUint64(0, realtimeNs, true);
    };
  };
}

/** A vCPU's saved TSC offset, undefined where the host did not have one. */
export function savedTscOffset(section: StateSection): bigint | undefined {
  if (!section.has("tsc-offset")) return undefined;
  const offset = section.part("tsc-offset", 8);
  return new DataView(offset.buffer, offset.byteOffset, 8).getBigUint64(0, true);
}

/**
 * Gives a vCPU, whose CPUID is set, the saved state. `move` is for state that was saved in another boot. `powerOn` is the
 * state of a vCPU that has had no other: what is the same in both need not be set, which takes KVM 6 µs each time.
 * @throws VmmError "state-refused", SysError
 */
export function restoreVcpu(vcpu: StateVcpu, section: StateSection, move?: TscMove, powerOn?: StateSection): void {
  const set = (part: StructPart): void => {
    vcpu.transfer(part.set[0], part.set[1], section.part(part.name, part.sizeBytes));
  };
  const setIfOther = (part: StructPart): void => {
    if (powerOn === undefined || !isEqual(section.part(part.name), powerOn.part(part.name))) set(part);
  };
  set(REGS);
  set(section.has(SREGS2.name) ? SREGS2 : SREGS);
  setIfOther(XCRS);
  vcpu.transfer("KVM_SET_XSAVE", abi.KVM_SET_XSAVE, section.part("xsave"));
  setIfOther(DEBUGREGS);
  set(LAPIC);
  if (move !== undefined) moveTsc(vcpu, section, move);
  else if (section.has("tsc-offset")) vcpu.setTscOffset(section.part("tsc-offset", 8));
  setMsrs(vcpu, section, move);
  setIfOther(MP_STATE);
  setIfOther(EVENTS);
}

function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  if (left.length !== right.length) return false;
  for (let index = 0; index < left.length; index++) if (left[index] !== right[index]) return false;
  return true;
}

function moveTsc(vcpu: StateVcpu, section: StateSection, move: TscMove): void {
  const savedOffset = savedTscOffset(section);
  // From a host without offsets the TSC is among the MSRs.
  if (savedOffset === undefined) return;
  const moved = BigInt.asUintN(64, savedOffset + move.offsetDelta);
  if (move.hasOffset) vcpu.setTscOffset(new Uint8Array(BigUint64Array.of(moved).buffer));
  else writeTsc(vcpu, moved);
}

function setMsrs(vcpu: StateVcpu, section: StateSection, move?: TscMove): void {
  // What changes with the time of restoring must not get into the image: it may be restored once more.
  const msrs = move === undefined ? section.part("msrs") : section.part("msrs").slice();
  const view = new DataView(msrs.buffer, msrs.byteOffset, msrs.byteLength);
  const count = msrs.length >= abi.KVM_MSRS_HEADER_SIZE_BYTES ? view.getUint32(0, true) : 0;
  if (msrs.length !== msrListSizeBytes(count)) {
    throw new VmmError("state-refused", `State part msrs of ${section.title} has a wrong count`);
  }
  rearmDeadline(section, view, count);
  if (move !== undefined) addToTsc(view, count, move.elapsedTicks);
  const written = vcpu.setMsrs(msrs);
  if (written === count) return;
  const refused: string[] = [];
  for (let position = written; position < count; position++) {
    const entry = abi.KVM_MSRS_HEADER_SIZE_BYTES + position * abi.KVM_MSR_ENTRY_SIZE_BYTES;
    const index = view.getUint32(entry, true);
    const value = view.getBigUint64(entry + 8, true);
    if (!setOrLeaveOut(vcpu, index, value)) refused.push(`0x${index.toString(16)} to 0x${value.toString(16)}`);
  }
  if (refused.length === 0) return;
  throw new VmmError("state-refused", `MSRs of ${section.title} cannot be set on this host: ${refused.join(", ")}`);
}

/**
 * Kernels differ in the MSRs that they keep: 6.1 keeps fixed performance counters for CPUs that have none, 6.12 does not.
 * One that this host does not have at all is left out when it is 0, as after a reset. False when it is needed.
 */
function setOrLeaveOut(vcpu: StateVcpu, index: number, value: bigint): boolean {
  const one = msrList(Uint32Array.of(index));
  const isAbsent = vcpu.getMsrs(one) === 0;
  new DataView(one.buffer).setBigUint64(abi.KVM_MSRS_HEADER_SIZE_BYTES + 8, value, true);
  return vcpu.setMsrs(one) === 1 || (isAbsent && value === 0n);
}

/**
 * A deadline that has passed is saved as 0, and whether its interrupt reached the guest cannot be told: guests have been
 * seen to wait for it for ever (Firecracker sets such a deadline, too). So it passes once more: one interrupt too many
 * is harmless, one too few is not.
 */
function rearmDeadline(section: StateSection, msrs: DataView, count: number): void {
  const lapic = section.part(LAPIC.name, LAPIC.sizeBytes);
  const lvtt = new DataView(lapic.buffer, lapic.byteOffset).getUint32(APIC_LVTT, true);
  if ((lvtt & APIC_TIMER_MODE_MASK) !== APIC_TIMER_MODE_TSCDEADLINE) return;
  for (let position = 0; position < count; position++) {
    const entry = abi.KVM_MSRS_HEADER_SIZE_BYTES + position * abi.KVM_MSR_ENTRY_SIZE_BYTES;
    if (msrs.getUint32(entry, true) !== MSR_IA32_TSC_DEADLINE) continue;
    if (msrs.getBigUint64(entry + 8, true) === 0n) msrs.setBigUint64(entry + 8, 1n, true);
  }
}

/** The TSC is among the MSRs where the host that saved them did not have offsets. */
function addToTsc(msrs: DataView, count: number, elapsedTicks: bigint): void {
  for (let position = 0; position < count; position++) {
    const entry = abi.KVM_MSRS_HEADER_SIZE_BYTES + position * abi.KVM_MSR_ENTRY_SIZE_BYTES;
    if (msrs.getUint32(entry, true) !== MSR_IA32_TSC) continue;
    msrs.setBigUint64(entry + 8, BigInt.asUintN(64, msrs.getBigUint64(entry + 8, true) + elapsedTicks), true);
  }
}
