// SPDX-License-Identifier: Apache-2.0
// The engine's SSE by itself: a vCPU in its state page whose linear addresses are those of RAM, and no decoder, blocks or APIC.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import asc from "assemblyscript/asc";
import {
  CACHE_UOPS,
  CPU_CR0,
  CPU_CR4,
  CPU_EXCEPTION,
  CPU_GPRS,
  CPU_MODE,
  CPU_MXCSR,
  CPU_RFLAGS,
  CPU_X87_REGISTERS,
  CPU_XMMS,
  CPU_ZERO,
  NO_EXCEPTION,
  SEGMENT_DS,
} from "../../../assembly/cpu/layout.ts";
import {
  CPU_CACHES_BASE,
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  RAM_MIN_BASE,
  WASM_PAGE_SIZE_BYTES,
} from "../../../assembly/layout.ts";
import {
  COLD_ADDRESS_SIZE,
  COLD_CODE,
  COLD_FORM,
  COLD_IMMEDIATE,
  COLD_MODRM,
  COLD_SEGMENT,
  COLD_SIZE,
  CR0_PE,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  FORM_66,
  FORM_F2,
  FORM_F3,
  FORM_MEMORY,
  FORM_REX,
  FORM_REX_W,
  MODE_64,
  SSE_A_MMX,
  SSE_A_OPCODE,
  SSE_A_XMM,
  SSE_B_BYTE,
  SSE_B_MMX,
  SSE_B_XMM,
  SSE_IMMEDIATE,
  UOP_A,
  UOP_B,
  UOP_INDEX,
  UOP_SIZE_BYTES,
} from "./uop.ts";

export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RDI = 7;

/** MXCSR as it is after a reset. */
export const MXCSR_DEFAULT = 0x1f80;

export const RAM_SIZE_BYTES = 0x1_0000;

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** What is not a file: the module, and what is not there. */
const SOURCES: Record<string, string> = {
  "sse-test.ts": `
    export { select } from "./assembly/cpu/vcpu";
    export { flushTlb, selectTlb } from "./assembly/cpu/tlb";
    export { rflags } from "./assembly/cpu/flags";
    export { execSse } from "./assembly/cpu/sse";
    export { sseOperandKinds } from "./assembly/cpu/sse-kinds";`,
  "assembly/cpu/blocks.ts": `
    export function invalidateCode(physical: u64): void {}`,
  "assembly/cpu/apic-registers.ts": `
    export function readApic(offset: u32, sizeBytes: u32): u64 { return 0; }
    export function writeApic(offset: u32, sizeBytes: u32, value: u32): void {}`,
};

interface SseExports {
  select(index: number, base: number, sizeBytes: bigint): void;
  flushTlb(keepsGlobal: number): void;
  selectTlb(): void;
  rflags(): bigint;
  execSse(pc: number): number;
  sseOperandKinds(code: number, form: number): number;
}

async function compile(): Promise<Uint8Array<ArrayBuffer>> {
  let binary: Uint8Array | undefined;
  const args = ["sse-test.ts", "--config", "asconfig.json", "--outFile", "sse.wasm"];
  const { error, stderr } = await asc.main(args, {
    readFile: (name: string, baseDir: string) => {
      if (name in SOURCES) return SOURCES[name]!;
      const path = join(root, baseDir, name);
      return existsSync(path) ? readFileSync(path, "utf8") : null;
    },
    writeFile: (name: string, contents: string | Uint8Array) => {
      if (name === "sse.wasm") binary = contents as Uint8Array;
    },
  });
  if (error !== null || binary === undefined) throw new Error(`${error?.message ?? "no output"}\n${stderr.toString()}`);
  return Uint8Array.from(binary);
}

/** As a decoder leaves it. */
interface Decoded {
  code: number;
  form: number;
  modrm: number;
  immediate: number;
  kinds: number;
}

export class SseMachine {
  static async create(): Promise<SseMachine> {
    const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
    let machine: SseMachine | undefined;
    const host = {
      readMmio: () => {
        machine!.readsBeyondRam++;
        return 0n;
      },
      writeMmio: () => {},
    };
    const { instance } = await WebAssembly.instantiate(await compile(), { env: { memory }, host });
    machine = new SseMachine(memory, instance.exports as unknown as SseExports);
    return machine;
  }

  readonly state: DataView;
  readonly ram: Uint8Array;
  readsBeyondRam = 0;
  readonly #bytes: Uint8Array;
  readonly #uop: DataView;
  readonly #engine: SseExports;

  private constructor(memory: WebAssembly.Memory, engine: SseExports) {
    this.state = new DataView(memory.buffer, CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES);
    this.ram = new Uint8Array(memory.buffer, RAM_MIN_BASE, RAM_SIZE_BYTES);
    this.#bytes = new Uint8Array(memory.buffer);
    this.#uop = new DataView(memory.buffer, UOP, 2 * UOP_SIZE_BYTES);
    this.#engine = engine;
    engine.select(0, RAM_MIN_BASE, BigInt(RAM_SIZE_BYTES));
    this.setControl(CR0_PE, CR4_OSFXSR | CR4_OSXMMEXCPT);
    this.state.setBigUint64(CPU_RFLAGS, 2n, true);
    this.state.setUint32(CPU_MODE, MODE_64, true);
    this.mxcsr = MXCSR_DEFAULT;
    engine.selectTlb();
    engine.flushTlb(0);
  }

