// SPDX-License-Identifier: Apache-2.0
import * as reg from "../../../../assembly/irqchip/layout.ts";
import { CONTROL_MONOTONIC_OFFSET, DEVICE_STRIDE_BYTES } from "../../../../assembly/layout.ts";
import { monotonicNs } from "../../../../ffi/clock.ts";
import * as abi from "../../../../ffi/kvm/abi.ts";
import { KvmSystem } from "../../../../ffi/kvm/kvm.ts";
import { createIrqchips } from "../../../../src/accel/kvm/power-on.ts";
import { ACCELERATOR_SECTIONS } from "../../../../src/accel/state/sections.ts";
import type { StateVm } from "../../../../src/accel/state/types.ts";
import { IRQCHIP_SECTION, PIT_SECTION, planVm, restoreVm } from "../../../../src/accel/state/vm-state.ts";
import { Kvmclock } from "../../../../src/accel/wasm/clock.ts";
import { StateReader } from "../../../../src/state/reader.ts";
import { bindAll, StateWriter } from "../../../../src/state/writer.ts";
import { Machine } from "../../../assembly/irqchip/rig.ts";
import { assert, describe } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";

const test = describe("state of the interrupt controllers");
const skip = kvmMissing();

const CHIPS = [abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC];
const DEADLINE = 0x4_0000;
const PERIODIC = 0x2_0000;

function chipOf(machine: Machine, id: number): Uint8Array {
  const chip = new Uint8Array(abi.KVM_IRQCHIP_SIZE_BYTES).fill(0xaa);
  chip.set([id, 0, 0, 0, 0, 0, 0, 0]);
  machine.state.getIrqchip(chip);
  return chip;
}

function pitOf(machine: Machine): Uint8Array {
  const pit = new Uint8Array(abi.KVM_PIT_STATE2_SIZE_BYTES);
  machine.state.getPit2(pit);
  return pit;
}

function lapicOf(machine: Machine, index = 0): Uint8Array {
  const lapic = new Uint8Array(abi.KVM_LAPIC_STATE_SIZE_BYTES);
  machine.state.getLapic(index, lapic);
  return lapic;
}

const word = (bytes: Uint8Array, offset: number): number => new DataView(bytes.buffer).getUint32(offset, true);

/** Another machine that goes on where that one is. */
function copyOf(machine: Machine): Machine {
  const copy = new Machine(machine.cpus.length, machine.tscKhz);
  copy.tsc = machine.tsc;
  copy.ns = machine.ns;
  for (const [index, cpu] of machine.cpus.entries()) {
    assert.ok(copy.cpus[index]!.writeBase(cpu.base));
    copy.state.setLapic(index, lapicOf(machine, index));
  }
  for (const id of CHIPS) copy.state.setIrqchip(chipOf(machine, id));
  copy.state.setPit2(pitOf(machine));
  return copy;
}

function run(machine: Machine): number[] {
  machine.cpu.apic.runTimers();
  return machine.cpu.takeAll();
}

test("parts of the page are apart, and leave the lock alone", () => {
  const parts: [start: number, sizeBytes: number][] = [
    [reg.IRQCHIP_PICS, 2 * reg.PIC_SIZE_BYTES],
    [reg.IRQCHIP_IOAPIC, reg.IOAPIC_SIZE_BYTES],
    [reg.IRQCHIP_PIT, reg.PIT_SIZE_BYTES],
    [reg.IRQCHIP_PIC_OUTPUT_I32, 4],
    [reg.IRQCHIP_IOAPIC_DELIVERED_U32, 4],
    [reg.IRQCHIP_CPU_COUNT_U32, 4],
    [reg.IRQCHIP_TSC_KHZ_U32, 4],
    [reg.IRQCHIP_ARBITER_U32, 4],
    [reg.IRQCHIP_PIT_DEADLINE_I64, 8],
    [reg.IRQCHIP_PIT_EXTRAS, reg.PIT_CHANNEL_COUNT * reg.EXTRA_SIZE_BYTES],
  ];
  let end = 0;
  for (const [start, sizeBytes] of parts) {
    assert.ok(start >= end && start % Math.min(sizeBytes, 8) === 0, start.toString(16));
    end = start + sizeBytes;
  }
  assert.ok(end <= DEVICE_STRIDE_BYTES - 4);
});

