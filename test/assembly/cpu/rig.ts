// SPDX-License-Identifier: Apache-2.0
// One vCPU of the engine with a little RAM and nothing else, at privilege level 3 as Linux runs a program: in 64-bit mode, or one of
// 32 or 16 bits in compatibility mode.

import {
  CPU_APIC_BASE,
  CPU_CR0,
  CPU_CR3,
  CPU_CR4,
  CPU_EFER,
  CPU_ERROR_CODE,
  CPU_EXCEPTION,
  CPU_FLAG_CARRY,
  CPU_FLAG_FIRST,
  CPU_FLAG_KIND,
  CPU_FLAG_RESULT,
  CPU_GDTR_BASE,
  CPU_GDTR_LIMIT,
  CPU_GPRS,
  CPU_HAS_ERROR_CODE,
  CPU_IDTR_BASE,
  CPU_IDTR_LIMIT,
  CPU_MXCSR,
  CPU_RFLAGS,
  CPU_RIP,
  CPU_SEGMENTS,
  NO_EXCEPTION,
  SEGMENT_ATTRIBUTES_U32,
  SEGMENT_BASE_U64,
  SEGMENT_CS,
  SEGMENT_DS,
  SEGMENT_ES,
  SEGMENT_FS,
  SEGMENT_GS,
  SEGMENT_LDTR,
  SEGMENT_LIMIT_U32,
  SEGMENT_SELECTOR_U16,
  SEGMENT_SIZE_BYTES,
  SEGMENT_SS,
  SEGMENT_TR,
} from "../../../assembly/cpu/layout.ts";
import { CPU_CACHES_BASE, CPU_CACHES_STRIDE_BYTES, CPU_STATE_BASE } from "../../../assembly/layout.ts";

/** Of code: in 64-bit mode, or in compatibility mode. */
export type Bits = 16 | 32 | 64;

export interface Engine {
  select(index: number, ramBase: number, ramSizeBytes: bigint): void;
  stateChanged(): void;
  run(budget: number): number;
  settle(): void;
  step(): void;
}

/** Behind the caches of the one vCPU. */
const RAM_BASE = CPU_CACHES_BASE + CPU_CACHES_STRIDE_BYTES;
const RAM_SIZE_BYTES = 0x40_0000;
const WASM_PAGE_SIZE_BYTES = 0x1_0000;

const PAGE_SIZE_BYTES = 0x1000;
const PML4 = 0x1000;
const GDT = 0x2000;
const TSS = 0x2800;
/** As the kernel's: from here on linear addresses are physical ones, of what nobody in user mode sees. */
const KERNEL = 0xffff_8000_0000_0000n;
const TSS_LIMIT = 0x67;
const TSS_PORTS_U16 = 0x66;
const TSS_RSP0_U64 = 4;
const IDT = 0x1_8000;
const HANDLERS = 0x1_9000;
const STACK = 0x1_a000;
const VECTOR_COUNT = 32;
/** Vectors with an error code: SDM volume 3, table 6-1. */
const ERROR_CODES = 0x0002_7d00;
const JUMP_TO_ITSELF = 0xfeeb;
const FIRST_TABLE = 0x3000;
const LAST_TABLE = 0xf000;

export const PRESENT = 1n;
export const WRITABLE = 2n;
export const USER = 4n;
export const NO_EXECUTE = 1n << 63n;
const ADDRESS = 0x000f_ffff_ffff_f000n;

const CR0 = 0x8005_0033n;
const CR4_PAE_PGE_OSFXSR_OSXMMEXCPT = 0x6a0n;
const EFER_SCE_LME_LMA_NXE = 0xd01n;

