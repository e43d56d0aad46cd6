// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../../harness.ts";
import { Machine } from "./rig.ts";

const test = describe("82093AA");

const LEVEL = 0x8000;
const MASKED = 0x1_0000;
const REMOTE_IRR = 0x4000;
const LOGICAL = 0x800;
const LOWEST = 0x100;

function enabled(cpuCount = 1): Machine {
  const machine = new Machine(cpuCount);
  for (const cpu of machine.cpus) cpu.enable();
  // The PICs have the same lines: they are out of the way.
  machine.out(0x21, 0xff);
  machine.out(0xa1, 0xff);
  return machine;
}

test("registers: ID, version, arbitration ID, 24 masked pins, nothing beyond", () => {
  const machine = new Machine();
  assert.is(machine.readIoapic(1), 0x0017_0011);
  machine.writeIoapic(0, 0xffff_ffff);
  assert.is(machine.readIoapic(0), 0x0f00_0000);
  assert.is(machine.readIoapic(2), 0x0f00_0000);
  machine.writeIoapic(1, 0);
  assert.is(machine.readIoapic(1), 0x0017_0011);
  for (let register = 0x10; register < 0x40; register += 2) {
    assert.is(machine.readIoapic(register), MASKED);
    assert.is(machine.readIoapic(register + 1), 0);
  }
  for (const register of [3, 0xf, 0x40, 0xff]) {
    machine.writeIoapic(register, 0);
    assert.is(machine.readIoapic(register), 0xffff_ffff);
  }
});

test("the register select is a byte, and other offsets are nothing", () => {
  const machine = new Machine();
  machine.chip.writeIoapic(0xfec0_0000n, 4, 0x1234_5601);
  assert.is(machine.chip.readIoapic(0xfec0_0000n, 4), 1);
  assert.is(machine.chip.readIoapic(0xfec0_0010n, 1), 0x11);
  assert.is(machine.chip.readIoapic(0xfec0_0010n, 2), 0x11);
  assert.is(machine.chip.readIoapic(0xfec0_0020n, 4), 0);
  machine.chip.writeIoapic(0xfec0_0040n, 4, 0x20);
  assert.is(machine.chip.hasAddress(0xfec0_0000n), 1);
  assert.is(machine.chip.hasAddress(0xfec0_00ffn), 1);
  assert.is(machine.chip.hasAddress(0xfec0_0100n), 0);
  assert.is(machine.chip.hasAddress(0xfebf_ffffn), 0);
  assert.is(machine.chip.hasAddress(0x1_fec0_0000n), 0);
});

test("delivery status and remote IRR cannot be written", () => {
  const machine = new Machine();
  machine.redirect(5, LEVEL | MASKED | 0x5000 | 0x55, 3);
  assert.is(machine.redirection(5), LEVEL | MASKED | 0x55);
  assert.is(machine.readIoapic(0x1b), 0x0300_0000);
});

test("an edge is delivered once for each rise", () => {
  const machine = enabled();
  machine.redirect(4, 0x44);
  machine.raise(4);
  machine.raise(4);
  assert.equal(machine.cpu.takeAll(), [0x44]);
  machine.lower(4);
  assert.equal(machine.cpu.takeAll(), []);
  machine.raise(4);
  assert.equal(machine.cpu.takeAll(), [0x44]);
});

test("an edge at a masked pin is lost", () => {
  const machine = enabled();
  machine.redirect(4, MASKED | 0x44);
  machine.raise(4);
  machine.redirect(4, 0x44);
  assert.equal(machine.cpu.takeAll(), []);
});

test("a level is delivered again after its EOI, as long as it is up", () => {
  const machine = enabled();
  machine.redirect(20, LEVEL | 0x60);
  machine.raise(20);
  assert.is(machine.redirection(20), LEVEL | REMOTE_IRR | 0x60);
  assert.equal(machine.cpu.vectors(0x180), [0x60], "TMR");
  assert.is(machine.cpu.take(), 0x60);
  assert.is(machine.cpu.take(), undefined);
  machine.cpu.write(0xb0, 0);
  assert.is(machine.redirection(20), LEVEL | REMOTE_IRR | 0x60);
  assert.is(machine.cpu.take(), 0x60);
  machine.lower(20);
  machine.cpu.write(0xb0, 0);
  assert.is(machine.redirection(20), LEVEL | 0x60);
  assert.is(machine.cpu.take(), undefined);
});

test("a level at a masked pin waits", () => {
  const machine = enabled();
  machine.redirect(20, LEVEL | MASKED | 0x60);
  machine.raise(20);
  assert.equal(machine.cpu.takeAll(), []);
  machine.redirect(20, LEVEL | 0x60);
  assert.is(machine.cpu.take(), 0x60);
  machine.redirect(20, LEVEL | MASKED | 0x60);
  machine.cpu.write(0xb0, 0);
  assert.is(machine.cpu.take(), undefined, "masked before its EOI");
});

