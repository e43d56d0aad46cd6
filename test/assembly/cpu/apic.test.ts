// SPDX-License-Identifier: Apache-2.0
import { CPU_ACTIVITY, CPU_LAPIC, CPU_SIPI_VECTOR } from "../../../assembly/cpu/layout.ts";
import * as reg from "../../../assembly/irqchip/layout.ts";
import { assert, describe } from "../../harness.ts";
import { type Cpu, Machine, NEVER } from "../irqchip/rig.ts";

const test = describe("local APIC");

const ENABLE_X2APIC = 0xc00n;
const MASKED = 0x1_0000;
const PERIODIC = 0x2_0000;
const DEADLINE = 0x4_0000;
const DIVIDE_BY_1 = 0xb;
const INIT = 4;
const SIPI = 8;
const SELF = 0x4_0000;
const ALL = 0x8_0000;
const OTHERS = 0xc_0000;
const LOGICAL = 0x800;

function enabled(cpuCount = 1): Machine {
  const machine = new Machine(cpuCount);
  for (const cpu of machine.cpus) {
    cpu.enable();
    cpu.pending = 0;
  }
  return machine;
}

function x2apic(cpuCount = 1): Machine {
  const machine = enabled(cpuCount);
  for (const cpu of machine.cpus) assert.ok(cpu.writeBase(cpu.base | ENABLE_X2APIC));
  return machine;
}

const msr = (register: number): number => 0x800 + (register >> 4);

/** Sends an interrupt to itself. */
function request(cpu: Cpu, ...vectors: number[]): void {
  for (const vector of vectors) cpu.write(reg.APIC_ICR, SELF | vector);
}

test("power-on: 11.4.7.1, LINT0 of the bootstrap processor as KVM has it", () => {
  const machine = new Machine(2);
  const [bsp, ap] = machine.cpus as [Cpu, Cpu];
  assert.is(bsp.base, 0xfee0_0900n);
  assert.is(ap.base, 0xfee0_0800n);
  assert.is(ap.read(reg.APIC_ID), 0x0100_0000);
  assert.is(ap.read(reg.APIC_VERSION), 0x5_0014);
  assert.is(ap.read(reg.APIC_DFR), 0xffff_ffff);
  assert.is(ap.read(reg.APIC_SVR), 0xff);
  for (let entry = reg.APIC_LVT_TIMER; entry <= reg.APIC_LVT_ERROR; entry += 0x10) assert.is(ap.read(entry), MASKED);
  assert.is(bsp.read(reg.APIC_LVT_LINT0), 0x700);
  for (const other of [0x80, 0x90, 0xa0, 0xd0, 0x280, 0x300, 0x310, 0x380, 0x390, 0x3e0]) assert.is(ap.read(other), 0);
});

test("registers in memory: read in parts, written as aligned words alone", () => {
  const { cpu } = enabled();
  cpu.write(reg.APIC_LDR, 0x1234_5678);
  assert.is(cpu.read(reg.APIC_LDR), 0x1200_0000);
  assert.is(Number(cpu.apic.readApic(reg.APIC_LDR + 3, 1)), 0x12);
  assert.is(Number(cpu.apic.readApic(reg.APIC_LDR + 2, 2)), 0x1200);
  assert.is(Number(cpu.apic.readApic(reg.APIC_LDR + 2, 4)), 0);
  assert.is(Number(cpu.apic.readApic(reg.APIC_LDR, 8)), 0);
  for (const [offset, sizeBytes] of [
    [0, 1],
    [0, 2],
    [0, 8],
    [4, 4],
  ] as const) {
    cpu.apic.writeApic(reg.APIC_TPR + offset, sizeBytes, 0x77);
    assert.is(cpu.read(reg.APIC_TPR), 0);
  }
});

