// SPDX-License-Identifier: Apache-2.0
import { IRQCHIP_PICS } from "../../../assembly/irqchip/layout.ts";
import { IRQCHIP_BASE } from "../../../assembly/layout.ts";
import { assert, describe } from "../../harness.ts";
import { EXTERNAL_INTERRUPT, Machine } from "./rig.ts";

const test = describe("8259A");

const NON_SPECIFIC_EOI = 0x20;
const READ_IRR = 0x0a;
const READ_ISR = 0x0b;

function started(icw4 = 1): Machine {
  const machine = new Machine();
  machine.startPics(0x30, 0x38, icw4);
  return machine;
}

function readRegister(machine: Machine, port: number, command: number): number {
  machine.out(port, command);
  return machine.in(port);
}

test("initialization: four words, then the mask", () => {
  const machine = new Machine();
  machine.out(0x20, 0x11);
  machine.out(0x21, 0x27, 4, 1, 0xfd);
  assert.is(machine.in(0x21), 0xfd);
  machine.raise(1);
  // Of ICW2 only the upper five bits count.
  assert.is(machine.cpu.take(), 0x21);
});

test("without IC4 the fourth word is not expected, and its functions are off", () => {
  const machine = started(3);
  machine.out(0x20, 0x10);
  machine.out(0x21, 0x30, 4, 0x5a);
  assert.is(machine.in(0x21), 0x5a);
  machine.out(0x21, 0);
  machine.raise(1);
  machine.cpu.take();
  assert.is(readRegister(machine, 0x20, READ_ISR), 2, "no automatic EOI");
});

test("ICW1 clears mask, requests by edge, service and modes, and makes line 7 the last", () => {
  const machine = started();
  machine.out(0x21, 0xf0);
  machine.raise(1);
  machine.cpu.take();
  machine.raise(3);
  machine.out(0x20, 0xc3, READ_ISR, 0x68, 0x11);
  machine.out(0x21, 0x30, 4, 1);
  assert.is(machine.in(0x21), 0);
  assert.is(machine.in(0x20), 0, "IRR is what is read");
  assert.is(readRegister(machine, 0x20, READ_ISR), 0);
  // The lines are up, but they have to rise anew.
  assert.is(machine.cpu.take(), undefined);
  machine.lower(3);
  machine.raise(3);
  machine.lower(1);
  machine.raise(1);
  assert.is(machine.cpu.take(), 0x31);
});

test("fully nested: who is in service keeps out its own level and those below", () => {
  const machine = started();
  machine.raise(4);
  assert.is(machine.cpu.take(), 0x34);
  machine.raise(5);
  assert.is(machine.cpu.take(), undefined);
  machine.raise(1);
  assert.is(machine.cpu.take(), 0x31);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0x12);
  assert.is(readRegister(machine, 0x20, READ_IRR), 0x20);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0x10, "the highest in service ends");
  assert.is(machine.cpu.take(), undefined);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(machine.cpu.take(), 0x35);
});

test("an edge requests once; a level as long as it is up", () => {
  const machine = started();
  machine.raise(3);
  machine.raise(3);
  assert.is(machine.cpu.take(), 0x33);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(machine.cpu.take(), undefined);
  machine.out(0x4d0, 0x20);
  machine.raise(5);
  assert.is(machine.cpu.take(), 0x35);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(machine.cpu.take(), 0x35);
  machine.lower(5);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(machine.cpu.take(), undefined);
});

test("lines of the ISA bus stay edges in ELCR", () => {
  const machine = started();
  machine.out(0x4d0, 0xff);
  machine.out(0x4d1, 0xff);
  assert.equal([machine.in(0x4d0), machine.in(0x4d1)], [0xf8, 0xde]);
});

test("masks hold requests back, and let them through later", () => {
  const machine = started();
  machine.out(0x21, 0x10);
  machine.raise(4);
  assert.is(machine.cpu.take(), undefined);
  assert.is(readRegister(machine, 0x20, READ_IRR), 0x10);
  machine.out(0x21, 0);
  assert.is(machine.cpu.take(), 0x34);
});

test("the slave's lines come by the master's line 2, each with its own EOI", () => {
  const machine = started();
  machine.raise(8);
  assert.is(machine.cpu.take(), 0x38);
  assert.is(readRegister(machine, 0x20, READ_ISR), 4);
  assert.is(readRegister(machine, 0xa0, READ_ISR), 1);
  machine.raise(3);
  assert.is(machine.cpu.take(), undefined, "below line 2");
  machine.out(0xa0, NON_SPECIFIC_EOI);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(machine.cpu.take(), 0x33);
});

test("special fully nested mode: a better line of the slave comes while another is in service", () => {
  for (const [icw4, expected] of [
    [0x01, undefined],
    [0x11, 0x39],
  ] as const) {
    const machine = started(icw4);
    machine.raise(12);
    assert.is(machine.cpu.take(), 0x3c);
    machine.raise(9);
    assert.is(machine.cpu.take(), expected);
  }
});