test("two pins with one vector", () => {
  const machine = enabled();
  machine.redirect(20, LEVEL | 0x60);
  machine.redirect(21, LEVEL | 0x60);
  machine.raise(20);
  machine.raise(21);
  assert.is(machine.cpu.take(), 0x60);
  machine.lower(20);
  machine.cpu.write(0xb0, 0);
  assert.is(machine.cpu.take(), 0x60);
  machine.lower(21);
  machine.cpu.write(0xb0, 0);
  assert.is(machine.cpu.take(), undefined);
});

test("made an edge for a moment, an entry has had its EOI: what Linux does", () => {
  const machine = enabled();
  machine.redirect(20, LEVEL | 0x60);
  machine.raise(20);
  machine.lower(20);
  machine.writeIoapic(0x10 + 40, MASKED | 0x60);
  assert.is(machine.redirection(20), MASKED | 0x60);
  machine.writeIoapic(0x10 + 40, LEVEL | 0x60);
  assert.is(machine.redirection(20), LEVEL | 0x60);
});

test("a level that nobody takes is sent when it is redirected", () => {
  const machine = enabled();
  machine.redirect(20, LEVEL | 0x60, 7);
  machine.raise(20);
  assert.is(machine.redirection(20), LEVEL | 0x60);
  machine.redirect(20, LEVEL | 0x60, 0);
  assert.is(machine.cpu.take(), 0x60);
});

test("destinations: physical, broadcast, flat and cluster", () => {
  const machine = enabled(4);
  const takers = (low: number, destination: number): number[] => {
    machine.redirect(20, low | 0x60, destination);
    machine.raise(20);
    machine.lower(20);
    return [...machine.cpus.entries()].filter(([, cpu]) => cpu.takeAll().length > 0).map(([index]) => index);
  };
  assert.equal(takers(0, 2), [2]);
  assert.equal(takers(0, 5), []);
  assert.equal(takers(0, 0xff), [0, 1, 2, 3]);
  for (const [index, cpu] of machine.cpus.entries()) cpu.write(0xd0, 1 << (24 + index));
  assert.equal(takers(LOGICAL, 0b1010), [1, 3]);
  assert.equal(takers(LOGICAL, 0xff), [0, 1, 2, 3]);
  for (const [index, cpu] of machine.cpus.entries()) {
    cpu.write(0xe0, 0x0fff_ffff);
    cpu.write(0xd0, ((index >> 1) << 28) | (1 << (24 + (index & 1))));
  }
  assert.equal(takers(LOGICAL, 0x03), [0, 1]);
  assert.equal(takers(LOGICAL, 0x12), [3]);
  for (const cpu of machine.cpus) cpu.writeBase(cpu.base | 0x400n);
  assert.equal(takers(LOGICAL, 0b0101), [0, 2]);
  assert.equal(takers(0, 3), [3]);
  assert.equal(takers(0, 0xff), [0, 1, 2, 3]);
});

test("lowest priority: one of them, in turns, and none that is off", () => {
  const machine = enabled(3);
  for (const [index, cpu] of machine.cpus.entries()) cpu.write(0xd0, 1 << (24 + index));
  machine.cpus[1]!.write(0xf0, 0xff);
  machine.redirect(20, LOWEST | LOGICAL | 0x60, 0xff);
  const counts = [0, 0, 0];
  for (let round = 0; round < 10; round++) {
    machine.raise(20);
    machine.lower(20);
    for (const [index, cpu] of machine.cpus.entries()) counts[index]! += cpu.takeAll().length;
  }
  assert.equal(counts, [5, 0, 5]);
});

test("NMI, INIT; nothing for an APIC that is off", () => {
  const machine = enabled(2);
  for (const cpu of machine.cpus) cpu.pending = 0;
  machine.redirect(20, 0x400, 1);
  machine.raise(20);
  assert.is(machine.cpus[1]!.pending, 2);
  machine.redirect(21, 0x500, 1);
  machine.raise(21);
  assert.is(machine.cpus[1]!.pending, 6);
  assert.is(machine.cpus[0]!.pending, 0);
  machine.cpus[1]!.writeBase(0xfee0_0000n);
  machine.cpus[1]!.pending = 0;
  machine.lower(20);
  machine.raise(20);
  assert.is(machine.cpus[1]!.pending, 0);
});

test("line N is pin N, below 16 the PICs' line N, and above 23 nothing", () => {
  const machine = new Machine();
  machine.startPics();
  machine.cpu.enable();
  machine.redirect(3, 0x43);
  machine.raise(3);
  // The PIC's comes first: at power-on LINT0 of the first vCPU is ExtINT.
  assert.equal([machine.cpu.take(), machine.cpu.take()], [0x33, 0x43]);
  for (const gsi of [24, 31, 32, 0xffff_ffff]) machine.raise(gsi);
});

test.run();
