// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../../harness.ts";
import { Machine, NEVER } from "./rig.ts";

const test = describe("8254");

const HZ = 1_193_182n;
const SECOND = 1_000_000_000n;

/** Ticks as time, rounded up. */
const ns = (ticks: number): bigint => (BigInt(ticks) * SECOND + HZ - 1n) / HZ;

function setUp(machine: Machine, channel: number, mode: number, count: number, bcd = 0): void {
  machine.out(0x43, (channel << 6) | 0x30 | (mode << 1) | bcd);
  machine.out(0x40 + channel, count & 0xff, (count >> 8) & 0xff);
}

function count(machine: Machine, channel: number): number {
  machine.out(0x43, channel << 6);
  const low = machine.in(0x40 + channel);
  return low | (machine.in(0x40 + channel) << 8);
}

function status(machine: Machine, channel: number): number {
  machine.out(0x43, 0xe0 | (2 << channel));
  return machine.in(0x40 + channel);
}

const output = (machine: Machine): number => (machine.in(0x61) >> 5) & 1;

test("mode 0: OUT falls with the control word and rises at the count, which goes on", () => {
  const machine = new Machine();
  machine.out(0x61, 1);
  machine.out(0x43, 0xb0);
  assert.is(output(machine), 0);
  machine.advance(SECOND);
  assert.is(output(machine), 0, "no count yet");
  machine.out(0x42, 0xe8);
  machine.advance(SECOND);
  machine.out(0x42, 0x03);
  assert.is(count(machine, 2), 1000);
  machine.advance(ns(999));
  assert.is(output(machine), 0);
  assert.is(count(machine, 2), 1);
  machine.advance(ns(1));
  assert.is(output(machine), 1);
  machine.advance(ns(10));
  assert.is(count(machine, 2), 0x1_0000 - 10);
  machine.out(0x42, 5);
  assert.is(output(machine), 0, "the first byte of a new count stops it");
});

test("mode 0: the gate holds the count", () => {
  const machine = new Machine();
  setUp(machine, 2, 0, 1000);
  machine.advance(SECOND);
  assert.is(count(machine, 2), 1000);
  machine.out(0x61, 1);
  machine.advance(ns(400));
  machine.out(0x61, 0);
  machine.advance(SECOND);
  assert.is(count(machine, 2), 600);
  assert.is(output(machine), 0);
  machine.out(0x61, 1);
  machine.advance(ns(600));
  assert.is(output(machine), 1);
});

test("mode 1: a shot for each rise of the gate; a new count is for the next", () => {
  const machine = new Machine();
  setUp(machine, 2, 1, 100);
  machine.advance(SECOND);
  assert.is(output(machine), 1);
  machine.out(0x61, 1);
  assert.is(output(machine), 0);
  machine.out(0x42, 200, 0);
  machine.out(0x61, 0);
  machine.advance(ns(99));
  assert.is(output(machine), 0, "the gate's fall does not matter");
  machine.advance(ns(1));
  assert.is(output(machine), 1);
  machine.out(0x61, 1);
  machine.advance(ns(199));
  assert.is(output(machine), 0);
  machine.advance(ns(1));
  assert.is(output(machine), 1);
});

test("mode 2: OUT is low for one tick of each period", () => {
  const machine = new Machine();
  machine.out(0x61, 1);
  setUp(machine, 2, 2, 5);
  const seen: number[] = [];
  for (let tick = 0; tick < 10; tick++) {
    seen.push(output(machine));
    machine.ns += ns(1);
  }
  assert.equal(seen, [1, 1, 1, 1, 0, 1, 1, 1, 1, 0]);
});

test("mode 2: a new count waits for the end of the period, and that it waits is in the status", () => {
  const machine = new Machine();
  machine.out(0x61, 1);
  setUp(machine, 2, 2, 1000);
  machine.advance(ns(300));
  machine.out(0x42, 0xd0, 0x07);
  assert.is(status(machine, 2) & 0x40, 0x40);
  assert.is(count(machine, 2), 700);
  machine.advance(ns(700));
  assert.is(count(machine, 2), 2000);
  assert.is(status(machine, 2) & 0x40, 0);
  machine.advance(ns(2500));
  assert.is(count(machine, 2), 1500);
});