test("sizes are those of KVM's structs", () => {
  assert.is(reg.PIT_SIZE_BYTES, abi.KVM_PIT_STATE2_SIZE_BYTES);
  assert.is(reg.IOAPIC_SIZE_BYTES, 24 + 8 * reg.IOAPIC_PIN_COUNT);
});

test("save, restore, save: the same bytes, in the middle of everything", () => {
  const machine = new Machine(2);
  machine.startPics();
  for (const cpu of machine.cpus) cpu.enable();
  machine.out(0x21, 0xe0);
  machine.out(0x4d1, 0x0e);
  machine.redirect(20, 0x8060);
  machine.redirect(17, 0x1_0044, 1);
  for (const gsi of [1, 3, 9, 17, 20]) machine.raise(gsi);
  machine.out(0x20, 0x0b);
  machine.out(0xa0, 0x11);
  machine.cpu.take();
  machine.cpu.take();
  machine.out(0x43, 0x34, 0xb6);
  machine.out(0x40, 0x12, 0x34);
  machine.out(0x42, 0x56);
  machine.out(0x61, 3);
  machine.out(0x43, 0xd0);
  machine.advance(10_000n);
  machine.cpu.write(reg.APIC_LVT_TIMER, PERIODIC | 0x30);
  machine.cpu.write(reg.APIC_DIVIDE, 0xb);
  machine.cpu.write(reg.APIC_INITIAL_COUNT, 5000);
  machine.advance(1_000n);
  const copy = copyOf(machine);
  for (const id of CHIPS) assert.equal(chipOf(copy, id), chipOf(machine, id), `chip ${id}`);
  assert.equal(pitOf(copy), pitOf(machine));
  for (const index of [0, 1]) assert.equal(lapicOf(copy, index), lapicOf(machine, index), `lapic ${index}`);
  assert.is(copy.cpu.pending & 1, 1);
  for (const both of [machine, copy]) both.lower(20);
  for (const both of [machine, copy]) {
    both.cpu.write(reg.APIC_EOI, 0);
    both.out(0x21, 0);
    both.advance(4_000n);
  }
  assert.equal(run(copy), run(machine));
  assert.is(copy.redirection(20), machine.redirection(20));
});

test("a level that was up is up; an edge that was delivered is not delivered again", () => {
  const machine = new Machine();
  machine.cpu.enable();
  machine.cpu.write(reg.APIC_LVT_LINT0, 0x1_0000);
  machine.redirect(4, 0x44);
  machine.redirect(20, 0x8060);
  machine.raise(4);
  machine.raise(20);
  assert.equal([machine.cpu.take(), machine.cpu.take()], [0x60, undefined]);
  assert.is(word(chipOf(machine, abi.KVM_IRQCHIP_IOAPIC), 8 + reg.IOAPIC_IRR_U32), 1 << 20);
  const copy = copyOf(machine);
  assert.equal(copy.cpu.vectors(reg.APIC_IRR), [0x44]);
  copy.cpu.write(reg.APIC_EOI, 0);
  assert.is(copy.cpu.take(), 0x60, "still up");
  copy.lower(20);
  copy.cpu.write(reg.APIC_EOI, 0);
  assert.equal(copy.cpu.takeAll(), [0x44]);
});

test("the timer goes on with what was left of its count", () => {
  for (const mode of [0, PERIODIC]) {
    const machine = new Machine();
    machine.cpu.enable();
    machine.cpu.write(reg.APIC_LVT_TIMER, mode | 0x30);
    machine.cpu.write(reg.APIC_DIVIDE, 0xb);
    machine.cpu.write(reg.APIC_INITIAL_COUNT, 10_000);
    machine.advance(4_000n);
    const copy = copyOf(machine);
    assert.is(word(lapicOf(copy), reg.APIC_CURRENT_COUNT), 6_000);
    copy.advance(5_999n);
    assert.equal(run(copy), []);
    copy.advance(1n);
    assert.equal(run(copy), [0x30]);
    copy.advance(10_000n);
    assert.equal(run(copy), mode === 0 ? [] : [0x30]);
  }
});

