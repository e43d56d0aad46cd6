// SPDX-License-Identifier: Apache-2.0
// A guest that does one thing after another to its CPU and writes down what came of each: the same on every accelerator.
//
// It runs in 64-bit mode at privilege level 0. Every exception and interrupt is written down as its vector, error code, RIP and CS, a
// page fault with CR2, and the case is over, unless it has a handler of its own.
import { Assembler } from "../../../../src/payload/assembler.ts";
import { wrapElf } from "../../../../src/payload/elf.ts";
import { byte, dword, Label, qword, word } from "../../../../src/payload/registers.ts";

//   0x10_0000  code              0x30_0000  log               0x32_0000  IDT, TSS, GDT
//   0x33_0000  stacks            0x40_0000  page tables       0x50_0000  pages to play with
export const CODE_GPA = 0x10_0000;
export const LOG_GPA = 0x30_0000;
const LOG_SIZE_BYTES = 0x1_0000;
export const DONE_GPA = LOG_GPA + LOG_SIZE_BYTES;
const LOG_POINTER = DONE_GPA + 8;
const RESUME = DONE_GPA + 16;
/** Whoever comes to 64-bit mode now is the second vCPU. */
const OTHER_RUNS = DONE_GPA + 24;
export const VARIABLES = DONE_GPA + 0x100;
export const IDT = 0x32_0000;
export const TSS = 0x32_1000;
export const GDT = 0x32_2000;
/** Stacks grow down from here. */
export const STACK = 0x33_2000;
export const IST1 = 0x33_4000;
export const IST2 = 0x33_6000;
export const RSP0 = 0x33_8000;
export const USER_STACK = 0x33_a000;
const OTHER_STACK = 0x33_c000;
/** Real-mode code of the second vCPU. */
export const TRAMPOLINE = 0x8000;
const PML4 = 0x40_0000;
const PDPT = 0x40_1000;
export const DIRECTORIES = 0x40_2000;
const GIBS = 4;
/** Tables of the window, one of each level. */
export const WINDOW_PDPT = 0x40_8000;
export const WINDOW_PD = 0x40_9000;
export const WINDOW_PT = 0x40_a000;
export const WINDOW_PML4E = PML4 + 8;
export const PAGES = 0x50_0000;
/** Linear address of what WINDOW_PT maps. */
export const WINDOW = 1n << 39n;
export const LAPIC = 0xfee0_0000;

export const CODE64 = 0x08;
export const DATA = 0x10;
export const CODE32 = 0x18;
export const USER_CODE32 = 0x23;
export const USER_DATA = 0x2b;
export const USER_CODE64 = 0x33;
export const TSS_SELECTOR = 0x38;
export const DATA_ABSENT = 0x48;
export const CODE_ABSENT = 0x50;
export const DATA_READ_ONLY = 0x58;
export const CODE_CONFORMING = 0x60;
export const BEYOND_GDT = 0x80;
// biome-ignore format: a table
const DESCRIPTORS = [
  0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x00cf_9b00_0000_ffffn,
  0x00cf_fb00_0000_ffffn, 0x00cf_f300_0000_ffffn, 0x00af_fb00_0000_ffffn,
  0x0000_8900_0000_0067n | (BigInt(TSS & 0xffffff) << 16n), 0n,
  0x00cf_1300_0000_ffffn, 0x00af_1b00_0000_ffffn, 0x00cf_9100_0000_ffffn, 0x00af_9f00_0000_ffffn,
];

export const DE = 0;
export const DB = 1;
export const NMI = 2;
export const BP = 3;
export const UD = 6;
export const DF = 8;
export const NP = 11;
export const SS = 12;
export const GP = 13;
export const PF = 14;
/** A gate that user mode may use. */
export const USER_GATE = 0x81;
const WITH_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17]);

export const INTERRUPT_GATE = 0x8e;
export const TRAP_GATE = 0x8f;
export const USER_INTERRUPT_GATE = 0xee;

export const MSR_EFER = 0xc000_0080;
/** SCE, LME, NXE. */
export const EFER = 0x901;
/** PAE, PGE, OSFXSR, OSXMMEXCPT. */
export const CR4 = 0x6a0;
export const CR0 = 0x8001_0033;