test("what can be written of each register, and what cannot", () => {
  const { cpu } = enabled();
  for (const [register, expected] of [
    [reg.APIC_ID, 0xff00_0000],
    [reg.APIC_VERSION, 0x5_0014],
    [reg.APIC_TPR, 0xff],
    [reg.APIC_PPR, 0xff],
    [reg.APIC_LDR, 0xff00_0000],
    [reg.APIC_DFR, 0xffff_ffff],
    [reg.APIC_SVR, 0x3ff],
    [reg.APIC_ISR, 0],
    [reg.APIC_IRR, 0],
    [reg.APIC_TMR, 0],
    [reg.APIC_ICR2, 0xff00_0000],
    [reg.APIC_LVT_TIMER, 0x7_00ff],
    [reg.APIC_LVT_THERMAL, 0x1_07ff],
    [reg.APIC_LVT_PERFORMANCE, 0x1_07ff],
    [reg.APIC_LVT_LINT0, 0x1_a7ff],
    [reg.APIC_LVT_LINT1, 0x1_a7ff],
    [reg.APIC_LVT_ERROR, 0x1_00ff],
    [reg.APIC_DIVIDE, 0xb],
  ] as const) {
    cpu.write(register, 0xffff_ffff);
    assert.is(cpu.read(register), expected, register.toString(16));
  }
  cpu.write(reg.APIC_DFR, 0);
  assert.is(cpu.read(reg.APIC_DFR), 0x0fff_ffff);
});

test("priorities: 11.8.3", () => {
  const { cpu } = enabled();
  request(cpu, 0x41, 0x63, 0x62);
  assert.equal(cpu.vectors(reg.APIC_IRR), [0x41, 0x62, 0x63]);
  assert.is(cpu.take(), 0x63);
  assert.equal(cpu.vectors(reg.APIC_ISR), [0x63]);
  assert.is(cpu.read(reg.APIC_PPR), 0x60);
  assert.is(cpu.take(), undefined, "the same class");
  request(cpu, 0x70);
  assert.is(cpu.take(), 0x70);
  cpu.write(reg.APIC_EOI, 0);
  assert.is(cpu.take(), undefined);
  cpu.write(reg.APIC_EOI, 0);
  assert.is(cpu.take(), 0x62);
  cpu.write(reg.APIC_EOI, 0);
  cpu.write(reg.APIC_TPR, 0x45);
  assert.is(cpu.read(reg.APIC_PPR), 0x45);
  assert.is(cpu.take(), undefined);
  cpu.write(reg.APIC_TPR, 0x3f);
  assert.is(cpu.take(), 0x41);
  cpu.write(reg.APIC_EOI, 0);
  cpu.write(reg.APIC_EOI, 0);
  assert.equal(cpu.takeAll(), []);
});

test("CPU_PENDING_INTERRUPT is set by all that may make an interrupt deliverable, cleared when there is none", () => {
  const { cpu } = enabled();
  request(cpu, 0x41);
  assert.is(cpu.pending, 1);
  cpu.write(reg.APIC_TPR, 0x50);
  assert.is(cpu.apic.highestInterrupt(), -1);
  assert.is(cpu.pending, 0);
  cpu.write(reg.APIC_TPR, 0);
  assert.is(cpu.pending, 1);
  assert.is(cpu.apic.highestInterrupt(), 0x41);
  assert.is(cpu.pending, 1, "it has not been taken yet");
  cpu.apic.acknowledge();
  request(cpu, 0x42);
  assert.is(cpu.apic.highestInterrupt(), -1);
  cpu.write(reg.APIC_EOI, 0);
  assert.is(cpu.pending, 1);
});

test("nothing to acknowledge: the spurious vector, which is not in service", () => {
  const { cpu } = enabled();
  cpu.write(reg.APIC_LVT_LINT0, MASKED);
  assert.is(cpu.apic.acknowledge() & 0xff, 0xff);
  assert.equal(cpu.vectors(reg.APIC_ISR), []);
});

test("CR8 is TPR's upper half", () => {
  const { cpu } = enabled();
  assert.is(cpu.apic.writeCr8(9n), 1);
  assert.is(cpu.read(reg.APIC_TPR), 0x90);
  cpu.write(reg.APIC_TPR, 0x3c);
  assert.is(cpu.apic.readCr8(), 3n);
  assert.is(cpu.apic.writeCr8(16n), 0);
  assert.ok(cpu.takeFault());
  assert.is(cpu.apic.readCr8(), 3n);
});