test("a count that has run out does so once more, a stopped one does not", () => {
  for (const [initial, expected] of [
    [1000, [0x30]],
    [0, []],
  ] as const) {
    const machine = new Machine();
    machine.cpu.enable();
    machine.cpu.write(reg.APIC_LVT_TIMER, 0x30);
    machine.cpu.write(reg.APIC_INITIAL_COUNT, initial);
    machine.advance(1_000_000n);
    run(machine);
    const copy = copyOf(machine);
    assert.equal(run(copy), expected);
    assert.equal(run(copy), []);
  }
});

test("a TSC deadline is the MSR's, not the APIC's", () => {
  const machine = new Machine();
  machine.cpu.enable();
  machine.cpu.write(reg.APIC_LVT_TIMER, DEADLINE | 0x30);
  machine.cpu.apic.writeTscDeadline(machine.tsc + 100n);
  machine.state.setLapic(0, lapicOf(machine));
  assert.is(machine.cpu.apic.readTscDeadline(), machine.tsc + 100n);
  machine.advance(50n);
  assert.equal(run(machine), [0x30]);
});

test("an x2APIC has its ID where KVM has it", () => {
  const machine = new Machine(2);
  const [, cpu] = machine.cpus;
  assert.ok(cpu!.writeBase(0xfee0_0c00n));
  const lapic = lapicOf(machine, 1);
  assert.is(word(lapic, reg.APIC_ID), 0x0100_0000);
  assert.is(word(lapic, reg.APIC_LDR), 2);
  assert.is(copyOf(machine).cpus[1]!.readMsr(0x802), 1n);
});

test("the PIT's times are the host's in the struct; it counts on, in another boot too", () => {
  const machine = new Machine();
  const offsetNs = 7_000_000_000n;
  const offset = new BigInt64Array(machine.memory.buffer, CONTROL_MONOTONIC_OFFSET, 1);
  offset[0] = offsetNs;
  machine.out(0x43, 0x34);
  machine.out(0x40, 0, 0);
  const pit = pitOf(machine);
  assert.is(new DataView(pit.buffer).getBigInt64(16, true), machine.ns - offsetNs);
  machine.advance(20_000_000n);
  const count = (of: Machine): number => {
    of.out(0x43, 0);
    return of.in(0x40) | (of.in(0x40) << 8);
  };
  // The devices' clock goes on; the host's, and with it the offset, are others.
  const other = new Machine();
  other.ns = machine.ns;
  other.tsc = machine.tsc;
  new BigInt64Array(other.memory.buffer, CONTROL_MONOTONIC_OFFSET, 1)[0] = 123_456n;
  other.state.setPit2(pit, offsetNs);
  assert.is(count(other), count(machine));
  assert.is(other.cpu.apic.nextDeadline(), machine.cpu.apic.nextDeadline());
});

test("a one-shot of the PIT that ran out meanwhile interrupts", () => {
  const machine = new Machine();
  machine.startPics();
  machine.out(0x43, 0x30);
  machine.out(0x40, 0x10, 0x27);
  const pit = pitOf(machine);
  machine.advance(1_000_000_000n);
  machine.state.setPit2(pit);
  machine.cpu.apic.runTimers();
  assert.is(machine.cpu.take(), 0x30);
  assert.is(machine.cpu.apic.sleepNs(), -1n);
});