test("mode 2 and 3: the gate keeps OUT high, and its rise begins anew", () => {
  for (const mode of [2, 3]) {
    const machine = new Machine();
    machine.out(0x61, 1);
    setUp(machine, 2, mode, 1000);
    machine.advance(ns(700));
    machine.out(0x61, 0);
    machine.advance(SECOND);
    assert.is(output(machine), 1);
    machine.out(0x61, 1);
    assert.is(count(machine, 2), 1000);
  }
});

test("mode 3: a square wave, of an odd count with the longer half high; counts down by two", () => {
  const machine = new Machine();
  machine.out(0x61, 1);
  setUp(machine, 2, 3, 5);
  const seen: number[] = [];
  for (let tick = 0; tick < 10; tick++) {
    seen.push(output(machine));
    machine.ns += ns(1);
  }
  assert.equal(seen, [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]);
  setUp(machine, 2, 7, 1000);
  machine.advance(ns(100));
  assert.is(count(machine, 2), 800);
  assert.is(status(machine, 2), 0xb6, "modes 6 and 7 are 2 and 3");
});

test("modes 4 and 5: a strobe of one tick, by software and by the gate", () => {
  const machine = new Machine();
  machine.out(0x61, 1);
  setUp(machine, 2, 4, 10);
  machine.ns += ns(9);
  assert.is(output(machine), 1);
  machine.ns += ns(1);
  assert.is(output(machine), 0);
  machine.ns += ns(1);
  assert.is(output(machine), 1);
  machine.out(0x61, 0);
  setUp(machine, 2, 5, 10);
  machine.ns += SECOND;
  machine.out(0x61, 1);
  machine.ns += ns(10);
  assert.is(output(machine), 0);
  machine.ns += ns(1);
  assert.is(output(machine), 1);
});

test("binary coded decimal", () => {
  const machine = new Machine();
  machine.out(0x61, 1);
  setUp(machine, 2, 2, 0x1234, 1);
  machine.advance(ns(35));
  assert.is(count(machine, 2), 0x1199);
  assert.is(status(machine, 2) & 1, 1);
  setUp(machine, 2, 0, 0, 1);
  machine.advance(ns(1));
  assert.is(count(machine, 2), 0x9999);
  machine.advance(ns(9999));
  assert.is(output(machine), 1);
});

test("a latched count stays until it is read, and a second latch command does nothing", () => {
  const machine = new Machine();
  setUp(machine, 0, 2, 10000);
  machine.advance(ns(1000));
  machine.out(0x43, 0);
  machine.advance(ns(1000));
  machine.out(0x43, 0);
  assert.is(machine.in(0x40) | (machine.in(0x40) << 8), 9000);
  assert.is(machine.in(0x40) | (machine.in(0x40) << 8), 8000);
});

test("read-back: count and status of several counters, status first", () => {
  const machine = new Machine();
  setUp(machine, 0, 2, 10000);
  machine.out(0x61, 1);
  setUp(machine, 2, 3, 20000);
  machine.advance(ns(1000));
  machine.out(0x43, 0xc0 | 0x0a);
  machine.advance(ns(500));
  assert.is(machine.in(0x40), 0xb4);
  assert.is(machine.in(0x40) | (machine.in(0x40) << 8), 9000);
  assert.is(machine.in(0x42), 0xb6);
  assert.is(machine.in(0x42) | (machine.in(0x42) << 8), 18000);
});

test("status: null count from the control word to the count", () => {
  const machine = new Machine();
  machine.out(0x43, 0x38);
  assert.is(status(machine, 0), 0xf8);
  machine.out(0x40, 0x10);
  assert.is(status(machine, 0) & 0x40, 0x40);
  machine.out(0x40, 0);
  assert.is(status(machine, 0), 0xb8);
});

test("one byte alone: the low one, or the high one", () => {
  const machine = new Machine();
  machine.out(0x43, 0x14);
  machine.out(0x40, 0x80);
  assert.is(machine.in(0x40), 0x80);
  machine.advance(ns(1));
  assert.is(machine.in(0x40), 0x7f);
  machine.out(0x43, 0x24);
  machine.out(0x40, 0x80);
  machine.advance(ns(1));
  assert.is(machine.in(0x40), 0x7f);
  machine.out(0x43, 0x00);
  assert.is(machine.in(0x40), 0x7f);
});

