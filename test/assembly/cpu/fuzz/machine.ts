// SPDX-License-Identifier: Apache-2.0
// A vCPU with RAM, interrupt controllers and a second vCPU that stands, in a memory of their own; and a watch over all that no guest
// may change, whatever it does.
import * as layout from "../../../../assembly/cpu/layout.ts";
import {
  CODE_WRITES_BASE,
  CONTROL_BASE,
  CPU_CACHES_BASE,
  CPU_CACHES_STRIDE_BYTES,
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  IRQCHIP_BASE,
  PAGE_FLAGS_BASE,
  PAGE_SIZE_BYTES,
} from "../../../../assembly/layout.ts";
import { configureIrqchip, type IrqchipExports, instantiateIrqchip } from "../../../../src/accel/wasm/irqchip-state.ts";
import { loadEngine } from "../engine.ts";
import type { Engine } from "../rig.ts";
import { Chance } from "./chance.ts";

const CPU_COUNT = 2;
const TSC_KHZ = 1_000_000;
export const RAM_BASE = CPU_CACHES_BASE + CPU_COUNT * CPU_CACHES_STRIDE_BYTES;
export const RAM_SIZE_BYTES = 0x20_0000;
const GUARD_SIZE_BYTES = 0x10_0000;
const MEMORY_SIZE_BYTES = RAM_BASE + RAM_SIZE_BYTES + GUARD_SIZE_BYTES;
const WASM_PAGE_SIZE_BYTES = 0x1_0000;

const OTHER_CACHES = CPU_CACHES_BASE + CPU_CACHES_STRIDE_BYTES;
const OTHER_TLBS = OTHER_CACHES + layout.CACHE_TLB_SUPERVISOR;
/** With the bits of their groups. */
const TLBS_SIZE_BYTES = layout.CACHE_TLB_GROUPS - layout.CACHE_TLB_SUPERVISOR + 2 * 16;
/** What is zero and stays so: from, to. */
const UNTOUCHED: readonly (readonly [number, number])[] = [
  [0, CPU_STATE_BASE],
  [CPU_STATE_BASE + CPU_COUNT * CPU_STATE_STRIDE_BYTES, CONTROL_BASE],
  [CONTROL_BASE, IRQCHIP_BASE],
  [CODE_WRITES_BASE + PAGE_SIZE_BYTES, PAGE_FLAGS_BASE],
  [PAGE_FLAGS_BASE + RAM_SIZE_BYTES / PAGE_SIZE_BYTES, CPU_CACHES_BASE],
  [OTHER_CACHES, OTHER_TLBS],
  [OTHER_TLBS + TLBS_SIZE_BYTES, RAM_BASE],
  [RAM_BASE + RAM_SIZE_BYTES, MEMORY_SIZE_BYTES],
];

export class FuzzMachine {
  readonly memory: WebAssembly.Memory;
  readonly engine: Engine;
  readonly irqchip: IrqchipExports;
  readonly state: Uint8Array;
  readonly view: DataView;
  readonly ram: Uint8Array;
  readonly ramView: DataView;
  readonly #words: Int32Array;
  readonly #quiet: Uint8Array[];
  #chance = new Chance(0, 0);
  /** Below 2^31. */
  #tsc = 0;
  #ns = 0n;