const MARK = 0xca5e_0000_0000n;

type Value = number | bigint | Label;
/** What a case leaves in the log; labels are their addresses. */
export type Expectation = (Value | Value[])[];

export interface Case {
  title: string;
  expected: Expectation;
  /** Why KVM is not asked. */
  notOnKvm?: string | undefined;
}

/** An exception in the log. */
export function fault(vector: number, errorCode: number, rip: Value, cs = CODE64, cr2?: bigint): Value[] {
  return cr2 === undefined ? [vector, errorCode, rip, cs] : [vector, errorCode, rip, cs, cr2];
}

export class SystemProgram {
  readonly asm = new Assembler(CODE_GPA, 32);
  readonly cases: Case[] = [];
  readonly isKvm: boolean;
  readonly #logRax = new Label("logRax");
  readonly #enterLongMode = new Label("enterLongMode");
  readonly #otherStarts = new Label("otherStarts");
  #number = 0;

  constructor(isKvm: boolean) {
    this.isKvm = isKvm;
    this.#emitBoot();
  }

  /** A case: `body` emits it, and returns what it leaves in the log. */
  add(title: string, body: (asm: Assembler) => Expectation, notOnKvm?: string): void {
    if (this.isKvm && notOnKvm !== undefined) return;
    const { asm } = this;
    const end = new Label("end");
    asm.mov("rax", MARK + BigInt(this.#number++));
    this.logRax();
    this.resumeAt(end);
    const expected = body(asm);
    asm.bind(end);
    asm.mov("eax", DATA);
    asm.movSegment("ss", "eax");
    asm.mov("rsp", STACK);
    this.cases.push({ title, expected, notOnKvm });
  }

  /** Ends the program. Returns an ELF file. */
  finish(): Uint8Array {
    const { asm } = this;
    asm.mov(dword(DONE_GPA), 1);
    const halted = asm.label();
    asm.cli();
    asm.hlt();
    asm.jmp(halted);
    if (this.#otherStarts.address === undefined) asm.bind(this.#otherStarts);
    return wrapElf(asm.assemble(), { loadGpa: CODE_GPA, memorySizeBytes: 0x20_0000 });
  }

  /** What the cases were expected to leave, and what they have left, by title. */
  read(ram: Uint8Array): { title: string; expected: string; found: string }[] {
    const words = new BigUint64Array(ram.slice(LOG_GPA, LOG_GPA + LOG_SIZE_BYTES).buffer);
    const found: string[][] = this.cases.map(() => []);
    let number = -1;
    for (const one of words) {
      if (one > MARK && one < MARK + 0x1000n) number = Number(one - MARK) - 1;
      else if (one !== 0n && number >= 0) found[number]?.push(nameOf(one - 1n));
    }
    return this.cases.map(({ title, expected }, index) => ({
      title,
      expected: expected.flat().map(nameOf).join(" "),
      found: found[index]!.join(" "),
    }));
  }

  // What cases are made of.

  /** Where to go on after an exception. */
  resumeAt(label: Label): void {
    this.asm.mov("eax", label);
    this.asm.mov(qword(RESUME), "rax");
  }

  /** RAX into the log. */
  logRax(): void {
    this.asm.call(this.#logRax);
  }

  log(value: number): void {
    this.asm.mov("eax", value);
    this.logRax();
  }

  /** A gate of the IDT. */
  gate(vector: number, handler: Label, type = INTERRUPT_GATE, stack = 0, selector = CODE64): void {
    const { asm } = this;
    const at = IDT + 16 * vector;
    asm.mov("eax", handler);
    asm.mov(word(at), "ax");
    asm.shr("eax", 16);
    asm.mov(word(at + 6), "ax");
    asm.mov(word(at + 2), selector);
    asm.mov(byte(at + 4), stack);
    asm.mov(byte(at + 5), type);
    asm.mov(qword(at + 8), 0);
  }

  /** Attributes and IST of a gate that is there. */
  changeGate(vector: number, type: number, stack = 0): void {
    this.asm.mov(byte(IDT + 16 * vector + 4), stack);
    this.asm.mov(byte(IDT + 16 * vector + 5), type);
  }

  /** Goes to `target`, at level 3 unless the selectors are others. */
  enter(target: Label, { cs = USER_CODE64, ss = USER_DATA, flags = 2, stack = USER_STACK } = {}): void {
    const { asm } = this;
    for (const value of [ss, stack, flags, cs]) {
      asm.mov("eax", value);
      asm.push("rax");
    }
    asm.mov("eax", target);
    asm.push("rax");
    asm.iretq();
  }

  /** An entry of the window's page table. */
  mapPage(page: number, entry: bigint): void {
    this.setEntry(WINDOW_PT + 8 * page, entry);
  }

  setEntry(where: number, entry: bigint): void {
    const { asm } = this;
    asm.mov("rax", entry);
    asm.mov(qword(where), "rax");
    this.flush();
  }

  /** All but global pages. */
  flush(): void {
    this.asm.movFromControl("rax", 3);
    this.asm.movToControl(3, "rax");
  }

  logMemory(gpa: number): void {
    this.asm.mov("rax", qword(gpa));
    this.logRax();
  }

  writeMsr(number: number, value: bigint): void {
    const { asm } = this;
    asm.mov("ecx", number | 0);
    asm.mov("eax", Number(value & 0xffff_ffffn) | 0);
    asm.mov("edx", Number(value >> 32n) | 0);
    asm.wrmsr();
  }

  /**
   * Sends INIT and SIPI to the second vCPU, which runs `trampoline`, then `protectedMode` in 32-bit mode without paging, and in
   * 64-bit mode, with a stack of its own, `entry`.
   */
  startOther(trampoline: (narrow: Label) => Uint8Array, protectedMode: () => void, entry: Label): void {
    const { asm } = this;
    const code = new Label("code");
    const over = new Label("over");
    const narrow = new Label("narrow");
    asm.jmp(over);
    asm.bits(32);
    asm.bind(narrow);
    asm.mov("eax", DATA);
    for (const segment of ["ds", "es", "ss"] as const) asm.movSegment(segment, "eax");
    protectedMode();
    asm.jmp(this.#enterLongMode);
    asm.bits(64);
    asm.bind(this.#otherStarts);
    asm.mov("rsp", OTHER_STACK);
    asm.jmp(entry);
    const bytes = trampoline(narrow);
    asm.bind(code);
    asm.bytes(bytes);
    asm.bind(over);
    asm.mov("esi", code);
    asm.mov("edi", TRAMPOLINE);
    asm.mov("ecx", bytes.length);
    asm.repMovsb();
    asm.mov(dword(OTHER_RUNS), 1);
    asm.mov("rdi", BigInt(LAPIC + 0xf0));
    asm.mov(dword("rdi"), 0x1ff);
    this.sendIpi(0x4500);
    this.sendIpi(0x4600 | (TRAMPOLINE >> 12));
  }

  /** To the second vCPU. */
  sendIpi(command: number): void {
    const { asm } = this;
    asm.mov("rdi", BigInt(LAPIC + 0x310));
    asm.mov(dword("rdi"), 1 << 24);
    asm.mov("rdi", BigInt(LAPIC + 0x300));
    asm.mov(dword("rdi"), command);
  }

  #emitBoot(): void {
    const { asm } = this;
    const start = new Label("start");
    const gdtPointer = new Label("gdtPointer");
    const idtPointer = new Label("idtPointer");
    const longMode = new Label("longMode");
    asm.cli();
    asm.cld();
    asm.mov("edi", LOG_GPA);
    asm.mov("ecx", (PAGES + 0x8000 - LOG_GPA) / 4);
    asm.mov("eax", 0);
    asm.repStosd();
    asm.mov(dword(LOG_POINTER), LOG_GPA);
    this.#emitTables();
    asm.bind(this.#enterLongMode);
    asm.mov("eax", CR4);
    asm.movToControl(4, "eax");
    asm.mov("eax", PML4);
    asm.movToControl(3, "eax");
    asm.mov("ecx", MSR_EFER | 0);
    asm.mov("edx", 0);
    asm.mov("eax", EFER);
    asm.wrmsr();
    asm.mov("eax", CR0 | 0);
    asm.movToControl(0, "eax");
    asm.lgdt(dword(gdtPointer));
    asm.lidt(dword(idtPointer));
    asm.ljmp(CODE64, longMode);

    asm.align(8);
    asm.bind(gdtPointer);
    asm.dw(8 * DESCRIPTORS.length - 1);
    asm.dd(GDT);
    asm.bind(idtPointer);
    asm.dw(0xfff);
    asm.dd(IDT);

    asm.bits(64);
    asm.bind(this.#logRax);
    // Zero is what nothing was written to.
    asm.mov("r15", qword(LOG_POINTER));
    asm.add("rax", 1);
    asm.mov(qword("r15"), "rax");
    asm.add(qword(LOG_POINTER), 8);
    asm.ret();

    const common = new Label("common");
    const stubs: Label[] = [];
    for (let vector = 0; vector < 256; vector++) {
      stubs.push(asm.label());
      if (!WITH_ERROR_CODE.has(vector)) asm.pushImmediate(0);
      // PUSH imm32
      asm.db(0x68);
      asm.dd(vector);
      asm.jmp(common);
    }
    asm.bind(common);
    asm.mov("r14", "rsp");
    asm.mov("rsp", STACK);
    for (const offset of [0, 8, 16, 24]) {
      asm.mov("rax", qword("r14", offset));
      this.logRax();
    }
    const isOther = new Label("isOther");
    asm.mov("rax", qword("r14"));
    asm.cmp("rax", PF);
    asm.jcc("ne", isOther);
    asm.movFromControl("rax", 2);
    this.logRax();
    asm.bind(isOther);
    asm.mov("rax", qword(RESUME));
    asm.push("rax");
    asm.ret();

    asm.bind(longMode);
    asm.mov("eax", DATA);
    for (const segment of ["ds", "es", "ss", "fs", "gs"] as const) asm.movSegment(segment, "eax");
    asm.mov("eax", dword(OTHER_RUNS));
    asm.cmp("eax", 1);
    asm.jcc("e", this.#otherStarts);
    asm.mov("rsp", STACK);
    for (const [vector, stub] of stubs.entries()) this.gate(vector, stub);
    this.changeGate(USER_GATE, USER_INTERRUPT_GATE);
    for (const [offset, stack] of [
      [4, RSP0],
      [36, IST1],
      [44, IST2],
    ] as const) {
      asm.mov(dword(TSS + offset), stack);
    }
    // No map of ports.
    asm.mov(word(TSS + 102), 0x68);
    asm.mov("eax", TSS_SELECTOR);
    // LTR
    asm.db(0x0f, 0x00, 0xd8);
    asm.jmp(start);
    asm.bind(start);
  }

  /** The first 4 GiB one to one, everybody's; behind them nothing but the window. */
  #emitTables(): void {
    const { asm } = this;
    for (const [index, descriptor] of DESCRIPTORS.entries()) {
      asm.mov(dword(GDT + 8 * index), Number(descriptor & 0xffff_ffffn) | 0);
      asm.mov(dword(GDT + 8 * index + 4), Number(descriptor >> 32n) | 0);
    }
    asm.mov(dword(PML4), PDPT | 7);
    asm.mov(dword(WINDOW_PML4E), WINDOW_PDPT | 7);
    asm.mov(dword(WINDOW_PDPT), WINDOW_PD | 7);
    asm.mov(dword(WINDOW_PD), WINDOW_PT | 7);
    for (let gib = 0; gib < GIBS; gib++) asm.mov(dword(PDPT + 8 * gib), (DIRECTORIES + 0x1000 * gib) | 7);
    asm.mov("edi", DIRECTORIES);
    asm.mov("eax", 0x87);
    asm.mov("ecx", 512 * GIBS);
    const next = asm.label();
    asm.mov(dword("edi"), "eax");
    asm.add("edi", 8);
    asm.add("eax", 0x20_0000);
    asm.dec("ecx");
    asm.jcc("ne", next);
  }
}

function nameOf(value: Value): string {
  if (value instanceof Label) return `0x${value.address!.toString(16)}`;
  return `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}`;
}