test("disabled by software: LVT entries are masked, and nothing more is accepted; what is pending stays", () => {
  const { cpu } = enabled();
  cpu.write(reg.APIC_LVT_TIMER, 0x30);
  request(cpu, 0x41);
  cpu.write(reg.APIC_SVR, 0xff);
  assert.is(cpu.read(reg.APIC_LVT_TIMER), MASKED | 0x30);
  cpu.write(reg.APIC_LVT_TIMER, 0x30);
  assert.is(cpu.read(reg.APIC_LVT_TIMER), MASKED | 0x30);
  request(cpu, 0x42);
  assert.equal(cpu.takeAll(), [0x41]);
});

// ── IA32_APIC_BASE ──

test("IA32_APIC_BASE: figure 11-27, all transitions", () => {
  const OFF = 0xfee0_0000n;
  const XAPIC = 0xfee0_0800n;
  const X2APIC = 0xfee0_0c00n;
  const INVALID = 0xfee0_0400n;
  for (const [from, to, isAllowed] of [
    [[XAPIC], X2APIC, true],
    [[XAPIC], OFF, true],
    [[XAPIC], INVALID, false],
    [[XAPIC, X2APIC], XAPIC, false],
    [[XAPIC, X2APIC], OFF, true],
    [[XAPIC, X2APIC], INVALID, false],
    [[XAPIC, OFF], X2APIC, false],
    [[XAPIC, OFF], XAPIC, true],
    [[XAPIC, OFF], INVALID, false],
  ] as const) {
    const { cpu } = new Machine();
    for (const base of from) assert.ok(cpu.writeBase(base));
    const before = cpu.base;
    assert.is(cpu.writeBase(to), isAllowed, `${from} to ${to}`);
    assert.is(cpu.base, isAllowed ? to | 0x100n : before);
  }
});

test("IA32_APIC_BASE: reserved bits are #GP, the bootstrap processor's flag stays what it is", () => {
  const machine = new Machine(2);
  for (const bit of [0n, 7n, 9n, 46n, 63n]) assert.not(machine.cpu.writeBase(0xfee0_0900n | (1n << bit)));
  assert.ok(machine.cpu.writeBase(0xfee0_0800n));
  assert.is(machine.cpu.base, 0xfee0_0900n);
  assert.ok(machine.cpus[1]!.writeBase(0x1_fee0_0900n));
  assert.is(machine.cpus[1]!.base, 0x1_fee0_0800n);
});

test("switched off, it forgets", () => {
  const { cpu } = enabled();
  cpu.write(reg.APIC_ID, 0x0500_0000);
  request(cpu, 0x41);
  cpu.writeBase(0xfee0_0000n);
  cpu.writeBase(0xfee0_0800n);
  assert.is(cpu.read(reg.APIC_SVR), 0xff);
  assert.is(cpu.read(reg.APIC_ID), 0);
  assert.equal(cpu.vectors(reg.APIC_IRR), []);
});

// ── x2APIC ──

test("x2APIC: IDs are as wide as the register, LDR follows from the ID", () => {
  const { cpus } = x2apic(3);
  assert.is(cpus[2]!.readMsr(0x802), 2n);
  assert.is(cpus[2]!.readMsr(0x80d), 4n);
  assert.is(cpus[2]!.page.getUint32(CPU_LAPIC + reg.APIC_ID, true), 0x0200_0000, "in the form of kvm_lapic_state");
});

test("x2APIC: table 11-6, which MSRs there are to read and to write", () => {
  const { cpu } = x2apic();
  const readable: number[] = [];
  const writable: number[] = [];
  for (let index = 0x800; index <= 0x8ff; index++) {
    if (cpu.readMsr(index) !== undefined) readable.push(index);
    if (index !== 0x830 && cpu.writeMsr(index, 0n)) writable.push(index);
  }
  const range = (first: number, last: number): number[] =>
    Array.from({ length: last - first + 1 }, (_, at) => first + at);
  assert.equal(readable, [
    ...[0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f],
    ...range(0x810, 0x828),
    0x830,
    ...range(0x832, 0x839),
    0x83e,
  ]);
  assert.equal(writable, [0x808, 0x80b, 0x80f, 0x828, ...range(0x832, 0x838), 0x83e, 0x83f]);
});