test("any bytes can be restored, and do no harm", () => {
  const machine = new Machine(2);
  for (let value = 0; value < 256; value++) {
    for (const id of CHIPS) {
      const chip = new Uint8Array(abi.KVM_IRQCHIP_SIZE_BYTES).fill(value);
      chip[0] = id;
      machine.state.setIrqchip(chip);
    }
    machine.state.setPit2(new Uint8Array(abi.KVM_PIT_STATE2_SIZE_BYTES).fill(value));
    for (const index of [0, 1]) machine.state.setLapic(index, new Uint8Array(1024).fill(value));
    for (const port of [0x20, 0x21, 0x40, 0x41, 0x42, 0x61, 0xa0, 0xa1]) {
      machine.in(port);
      machine.out(port, value);
    }
    machine.readIoapic(value);
    for (let gsi = 0; gsi < 24; gsi++) machine.raise(gsi);
    machine.advance(1_000_000n);
    machine.cpu.apic.runTimers();
    machine.cpu.apic.sleepNs();
    for (let taken = 0; taken < 10; taken++) machine.cpu.take();
    for (const id of CHIPS) chipOf(machine, id);
    pitOf(machine);
    lapicOf(machine);
  }
});

/** The machine as saving and restoring see it. */
function vmOf({ state, memory }: Machine): StateVm {
  const clock = new Kvmclock(memory);
  return {
    getIrqchip: (chip) => state.getIrqchip(chip),
    setIrqchip: (chip) => state.setIrqchip(chip),
    getPit2: (pit) => state.getPit2(pit),
    setPit2: (pit) => state.setPit2(pit),
    getClock: (data) => clock.save(data),
    setClock: (data) => clock.restore(data),
  };
}

function imageOf(vm: StateVm): StateReader {
  const writer = new StateWriter();
  const bind = planVm(writer, vm);
  writer.lay();
  bindAll([bind])()();
  return new StateReader(writer.seal(), ACCELERATOR_SECTIONS);
}

test("sections: those of KVM, and what was saved comes back", () => {
  const machine = new Machine();
  machine.startPics();
  machine.redirect(5, 0x55);
  machine.out(0x43, 0x34);
  machine.out(0x40, 0, 0x10);
  const reader = imageOf(vmOf(machine));
  const copy = new Machine();
  copy.ns = machine.ns;
  restoreVm(reader, vmOf(copy));
  for (const id of CHIPS) assert.equal(chipOf(copy, id), chipOf(machine, id));
  assert.equal(pitOf(copy), pitOf(machine));
});

test.skipIf(skip, "from the engine to KVM and back", () => {
  const system = new KvmSystem();
  const vm = system.createVm();
  try {
    createIrqchips(vm);
    const machine = new Machine();
    machine.startPics();
    machine.out(0x21, 0xfb);
    machine.redirect(5, 0x55);
    machine.redirect(9, 0x1_8099, 0xff);
    machine.raise(9);
    machine.out(0x43, 0xb4);
    machine.out(0x42, 0x34, 0x12);
    machine.out(0x61, 1);
    const reader = imageOf(vmOf(machine));
    for (const id of CHIPS) vm.setIrqchip(reader.section(IRQCHIP_SECTION, id).part("irqchip"));
    vm.setPit2(reader.section(PIT_SECTION).part("pit"));
    const returned = imageOf(vm);
    const copy = new Machine();
    copy.ns = monotonicNs();
    restoreVm(returned, vmOf(copy));
    for (const id of CHIPS) {
      const length = id === abi.KVM_IRQCHIP_IOAPIC ? 8 + reg.IOAPIC_SIZE_BYTES : 8 + reg.PIC_SIZE_BYTES;
      assert.equal(chipOf(copy, id).subarray(0, length), chipOf(machine, id).subarray(0, length), `chip ${id}`);
    }
    // KVM begins to count anew: all but the times, and what is behind the flags.
    const withoutTimes = (pit: Uint8Array): number[] =>
      [...pit].filter((_, at) => at < 76 && (at >= 72 || at % 24 < 16));
    assert.equal(withoutTimes(pitOf(copy)), withoutTimes(reader.section(PIT_SECTION).part("pit")));
  } finally {
    vm.close();
    system.close();
  }
});

test.run();