  constructor() {
    const pages = MEMORY_SIZE_BYTES / WASM_PAGE_SIZE_BYTES;
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const { buffer } = this.memory;
    this.#words = new Int32Array(buffer);
    this.state = new Uint8Array(buffer, CPU_STATE_BASE, PAGE_SIZE_BYTES);
    this.view = new DataView(buffer, CPU_STATE_BASE, PAGE_SIZE_BYTES);
    this.ram = new Uint8Array(buffer, RAM_BASE, RAM_SIZE_BYTES);
    this.ramView = new DataView(buffer, RAM_BASE, RAM_SIZE_BYTES);
    /** What is as at power-on again before each case. */
    this.#quiet = [
      [CPU_STATE_BASE, CPU_COUNT * CPU_STATE_STRIDE_BYTES],
      [IRQCHIP_BASE, PAGE_SIZE_BYTES],
      [CODE_WRITES_BASE, PAGE_SIZE_BYTES],
      [PAGE_FLAGS_BASE, RAM_SIZE_BYTES / PAGE_SIZE_BYTES],
      [CPU_CACHES_BASE + layout.CACHE_CPUID, layout.CPUID_MAX_SIZE_BYTES],
      [CPU_CACHES_BASE + layout.CACHE_FRESH_PAGES, 0x8000],
      [RAM_BASE, RAM_SIZE_BYTES],
    ].map(([base, size]) => new Uint8Array(buffer, base, size));
    new Uint8Array(buffer, OTHER_TLBS, TLBS_SIZE_BYTES).fill(0xff);
    this.irqchip = instantiateIrqchip(this.memory, () => this.#nowNs());
    const module = new WebAssembly.Module(loadEngine());
    this.engine = new WebAssembly.Instance(module, { env: { memory: this.memory }, host: this.#host() })
      .exports as unknown as Engine;
  }

  #nowNs(): bigint {
    this.#ns += 1_000n;
    return this.#ns;
  }

  #host() {
    const { irqchip } = this;
    return {
      readPort: (port: number): number => (irqchip.hasPort(port) ? irqchip.readPort(port) : this.#chance.word()),
      writePort: (port: number, _size: number, value: number): void => {
        if (irqchip.hasPort(port)) irqchip.writePort(port, value & 0xff);
      },
      readMmio: (gpa: bigint, size: number): bigint =>
        irqchip.hasAddress(gpa) ? BigInt(irqchip.readIoapic(gpa, size) >>> 0) : this.#chance.quad(),
      writeMmio: (gpa: bigint, size: number, value: bigint): void => {
        if (irqchip.hasAddress(gpa)) irqchip.writeIoapic(gpa, size, Number(BigInt.asIntN(32, value)));
      },
      wakeVcpu: () => {},
      readTsc: (place: number): void => {
        this.#tsc += 1_000;
        this.#words.set([this.#tsc, 0], place >> 2);
      },
      monotonicNs: () => this.#nowNs(),
      kvmclockNs: () => this.#nowNs(),
      wallClockNs: () => this.#nowNs(),
      tscMultiplier: () => 0x8000_0000,
      tscShift: () => 1,
    };
  }

  /** All as at power-on, with this chance behind ports and devices. */
  reset(chance: Chance): void {
    this.#chance = chance;
    this.#tsc = 1_000_000;
    this.#ns = 1_000_000_000n;
    for (const bytes of this.#quiet) bytes.fill(0);
    configureIrqchip(this.memory, { cpuCount: CPU_COUNT, tscKhz: TSC_KHZ });
    this.irqchip.reset();
    for (let index = 0; index < CPU_COUNT; index++) {
      const page = new DataView(this.memory.buffer, CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES, PAGE_SIZE_BYTES);
      page.setUint32(layout.CPU_INDEX, index, true);
      page.setBigUint64(layout.CPU_APIC_BASE, index === 0 ? 0xfee0_0900n : 0xfee0_0800n, true);
      page.setUint32(layout.CPU_EXCEPTION, layout.NO_EXCEPTION, true);
      page.setBigUint64(layout.CPU_RFLAGS, 2n, true);
      this.irqchip.resetLapic(index);
    }
    this.engine.select(0, RAM_BASE, BigInt(RAM_SIZE_BYTES));
  }

  get instructions(): bigint {
    return this.view.getBigUint64(layout.CPU_INSTRUCTIONS, true);
  }

  /** Where something was written that is nobody's; undefined if nowhere. */
  damage(): string | undefined {
    for (const [from, to] of UNTOUCHED) {
      const at = this.#find(from, to, 0);
      if (at !== undefined) return `Memory at 0x${at.toString(16)} was written`;
    }
    const at = this.#find(OTHER_TLBS, OTHER_TLBS + TLBS_SIZE_BYTES, -1);
    return at === undefined ? undefined : `Another vCPU's TLB at 0x${at.toString(16)} was written`;
  }

  /** The first word that is not `value`. */
  #find(from: number, to: number, value: number): number | undefined {
    const words = this.#words;
    for (let index = from >> 2; index < to >> 2; index++) if (words[index] !== value) return index * 4;
    return undefined;
  }
}