test("x2APIC: reserved bits are #GP", () => {
  const { cpu } = x2apic();
  for (const [register, bits] of [
    [reg.APIC_TPR, 0xff],
    [reg.APIC_EOI, 0],
    [reg.APIC_SVR, 0x3ff],
    [reg.APIC_ESR, 0],
    [reg.APIC_LVT_TIMER, 0x7_50ff],
    [reg.APIC_LVT_THERMAL, 0x1_57ff],
    [reg.APIC_LVT_LINT0, 0x1_f7ff],
    [reg.APIC_LVT_ERROR, 0x1_50ff],
    [reg.APIC_DIVIDE, 0xb],
    [reg.APIC_INITIAL_COUNT, 0xffff_ffff],
    [reg.APIC_SELF_IPI, 0xff],
  ] as const) {
    for (let bit = 0; bit < 64; bit++) {
      const isReserved = bit >= 32 || !((bits >>> bit) & 1);
      assert.is(cpu.writeMsr(msr(register), 1n << BigInt(bit)), !isReserved, `${register.toString(16)} bit ${bit}`);
    }
  }
  for (const bit of [13, 16, 17, 20, 31]) assert.not(cpu.writeMsr(0x830, 0x4_0040n | (1n << BigInt(bit))));
});

test("x2APIC: MSRs are #GP in xAPIC mode", () => {
  const { cpu } = enabled();
  assert.is(cpu.readMsr(0x802), undefined);
  assert.not(cpu.writeMsr(0x808, 0n));
});

test("x2APIC: ICR is one register, SELF IPI another", () => {
  const { cpus } = x2apic(2);
  assert.ok(cpus[0]!.writeMsr(0x830, 0x1_0000_1055n));
  assert.is(cpus[0]!.readMsr(0x830), 0x1_0000_0055n);
  assert.equal(cpus[1]!.vectors(reg.APIC_IRR), [0x55]);
  assert.ok(cpus[0]!.writeMsr(0x83f, 0x66n));
  assert.equal(cpus[0]!.vectors(reg.APIC_IRR), [0x66]);
  assert.equal(cpus[1]!.vectors(reg.APIC_IRR), [0x55]);
});

// ── Interprocessor interrupts ──

function takers(machine: Machine): number[] {
  const found = [...machine.cpus.entries()].filter(([, cpu]) => cpu.vectors(reg.APIC_IRR).includes(0x55));
  for (const cpu of machine.cpus) {
    for (let word = 0; word < 8; word++) cpu.page.setUint32(CPU_LAPIC + reg.APIC_IRR + word * 16, 0, true);
  }
  return found.map(([index]) => index);
}

function send(machine: Machine, low: number, destination = 0): number[] {
  machine.cpu.write(reg.APIC_ICR2, (destination << 24) >>> 0);
  machine.cpu.write(reg.APIC_ICR, low);
  return takers(machine);
}

test("destinations and shorthands of an xAPIC", () => {
  const machine = enabled(4);
  assert.equal(send(machine, 0x55, 3), [3]);
  assert.equal(send(machine, 0x55, 4), []);
  assert.equal(send(machine, 0x55, 0xff), [0, 1, 2, 3]);
  assert.equal(send(machine, SELF | 0x55, 3), [0]);
  assert.equal(send(machine, ALL | 0x55), [0, 1, 2, 3]);
  assert.equal(send(machine, OTHERS | 0x55), [1, 2, 3]);
  for (const [index, cpu] of machine.cpus.entries()) cpu.write(reg.APIC_LDR, 1 << (24 + index));
  assert.equal(send(machine, LOGICAL | 0x55, 0b1001), [0, 3]);
  for (const [index, cpu] of machine.cpus.entries()) {
    cpu.write(reg.APIC_DFR, 0);
    cpu.write(reg.APIC_LDR, ((index >> 1) << 28) | (1 << (24 + (index & 1))));
  }
  assert.equal(send(machine, LOGICAL | 0x55, 0x13), [2, 3]);
  assert.equal(send(machine, LOGICAL | 0x55, 0x02), [1]);
  assert.is(machine.cpu.read(reg.APIC_ICR), LOGICAL | 0x55, "delivery status is idle");
});

