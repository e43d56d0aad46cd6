// SPDX-License-Identifier: Apache-2.0
// The engine's interrupt controllers on a bench: local APICs of some vCPUs and all that they share, with clocks that belong to the test.
import {
  CPU_APIC_BASE,
  CPU_EXCEPTION,
  CPU_LAPIC,
  CPU_PENDING,
  CPU_TSC_OFFSET,
  NO_EXCEPTION,
} from "../../../assembly/cpu/layout.ts";
import { CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES } from "../../../assembly/layout.ts";
import {
  configureIrqchip,
  type IrqchipExports,
  IrqchipState,
  instantiateIrqchip,
} from "../../../src/accel/wasm/irqchip-state.ts";
import { compileAssembly } from "../compile.ts";
import { type ApicExports, type Clocks, instantiateApic } from "./apic-instance.ts";

const ENTRY = `
export * from "./assembly/cpu/apic";
export * from "./assembly/cpu/apic-registers";
export { select } from "./assembly/cpu/vcpu";
`;

export const NEVER = 0xffff_ffff_ffff_ffffn;
export const EXTERNAL_INTERRUPT = 256;

export const apicBytes = await compileAssembly(ENTRY);
const apicModule = new WebAssembly.Module(apicBytes);

/** One vCPU, in words that a test can be read in. */
export class Cpu {
  readonly apic: ApicExports;
  readonly page: DataView;

  constructor(memory: WebAssembly.Memory, index: number, clocks: Clocks) {
    this.page = new DataView(memory.buffer, CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES, CPU_STATE_STRIDE_BYTES);
    this.page.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
    this.apic = instantiateApic(apicModule, memory, index, clocks);
  }

  read(offset: number): number {
    return Number(BigInt.asUintN(32, this.apic.readApic(offset, 4)));
  }

  write(offset: number, value: number): void {
    this.apic.writeApic(offset, 4, value);
  }

  /** RDMSR; undefined for #GP. */
  readMsr(msr: number): bigint | undefined {
    const value = BigInt.asUintN(64, this.apic.readX2apic(msr));
    return this.takeFault() ? undefined : value;
  }

  /** WRMSR; false for #GP. */
  writeMsr(msr: number, value: bigint): boolean {
    const isDone = this.apic.writeX2apic(msr, value) !== 0;
    if (this.takeFault() === isDone) throw new Error("The answer and the exception do not agree");
    return isDone;
  }

  writeBase(value: bigint): boolean {
    const isDone = this.apic.writeApicBase(value) !== 0;
    if (this.takeFault() === isDone) throw new Error("The answer and the exception do not agree");
    return isDone;
  }

  get base(): bigint {
    return this.page.getBigUint64(CPU_APIC_BASE, true);
  }

  /** Whether there was an exception, which has to be #GP(0). */
  takeFault(): boolean {
    const vector = this.page.getUint32(CPU_EXCEPTION, true);
    this.page.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
    if (vector !== NO_EXCEPTION && vector !== 13) throw new Error(`Exception ${vector}`);
    return vector !== NO_EXCEPTION;
  }

  get pending(): number {
    return this.page.getInt32(CPU_PENDING, true);
  }

  set pending(bits: number) {
    this.page.setInt32(CPU_PENDING, bits, true);
  }

  set tscOffset(offset: bigint) {
    this.page.setBigInt64(CPU_TSC_OFFSET, offset, true);
  }

  /** Switched on, with an LVT that lets through what its entries say. */
  enable(): void {
    this.write(0xf0, 0x1ff);
  }

  /** Takes the interrupt that is due; undefined for none. As the vCPU's loop does. */
  take(): number | undefined {
    if (this.apic.highestInterrupt() < 0) return undefined;
    return this.apic.acknowledge();
  }

  /** Takes all that are due, each until its EOI. */
  takeAll(): number[] {
    const taken: number[] = [];
    for (let vector = this.take(); vector !== undefined; vector = this.take()) {
      taken.push(vector);
      this.write(0xb0, 0);
    }
    return taken;
  }

  vectors(offset: number): number[] {
    const set: number[] = [];
    for (let vector = 0; vector < 256; vector++) {
      const word = this.page.getUint32(CPU_LAPIC + offset + (vector >> 5) * 16, true);
      if ((word >>> (vector & 31)) & 1) set.push(vector);
    }
    return set;
  }
}

export class Machine {
  readonly memory = new WebAssembly.Memory({ initial: 4, maximum: 65536, shared: true });
  readonly chip: IrqchipExports;
  readonly cpus: Cpu[];
  readonly state: IrqchipState;
  tsc = 1_000_000_000_000n;
  ns = 5_000_000_000_000n;
  readonly tscKhz: number;

  constructor(cpuCount = 1, tscKhz = 2_000_000) {
    this.tscKhz = tscKhz;
    const clocks = { hostTsc: () => this.tsc, monotonicNs: () => this.ns };
    this.chip = instantiateIrqchip(this.memory, clocks.monotonicNs);
    configureIrqchip(this.memory, { cpuCount, tscKhz });
    this.chip.reset();
    this.cpus = Array.from({ length: cpuCount }, (_, index) => new Cpu(this.memory, index, clocks));
    for (const index of this.cpus.keys()) this.chip.resetLapic(index);
    this.state = new IrqchipState(this.memory, this.chip, clocks.hostTsc);
  }

  get cpu(): Cpu {
    return this.cpus[0]!;
  }

  advance(ns: bigint): void {
    this.ns += ns;
    this.tsc += (ns * BigInt(this.tscKhz)) / 1_000_000n;
  }

  raise(gsi: number): void {
    this.chip.setIrq(gsi, 1);
  }

  lower(gsi: number): void {
    this.chip.setIrq(gsi, 0);
  }

  in(port: number): number {
    return this.chip.readPort(port);
  }

  out(port: number, ...values: number[]): void {
    for (const value of values) this.chip.writePort(port, value);
  }

  readIoapic(register: number): number {
    this.chip.writeIoapic(0xfec0_0000n, 4, register);
    return this.chip.readIoapic(0xfec0_0010n, 4) >>> 0;
  }

  writeIoapic(register: number, value: number): void {
    this.chip.writeIoapic(0xfec0_0000n, 4, register);
    this.chip.writeIoapic(0xfec0_0010n, 4, value);
  }

  /** Redirection of a pin. */
  redirect(pin: number, low: number, destination = 0): void {
    this.writeIoapic(0x11 + 2 * pin, (destination << 24) >>> 0);
    this.writeIoapic(0x10 + 2 * pin, low);
  }

  redirection(pin: number): number {
    return this.readIoapic(0x10 + 2 * pin);
  }

  /** What every PC's firmware and Linux do, with these vectors; no line is masked. */
  startPics(master = 0x30, slave = 0x38, icw4 = 1): void {
    this.out(0x20, 0x11);
    this.out(0x21, master, 4, icw4, 0);
    this.out(0xa0, 0x11);
    this.out(0xa1, slave, 2, icw4, 0);
  }
}
