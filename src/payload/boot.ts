// SPDX-License-Identifier: Apache-2.0
// From PVH's 32-bit entry to 64-bit code on every vCPU: page tables, descriptor tables, INIT and SIPI.
import { Assembler } from "./assembler.ts";
import { clearLapicError, spinCycles } from "./lapic.ts";
import { IDTS_GPA, LAPIC_GPA, PAGE_TABLES_GPA, TRAMPOLINE_GPA, type VcpuProgram, VECTOR_SPURIOUS } from "./plan.ts";
import { dword, Label, qword, word } from "./registers.ts";
import {
  CPU_NMIS_U32,
  ERROR_EXCEPTION,
  ERROR_VCPU_MISSING,
  HEADER_CPU_COUNT_U32,
  HEADER_MAGIC_U64,
  HEADER_ONLINE_U32,
  HEADER_PHASE_U32,
  HEADER_VERSION_U32,
  PHASE_BOOT,
  REPORT_GPA,
  REPORT_MAGIC,
  REPORT_SIZE_BYTES,
  REPORT_VERSION,
} from "./report.ts";

const SELECTOR_CODE64 = 0x08;
const SELECTOR_DATA = 0x10;
const SELECTOR_CODE32 = 0x18;

const MSR_EFER = 0xc000_0080;
const EFER_SCE_LME = 0x101;
const CR4_PAE_OSFXSR_OSXMMEXCPT = 0x620;
const CR0_PG_WP_NE_MP_PE = 0x8001_0033;

const ICR_LOW = LAPIC_GPA + 0x300;
const ICR_HIGH = LAPIC_GPA + 0x310;
const ICR_INIT = 0x4500;
const ICR_STARTUP = 0x4600;

const NMI = 2;
/** Exceptions for which the processor pushes an error code. */
const WITH_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17, 21, 29, 30]);

/** Flat segments: 64-bit code, data, 32-bit code. */
const GDT = [0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x00cf_9b00_0000_ffffn];

/** Emits the entry in 32-bit mode; 64-bit code of vCPU n goes on at `entries[n]`. Returns where later vCPUs enter. */
export function emitEntry(asm: Assembler, entries: Label[]): Label {
  const gdtPointer = new Label("gdtPointer");
  const enterLongMode = new Label("enterLongMode");
  asm.bits(32);
  asm.cli();
  asm.cld();
  asm.mov("edi", REPORT_GPA);
  asm.mov("ecx", REPORT_SIZE_BYTES / 4);
  asm.mov("eax", 0);
  asm.repStosd();
  asm.mov(dword(REPORT_GPA, HEADER_VERSION_U32), REPORT_VERSION);
  asm.mov(dword(REPORT_GPA, HEADER_CPU_COUNT_U32), entries.length);
  asm.mov(dword(REPORT_GPA, HEADER_PHASE_U32), PHASE_BOOT);
  emitPageTables(asm);
  asm.jmp(enterLongMode);

  asm.align(8);
  const gdt = asm.label("gdt");
  asm.dq(...GDT);
  asm.bind(gdtPointer);
  asm.dw(GDT.length * 8 - 1);
  asm.dd(gdt);

  const apEntry = asm.label("apEntry");
  asm.mov("eax", SELECTOR_DATA);
  for (const segment of ["ds", "es", "ss"] as const) asm.movSegment(segment, "eax");

  asm.bind(enterLongMode);
  asm.mov("eax", CR4_PAE_OSFXSR_OSXMMEXCPT);
  asm.movToControl(4, "eax");
  asm.mov("eax", PAGE_TABLES_GPA);
  asm.movToControl(3, "eax");
  asm.mov("ecx", MSR_EFER);
  asm.mov("edx", 0);
  asm.mov("eax", EFER_SCE_LME);
  asm.wrmsr();
  asm.mov("eax", CR0_PG_WP_NE_MP_PE);
  asm.movToControl(0, "eax");
  asm.lgdt(dword(gdtPointer));
  const longMode = new Label("longMode");
  asm.ljmp(SELECTOR_CODE64, longMode);

  asm.bits(64);
  asm.bind(longMode);
  asm.mov("eax", SELECTOR_DATA);
  for (const segment of ["ds", "es", "ss", "fs", "gs"] as const) asm.movSegment(segment, "eax");
  asm.mov("eax", LAPIC_GPA + 0x20);
  asm.mov("eax", dword("rax"));
  asm.shr("eax", 24);
  for (const [vcpu, entry] of entries.entries()) {
    asm.cmp("eax", vcpu);
    asm.jcc("e", entry);
  }
  const unknown = asm.label("unknown");
  asm.hlt();
  asm.jmp(unknown);
  return apEntry;
}

function emitPageTables(asm: Assembler): void {
  const pageDirectoryPointers = PAGE_TABLES_GPA + 0x1000;
  const pageDirectories = PAGE_TABLES_GPA + 0x2000;
  const present = 0x03;
  const presentLarge = 0x83;
  asm.mov("edi", PAGE_TABLES_GPA);
  asm.mov("ecx", 0x2000 / 4);
  asm.mov("eax", 0);
  asm.repStosd();
  asm.mov(dword(PAGE_TABLES_GPA), pageDirectoryPointers | present);
  for (let gib = 0; gib < 4; gib++) {
    asm.mov(dword(pageDirectoryPointers + 8 * gib), (pageDirectories + 0x1000 * gib) | present);
  }
  asm.mov("edi", pageDirectories);
  asm.mov("eax", presentLarge);
  asm.mov("ecx", 2048);
  const next = asm.label();
  asm.mov(dword("edi"), "eax");
  asm.mov(dword("edi", 4), 0);
  asm.add("edi", 8);
  asm.add("eax", 0x20_0000);
  asm.dec("ecx");
  asm.jcc("ne", next);
}

