// SPDX-License-Identifier: Apache-2.0
// The engine's x87 by itself: a vCPU in its state page with flat memory, and no decoder, blocks or local APIC.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import asc from "assemblyscript/asc";
import {
  CACHE_UOPS,
  CPU_ADDRESS,
  CPU_EXCEPTION,
  CPU_MODE,
  CPU_RFLAGS,
  CPU_ZERO,
  NO_EXCEPTION,
  SEGMENT_DS,
} from "../../../assembly/cpu/layout.ts";
import { CPU_CACHES_BASE, CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES, RAM_MIN_BASE } from "../../../assembly/layout.ts";
import {
  COLD_CODE,
  COLD_FORM,
  COLD_MODRM,
  COLD_SEGMENT,
  COLD_SIZE,
  FORM_MEMORY,
  MODE_64,
  UOP_B,
  UOP_INDEX,
  UOP_SIZE_BYTES,
} from "./uop.ts";

/** Address of all instructions. */
export const RIP = 0x1234_5678;

const root = fileURLToPath(new URL("../../..", import.meta.url));

/** Bytes of guest RAM; what is beyond is a page fault. */
export const RAM_SIZE_BYTES = 0x1_0000;

/** What is not a file: the module, and in the place of what is around the x87, memory without pages and code without blocks. */
const SOURCES: Record<string, string> = {
  "x87-test.ts": `
    export { execX87 } from "./assembly/cpu/x87";
    export { select } from "./assembly/cpu/vcpu";
    export { rflags, setRflags } from "./assembly/cpu/flags";`,
  "assembly/cpu/blocks.ts": `
    export function ripOf(pc: usize): u64 { return ${RIP}; }`,
  "assembly/cpu/epochs.ts": `
    export function newEpoch(): void {}`,
  "assembly/cpu/slow-access.ts": `
    export function finishWrite(): bool { return true; }`,
  "assembly/cpu/access.ts": `
    import { raisePageFault, ramBase } from "./vcpu";
    export function isCanonical(address: u64): bool { return true; }
    export function toRead(address: u64, sizeBytes: u32): usize {
      if (address + sizeBytes <= ${RAM_SIZE_BYTES}) return ramBase + <usize>address;
      raisePageFault(max<u64>(address, ${RAM_SIZE_BYTES}), 0);
      return 0;
    }
    export function toWrite(address: u64, sizeBytes: u32): usize { return toRead(address, sizeBytes); }
    export function isPlain(pointer: usize): bool { return true; }
    export function readValue(address: u64, sizeBytes: u32): u64 {
      const pointer = toRead(address, sizeBytes);
      if (pointer == 0) return 0;
      return sizeBytes == 1 ? load<u8>(pointer) : sizeBytes == 2 ? load<u16>(pointer) : sizeBytes == 4 ? load<u32>(pointer) : load<u64>(pointer);
    }
    export function writeValue(address: u64, sizeBytes: u32, value: u64): bool {
      const pointer = toWrite(address, sizeBytes);
      if (pointer != 0) memory.copy(pointer, scratch(value), sizeBytes);
      return pointer != 0;
    }
    function scratch(value: u64): usize {
      store<u64>(8, value);
      return 8;
    }`,
};

interface X87Exports {
  select(index: number, base: number, sizeBytes: bigint): void;
  execX87(pc: number): number;
  rflags(): bigint;
  setRflags(flags: bigint): void;
}

async function compile(): Promise<Uint8Array<ArrayBuffer>> {
  let binary: Uint8Array | undefined;
  const args = ["x87-test.ts", "--config", "asconfig.json", "--outFile", "x87.wasm"];
  const { error, stderr } = await asc.main(args, {
    readFile: (name: string, baseDir: string) => {
      const path = join(baseDir, name);
      if (name in SOURCES) return SOURCES[name]!;
      return existsSync(join(root, path)) ? readFileSync(join(root, path), "utf8") : null;
    },
    writeFile: (name: string, contents: string | Uint8Array) => {
      if (name === "x87.wasm") binary = contents as Uint8Array;
    },
  });
  if (error !== null || binary === undefined) throw new Error(`${error?.message ?? "no output"}\n${stderr.toString()}`);
  return Uint8Array.from(binary);
}

const WASM_PAGE_SIZE_BYTES = 65536;
const PAGES = (RAM_MIN_BASE + RAM_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES;
const UOP = CPU_CACHES_BASE + CACHE_UOPS;
/** RFLAGS: bit 1 is always set. */
const RESERVED_FLAG = 2n;

/** Opcodes of two bytes have 0x100 added. */
export interface Instruction {
  opcode: number;
  modrm: number;
  /** Linear address of the operand in memory. */
  address?: number;
  sizeBytes?: number;
  form?: number;
}

export interface Machine {
  /** The state page. */
  state: DataView;
  ram: DataView;
  /** False: an exception was raised. */
  run(instruction: Instruction): boolean;
  exception(): number;
  flags(): number;
  setFlags(flags: number): void;
}

const BYTE_OP_LIMIT = 0xc0;

export async function createMachine(): Promise<Machine> {
  const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
  const state = new DataView(memory.buffer, CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES);
  const uop = new DataView(memory.buffer, UOP, 2 * UOP_SIZE_BYTES);
  const { instance } = await WebAssembly.instantiate(await compile(), { env: { memory } });
  const engine = instance.exports as unknown as X87Exports;
  engine.select(0, RAM_MIN_BASE, BigInt(RAM_SIZE_BYTES));
  state.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
  state.setBigUint64(CPU_RFLAGS, RESERVED_FLAG, true);
  state.setUint32(CPU_MODE, MODE_64, true);
  return {
    state,
    ram: new DataView(memory.buffer, RAM_MIN_BASE, RAM_SIZE_BYTES),
    run({ opcode, modrm, address = 0, sizeBytes = 4, form = 0 }) {
      uop.setUint16(UOP_B, CPU_STATE_BASE + CPU_ADDRESS, true);
      uop.setUint16(UOP_INDEX, CPU_STATE_BASE + CPU_ZERO, true);
      uop.setUint16(COLD_CODE, opcode, true);
      uop.setUint8(COLD_SIZE, sizeBytes);
      uop.setUint8(COLD_FORM, form | (modrm < BYTE_OP_LIMIT ? FORM_MEMORY : 0));
      uop.setUint8(COLD_MODRM, modrm);
      uop.setUint8(COLD_SEGMENT, SEGMENT_DS);
      state.setBigUint64(CPU_ADDRESS, BigInt(address), true);
      state.setUint32(CPU_EXCEPTION, NO_EXCEPTION, true);
      return engine.execX87(UOP) !== 0;
    },
    exception: () => state.getUint32(CPU_EXCEPTION, true),
    flags: () => Number(engine.rflags()),
    setFlags: (flags) => engine.setRflags(BigInt(flags)),
  };
}