  setControl(cr0: bigint, cr4: bigint): void {
    this.state.setBigUint64(CPU_CR0, cr0, true);
    this.state.setBigUint64(CPU_CR4, cr4, true);
  }

  xmm(number: number): Uint8Array {
    const start = CPU_STATE_BASE + CPU_XMMS + 16 * number;
    return this.#bytes.subarray(start, start + 16);
  }

  /** All 80 bits. */
  mmx(number: number): Uint8Array {
    const start = CPU_STATE_BASE + CPU_X87_REGISTERS + 16 * number;
    return this.#bytes.subarray(start, start + 10);
  }

  register(number: number): Uint8Array {
    const start = CPU_STATE_BASE + CPU_GPRS + 8 * number;
    return this.#bytes.subarray(start, start + 8);
  }

  setRegister(number: number, value: bigint): void {
    this.state.setBigUint64(CPU_GPRS + 8 * number, value, true);
  }

  get mxcsr(): number {
    return this.state.getUint32(CPU_MXCSR, true);
  }

  set mxcsr(value: number) {
    this.state.setUint32(CPU_MXCSR, value, true);
  }

  get flags(): number {
    return Number(this.#engine.rflags());
  }

  /** Whether the engine has such an instruction, whatever its operands are. */
  knows(code: Uint8Array): boolean {
    return this.#decode(code).kinds !== 0;
  }

  /** Runs an instruction of registers 0 to 7, or of [RDI]. Vector of the exception, undefined for none. */
  run(code: Uint8Array): number | undefined {
    const { code: opcode, form, modrm, immediate, kinds } = this.#decode(code);
    const reg = (modrm >> 3) & 7;
    const a =
      kinds & SSE_A_XMM
        ? CPU_STATE_BASE + CPU_XMMS + 16 * reg
        : kinds & (SSE_A_MMX | SSE_A_OPCODE)
          ? reg
          : CPU_STATE_BASE + CPU_GPRS + 8 * reg;
    this.#uop.setUint16(UOP_A, a, true);
    this.#uop.setUint16(UOP_B, this.#second(modrm & 7, form, kinds), true);
    this.#uop.setUint16(UOP_INDEX, CPU_STATE_BASE + CPU_ZERO, true);
    this.#uop.setUint16(COLD_CODE, opcode, true);
    this.#uop.setUint8(COLD_SIZE, form & FORM_REX_W ? 8 : form & FORM_66 ? 2 : 4);
    this.#uop.setUint8(COLD_FORM, form);
    this.#uop.setUint8(COLD_SEGMENT, SEGMENT_DS);
    this.#uop.setUint8(COLD_MODRM, modrm);
    this.#uop.setUint8(COLD_ADDRESS_SIZE, 8);
    this.#uop.setBigInt64(COLD_IMMEDIATE, BigInt((immediate << 24) >> 24), true);
    this.state.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
    const isDone = this.#engine.execSse(UOP) !== 0;
    const exception = this.state.getUint32(CPU_EXCEPTION, true);
    if (isDone !== (exception === NO_EXCEPTION)) throw new Error(`${exception} is raised, yet the instruction is done`);
    return isDone ? undefined : exception;
  }

  #second(number: number, form: number, kinds: number): number {
    if (form & FORM_MEMORY) return CPU_STATE_BASE + CPU_GPRS + 8 * number;
    if (kinds & SSE_B_XMM) return CPU_STATE_BASE + CPU_XMMS + 16 * number;
    if (kinds & SSE_B_MMX) return number;
    const isUpper = (kinds & SSE_B_BYTE) !== 0 && !(form & FORM_REX) && number >= 4;
    return CPU_STATE_BASE + CPU_GPRS + (isUpper ? 8 * (number - 4) + 1 : 8 * number);
  }

  #decode(bytes: Uint8Array): Decoded {
    let at = 0;
    let form = 0;
    for (; at < bytes.length; at++) {
      const prefix = { 102: FORM_66, 243: FORM_F3, 242: FORM_F2 }[bytes[at]!];
      if (prefix === undefined) break;
      form |= prefix;
    }
    if ((bytes[at]! & 0xf0) === 0x40) form |= FORM_REX | (bytes[at++]! & 8 ? FORM_REX_W : 0);
    // 0F, 0F 38, 0F 3A.
    at++;
    const map = bytes[at] === 0x38 ? 2 : bytes[at] === 0x3a ? 3 : 1;
    if (map !== 1) at++;
    const code = (map << 8) | bytes[at++]!;
    const modrm = bytes[at++]!;
    if (modrm >> 6 !== 3) form |= FORM_MEMORY;
    const kinds = this.#engine.sseOperandKinds(code, form);
    if (kinds !== 0 && at + (kinds & SSE_IMMEDIATE ? 1 : 0) !== bytes.length) throw new Error("Another length");
    return { code, form, modrm, immediate: bytes[at] ?? 0, kinds };
  }
}

const PAGES = (RAM_MIN_BASE + RAM_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES;
const UOP = CPU_CACHES_BASE + CACHE_UOPS;
