// SPDX-License-Identifier: Apache-2.0
// The guest's TSC from one boot or host to another: how far it was when it was saved, and what must become of its offsets.
//
// The guest's TSC is the host's, scaled where the frequencies differ, plus an offset for each vCPU. Within one boot the
// offset is all that is needed. In another, what vCPU 0's TSC was and when says what to make of it; the other vCPUs keep
// their distance to it (https://docs.kernel.org/virt/kvm/devices/vcpu.html, KVM_VCPU_TSC_OFFSET).
import * as abi from "../../../ffi/kvm/abi.ts";
import { VmmError } from "../../errors.ts";
import { elapsedSinceSaveNs, readHostTime } from "../../machine/clock-origin.ts";
import type { StateReader, StateSection } from "../../state/reader.ts";
import type { StateWriter } from "../../state/writer.ts";
import type { StateSystem, StateVcpu, TscOrigin } from "./types.ts";

export const TSC_SECTION = "tsc";
/** Of the TSC of a CPU. */
const TSC_HOST_VERSION = 1;
/** Of the engine's: offsets are to another clock, which readers of version 1 do not know. */
const TSC_ENGINE_VERSION = 2;
export const TSC_SECTION_VERSION = TSC_ENGINE_VERSION;

export const MSR_IA32_TSC = 0x10;

/** KVM takes frequencies that differ by no more for the same (its parameter tsc_tolerance_ppm). */
const TOLERANCE_PPM = 250;

const MSR_LIST_SIZE_BYTES = abi.KVM_MSRS_HEADER_SIZE_BYTES + abi.KVM_MSR_ENTRY_SIZE_BYTES;
const MSR_DATA = abi.KVM_MSRS_HEADER_SIZE_BYTES + 8;

/** What a saved TSC needs in another boot. */
export interface TscMove {
  /** Guest TSC ticks that passed since the save. */
  elapsedTicks: bigint;
  /** To be added to each vCPU's saved offset: gives its new offset, or its TSC where `hasOffset` is false. */
  offsetDelta: bigint;
  /** The host can set offsets. */
  hasOffset: boolean;
}