test("port 61: gate, speaker, output, and the refresh that toggles", () => {
  const machine = new Machine();
  machine.out(0x61, 0xff);
  assert.is(machine.in(0x61) & 0xef, 3);
  setUp(machine, 2, 3, 1000);
  assert.is(machine.in(0x61) & 0xef, 0x23);
  machine.out(0x61, 2);
  assert.is(machine.in(0x61) & 0xef, 0x22);
  const first = machine.in(0x61) & 0x10;
  machine.advance(1n << 14n);
  assert.is.not(machine.in(0x61) & 0x10, first);
});

function interrupts(machine: Machine): number {
  machine.cpu.apic.runTimers();
  return machine.cpu.takeAll().length;
}

/** Channel 0 is an edge at pin 0. */
function withTimer(): Machine {
  const machine = new Machine();
  machine.cpu.enable();
  machine.cpu.write(0x350, 0x1_0000);
  machine.redirect(0, 0x30);
  return machine;
}

test("channel 0, periodic: an interrupt each period; those that nobody waited for are one", () => {
  for (const mode of [2, 3]) {
    const machine = withTimer();
    assert.is(machine.cpu.apic.nextDeadline() & NEVER, NEVER);
    setUp(machine, 0, mode, 1000);
    assert.is(interrupts(machine), 0);
    const deadline = machine.cpu.apic.nextDeadline();
    assert.is(deadline, machine.tsc + 2n * ns(1000));
    assert.is(machine.cpu.apic.sleepNs(), ns(1000) + 1n);
    machine.advance(ns(1000));
    assert.is(machine.cpu.apic.sleepNs(), 0n);
    assert.equal([interrupts(machine), interrupts(machine)], [1, 0]);
    for (let period = 2; period < 100; period++) {
      machine.advance(ns(1000));
      assert.is(interrupts(machine), 1, `period ${period}`);
    }
    machine.advance(ns(10_500));
    assert.is(interrupts(machine), 1);
    assert.ok(machine.cpu.apic.sleepNs() <= ns(1000));
  }
});

test("channel 0, one-shot: one interrupt for each count", () => {
  const machine = withTimer();
  for (const mode of [0, 4]) {
    setUp(machine, 0, mode, 500);
    machine.advance(ns(499));
    assert.is(interrupts(machine), 0);
    machine.advance(ns(2));
    assert.is(interrupts(machine), 1);
    machine.advance(ns(100_000));
    assert.is(interrupts(machine), 0);
    assert.is(machine.cpu.apic.sleepNs(), -1n);
    machine.out(0x40, 0x10, 0);
    machine.advance(ns(17));
    assert.is(interrupts(machine), 1);
  }
});

test("channel 0: a control word, or the first byte of a count, stops it", () => {
  const machine = withTimer();
  setUp(machine, 0, 2, 500);
  machine.out(0x43, 0x30);
  machine.advance(ns(10_000));
  assert.is(interrupts(machine), 0);
  machine.out(0x40, 0x10);
  machine.advance(ns(10_000));
  assert.is(interrupts(machine), 0);
});

test("channel 0 is line 0 of the PIC, too", () => {
  const machine = new Machine();
  machine.startPics();
  setUp(machine, 0, 2, 1000);
  machine.advance(ns(1000));
  machine.cpu.apic.runTimers();
  assert.is(machine.cpu.take(), 0x30);
  assert.is(machine.cpu.take(), undefined);
});

test("whoever makes the next edge come earlier wakes the first vCPU", () => {
  const machine = new Machine(2);
  setUp(machine, 0, 2, 0);
  machine.cpu.pending = 0;
  setUp(machine, 0, 2, 100);
  assert.is(machine.cpu.pending, 1);
  assert.is(machine.cpus[1]!.apic.nextDeadline() & NEVER, NEVER);
});

test("a clock that has run for years", () => {
  const machine = withTimer();
  setUp(machine, 0, 2, 1000);
  machine.ns += 20n * 365n * 86_400n * SECOND;
  assert.is(interrupts(machine), 1);
  machine.advance(ns(1000));
  assert.is(interrupts(machine), 1);
});

test.run();