test("destinations of an x2APIC: physical, cluster, broadcast", () => {
  const machine = x2apic(4);
  const sendTo = (destination: number, low: number): number[] => {
    assert.ok(machine.cpu.writeMsr(0x830, (BigInt(destination) << 32n) | BigInt(low)));
    return takers(machine);
  };
  assert.equal(sendTo(2, 0x55), [2]);
  assert.equal(sendTo(0xff, 0x55), [], "no broadcast");
  assert.equal(sendTo(0xffff_ffff, 0x55), [0, 1, 2, 3]);
  assert.equal(sendTo(0b0110, LOGICAL | 0x55), [1, 2]);
  assert.equal(sendTo(0x1_0006, LOGICAL | 0x55), [], "another cluster");
  assert.equal(sendTo(0xffff_ffff, LOGICAL | 0x55), [0, 1, 2, 3]);
});

test("lowest priority takes turns", () => {
  const machine = enabled(3);
  const seen = Array.from({ length: 6 }, () => send(machine, 0x155, 0xff));
  assert.equal(
    seen.map(({ length }) => length),
    [1, 1, 1, 1, 1, 1],
  );
  assert.equal(seen.slice(0, 3).flat().sort(), [0, 1, 2]);
});

test("NMI, INIT, startup", () => {
  const machine = enabled(2);
  const ap = machine.cpus[1]!;
  machine.cpu.write(reg.APIC_ICR2, 0x0100_0000);
  machine.cpu.write(reg.APIC_ICR, 0x400);
  assert.is(ap.pending, 2);
  ap.pending = 0;
  machine.cpu.write(reg.APIC_ICR, 0x608);
  assert.is(ap.pending, SIPI);
  assert.is(ap.page.getUint32(CPU_SIPI_VECTOR, true), 8);
  machine.cpu.write(reg.APIC_ICR, 0x8500);
  assert.is(ap.pending, SIPI, "INIT level de-assert is nothing");
  machine.cpu.write(reg.APIC_ICR, 0x4500);
  assert.is(ap.pending, INIT, "INIT makes an earlier startup void");
  machine.cpu.write(reg.APIC_ICR, 0x609);
  assert.is(ap.pending, INIT | SIPI);
  assert.is(ap.page.getUint32(CPU_ACTIVITY, true), 0, "the rest is the vCPU's business");
});

test("NMI and INIT reach an APIC that is disabled by software, but not one that is switched off", () => {
  const machine = enabled(2);
  const ap = machine.cpus[1]!;
  ap.write(reg.APIC_SVR, 0xff);
  assert.equal(send(machine, 0x55, 1), []);
  machine.cpu.write(reg.APIC_ICR, 0x4500);
  assert.is(ap.pending, INIT);
  ap.pending = 0;
  ap.writeBase(0xfee0_0000n);
  ap.pending = 0;
  machine.cpu.write(reg.APIC_ICR, 0x4500);
  assert.is(ap.pending, 0);
});

test("INIT resets all but ID and mode", () => {
  const machine = x2apic(2);
  const ap = machine.cpus[1]!;
  ap.writeMsr(0x808, 0x20n);
  ap.apic.initApic();
  assert.is(ap.base, 0xfee0_0c00n);
  assert.is(ap.readMsr(0x802), 1n);
  assert.is(ap.readMsr(0x80d), 2n);
  assert.is(ap.readMsr(0x808), 0n);
  assert.is(ap.readMsr(0x80f), 0xffn);
});

// ── Errors ──

test("ESR: illegal vectors and registers, since it was last written; with an interrupt", () => {
  const machine = enabled(2);
  const { cpu } = machine;
  cpu.write(reg.APIC_LVT_ERROR, 0x77);
  cpu.write(reg.APIC_ICR2, 0x0100_0000);
  cpu.write(reg.APIC_ICR, 0x0f);
  assert.is(cpu.read(reg.APIC_ESR), 0);
  cpu.write(reg.APIC_ESR, 0);
  assert.is(cpu.read(reg.APIC_ESR), 0x20);
  assert.equal(cpu.takeAll(), [0x77]);
  cpu.read(0x3f0);
  cpu.write(0x40, 0);
  cpu.write(reg.APIC_ESR, 0);
  assert.is(cpu.read(reg.APIC_ESR), 0x80);
  cpu.write(reg.APIC_ESR, 0);
  assert.is(cpu.read(reg.APIC_ESR), 0);
});

