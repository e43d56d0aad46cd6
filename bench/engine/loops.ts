// SPDX-License-Identifier: Apache-2.0
// A guest that is nothing but loops of known length, for ever: 64-bit for PVH loaders, and its 32-bit twin for multiboot ones.
//
//   0x0010_0000  the multiboot header (32-bit only), code
//   0x0010_1000  page tables
//   0x0020_0000  the stack grows down from here; data from here on
//   0x0100_0000  2048 pages that are mapped one by one, all else is in large pages
//
// Before each loop it writes the loop's letter to MARK_PORT: from one mark to the next is one loop.
import { Assembler } from "../../src/payload/assembler.ts";
import { wrapElf } from "../../src/payload/elf.ts";
import { dword, Label, type Memory, qword, type Register32, type Register64 } from "../../src/payload/registers.ts";

/** Bochs's debug port, which QEMU has too. */
export const MARK_PORT = 0xe9;
/** The first loop's. */
export const FIRST_MARK = 0x41;

export const LOOPS_GPA = 0x10_0000;
export const LOOPS_RAM_SIZE_BYTES = 32 * 2 ** 20;

const TABLES_GPA = LOOPS_GPA + 0x1000;
const STACK_GPA = 0x20_0000;
/** Pointers are kept in these by an AND: the bit of the buffer, and the mask of the offset. */
const SOURCE_GPA = 0x20_0000;
const TARGET_OFFSET = 0x1_0000;
const OFFSET_MASK = 0x3fff;
const PAGES_GPA = 0x100_0000;
const PAGE_COUNT = 2048;
const PAGE_SIZE_BYTES = 4096;
const FIBONACCI = 12;

type Width = 32 | 64;
type Name = "a" | "b" | "c" | "d" | "si" | "di" | "sp";

/** The assembler, and registers and operands of the machine's own width. */
class Code extends Assembler {
  readonly width: Width;

  constructor(width: Width) {
    super(LOOPS_GPA, 32);
    this.width = width;
  }

  r(name: Name): Register64 | Register32 {
    const suffix = name.length === 1 ? "x" : "";
    return `${this.width === 64 ? "r" : "e"}${name}${suffix}` as Register64 | Register32;
  }

  at(name: Name, disp = 0): Memory {
    return this.width === 64 ? qword(this.r(name), disp) : dword(this.r(name), disp);
  }
}

export interface Loop {
  id: string;
  label: string;
  /** In one turn, the DEC and the JNZ that end it included. */
  instructions: number;
  /** Of the instructions of other loops: slow ones make fewer. */
  share?: number;
  /** One turn. The register c counts turns. */
  emit(code: Code): void;
}

/** Instructions of a call of the function that `emitFibonacci` makes. */
function fibonacciInstructions(n: number): number {
  return n < 2 ? 4 : 13 + fibonacciInstructions(n - 1) + fibonacciInstructions(n - 2);
}

/** di → a, by recursion. Returns the function. */
function emitFibonacci(code: Code): Label {
  const [a, b, di] = [code.r("a"), code.r("b"), code.r("di")];
  const skip = new Label("skip");
  const small = new Label("small");
  code.jmp(skip);
  const fibonacci = code.label("fibonacci");
  code.cmp(di, 2);
  code.jcc("b", small);
  code.push(b);
  code.push(di);
  code.dec(di);
  code.call(fibonacci);
  code.mov(b, a);
  code.pop(di);
  code.sub(di, 2);
  code.call(fibonacci);
  code.add(a, b);
  code.pop(b);
  code.ret();
  code.bind(small);
  code.mov(a, di);
  code.ret();
  code.bind(skip);
  return fibonacci;
}

/** Goes one way or the other by a bit of EAX; either has as many instructions. */
function emitBranch(code: Code, bit: number): void {
  const b = code.r("b");
  const other = new Label("other");
  const joined = new Label("joined");
  code.test("eax", bit);
  code.jcc("e", other);
  code.add(b, 3);
  code.jmp(joined);
  code.bind(other);
  code.sub(b, 1);
  code.xor(b, 5);
  code.bind(joined);
}

