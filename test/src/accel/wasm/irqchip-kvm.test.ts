// SPDX-License-Identifier: Apache-2.0
// The engine's interrupt controllers beside KVM's: the same is done to both, and both must come to the same state.
//
// Where KVM knowingly differs from the data sheets, the engine follows these, and such steps are left out: polls, special mask mode and ICW1 with
// something in service (PIC); ESR, vectors below 16, level triggered IPIs (local APIC); outputs and counts of modes that KVM simplifies (PIT).
import * as reg from "../../../../assembly/irqchip/layout.ts";
import * as abi from "../../../../ffi/kvm/abi.ts";
import { Machine } from "../../../assembly/irqchip/rig.ts";
import { assert, describe } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";
import { KvmTwin, type Step } from "./kvm-twin.ts";

const test = describe("interrupt controllers beside KVM's");
const skip = kvmMissing();

const IOAPIC_GPA = 0xfec0_0000;
const LAPIC_GPA = 0xfee0_0000;
const X2APIC_BASE = 0xfee0_0c00n;
const STEPS = 3000;
const LEVEL = 0x8000n;
const UNCOMPARED: readonly number[] = [reg.APIC_CURRENT_COUNT, reg.APIC_PPR, reg.APIC_ICR + 4];

/** xorshift32: the same steps each time. */
class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  word(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  below(limit: number): number {
    return this.word() % limit;
  }

  oneOf<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!;
  }
}

class Twins {
  readonly kvm: KvmTwin;
  readonly machine: Machine;
  readonly cpuCount: number;

  constructor(cpuCount = 1, options: { hasPit?: boolean } = {}) {
    this.kvm = new KvmTwin(cpuCount, options);
    this.machine = new Machine(cpuCount);
    this.cpuCount = cpuCount;
  }

  setIrq(gsi: number, level: number): void {
    this.kvm.vm.setIrqLine(gsi, level);
    this.machine.chip.setIrq(gsi, level);
  }

  /** Both do it, and read the same; the steps are vCPU 0's. */
  run(...steps: Step[]): void {
    const results = this.kvm.run(steps);
    for (const [index, step] of steps.entries()) {
      const value = this.#perform(step);
      if (step.op === "in" || step.op === "read" || step.op === "rdmsr") {
        assert.is(value, results[index], `what ${describeStep(step)} reads`);
      }
    }
  }

  #perform(step: Step): bigint | undefined {
    const { chip, cpu } = this.machine;
    switch (step.op) {
      case "out":
        chip.writePort(step.port, step.value);
        return undefined;
      case "in":
        return BigInt(chip.readPort(step.port));
      case "write":
        if (chip.hasAddress(BigInt(step.gpa))) chip.writeIoapic(BigInt(step.gpa), 4, step.value);
        else cpu.write(step.gpa & 0xfff, step.value);
        return undefined;
      case "read":
        if (chip.hasAddress(BigInt(step.gpa))) return BigInt(chip.readIoapic(BigInt(step.gpa), 4) >>> 0);
        return BigInt(cpu.read(step.gpa & 0xfff));
      case "wrmsr":
        assert.ok(cpu.writeMsr(step.msr, step.value), describeStep(step));
        return undefined;
      case "rdmsr":
        return cpu.readMsr(step.msr);
    }
  }

  setChip(id: number, fill: (struct: Uint8Array) => void): void {
    const chip = this.kvm.getChip(id);
    fill(chip.subarray(8));
    this.kvm.vm.setIrqchip(chip);
    this.machine.state.setIrqchip(chip);
  }

  setLapic(index: number, fill: (registers: DataView) => void): void {
    const lapic = this.kvm.getLapic(index);
    fill(new DataView(lapic.buffer));
    this.kvm.setLapic(index, lapic);
    this.machine.state.setLapic(index, lapic);
  }

  setApicBase(index: number, base: bigint): void {
    this.kvm.setApicBase(index, base);
    assert.ok(this.machine.cpus[index]!.writeBase(base));
  }

  chip(id: number): Uint8Array {
    const chip = new Uint8Array(abi.KVM_IRQCHIP_SIZE_BYTES);
    chip[0] = id;
    this.machine.state.getIrqchip(chip);
    return chip;
  }

  lapic(index: number): Uint8Array {
    const lapic = new Uint8Array(abi.KVM_LAPIC_STATE_SIZE_BYTES);
    this.machine.state.getLapic(index, lapic);
    return lapic;
  }

  pit(): Uint8Array {
    const pit = new Uint8Array(abi.KVM_PIT_STATE2_SIZE_BYTES);
    this.machine.state.getPit2(pit);
    return pit;
  }

  /** `lines` are the I/O APIC's, where they are not all edges. */
  compare(after: string, lines?: readonly number[]): void {
    for (const [id, sizeBytes] of [
      [abi.KVM_IRQCHIP_PIC_MASTER, reg.PIC_SIZE_BYTES],
      [abi.KVM_IRQCHIP_PIC_SLAVE, reg.PIC_SIZE_BYTES],
      [abi.KVM_IRQCHIP_IOAPIC, reg.IOAPIC_SIZE_BYTES],
    ] as const) {
      // What is behind the chip's own struct is not KVM's to say.
      const [own, theirs] = [this.chip(id), this.kvm.getChip(id)].map((chip) => chip.subarray(8, 8 + sizeBytes));
      if (id === abi.KVM_IRQCHIP_IOAPIC && lines !== undefined) leaveOutLevels(own!, theirs!, lines, after);
      assert.is(hex(own!), hex(theirs!), `chip ${id} after ${after}`);
    }
    for (let index = 0; index < this.cpuCount; index++) {
      assert.equal(
        registersOf(this.lapic(index)),
        registersOf(this.kvm.getLapic(index)),
        `lapic ${index} after ${after}`,
      );
    }
  }

  [Symbol.dispose](): void {
    this.kvm.close();
  }
}