/** Emits interrupt handlers, the IDT that holds them, and its loading. Runs first on each vCPU. */
export function emitDescriptorTables(program: VcpuProgram, handlers: Map<number, Label>): void {
  const { asm, vcpu } = program;
  const all = new Map(handlers);
  const skip = new Label("skip");
  asm.jmp(skip);
  const fatal = new Label("fatal");
  for (let vector = 0; vector < 32; vector++) {
    all.set(vector, asm.label());
    if (vector === NMI) {
      asm.inc(program.field32(CPU_NMIS_U32));
      asm.iretq();
      continue;
    }
    if (!WITH_ERROR_CODE.has(vector)) asm.pushImmediate(0);
    asm.pushImmediate(vector);
    asm.jmp(fatal);
  }
  asm.bind(fatal);
  asm.pop("r8");
  asm.pop("r9");
  asm.mov("rsi", qword("rsp"));
  asm.movFromControl("rdx", 2);
  asm.mov("edi", ERROR_EXCEPTION);
  asm.call(program.recordError);
  const halted = asm.label("halted");
  asm.cli();
  asm.hlt();
  asm.jmp(halted);
  all.set(VECTOR_SPURIOUS, asm.label());
  asm.iretq();

  asm.bind(skip);
  const idt = IDTS_GPA + 0x1000 * vcpu;
  const gates = program.constant(8, () => {
    for (const [vector, handler] of all) asm.dq(BigInt(idt + 16 * vector), handler);
  });
  asm.mov("esi", gates);
  asm.mov("ecx", all.size);
  const next = asm.label();
  asm.mov("rdi", qword("rsi"));
  asm.mov("rax", qword("rsi", 8));
  const interruptGate = 0x8e00_0000;
  // The low half of a gate: offset 15…0, selector, attributes, offset 31…16.
  asm.mov("rdx", "rax");
  asm.and("eax", 0xffff);
  asm.or("eax", SELECTOR_CODE64 << 16);
  asm.mov(dword("rdi"), "eax");
  asm.and("edx", 0xffff_0000);
  asm.or("edx", interruptGate >>> 16);
  asm.mov(dword("rdi", 4), "edx");
  asm.mov(qword("rdi", 8), 0);
  asm.add("rsi", 16);
  asm.dec("ecx");
  asm.jcc("ne", next);
  const pointer = program.constant(8, () => {
    asm.dw(0xfff);
    asm.dq(BigInt(idt));
  });
  asm.lidt(qword(pointer));
}

/** Real-mode code that a starting processor runs at `TRAMPOLINE_GPA`. */
export function assembleTrampoline(apEntry: Label): Uint8Array {
  const asm = new Assembler(TRAMPOLINE_GPA, 16);
  const pointer = new Label("pointer");
  const gdt = new Label("gdt");
  asm.cli();
  asm.mov("ax", 0);
  asm.movSegment("ds", "ax");
  asm.lgdt(word(pointer));
  asm.movFromControl("eax", 0);
  asm.or("al", 1);
  asm.movToControl(0, "eax");
  asm.ljmp(SELECTOR_CODE32, apEntry);
  asm.align(8);
  asm.bind(gdt);
  asm.dq(...GDT);
  asm.bind(pointer);
  asm.dw(GDT.length * 8 - 1);
  asm.dd(gdt);
  return asm.assemble();
}

/** Emits the start of all other vCPUs, on vCPU 0, one after the other. */
export function emitStartOthers(program: VcpuProgram, trampoline: Label, trampolineSizeBytes: number): void {
  const { asm } = program;
  asm.mov("esi", trampoline);
  asm.mov("edi", TRAMPOLINE_GPA);
  asm.mov("ecx", trampolineSizeBytes);
  asm.repMovsb();
  for (let vcpu = 1; vcpu < program.settings.cpuCount; vcpu++) {
    const started = new Label("started");
    for (const command of [ICR_INIT, ICR_STARTUP, ICR_STARTUP]) {
      clearLapicError(asm);
      asm.mov("eax", ICR_HIGH);
      asm.mov(dword("rax"), vcpu << 24);
      asm.mov("eax", ICR_LOW);
      asm.mov(dword("rax"), command === ICR_STARTUP ? ICR_STARTUP | (TRAMPOLINE_GPA >> 12) : command);
      // Some 10 ms after INIT, as the MP specification wants; then as long as a slow host may need.
      spinCycles(program, command === ICR_INIT ? 25 : 33, () => {
        if (command === ICR_INIT) return;
        asm.test(dword(REPORT_GPA, HEADER_ONLINE_U32), 1 << vcpu);
        asm.jcc("ne", started);
      });
    }
    asm.mov("rsi", 1);
    asm.mov("rdx", 0);
    asm.mov("edi", ERROR_VCPU_MISSING);
    asm.mov("r8d", vcpu);
    asm.call(program.recordError);
    asm.bind(started);
  }
}

/** Emits the report's magic number, last of its header. */
export function emitMagic(asm: Assembler): void {
  asm.mov("rax", REPORT_MAGIC);
  asm.mov(qword(REPORT_GPA, HEADER_MAGIC_U64), "rax");
}