/** In the order in which they run. */
export const LOOPS: readonly Loop[] = [
  {
    id: "alu",
    label: "ALU",
    instructions: 8,
    emit(code) {
      const [a, b, c, d] = [code.r("a"), code.r("b"), code.r("c"), code.r("d")];
      code.add(a, c);
      code.xor(d, a);
      code.lea(b, code.at("a", 5));
      code.and(b, 0x7fff_ffff);
      code.sub(a, b);
      code.shl(d, 1);
    },
  },
  {
    id: "memory",
    label: "2 loads and a store of 8",
    instructions: 8,
    emit(code) {
      const [a, d, si] = [code.r("a"), code.r("d"), code.r("si")];
      code.mov(a, code.at("si"));
      code.add(a, code.at("si", 8));
      code.add(a, d);
      code.mov(code.at("si", TARGET_OFFSET), a);
      code.add(si, 8);
      code.and(si, SOURCE_GPA | OFFSET_MASK);
    },
  },
  {
    id: "calls",
    label: `call and return, fib(${FIBONACCI})`,
    // What is emitted before the calls, a JMP over the function and a MOV, is part of the turn.
    instructions: 5 + fibonacciInstructions(FIBONACCI),
    emit(code) {
      const fibonacci = emitFibonacci(code);
      code.mov(code.r("di"), FIBONACCI);
      code.call(fibonacci);
    },
  },
  {
    id: "branches",
    label: "2 unpredictable branches of 19",
    instructions: 19,
    emit(code) {
      // Xorshift of 32 bits in both twins: they go the same ways.
      for (const [shift, count] of [
        ["shl", 13],
        ["shr", 17],
        ["shl", 5],
      ] as const) {
        code.mov("edx", "eax");
        code[shift]("edx", count);
        code.xor("eax", "edx");
      }
      emitBranch(code, 0x1);
      emitBranch(code, 0x80);
    },
  },
  {
    id: "tlb",
    label: `a load in each of ${PAGE_COUNT} pages`,
    instructions: 4 + 4 * PAGE_COUNT,
    share: 0.1,
    emit(code) {
      const [a, d, si] = [code.r("a"), code.r("d"), code.r("si")];
      code.mov(si, PAGES_GPA);
      code.mov(d, PAGE_COUNT);
      const next = code.label("next");
      code.add(a, code.at("si"));
      code.add(si, PAGE_SIZE_BYTES);
      code.dec(d);
      code.jcc("ne", next);
    },
  },
  {
    id: "sse2",
    label: "SSE2",
    instructions: 10,
    share: 0.25,
    emit(code) {
      const si = code.r("si");
      code.movdquLoad(0, code.at("si"));
      code.paddd(1, 0);
      code.pxor(2, 1);
      code.addpd(3, 4);
      code.mulpd(3, 5);
      code.movdquStore(code.at("si", TARGET_OFFSET), 2);
      code.add(si, 16);
      code.and(si, SOURCE_GPA | OFFSET_MASK);
    },
  },
];

/** Of a loop in each round. */
function turnsOf({ instructions, share = 1 }: Loop, millionInstructions: number): number {
  return Math.max(1, Math.round((millionInstructions * share * 1e6) / instructions));
}

/** Of a loop in each round, without the dozen that comes before it. */
export function instructionsOf(loop: Loop, millionInstructions: number): number {
  return turnsOf(loop, millionInstructions) * loop.instructions;
}

const PRESENT_WRITABLE = 0x03;
const LARGE = 0x80;
const PDE_32_SIZE_BYTES = 0x40_0000;
const PDE_64_SIZE_BYTES = 0x20_0000;
const LARGE_PAGES_END = 0x4000_0000;
const SMALL_PAGES_END = PAGES_GPA + PAGE_COUNT * PAGE_SIZE_BYTES;

/** A directory of large pages, and behind it the tables of the region that has small ones. */
function directoryAndTables(gpa: number, entryCount: number, largeSizeBytes: number): number[] {
  const directory: number[] = [];
  for (let page = 0; page < LARGE_PAGES_END; page += largeSizeBytes) directory.push(page | PRESENT_WRITABLE | LARGE);
  while (directory.length < entryCount) directory.push(0);
  const tables: number[] = [];
  for (let page = PAGES_GPA; page < SMALL_PAGES_END; page += PAGE_SIZE_BYTES) {
    if (page % largeSizeBytes === 0) {
      directory[page / largeSizeBytes] = (gpa + PAGE_SIZE_BYTES * (1 + tables.length / entryCount)) | PRESENT_WRITABLE;
    }
    tables.push(page | PRESENT_WRITABLE);
  }
  return [...directory, ...tables];
}

function pageTables(width: Width): Uint8Array {
  if (width === 32)
    return new Uint8Array(Uint32Array.from(directoryAndTables(TABLES_GPA, 1024, PDE_32_SIZE_BYTES)).buffer);
  const top = new Array<number>(1024).fill(0);
  top[0] = (TABLES_GPA + PAGE_SIZE_BYTES) | PRESENT_WRITABLE;
  top[512] = (TABLES_GPA + 2 * PAGE_SIZE_BYTES) | PRESENT_WRITABLE;
  const entries = [...top, ...directoryAndTables(TABLES_GPA + 2 * PAGE_SIZE_BYTES, 512, PDE_64_SIZE_BYTES)];
  return new Uint8Array(BigUint64Array.from(entries, BigInt).buffer);
}