// Selectors and descriptors as in Linux.
const USER_CODE = 0x33;
const USER_CODE_32 = 0x23;
const USER_DATA = 0x2b;
// oracle.c has them in an LDT.
const USER_FS = 0x07;
const USER_GS = 0x0f;
const USER_CODE_16 = 0x17;
const USER_DATA_16 = 0x1f;
const CODE_ATTRIBUTES = 0xa0fb;
const CODE_32_ATTRIBUTES = 0xc0fb;
const CODE_16_ATTRIBUTES = 0x80fb;
const DATA_ATTRIBUTES = 0xc0f3;
const DATA_16_ATTRIBUTES = 0x80f3;
const KERNEL_CODE = 0x10;
const INTERRUPT_GATE = 0x8e00n;
// biome-ignore format: a table
const DESCRIPTORS = [
  0n, 0x00cf_9b00_0000_ffffn, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn,
  0x00cf_fb00_0000_ffffn, 0x00cf_f300_0000_ffffn, 0x00af_fb00_0000_ffffn, 0n,
  0n, 0n, 0n, 0n, 0n, 0n, 0n, 0n,
];

const CF_PF_AF_ZF_SF_OF = 0x8d5;
const ZF = 0x40;

// Kinds of flags.ts.
const FLAGS_KNOWN = 0;
const FLAGS_ADD = 1;
const FLAGS_SUB = 2;
const FLAGS_LOGIC = 3;
const FLAGS_INC = 4;

export class Rig {
  readonly engine: Engine;
  readonly bits: Bits;
  /** The state page. */
  readonly state: Uint8Array;
  readonly view: DataView;
  readonly caches: DataView;
  readonly ram: Uint8Array;
  readonly #ramView: DataView;
  /** Of segments, where they do not begin at 0. */
  readonly #bases: bigint[] = [];
  #nextTable = FIRST_TABLE;