/** A struct kvm_msrs of IA32_TSC alone. */
function tscList(value = 0n, into: Uint8Array = new Uint8Array(MSR_LIST_SIZE_BYTES)): DataView {
  const view = viewOf(into);
  view.setUint32(0, 1, true);
  view.setUint32(abi.KVM_MSRS_HEADER_SIZE_BYTES, MSR_IA32_TSC, true);
  view.setBigUint64(MSR_DATA, value, true);
  return view;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Writes the guest's TSC itself: KVM makes it the same for vCPUs that are written one after the other. */
export function writeTsc(vcpu: StateVcpu, value: bigint): void {
  const list = tscList(BigInt.asUintN(64, value));
  if (vcpu.setMsrs(new Uint8Array(list.buffer)) !== 1) throw new VmmError("msr", "IA32_TSC could not be written");
}

/** Where vCPU 0's TSC goes: a struct kvm_msrs to be read, and the host's CLOCK_REALTIME right after that. */
export interface TscPlace {
  msr: Uint8Array;
  realtimeNs: DataView;
}

/**
 * Plans the section of vCPU 0's TSC, for that vCPU's own plan to fill. A reader that does not know it takes for granted
 * that the guest's TSC runs at the host's frequency: it may not when that `isScaled`. The frequency is given because
 * asking a vCPU would wait for it to leave the guest.
 */
export function planTsc(writer: StateWriter, khz: number, isScaled: boolean, origin: TscOrigin): () => TscPlace {
  const isEngine = origin === "engine";
  const version = isEngine ? TSC_ENGINE_VERSION : TSC_HOST_VERSION;
  const section = writer.plan({ id: TSC_SECTION, version, required: isScaled || isEngine }, [
    { name: "msr", type: "struct kvm_msrs", sizeBytes: MSR_LIST_SIZE_BYTES },
    { name: "host", type: "u64 realtime_ns", sizeBytes: 8 },
    { name: "frequency", type: "u32 kHz", sizeBytes: 4 },
  ]);
  return () => {
    viewOf(writer.view(section, "frequency")).setUint32(0, khz, true);
    const msr = writer.view(section, "msr");
    tscList(0n, msr);
    return { msr, realtimeNs: viewOf(writer.view(section, "host")) };
  };
}

function savedKhz(section: StateSection): number {
  return viewOf(section.part("frequency", 4)).getUint32(0, true);
}

/** Whether the offsets of an image of this boot are to the same TSC. */
export function isOfOrigin(reader: StateReader, origin: TscOrigin): boolean {
  const isEngine = reader.find(TSC_SECTION)?.version === TSC_ENGINE_VERSION;
  return isEngine === (origin === "engine");
}

/** Whether a guest can tell the frequencies apart. One that is not known, 0, is not another one. */
export function isOtherFrequency(khz: number, hostKhz: number): boolean {
  return khz !== 0 && hostKhz !== 0 && Math.abs(khz - hostKhz) * 1e6 > hostKhz * TOLERANCE_PPM;
}

/**
 * The frequency to give to all vCPUs before anything else of their TSC, undefined when they have it: `vcpu` is new.
 * @throws VmmError "state-refused" when this host cannot have it
 */
export function tscKhzToSet(
  reader: StateReader,
  system: StateSystem,
  vcpu: StateVcpu,
  isSameTsc: boolean,
): number | undefined {
  const section = reader.find(TSC_SECTION);
  // Within a boot, and an accelerator, the host's frequency stays, and the section is required if the guest's was another.
  if (section === undefined || (isSameTsc && !section.entry.required)) return undefined;
  const khz = savedKhz(section);
  const hostKhz = vcpu.tscKhz();
  if (!isOtherFrequency(khz, hostKhz)) return undefined;
  if (system.checkExtension(abi.KVM_CAP_TSC_CONTROL) > 0) return khz;
  throw new VmmError(
    "state-refused",
    `The guest's TSC runs at ${khz} kHz, this host's at ${hostKhz} kHz, and this host's KVM cannot scale it: restore on a host with TSC scaling, or with a TSC of ${khz} kHz`,
  );
}

/** Ticks of a TSC in that time. */
export function ticksOfNs(ns: bigint, khz: number): bigint {
  return (ns * BigInt(khz)) / 1_000_000n;
}

/** Reads where vCPU 0, which has its frequency, is now. `savedOffset` is its own. @throws VmmError, SysError */
export function planTscMove(reader: StateReader, vcpu: StateVcpu, savedOffset: bigint, isSameBoot: boolean): TscMove {
  const section = reader.section(TSC_SECTION);
  const khz = savedKhz(section);
  if (khz === 0) {
    throw new VmmError(
      "state-refused",
      "The frequency of the guest's TSC is not known, because the host it comes from has no stable TSC: it can be restored only in the boot that it was saved in",
    );
  }
  const hasOffset = vcpu.hasTscOffset();
  const list = tscList();
  const offset = new Uint8Array(8);
  const now = readHostTime(() => {
    if (vcpu.getMsrs(new Uint8Array(list.buffer)) !== 1) throw new VmmError("msr", "IA32_TSC could not be read");
  });
  if (hasOffset) vcpu.getTscOffset(offset);
  const hostTsc = list.getBigUint64(MSR_DATA, true) - viewOf(offset).getBigUint64(0, true);
  const savedTsc = viewOf(section.part("msr", MSR_LIST_SIZE_BYTES)).getBigUint64(MSR_DATA, true);
  const savedNs = viewOf(section.part("host", 8)).getBigUint64(0, true);
  const elapsedTicks = ticksOfNs(elapsedSinceSaveNs(reader, savedNs, now, isSameBoot), khz);
  return moveOf({ savedTsc, savedOffset, elapsedTicks, hostTsc: hasOffset ? hostTsc : undefined });
}

/**
 * The arithmetic of a move. `savedTsc` and `savedOffset` are vCPU 0's; `hostTsc` is what the new host's TSC shows, scaled,
 * undefined when offsets cannot be set there. Offsets are taken modulo 2^64, by whoever uses them.
 */
export function moveOf(from: {
  savedTsc: bigint;
  savedOffset: bigint;
  elapsedTicks: bigint;
  hostTsc: bigint | undefined;
}): TscMove {
  const { savedTsc, savedOffset, elapsedTicks, hostTsc } = from;
  return {
    elapsedTicks,
    offsetDelta: savedTsc - savedOffset + elapsedTicks - (hostTsc ?? 0n),
    hasOffset: hostTsc !== undefined,
  };
}