test("ESR: an illegal vector is received; an error's own interrupt with one ends there", () => {
  const machine = enabled();
  const { cpu } = machine;
  cpu.write(reg.APIC_LVT_LINT0, MASKED);
  cpu.write(reg.APIC_LVT_ERROR, 0x05);
  machine.redirect(3, 0x07);
  machine.raise(3);
  cpu.write(reg.APIC_ESR, 0);
  assert.is(cpu.read(reg.APIC_ESR), 0x40);
  assert.equal(cpu.takeAll(), []);
});

// ── Timer ──

const run = (machine: Machine): number[] => {
  machine.cpu.apic.runTimers();
  return machine.cpu.takeAll();
};

test("one-shot: counts down at 1 GHz by the divisor, and is done", () => {
  for (const [divide, shift] of [
    [0b1011, 0n],
    [0b0000, 1n],
    [0b0001, 2n],
    [0b0010, 3n],
    [0b0011, 4n],
    [0b1000, 5n],
    [0b1001, 6n],
    [0b1010, 7n],
  ] as const) {
    const machine = enabled();
    const { cpu } = machine;
    cpu.write(reg.APIC_LVT_TIMER, 0x30);
    cpu.write(reg.APIC_DIVIDE, divide);
    cpu.write(reg.APIC_INITIAL_COUNT, 1000);
    assert.is(cpu.read(reg.APIC_CURRENT_COUNT), 1000);
    machine.advance(400n << shift);
    assert.is(cpu.read(reg.APIC_CURRENT_COUNT), 600);
    assert.is(cpu.apic.sleepNs(), (600n << shift) + 1n);
    assert.equal(run(machine), []);
    machine.advance(600n << shift);
    assert.is(cpu.read(reg.APIC_CURRENT_COUNT), 0);
    assert.is(cpu.apic.sleepNs(), 0n);
    assert.equal(run(machine), [0x30]);
    machine.advance(10_000n << shift);
    assert.equal(run(machine), []);
    assert.is(cpu.apic.sleepNs(), -1n);
    assert.is(cpu.read(reg.APIC_INITIAL_COUNT), 1000);
  }
});

test("periodic: no drift, and what was missed is one", () => {
  const machine = enabled();
  const { cpu } = machine;
  cpu.write(reg.APIC_DIVIDE, DIVIDE_BY_1);
  cpu.write(reg.APIC_LVT_TIMER, PERIODIC | 0x30);
  cpu.write(reg.APIC_INITIAL_COUNT, 1000);
  for (let period = 0; period < 50; period++) {
    machine.advance(999n);
    assert.equal(run(machine), []);
    machine.advance(1n);
    assert.equal(run(machine), [0x30]);
  }
  machine.advance(2_300n);
  assert.is(cpu.read(reg.APIC_CURRENT_COUNT), 700, "before the interrupt was delivered, too");
  assert.equal(run(machine), [0x30]);
  machine.advance(699n);
  assert.equal(run(machine), []);
  machine.advance(1n);
  assert.equal(run(machine), [0x30]);
});

test("the timer runs masked; 0 stops it; a new count starts it over", () => {
  const machine = enabled();
  const { cpu } = machine;
  cpu.write(reg.APIC_DIVIDE, DIVIDE_BY_1);
  cpu.write(reg.APIC_LVT_TIMER, MASKED | 0x30);
  cpu.write(reg.APIC_INITIAL_COUNT, 1000);
  machine.advance(1000n);
  assert.equal(run(machine), []);
  cpu.write(reg.APIC_LVT_TIMER, 0x30);
  assert.equal(run(machine), []);
  cpu.write(reg.APIC_INITIAL_COUNT, 1000);
  machine.advance(900n);
  cpu.write(reg.APIC_INITIAL_COUNT, 500);
  machine.advance(499n);
  assert.equal(run(machine), []);
  cpu.write(reg.APIC_INITIAL_COUNT, 0);
  machine.advance(1000n);
  assert.equal(run(machine), []);
});