/** KVM does not save that a level is up at a pin that had an edge before: what is saved of levels is held against the lines. */
function leaveOutLevels(own: Uint8Array, theirs: Uint8Array, lines: readonly number[], after: string): void {
  const views = [own, theirs].map((bytes) => new DataView(bytes.buffer, bytes.byteOffset));
  let levels = 0;
  for (const [pin, line] of lines.entries()) {
    if (!(views[0]!.getBigUint64(reg.IOAPIC_REDIRTBL + 8 * pin, true) & LEVEL)) continue;
    levels |= 1 << pin;
    assert.is((views[0]!.getUint32(reg.IOAPIC_IRR_U32, true) >> pin) & 1, line, `pin ${pin} after ${after}`);
  }
  for (const view of views) {
    view.setUint32(reg.IOAPIC_IRR_U32, view.getUint32(reg.IOAPIC_IRR_U32, true) & ~levels, true);
  }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

/**
 * But for the current count, which goes by time; PPR, which KVM makes when it is read; and the upper half of an x2APIC's ICR where some processors
 * want it, which is in ICR2 as well.
 */
function registersOf(lapic: Uint8Array): Record<string, string> {
  const view = new DataView(lapic.buffer, lapic.byteOffset);
  const registers: Record<string, string> = {};
  for (let offset = 0; offset < lapic.length; offset += 4) {
    const value = view.getUint32(offset, true);
    if (value !== 0 && !UNCOMPARED.includes(offset)) registers[offset.toString(16)] = value.toString(16);
  }
  return registers;
}

function describeStep(step: Step): string {
  return Object.values(step)
    .map((part) => (typeof part === "string" ? part : part.toString(16)))
    .join(" ");
}

/** struct kvm_pit_state2 but for the times, which are each host's own. */
function withoutTimes(pit: Uint8Array): string {
  return hex(pit.filter((_, at) => at >= 72 || at % 24 < reg.PIT_COUNT_LOAD_TIME_I64));
}

test.skipIf(skip, "power-on", () => {
  using twins = new Twins(3, { hasPit: true });
  twins.compare("power-on");
  assert.is(withoutTimes(twins.pit()), withoutTimes(twins.kvm.getPit()));
});

test.skipIf(skip, "PIC: any line, any word", () => {
  using twins = new Twins();
  const chance = new Chance(0x8259);
  const levels = new Array<number>(16).fill(0);
  for (let step = 0; step < STEPS; step++) {
    let what: string;
    const number = chance.below(2);
    const port = number === 0 ? 0x20 : 0xa0;
    if (step % 50 === 0) {
      const irr = chance.below(256);
      for (const id of [0, 1]) {
        twins.setChip(id, (pic) => {
          pic.set([
            0,
            irr,
            chance.below(256),
            chance.below(256) & chance.below(256),
            chance.below(8),
            8 * chance.below(32),
          ]);
          pic[reg.PIC_INIT_STATE_U8] = 0;
          pic[reg.PIC_ELCR_U8] = chance.below(256) & pic[reg.PIC_ELCR_MASK_U8]!;
        });
      }
      levels.fill(0);
      what = "KVM_SET_IRQCHIP";
    } else {
      switch (chance.below(8)) {
        case 0:
        case 1:
        case 2: {
          const gsi = chance.below(16);
          levels[gsi] = 1 - levels[gsi]!;
          twins.setIrq(gsi, levels[gsi]!);
          what = `line ${gsi} ${levels[gsi]}`;
          break;
        }
        case 3: {
          const value = chance.below(256);
          twins.run({ op: "out", port: port + 1, value });
          what = `data ${number} ${value}`;
          break;
        }
        case 4: {
          const value = chance.below(256) & 0xe7;
          twins.run({ op: "out", port, value });
          what = `OCW2 ${number} ${value}`;
          break;
        }
        case 5: {
          const value = 8 | chance.below(4);
          twins.run({ op: "out", port, value });
          what = `OCW3 ${number} ${value}`;
          break;
        }
        case 6: {
          const value = chance.below(256);
          twins.run({ op: "out", port: 0x4d0 + number, value });
          what = `ELCR ${number} ${value}`;
          break;
        }
        default:
          twins.run({ op: "in", port }, { op: "in", port: port + 1 }, { op: "in", port: 0x4d0 + number });
          what = "reads";
          break;
      }
    }
    twins.compare(`step ${step}, ${what}`);
  }
});

test.skipIf(skip, "PIC: initialization, with nothing in service", () => {
  using twins = new Twins();
  const chance = new Chance(0x1c31);
  for (let round = 0; round < 200; round++) {
    const port = chance.oneOf([0x20, 0xa0]);
    const icw1 = 0x10 | chance.below(2);
    for (let line = 0; line < 3; line++) twins.setIrq(chance.below(16), chance.below(2));
    twins.run({ op: "out", port, value: icw1 });
    twins.compare(`ICW1 ${icw1}`);
    for (const word of ["ICW2", "ICW3", "ICW4", "OCW1"].filter((name) => name !== "ICW4" || icw1 & 1)) {
      const value = chance.below(256);
      twins.run({ op: "out", port: port + 1, value }, { op: "in", port: port + 1 }, { op: "in", port });
      twins.compare(`${word} ${value}`);
    }
  }
});

test.skipIf(skip, "I/O APIC: any pin, any redirection, with EOIs", () => {
  using twins = new Twins(2);
  const chance = new Chance(0x8209);
  for (let index = 0; index < 2; index++) {
    twins.setLapic(index, (registers) => {
      registers.setUint32(reg.APIC_SVR, 0x1ff, true);
      registers.setUint32(reg.APIC_LDR, 0x0100_0000 << index, true);
    });
  }
  const pin = (): number => chance.below(6) * 4;
  const levels = new Array<number>(reg.IOAPIC_PIN_COUNT).fill(0);
  for (let step = 0; step < STEPS; step++) {
    let what: string;
    switch (chance.below(6)) {
      case 0:
      case 1: {
        // To KVM, a line that is raised again has an edge that is still to be delivered by who restores it.
        const gsi = pin();
        const level = 1 - levels[gsi]!;
        levels[gsi] = level;
        twins.setIrq(gsi, level);
        what = `line ${gsi} ${level}`;
        break;
      }
      case 2: {
        const at = pin();
        const register = 0x10 + 2 * at + chance.below(2);
        // Fixed, 24 vectors: some are shared. Polarity, trigger mode, mask, destination mode and read-only bits as it comes.
        const low = 0x50 + chance.below(24) + (chance.word() & 0x1_f800);
        const value = register & 1 ? ((chance.oneOf([0, 1, 2, 3, 0xff, 0x10]) << 24) >>> 0) | chance.below(256) : low;
        // What becomes of a line that is up when it changes from level to edge is nowhere to be read.
        if (!(register & 1) && levels[at] === 1 && (twins.machine.redirection(at) ^ low) & 0x8000) {
          twins.setIrq(at, 0);
          levels[at] = 0;
        }
        twins.run(
          { op: "write", gpa: IOAPIC_GPA, value: register },
          { op: "write", gpa: IOAPIC_GPA + 0x10, value },
          { op: "read", gpa: IOAPIC_GPA + 0x10 },
        );
        what = `register ${register.toString(16)} ${value.toString(16)}`;
        break;
      }
      case 3: {
        const register = chance.below(0x48);
        twins.run(
          { op: "write", gpa: IOAPIC_GPA, value: register },
          { op: "read", gpa: IOAPIC_GPA },
          { op: "read", gpa: IOAPIC_GPA + 0x10 },
        );
        what = `reading register ${register.toString(16)}`;
        break;
      }
      case 4: {
        // What is requested of the first vCPU comes into service, and ends.
        twins.setLapic(0, (registers) => {
          for (let offset = 0; offset < 0x80; offset += 16) {
            registers.setUint32(reg.APIC_ISR + offset, registers.getUint32(reg.APIC_IRR + offset, true), true);
            registers.setUint32(reg.APIC_IRR + offset, 0, true);
          }
        });
        twins.compare(`step ${step}, taking`, levels);
        twins.run({ op: "write", gpa: LAPIC_GPA + reg.APIC_EOI, value: 0 });
        what = "EOI";
        break;
      }
      default: {
        const id = abi.KVM_IRQCHIP_IOAPIC;
        if (chance.below(8) === 0) {
          twins.setChip(id, (ioapic) => ioapic.set(twins.chip(id).subarray(8)));
          // That a line is up whose edge was delivered is in no saved state.
          for (const [gsi, level] of levels.entries()) if (level === 1) twins.setIrq(gsi, 0);
          levels.fill(0);
          what = "state there and back";
        } else {
          twins.run(
            { op: "write", gpa: IOAPIC_GPA, value: 0 },
            { op: "write", gpa: IOAPIC_GPA + 0x10, value: chance.word() },
          );
          what = "ID";
        }
        break;
      }
    }
    twins.compare(`step ${step}, ${what}`, levels);
  }
});

/** Registers that both have alike. The timer's interrupt is masked, and its counts are long. */
function lapicWrite(chance: Chance): [register: number, value: number] {
  const vector = 16 + chance.below(240);
  switch (chance.below(9)) {
    case 0:
      return [reg.APIC_TPR, chance.below(256)];
    case 1:
      return [reg.APIC_EOI, 0];
    case 2:
      return [reg.APIC_SVR, chance.below(8) === 0 ? chance.below(0x100) : 0x100 | chance.below(0x100)];
    case 3:
      return [chance.oneOf([reg.APIC_LVT_THERMAL, reg.APIC_LVT_PERFORMANCE]), 0x1_0000 | (chance.below(0x800) & 0x7ff)];
    case 4:
      return [chance.oneOf([reg.APIC_LVT_LINT0, reg.APIC_LVT_LINT1]), chance.word() & 0x1_a7ff];
    case 5:
      return [reg.APIC_LVT_ERROR, 0x1_0000 | vector];
    case 6:
      return [reg.APIC_LVT_TIMER, 0x1_0000 | vector | chance.oneOf([0, 0x2_0000, 0x4_0000])];
    case 7:
      return [reg.APIC_DIVIDE, chance.below(16) & 0xb];
    default:
      return [reg.APIC_INITIAL_COUNT, 0xf000_0000 + chance.below(0x1000_0000)];
  }
}

/** Fixed interrupts, with all shorthands and destination modes. */
function command(chance: Chance): number {
  return 16 + chance.below(240) + (chance.below(2) << 11) + 0x4000 + chance.below(4) * 0x4_0000;
}

test.skipIf(skip, "local APIC: registers in memory, and interrupts to others", () => {
  using twins = new Twins(3);
  const chance = new Chance(0xa91c);
  for (const index of [1, 2]) {
    twins.setLapic(index, (registers) => {
      registers.setUint32(reg.APIC_SVR, 0x1ff, true);
      registers.setUint32(reg.APIC_LDR, 0x0100_0000 << index, true);
    });
  }
  const write = (register: number, value: number): string => {
    twins.run({ op: "write", gpa: LAPIC_GPA + register, value: value >>> 0 });
    return `${register.toString(16)} ${(value >>> 0).toString(16)}`;
  };
  for (let step = 0; step < STEPS; step++) {
    let what: string;
    switch (chance.below(6)) {
      case 0:
        what = write(...lapicWrite(chance));
        break;
      case 1:
        what = write(reg.APIC_ICR2, chance.oneOf([0, 1, 2, 3, 5, 7, 0xff, 0x11]) << 24);
        break;
      case 2:
        what = write(reg.APIC_ICR, command(chance));
        break;
      case 3:
        what = write(reg.APIC_LDR, chance.word());
        break;
      case 4: {
        const index = chance.below(3);
        twins.setLapic(index, (registers) => {
          const offset = reg.APIC_ISR + 16 * (1 + chance.below(7));
          registers.setUint32(offset, chance.word() & chance.word() & chance.word() & chance.word(), true);
          if (chance.below(4) === 0) registers.setUint32(reg.APIC_DFR, chance.oneOf([0x0fff_ffff, 0xffff_ffff]), true);
        });
        what = "KVM_SET_LAPIC";
        break;
      }
      default: {
        const register = chance.oneOf([
          0x20, 0x30, 0x80, 0xa0, 0xd0, 0xe0, 0xf0, 0x110, 0x1a0, 0x230, 0x300, 0x310, 0x320, 0x350, 0x380, 0x3e0,
        ]);
        twins.run({ op: "read", gpa: LAPIC_GPA + register });
        what = `reading ${register.toString(16)}`;
        break;
      }
    }
    twins.compare(`step ${step}, ${what}`);
  }
});

test.skipIf(skip, "local APIC: the same as MSRs", () => {
  using twins = new Twins(3);
  const chance = new Chance(0x2a91c);
  for (let index = 0; index < 3; index++) {
    twins.setApicBase(index, X2APIC_BASE | (index === 0 ? 0x100n : 0n));
    twins.setLapic(index, (registers) => registers.setUint32(reg.APIC_SVR, 0x1ff, true));
  }
  twins.compare("x2APIC mode");
  for (let step = 0; step < STEPS; step++) {
    let [register, value] = lapicWrite(chance) as [number, number | bigint];
    switch (chance.below(3)) {
      case 0:
        register = reg.APIC_ICR;
        value =
          (BigInt(chance.oneOf([0, 1, 2, 3, 5, 7, 0xff, 0x1_0001, 0xffff_ffff])) << 32n) | BigInt(command(chance));
        break;
      case 1:
        if (chance.below(2) === 0) [register, value] = [reg.APIC_SELF_IPI, 16 + chance.below(240)];
        break;
    }
    const msr = 0x800 + (register >> 4);
    twins.run({ op: "wrmsr", msr, value: BigInt(value) });
    const readable = [0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x812, 0x81a, 0x825, 0x830, 0x832, 0x835, 0x838, 0x83e];
    twins.run({ op: "rdmsr", msr: chance.oneOf(readable) });
    twins.compare(`step ${step}, ${msr.toString(16)} ${value.toString(16)}`);
  }
});

test.skipIf(skip, "PIT: control words, counts, latches and port 61 leave the same state", () => {
  using twins = new Twins(1, { hasPit: true });
  const chance = new Chance(0x8254);
  // Interrupts of its own would be KVM's alone.
  twins.run({ op: "out", port: 0x21, value: 0xff });
  const state = (pit: Uint8Array): string => {
    // Latched values go by time, and a status by KVM's outputs.
    for (let channel = 0; channel < 3; channel++)
      pit.fill(0, 24 * channel + 4, 24 * channel + 6).fill(0, 24 * channel + 8, 24 * channel + 9);
    return withoutTimes(pit);
  };
  for (let round = 0; round < 500; round++) {
    const channel = chance.below(3);
    const access = 1 + chance.below(3);
    const mode = chance.oneOf([0, 2, 3, 4, 6, 7]);
    const steps: Step[] = [{ op: "out", port: 0x43, value: (channel << 6) | (access << 4) | (mode << 1) }];
    for (let byte = 0; byte < (access === 3 ? 2 : 1); byte++) {
      steps.push({ op: "out", port: 0x40 + channel, value: chance.below(256) });
    }
    if (chance.below(2) === 0) steps.push({ op: "out", port: 0x43, value: channel << 6 });
    if (chance.below(2) === 0)
      steps.push({ op: "out", port: 0x43, value: 0xc0 | (2 << channel) | (chance.below(3) << 4) });
    steps.push({ op: "out", port: 0x61, value: chance.below(4) });
    twins.run(...steps);
    assert.is(state(twins.pit()), state(twins.kvm.getPit()), `round ${round}: ${steps.map(describeStep).join(", ")}`);
    // Read until nothing is latched, so that the next control word finds the same.
    for (let read = 0; read < 4; read++) {
      twins.kvm.run([{ op: "in", port: 0x40 + channel }]);
      twins.machine.in(0x40 + channel);
    }
  }
});

test.run();