test("spurious: what falls before the acknowledge is line 7, which is not in service", () => {
  const machine = started();
  machine.out(0x4d0, 0x20);
  machine.raise(5);
  assert.is(machine.cpu.apic.highestInterrupt(), EXTERNAL_INTERRUPT);
  machine.lower(5);
  assert.is(machine.cpu.apic.acknowledge(), 0x37);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0);
  machine.out(0x4d1, 0x02);
  machine.raise(9);
  machine.lower(9);
  assert.is(machine.cpu.take(), 0x3f, "the slave's");
  assert.is(readRegister(machine, 0xa0, READ_ISR), 0);
  assert.is(readRegister(machine, 0x20, READ_ISR), 4, "the master's line 2 is in service");
});

test("automatic EOI, with and without rotation", () => {
  const machine = started(3);
  machine.raise(3);
  assert.is(machine.cpu.take(), 0x33);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0);
  machine.out(0x20, 0x80);
  machine.lower(3);
  machine.raise(3);
  assert.is(machine.cpu.take(), 0x33);
  machine.raise(1);
  machine.raise(6);
  assert.is(machine.cpu.take(), 0x36, "line 3 is the last now, 4 the first");
  machine.out(0x20, 0x00);
  assert.is(machine.cpu.take(), 0x31);
  machine.lower(6);
  machine.raise(6);
  machine.lower(1);
  machine.raise(1);
  // Line 6 rotated to the end, and 1 did not: 7 is the first, 1 comes before 6.
  assert.is(machine.cpu.take(), 0x31);
});

test("rotation on non-specific and specific EOI, and set priority", () => {
  const machine = started();
  machine.raise(2 + 1);
  machine.cpu.take();
  machine.out(0x20, 0xa0);
  machine.raise(1);
  machine.raise(5);
  assert.is(machine.cpu.take(), 0x35, "4 is the first");
  machine.out(0x20, 0xe0 | 5);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0);
  assert.is(machine.cpu.take(), 0x31);
  machine.out(0x20, 0x60 | 1);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0);
  machine.out(0x20, 0xc0 | 5);
  for (const line of [4, 7]) machine.raise(line);
  assert.is(machine.cpu.take(), 0x37, "6 is the first");
});

test("special mask mode: a masked level in service keeps nobody out, and non-specific EOI passes it by", () => {
  const machine = started();
  machine.raise(1);
  machine.raise(6);
  assert.is(machine.cpu.take(), 0x31);
  machine.out(0x21, 0x02);
  assert.is(machine.cpu.take(), undefined);
  machine.out(0x20, 0x68);
  assert.is(machine.cpu.take(), 0x36);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0x02);
  machine.out(0x20, 0x48);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0);
});

test("a poll is an acknowledge", () => {
  const machine = started();
  machine.raise(4);
  machine.out(0x20, 0x0c);
  assert.is(machine.in(0x20), 0x84);
  assert.is(readRegister(machine, 0x20, READ_ISR), 0x10);
  assert.is(readRegister(machine, 0x20, READ_IRR), 0);
  machine.out(0x20, 0x0c);
  assert.is(machine.in(0x20) & 0x80, 0, "nothing above line 4");
  machine.raise(10);
  machine.out(0xa0, 0x0c);
  assert.is(machine.in(0xa0), 0x82);
  machine.out(0x20, NON_SPECIFIC_EOI);
  assert.is(machine.cpu.take(), undefined, "the slave has nothing more");
});

test("requests go to the vCPU that has LINT0 as ExtINT, and to none else", () => {
  const machine = new Machine(2);
  machine.startPics();
  for (const cpu of machine.cpus) cpu.pending = 0;
  machine.raise(1);
  assert.equal(
    machine.cpus.map((cpu) => cpu.pending),
    [1, 0],
  );
  assert.is(machine.cpus[1]!.take(), undefined);
  const [first, second] = machine.cpus as [typeof machine.cpu, typeof machine.cpu];
  for (const cpu of machine.cpus) cpu.enable();
  first.write(0x350, 0x1_0700);
  assert.is(first.take(), undefined);
  second.write(0x350, 0x700);
  assert.is(second.pending & 1, 1, "it sees what is up already");
  assert.is(second.take(), 0x31);
});

test("LINT0 as fixed: each rise of INTR is an interrupt of the local APIC", () => {
  const machine = new Machine();
  machine.startPics();
  machine.cpu.enable();
  machine.cpu.write(0x350, 0x55);
  machine.raise(1);
  assert.is(machine.cpu.take(), 0x55);
});

test("a saved state that makes no sense does no harm", () => {
  const machine = new Machine();
  const bytes = new Uint8Array(machine.memory.buffer, IRQCHIP_BASE + IRQCHIP_PICS, 32);
  for (let value = 0; value < 256; value++) {
    bytes.fill(value);
    machine.chip.picsRestored();
    machine.raise(value & 15);
    machine.cpu.take();
    machine.out(0x20, value);
    machine.in(0xa0);
  }
  machine.chip.reset();
  machine.startPics();
  machine.raise(1);
  assert.is(machine.cpu.take(), 0x31);
});

test.run();