test("a new divisor: what is left of the count stays", () => {
  const machine = enabled();
  const { cpu } = machine;
  cpu.write(reg.APIC_DIVIDE, DIVIDE_BY_1);
  cpu.write(reg.APIC_LVT_TIMER, 0x30);
  cpu.write(reg.APIC_INITIAL_COUNT, 1000);
  machine.advance(600n);
  cpu.write(reg.APIC_DIVIDE, 0);
  assert.is(cpu.read(reg.APIC_CURRENT_COUNT), 400);
  machine.advance(799n);
  assert.equal(run(machine), []);
  machine.advance(1n);
  assert.equal(run(machine), [0x30]);
});

test("TSC deadline: by the guest's TSC, once, and 0 afterwards", () => {
  for (const offset of [0n, 5_000_000n, -999_000_000_000n]) {
    const machine = enabled();
    const { cpu } = machine;
    cpu.tscOffset = offset;
    const guestTsc = (): bigint => BigInt.asUintN(64, machine.tsc + offset);
    cpu.write(reg.APIC_LVT_TIMER, DEADLINE | 0x30);
    cpu.write(reg.APIC_INITIAL_COUNT, 1000);
    assert.is(cpu.read(reg.APIC_INITIAL_COUNT), 0, "written without effect");
    cpu.apic.writeTscDeadline(guestTsc() + 2000n);
    assert.is(cpu.apic.nextDeadline(), machine.tsc + 2000n);
    machine.advance(999n);
    assert.equal(run(machine), []);
    machine.advance(1n);
    assert.equal(run(machine), [0x30]);
    assert.is(cpu.apic.readTscDeadline(), 0n);
    cpu.apic.writeTscDeadline(1n);
    assert.equal(run(machine), [0x30], "long past");
    cpu.apic.writeTscDeadline(NEVER);
    assert.equal(run(machine), []);
    assert.ok(cpu.apic.sleepNs() === -1n || cpu.apic.sleepNs() > 1_000_000_000_000n);
    cpu.apic.writeTscDeadline(0n);
    assert.is(cpu.apic.sleepNs(), -1n);
  }
});

test("TSC deadline: the MSR is without effect in other modes, and to change the mode stops the timer", () => {
  const machine = enabled();
  const { cpu } = machine;
  cpu.apic.writeTscDeadline(machine.tsc + 10n);
  assert.is(cpu.apic.readTscDeadline(), 0n);
  cpu.write(reg.APIC_DIVIDE, DIVIDE_BY_1);
  cpu.write(reg.APIC_INITIAL_COUNT, 1000);
  cpu.write(reg.APIC_LVT_TIMER, DEADLINE | 0x30);
  assert.is(cpu.read(reg.APIC_INITIAL_COUNT), 0);
  assert.is(cpu.apic.sleepNs(), -1n);
  cpu.apic.writeTscDeadline(machine.tsc + 10n);
  cpu.write(reg.APIC_LVT_TIMER, PERIODIC | 0x30);
  assert.is(cpu.apic.readTscDeadline(), 0n);
  assert.is(cpu.apic.sleepNs(), -1n);
  machine.advance(1000n);
  assert.equal(run(machine), []);
});

test("the longest count there is, at frequencies of the TSC that are and that are not", () => {
  for (const tscKhz of [1, 999_999, 2_999_999, 6_000_000]) {
    const machine = new Machine(1, tscKhz);
    const { cpu } = machine;
    cpu.enable();
    cpu.write(reg.APIC_LVT_TIMER, PERIODIC | 0x30);
    cpu.write(reg.APIC_DIVIDE, 0b1010);
    cpu.write(reg.APIC_INITIAL_COUNT, 0xffff_ffff);
    const left = cpu.read(reg.APIC_CURRENT_COUNT);
    assert.ok(left > 0xffff_0000, `${left}`);
    const ns = 0xffff_ffffn * 128n;
    const difference = cpu.apic.sleepNs() - ns;
    assert.ok(difference > -2n && difference < 1_000_000n, `${difference} at ${tscKhz} kHz`);
    machine.tsc += (ns * BigInt(tscKhz)) / 1_000_000n + 1n;
    assert.equal(run(machine), [0x30]);
  }
});

test.run();
