// SPDX-License-Identifier: Apache-2.0
// The state of a VM beside its vCPUs: interrupt controllers, PIT, kvmclock.
import * as abi from "../../../ffi/kvm/abi.ts";
import {
  decodeHostTime,
  elapsedRealNs,
  encodeHostTime,
  HOST_TIME_SIZE_BYTES,
  HOST_TIME_TYPE,
  readHostTime,
  savedMonotonicOffset,
} from "../../machine/clock-origin.ts";
import type { StateReader } from "../../state/reader.ts";
import type { BindSection, StateWriter } from "../../state/writer.ts";
import type { StateVm } from "./types.ts";

export const IRQCHIP_SECTION = "irqchip";
export const PIT_SECTION = "pit";
export const KVMCLOCK_SECTION = "kvmclock";
export const VM_SECTION_VERSION = 1;

const CHIPS = [abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC];

/** Clocks that went apart by more than this during the update were stepped: do not follow CLOCK_REALTIME then. */
const CLOCK_STEP_NS = 1_000_000n;

export function planVm(writer: StateWriter, vm: StateVm): BindSection {
  const head = { version: VM_SECTION_VERSION };
  const irqchips = CHIPS.map((chip) =>
    writer.plan({ ...head, id: IRQCHIP_SECTION, instance: chip }, [
      { name: "irqchip", type: "struct kvm_irqchip", sizeBytes: abi.KVM_IRQCHIP_SIZE_BYTES },
    ]),
  );
  const pit = writer.plan({ ...head, id: PIT_SECTION }, [
    { name: "pit", type: "struct kvm_pit_state2", sizeBytes: abi.KVM_PIT_STATE2_SIZE_BYTES },
  ]);
  const clock = writer.plan({ ...head, id: KVMCLOCK_SECTION }, [
    { name: "clock", type: "struct kvm_clock_data", sizeBytes: abi.KVM_CLOCK_DATA_SIZE_BYTES },
    { name: "host", type: HOST_TIME_TYPE, sizeBytes: HOST_TIME_SIZE_BYTES },
  ]);
  return () => {
    const chips = irqchips.map((section, position) => {
      const chip = writer.view(section, "irqchip");
      chip[0] = CHIPS[position]!;
      return chip;
    });
    const pitState = writer.view(pit, "pit");
    const clockData = writer.view(clock, "clock");
    const host = writer.view(clock, "host");
    const hostView = new DataView(host.buffer, host.byteOffset, host.byteLength);
    return () => {
      for (const chip of chips) vm.getIrqchip(chip);
      vm.getPit2(pitState);
      encodeHostTime(
        readHostTime(() => vm.getClock(clockData)),
        hostView,
      );
    };
  };
}

export function restoreVm(reader: StateReader, vm: StateVm, isSameBoot = true): void {
  for (const chip of CHIPS) {
    vm.setIrqchip(reader.section(IRQCHIP_SECTION, chip).part("irqchip", abi.KVM_IRQCHIP_SIZE_BYTES));
  }
  const pit = reader.section(PIT_SECTION).part("pit", abi.KVM_PIT_STATE2_SIZE_BYTES);
  vm.setPit2(pit, isSameBoot ? undefined : savedMonotonicOffset(reader));
  restoreClock(reader, vm, isSameBoot);
}

/**
 * kvmclock goes on over the update, as time in the world did. KVM does that exactly by CLOCK_REALTIME, unless somebody
 * stepped that clock in between; then by CLOCK_MONOTONIC, a few microseconds late. In another boot there is no other clock
 * than CLOCK_REALTIME to go by, and KVM there need not be one that does it.
 */
function restoreClock(reader: StateReader, vm: StateVm, isSameBoot: boolean): void {
  const section = reader.section(KVMCLOCK_SECTION);
  const saved = section.part("clock", abi.KVM_CLOCK_DATA_SIZE_BYTES);
  const host = decodeHostTime(section.part("host", HOST_TIME_SIZE_BYTES));
  const savedView = new DataView(saved.buffer, saved.byteOffset, saved.byteLength);
  const data = new Uint8Array(abi.KVM_CLOCK_DATA_SIZE_BYTES);
  const view = new DataView(data.buffer);
  const hasRealtime = (savedView.getUint32(abi.KVM_CLOCK_FLAGS_U32, true) & abi.KVM_CLOCK_REALTIME) !== 0;
  if (isSameBoot && hasRealtime) {
    // KVM's own reading, which it goes by: the clock may have been stepped between that and the VMM's.
    const savedRealtimeNs = savedView.getBigUint64(abi.KVM_CLOCK_REALTIME_U64, true);
    const isStepped = (): boolean => {
      const now = readHostTime();
      const stepNs = now.realtimeNs - savedRealtimeNs - (now.monotonicNs - host.monotonicNs);
      return stepNs >= CLOCK_STEP_NS || stepNs <= -CLOCK_STEP_NS;
    };
    view.setBigUint64(0, savedView.getBigUint64(0, true), true);
    view.setUint32(abi.KVM_CLOCK_FLAGS_U32, abi.KVM_CLOCK_REALTIME, true);
    view.setBigUint64(abi.KVM_CLOCK_REALTIME_U64, savedRealtimeNs, true);
    vm.setClock(data);
    // Afterwards: if it was not stepped now, it was not when KVM read it.
    if (!isStepped()) return;
    data.fill(0);
  }
  const now = readHostTime();
  const elapsedNs = isSameBoot ? now.monotonicNs - host.monotonicNs : elapsedRealNs(host.realtimeNs, now.realtimeNs);
  view.setBigUint64(0, savedView.getBigUint64(0, true) + elapsedNs, true);
  vm.setClock(data);
}