const MULTIBOOT_MAGIC = 0x1bad_b002;
/** The header says where to load the file. */
const MULTIBOOT_ADDRESSES = 0x1_0000;
const MULTIBOOT_HEADER_SIZE_BYTES = 32;

const SELECTOR_CODE64 = 0x08;
const SELECTOR_DATA = 0x10;
const GDT = [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn];
const MSR_EFER = 0xc000_0080;
const EFER_LME = 0x100;
/** PSE, OSFXSR, OSXMMEXCPT; PAE for 64-bit code. */
const CR4_32 = 0x610;
const CR4_64 = 0x620;
const CR0_PG_WP_NE_MP_PE = 0x8001_0033;

/** From 32-bit code without paging, where both loaders begin. */
function emitEntry(code: Code): void {
  code.cli();
  code.mov("eax", TABLES_GPA);
  code.movToControl(3, "eax");
  code.mov("eax", code.width === 64 ? CR4_64 : CR4_32);
  code.movToControl(4, "eax");
  if (code.width === 64) {
    code.mov("ecx", MSR_EFER);
    code.mov("edx", 0);
    code.mov("eax", EFER_LME);
    code.wrmsr();
  }
  code.mov("eax", CR0_PG_WP_NE_MP_PE);
  code.movToControl(0, "eax");
  if (code.width === 64) {
    const gdtPointer = new Label("gdtPointer");
    const longMode = new Label("longMode");
    code.lgdt(dword(gdtPointer));
    code.ljmp(SELECTOR_CODE64, longMode);
    code.align(8);
    const gdt = code.label("gdt");
    code.dq(...GDT);
    code.bind(gdtPointer);
    code.dw(GDT.length * 8 - 1);
    code.dd(gdt);
    code.bits(64);
    code.bind(longMode);
    code.mov("eax", SELECTOR_DATA);
    for (const segment of ["ds", "es", "ss"] as const) code.movSegment(segment, "eax");
  }
  code.mov("esp", STACK_GPA);
}

/** The rounds of all loops. */
function emitLoops(code: Code, millionInstructions: number): void {
  const numbers = new Label("numbers");
  const round = code.label("round");
  for (const [index, loop] of LOOPS.entries()) {
    code.mov("eax", FIRST_MARK + index);
    code.out(MARK_PORT, "al");
    code.mov("eax", 12345);
    code.mov("ebx", 2);
    code.mov("edx", 3);
    code.mov("esi", SOURCE_GPA);
    for (let xmm = 0; xmm < 6; xmm++) code.movdquLoad(xmm, dword(numbers));
    code.mov("ecx", turnsOf(loop, millionInstructions));
    const turn = code.label("turn");
    loop.emit(code);
    code.dec(code.r("c"));
    code.jcc("ne", turn);
  }
  code.jmp(round);
  code.align(16);
  code.bind(numbers);
  // Small enough for a sum of products to stay a number.
  for (const value of [0.5, 0.25]) code.bytes(new Uint8Array(Float64Array.of(value).buffer));
}

function withTables(code: Code): Uint8Array {
  const bytes = code.assemble();
  const tables = pageTables(code.width);
  const image = new Uint8Array(TABLES_GPA - LOOPS_GPA + tables.length);
  if (bytes.length > TABLES_GPA - LOOPS_GPA) throw new Error(`${bytes.length} bytes of code run into the page tables`);
  image.set(bytes);
  image.set(tables, TABLES_GPA - LOOPS_GPA);
  return image;
}

/** The 64-bit loops, to be placed and entered at LOOPS_GPA in 32-bit protected mode. */
export function buildLoops(millionInstructions: number): Uint8Array {
  const code = new Code(64);
  emitEntry(code);
  emitLoops(code, millionInstructions);
  return withTables(code);
}

/** The same as a file for PVH loaders. */
export function buildPvhLoops(millionInstructions: number): Uint8Array {
  return wrapElf(buildLoops(millionInstructions), { loadGpa: LOOPS_GPA });
}

/** The 32-bit twin as a file for multiboot loaders. */
export function buildMultibootLoops(millionInstructions: number): Uint8Array {
  const code = new Code(32);
  const entry = LOOPS_GPA + MULTIBOOT_HEADER_SIZE_BYTES;
  code.dd(MULTIBOOT_MAGIC, MULTIBOOT_ADDRESSES, -(MULTIBOOT_MAGIC + MULTIBOOT_ADDRESSES));
  // Of the header and what is loaded: all of the file. No more memory is wanted.
  code.dd(LOOPS_GPA, LOOPS_GPA, 0, 0, entry);
  emitEntry(code);
  emitLoops(code, millionInstructions);
  return withTables(code);
}
