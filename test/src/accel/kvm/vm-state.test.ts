// SPDX-License-Identifier: Apache-2.0
// The state of a KVM VM beside its vCPUs: interrupt controllers, PIT, kvmclock.
import { monotonicNs } from "../../../../ffi/clock.ts";
import * as abi from "../../../../ffi/kvm/abi.ts";
import { KvmSystem, type KvmVm } from "../../../../ffi/kvm/kvm.ts";
import { createIrqchips } from "../../../../src/accel/kvm/power-on.ts";
import { ACCELERATOR_SECTIONS } from "../../../../src/accel/state/sections.ts";
import {
  IRQCHIP_SECTION,
  KVMCLOCK_SECTION,
  PIT_SECTION,
  planVm,
  restoreVm,
} from "../../../../src/accel/state/vm-state.ts";
import { StateReader } from "../../../../src/state/reader.ts";
import { StateWriter } from "../../../../src/state/writer.ts";
import { assert, describe } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";

const test = describe("VM state on KVM");
const skip = kvmMissing();

function save(vm: KvmVm): StateReader {
  const writer = new StateWriter();
  const bind = planVm(writer, vm);
  writer.lay();
  bind()();
  return new StateReader(writer.seal(), ACCELERATOR_SECTIONS);
}

function withVms(action: (first: KvmVm, second: KvmVm) => void): void {
  const system = new KvmSystem();
  const vms = [system.createVm(), system.createVm()];
  try {
    for (const vm of vms) createIrqchips(vm);
    action(vms[0]!, vms[1]!);
  } finally {
    for (const vm of vms) vm.close();
    system.close();
  }
}

/** The PIT's bytes but for `count_load_time` of each channel: KVM_SET_PIT2 starts to count anew. */
function pitState(reader: StateReader): number[] {
  // struct kvm_pit_channel_state has 24 bytes, the last 8 are that time; flags follow the three of them.
  return [...reader.section(PIT_SECTION).part("pit")].filter((_, index) => index >= 3 * 24 || index % 24 < 16);
}

function clockOf(vm: KvmVm): bigint {
  const data = new Uint8Array(abi.KVM_CLOCK_DATA_SIZE_BYTES);
  vm.getClock(data);
  return new DataView(data.buffer).getBigUint64(0, true);
}

test.skipIf(skip, "interrupt controllers and PIT keep every byte", () => {
  withVms((first, second) => {
    const state = save(first);
    // PIC: mask of all lines; I/O APIC: redirection of line 4, edge-triggered vector 0x24 (struct kvm_ioapic_state).
    state.section(IRQCHIP_SECTION, 0).part("irqchip")[8 + 2] = 0xff;
    const ioapic = state.section(IRQCHIP_SECTION, 2).part("irqchip");
    new DataView(ioapic.buffer, ioapic.byteOffset).setBigUint64(8 + 24 + 8 * 4, 0x0100_0000_0000_0024n, true);
    restoreVm(state, first);
    const saved = save(first);
    assert.equal([...saved.section(IRQCHIP_SECTION, 2).part("irqchip")], [...ioapic]);
    restoreVm(saved, second);
    const again = save(second);
    for (const chip of [0, 1, 2]) {
      const [one, other] = [saved, again].map((reader) => [...reader.section(IRQCHIP_SECTION, chip).part("irqchip")]);
      assert.equal(other, one, `chip ${chip}`);
    }
    assert.equal(pitState(again), pitState(saved));
  });
});

/** Restores `change`d state and checks that the clock went on by what passed in the world, and by nothing else. */
function checkClock(change: (state: StateReader) => void, toleranceNs: bigint): void {
  withVms((first, second) => {
    const startNs = monotonicNs();
    const before = clockOf(first);
    const state = save(first);
    change(state);
    while (monotonicNs() - startNs < 20_000_000n);
    restoreVm(state, second);
    const restoredNs = monotonicNs();
    const after = clockOf(second);
    assert.ok(after >= before + (restoredNs - startNs) - 20_000_000n, "it does not lag behind");
    assert.ok(after >= before + 19_000_000n - toleranceNs, "time in between counts");
    assert.ok(after <= before + (monotonicNs() - startNs) + toleranceNs, "and nothing else");
    assert.ok(clockOf(second) >= after, "it runs");
  });
}

/** As saved when KVM's reading of CLOCK_REALTIME was less by `kvmNs` and the VMM's less by `ownNs` than they were. */
function savedEarlier(state: StateReader, { kvmNs, ownNs }: { kvmNs: bigint; ownNs: bigint }): void {
  const view = (part: "clock" | "host"): DataView => {
    const bytes = state.section(KVMCLOCK_SECTION).part(part);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
  const own = view("host").getBigUint64(8, true);
  // Where the host's TSC is not reliable KVM reads none, but takes it.
  view("clock").setUint32(abi.KVM_CLOCK_FLAGS_U32, abi.KVM_CLOCK_REALTIME, true);
  view("clock").setBigUint64(abi.KVM_CLOCK_REALTIME_U64, own - kvmNs, true);
  view("host").setBigUint64(8, own - ownNs, true);
}

test.skipIf(skip, "kvmclock goes on over the gap", () => checkClock(() => {}, 1_000_000n));

test.skipIf(skip, "kvmclock goes on by CLOCK_REALTIME where KVM has read that", () => {
  checkClock((state) => savedEarlier(state, { kvmNs: 0n, ownNs: 0n }), 1_000_000n);
});

test.skipIf(skip, "kvmclock goes on by CLOCK_MONOTONIC when CLOCK_REALTIME was set in between", () => {
  const HOUR_NS = 3_600_000_000_000n;
  for (const step of [HOUR_NS, -HOUR_NS]) {
    // After both readings of it, and between them.
    for (const ownNs of [step, 0n]) {
      checkClock((state) => savedEarlier(state, { kvmNs: step, ownNs }), 5_000_000n);
    }
  }
});

test.run();