  constructor(wasm: Uint8Array<ArrayBuffer>, bits: Bits = 64) {
    this.bits = bits;
    const pages = (RAM_BASE + RAM_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    const module = new WebAssembly.Module(wasm);
    const imports: Record<string, Record<string, WebAssembly.Memory | (() => string)>> = { env: { memory } };
    for (const { module: room, name, kind } of WebAssembly.Module.imports(module)) {
      if (kind !== "function") continue;
      imports[room] ??= {};
      // Nobody here has devices, and time stands still: "0" is 0 as a number and as a bigint.
      imports[room][name] = () => "0";
    }
    this.engine = new WebAssembly.Instance(module, imports).exports as unknown as Engine;
    const { buffer } = memory;
    this.state = new Uint8Array(buffer, CPU_STATE_BASE, PAGE_SIZE_BYTES);
    this.view = new DataView(buffer, CPU_STATE_BASE, PAGE_SIZE_BYTES);
    this.caches = new DataView(buffer, CPU_CACHES_BASE, CPU_CACHES_STRIDE_BYTES);
    this.ram = new Uint8Array(buffer, RAM_BASE, RAM_SIZE_BYTES);
    this.#ramView = new DataView(buffer, RAM_BASE, RAM_SIZE_BYTES);
    this.engine.select(0, RAM_BASE, BigInt(RAM_SIZE_BYTES));
    this.#setMode();
    this.engine.stateChanged();
  }

  /** Maps a page. `flags`: PRESENT and others. Returns where its entry is. */
  map(linear: bigint, physical: number, flags: bigint): number {
    let table = PML4;
    for (const shift of [39n, 30n, 21n]) {
      const where = table + Number((linear >> shift) & 511n) * 8;
      let entry = this.#ramView.getBigUint64(where, true);
      if (entry === 0n) {
        if (this.#nextTable > LAST_TABLE) throw new Error("No room for another page table");
        entry = BigInt(this.#nextTable) | PRESENT | WRITABLE | USER;
        this.#nextTable += PAGE_SIZE_BYTES;
        this.#ramView.setBigUint64(where, entry, true);
      }
      table = Number(entry & ADDRESS);
    }
    const where = table + Number((linear >> 12n) & 511n) * 8;
    this.setEntry(where, physical, flags);
    return where;
  }

  setEntry(where: number, physical: number, flags: bigint): void {
    this.#ramView.setBigUint64(where, BigInt(physical) | flags, true);
  }

  setBase(segment: number, base: bigint): void {
    this.#bases[segment] = base;
    this.view.setBigUint64(CPU_SEGMENTS + segment * SEGMENT_SIZE_BYTES + SEGMENT_BASE_U64, base, true);
  }

  /** All but RF and VM. */
  setRflags(flags: number): void {
    const { view } = this;
    view.setUint32(CPU_FLAG_CARRY, flags & CF_PF_AF_ZF_SF_OF, true);
    view.setBigUint64(CPU_FLAG_RESULT, flags & ZF ? 0n : 1n, true);
    view.setUint32(CPU_FLAG_KIND, FLAGS_KNOWN, true);
    view.setUint32(CPU_RFLAGS, (flags & ~CF_PF_AF_ZF_SF_OF) | 2, true);
    view.setUint32(CPU_RFLAGS + 4, 0, true);
    view.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
  }

  /** RFLAGS with the arithmetic flags made of the last result, as in flags.ts. */
  rflags(): number {
    const { view } = this;
    const others = view.getUint32(CPU_RFLAGS, true) & ~CF_PF_AF_ZF_SF_OF;
    const kindAndSize = view.getUint32(CPU_FLAG_KIND, true);
    const kind = kindAndSize & 0xff;
    const known = view.getUint32(CPU_FLAG_CARRY, true) & CF_PF_AF_ZF_SF_OF;
    if (kind === FLAGS_KNOWN) return others | known;
    const result = view.getBigUint64(CPU_FLAG_RESULT, true);
    const first = view.getBigUint64(CPU_FLAG_FIRST, true);
    const sign = 1n << BigInt(8 * (kindAndSize >> 8) - 1);
    const low = Number(result & 0xffn);
    let flags = result === 0n ? ZF : 0;
    if (result & sign) flags |= 0x80;
    if (((0x6996 >> ((low ^ (low >> 4)) & 15)) & 1) === 0) flags |= 4;
    if (kind === FLAGS_LOGIC) return others | flags;
    if (kind === FLAGS_ADD || kind === FLAGS_SUB) {
      const isAdd = kind === FLAGS_ADD;
      const second = isAdd ? result - first : first - result;
      if (isAdd ? result < first : result > first) flags |= 1;
      if ((first ^ second ^ result) & 0x10n) flags |= 0x10;
      const overflow = isAdd ? (first ^ result) & (second ^ result) : (first ^ second) & (first ^ result);
      if (overflow & sign) flags |= 0x800;
      return others | flags;
    }
    const isInc = kind === FLAGS_INC;
    flags |= known & 1;
    if ((low & 15) === (isInc ? 0 : 15)) flags |= 0x10;
    if (result === (isInc ? sign : sign - 1n)) flags |= 0x800;
    return others | flags;
  }

  /** From now on exceptions are delivered: to handlers that loop. */
  enableExceptions(): void {
    const { view } = this;
    for (let vector = 0; vector < VECTOR_COUNT; vector++) {
      const handler = KERNEL + BigInt(HANDLERS + 2 * vector);
      const low = (handler & 0xffffn) | (BigInt(KERNEL_CODE) << 16n) | (INTERRUPT_GATE << 32n);
      this.#ramView.setBigUint64(IDT + 16 * vector, low | (((handler >> 16n) & 0xffffn) << 48n), true);
      this.#ramView.setBigUint64(IDT + 16 * vector + 8, handler >> 32n, true);
      this.#ramView.setUint16(HANDLERS + 2 * vector, JUMP_TO_ITSELF, true);
    }
    for (const page of [IDT, HANDLERS, STACK]) this.map(KERNEL + BigInt(page), page, PRESENT | WRITABLE);
    view.setBigUint64(CPU_IDTR_BASE, KERNEL + BigInt(IDT), true);
    view.setUint32(CPU_IDTR_LIMIT, 16 * VECTOR_COUNT - 1, true);
    this.#ramView.setBigUint64(TSS + TSS_RSP0_U64, KERNEL + BigInt(STACK + PAGE_SIZE_BYTES), true);
    this.engine.stateChanged();
  }

  /** If a handler is running, makes it as if the exception had not been delivered yet. */
  undoDelivery(): void {
    const { view } = this;
    const offset = view.getBigUint64(CPU_RIP, true) - KERNEL - BigInt(HANDLERS);
    if (offset < 0n || offset >= 2n * BigInt(VECTOR_COUNT)) return;
    const vector = Number(offset) / 2;
    const hasErrorCode = ((ERROR_CODES >> vector) & 1) !== 0;
    let frame = Number(view.getBigUint64(CPU_GPRS + 8 * 4, true) - KERNEL);
    if (hasErrorCode) {
      view.setUint32(CPU_ERROR_CODE, this.#ramView.getUint32(frame, true), true);
      frame += 8;
    }
    this.setRflags(this.#ramView.getUint32(frame + 16, true));
    view.setBigUint64(CPU_RIP, this.#ramView.getBigUint64(frame, true), true);
    view.setBigUint64(CPU_GPRS + 8 * 4, this.#ramView.getBigUint64(frame + 24, true), true);
    view.setUint32(CPU_EXCEPTION, vector, true);
    view.setUint32(CPU_HAS_ERROR_CODE, hasErrorCode ? 1 : 0, true);
    this.#enterUserMode();
    this.engine.stateChanged();
  }

  #enterUserMode(): void {
    if (this.bits === 64) this.#setSegment(SEGMENT_CS, USER_CODE, CODE_ATTRIBUTES);
    else if (this.bits === 32) this.#setSegment(SEGMENT_CS, USER_CODE_32, CODE_32_ATTRIBUTES);
    else this.#setSegment(SEGMENT_CS, USER_CODE_16, CODE_16_ATTRIBUTES);
    this.#setDataSegment(SEGMENT_SS);
  }

  #setMode(): void {
    const { view } = this;
    view.setBigUint64(CPU_CR0, CR0, true);
    view.setBigUint64(CPU_CR3, BigInt(PML4), true);
    view.setBigUint64(CPU_CR4, CR4_PAE_PGE_OSFXSR_OSXMMEXCPT, true);
    view.setBigUint64(CPU_EFER, EFER_SCE_LME_LMA_NXE, true);
    view.setBigUint64(CPU_APIC_BASE, 0xfee0_0000n, true);
    view.setBigUint64(CPU_GDTR_BASE, KERNEL + BigInt(GDT), true);
    view.setUint32(CPU_GDTR_LIMIT, 8 * DESCRIPTORS.length - 1, true);
    view.setUint32(CPU_MXCSR, 0x1f80, true);
    for (const [index, descriptor] of DESCRIPTORS.entries()) {
      this.#ramView.setBigUint64(GDT + 8 * index, descriptor, true);
    }
    for (let number = 0; number <= SEGMENT_GS; number++) this.#setSegment(number, 0, 0x1_0000);
    this.#enterUserMode();
    if (this.bits !== 64) {
      for (const number of [SEGMENT_ES, SEGMENT_DS]) this.#setDataSegment(number);
      this.#setSegment(SEGMENT_FS, USER_FS, DATA_ATTRIBUTES);
      this.#setSegment(SEGMENT_GS, USER_GS, DATA_ATTRIBUTES);
    }
    this.#setSegment(SEGMENT_LDTR, 0, 0x1_0000);
    this.#setSegment(SEGMENT_TR, 0x40, 0x008b);
    this.setBase(SEGMENT_TR, KERNEL + BigInt(TSS));
    view.setUint32(CPU_SEGMENTS + SEGMENT_TR * SEGMENT_SIZE_BYTES + SEGMENT_LIMIT_U32, TSS_LIMIT, true);
    // No bitmap of ports.
    this.#ramView.setUint16(TSS + TSS_PORTS_U16, TSS_LIMIT + 1, true);
    this.map(KERNEL + BigInt(GDT), GDT, PRESENT | WRITABLE);
    this.setRflags(0x202);
  }

  #setDataSegment(number: number): void {
    if (this.bits === 16) this.#setSegment(number, USER_DATA_16, DATA_16_ATTRIBUTES);
    else this.#setSegment(number, USER_DATA, DATA_ATTRIBUTES);
  }

  #setSegment(number: number, selector: number, attributes: number): void {
    const at = CPU_SEGMENTS + number * SEGMENT_SIZE_BYTES;
    this.view.setBigUint64(at + SEGMENT_BASE_U64, this.#bases[number] ?? 0n, true);
    this.view.setUint32(at + SEGMENT_LIMIT_U32, 0xffff_ffff, true);
    this.view.setUint16(at + SEGMENT_SELECTOR_U16, selector, true);
    this.view.setUint32(at + SEGMENT_ATTRIBUTES_U32, attributes, true);
  }
}
