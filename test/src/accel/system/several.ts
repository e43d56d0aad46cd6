// SPDX-License-Identifier: Apache-2.0
// Two vCPUs: the start of the second one, through all modes; LOCK; code that one changes and the other runs.
import { Assembler } from "../../../../src/payload/assembler.ts";
import { byte, dword, Label, qword, word } from "../../../../src/payload/registers.ts";
import * as p from "./program.ts";

// Page tables of 32 bits, and those of PAE paging.
const LEGACY_DIRECTORY = p.PAGES + 0x6000;
const LEGACY_TABLE = p.PAGES + 0x7000;
const PAE_POINTERS = 0x40_c000;
const HIGH = 0xc000_0000;
const PAE_ALIAS = 0x4000_0000;
const CR0_PAGED = 0x8001_0033 | 0;
const CR0_FLAT = 0x33;
const CR4_PSE = 0x10;
const CR4_PAE = 0x20;
/** What it leaves of protected mode, as words of 32 bits. */
const PROTECTED_RESULTS = 0x9100;
const PROTECTED_COUNT = 6;

/** What the second vCPU leaves of real mode, as words. */
const REAL_RESULTS = 0x9000;
const REAL_COUNT = 7;
const REAL_STACK = 0x7000;
const REAL_ES = 0x7_0000;

// Between the two.
const GO = p.VARIABLES + 0x100;
const IS_ONLINE = p.VARIABLES + 0x108;
const BARRIER = p.VARIABLES + 0x110;
const IPIS = p.VARIABLES + 0x118;
const SEEN = p.VARIABLES + 0x120;
const IPI_VECTOR = 0xa0;

/** Enough for the two to be at it at the same time. */
const TURNS = { kvm: 10_000, engine: 500_000 };
const CODE_TURNS = 200;
const CROSS_TURNS = 50;
const COUNTERS = p.PAGES + 0x3000;
const CHANGED_CODE = p.PAGES + 0x5000;

const NOT_ATOMIC = "a KVM that interprets splits what is not aligned";
const NO_PAIR = "a KVM that interprets has no CMPXCHG16B";

/** Real mode: an INT, a fault, a string that reaches the end of its segment. */
function trampoline(narrow: Label): Uint8Array {
  const asm = new Assembler(p.TRAMPOLINE, 16);
  const gdtPointer = new Label("gdtPointer");
  const interrupt = new Label("interrupt");
  const divideError = new Label("divideError");
  let result = REAL_RESULTS;
  const store = (): void => {
    // MOV [result], AX
    asm.db(0xa3);
    asm.dw(result);
    result += 2;
  };
  asm.cli();
  asm.mov("ax", 0);
  asm.movSegment("ds", "ax");
  asm.movSegment("ss", "ax");
  asm.mov("sp", REAL_STACK);
  // MOV AX, CS
  asm.db(0x8c, 0xc8);
  store();
  // Vectors 0 and 0x21, by CS of 0x800.
  const vector = (number: number, handler: Label): void => {
    // MOV AX, offset
    asm.db(0xb8, 0, 0);
    offsets.push({ at: asm.here - 2 - p.TRAMPOLINE, label: handler });
    asm.mov(word(4 * number), "ax");
    asm.mov(word(4 * number + 2), p.TRAMPOLINE >> 4);
  };
  const offsets: { at: number; label: Label }[] = [];
  vector(0, divideError);
  vector(0x21, interrupt);
  asm.mov("bx", 0);
  // INT 0x21
  asm.db(0xcd, 0x21);
  // MOV AX, BX
  asm.db(0x89, 0xd8);
  store();
  asm.mov("ax", 1);
  asm.mov("dx", 0);
  asm.mov("cx", 0);
  // DIV CX: its handler skips it.
  asm.db(0xf7, 0xf1);
  asm.db(0x89, 0xd8);
  store();
  asm.mov("ax", REAL_ES >> 4);
  asm.movSegment("es", "ax");
  asm.mov("ax", 0x5a);
  asm.mov("di", 0xfffe);
  asm.mov("cx", 4);
  asm.cld();
  // REP STOSB: two at the end of the segment, two at its start.
  asm.db(0xf3, 0xaa);
  asm.db(0x89, 0xf8);
  store();
  // MOV AX, ES:[0]
  asm.db(0x26, 0xa1, 0, 0);
  store();
  // The same bytes by another segment.
  asm.mov("ax", (REAL_ES + 0xfffe) >> 4);
  asm.movSegment("es", "ax");
  asm.db(0x26, 0xa1, 0x0e, 0);
  store();
  // PUSHF; POP AX; AND AX, 0x7700: neither IF nor IOPL.
  asm.db(0x9c, 0x58);
  asm.db(0x25, 0x00, 0x77);
  store();
  asm.lgdt(word(gdtPointer));
  asm.movFromControl("eax", 0);
  asm.or("al", 1);
  asm.movToControl(0, "eax");
  asm.ljmp(p.CODE32, narrow.address!);
  asm.bind(interrupt);
  asm.mov("bx", 0x21);
  // IRET
  asm.db(0xcf);
  asm.bind(divideError);
  asm.mov("bx", 0xde);
  // The return address is that of DIV: MOV BP, SP; ADD WORD [BP], 2
  asm.db(0x89, 0xe5, 0x83, 0x46, 0x00, 0x02);
  asm.db(0xcf);
  asm.align(8);
  asm.bind(gdtPointer);
  asm.dw(0x67);
  asm.dd(p.GDT);
  const bytes = asm.assemble();
  const view = new DataView(bytes.buffer);
  for (const { at, label } of offsets) view.setUint16(at, label.address! - p.TRAMPOLINE, true);
  return bytes;
}

export function addSeveral(program: p.SystemProgram): void {
  const { asm } = program;
  const turns = program.isKvm ? TURNS.kvm : TURNS.engine;
  const other = new Label("other");
  program.add("INIT and SIPI, real mode, paging of 32 bits and PAE paging, 64-bit mode", () => {
    const over = new Label("over");
    asm.jmp(over);
    asm.bind(other);
    asm.mov(dword(IS_ONLINE), 1);
    const wait = asm.label();
    asm.mov("rax", qword(GO));
    asm.cmp("rax", 0);
    asm.jcc("e", wait);
    asm.mov("r12", 1);
    // CALL RAX
    asm.db(0xff, 0xd0);
    asm.mov(qword(GO), 0);
    asm.jmp(wait);
    asm.bind(over);
    asm.mov(dword(COUNTERS), 0x1111);
    for (const [place, entry] of [
      [LEGACY_DIRECTORY, 0x83],
      [LEGACY_DIRECTORY + 4, 0x40_0083],
      [LEGACY_DIRECTORY + 4 * (HIGH >>> 22), LEGACY_TABLE | 7],
      [LEGACY_TABLE, COUNTERS | 3],
      [PAE_POINTERS, p.DIRECTORIES | 1],
      [PAE_POINTERS + 8, p.DIRECTORIES | 1],
    ] as const) {
      asm.mov(dword(place), entry);
    }
    program.startOther(trampoline, protectedMode, other);
    const online = asm.label();
    asm.pause();
    asm.cmp(dword(IS_ONLINE), 1);
    asm.jcc("ne", online);
    for (let index = 0; index < REAL_COUNT; index++) {
      asm.movzx("eax", word(REAL_RESULTS + 2 * index));
      program.logRax();
    }
    for (let index = 0; index < (program.isKvm ? 0 : PROTECTED_COUNT); index++) {
      asm.mov("eax", dword(PROTECTED_RESULTS + 4 * index));
      program.logRax();
    }
    const legacy = [0x1111, 0x2222, LEGACY_TABLE | 0x27, COUNTERS | 0x63, 0x40_00e3];
    const real = [p.TRAMPOLINE >> 4, 0x21, 0xde, 2, 0x5a5a, 0x5a5a, 0];
    return program.isKvm ? real : [...real, ...legacy, 0x2222];
  });

  /** Paging of 32 bits with pages of 4 KiB and 4 MiB, and PAE paging. */
  function protectedMode(): void {
    let result = PROTECTED_RESULTS;
    const store = (): void => {
      asm.mov(dword(result), "eax");
      result += 4;
    };
    const setControl = (control: 0 | 3 | 4, value: number): void => {
      asm.mov("eax", value);
      asm.movToControl(control, "eax");
    };
    // A KVM that interprets has no paging but that of long mode: the first fetch ends in a triple fault.
    if (program.isKvm) return;
    setControl(4, CR4_PSE);
    setControl(3, LEGACY_DIRECTORY);
    setControl(0, CR0_PAGED);
    asm.mov("ecx", HIGH | 0);
    asm.mov("eax", dword("ecx"));
    store();
    asm.mov(dword("ecx"), 0x2222);
    asm.mov("eax", dword(COUNTERS));
    store();
    for (const entry of [LEGACY_DIRECTORY + 4 * (HIGH >>> 22), LEGACY_TABLE]) {
      asm.mov("eax", dword(entry));
      store();
    }
    // What this store itself does to the entry of its page is there, too.
    asm.mov(dword(COUNTERS + 8), 0);
    asm.mov("eax", dword(LEGACY_DIRECTORY + 4));
    store();
    setControl(0, CR0_FLAT);
    setControl(4, CR4_PAE);
    setControl(3, PAE_POINTERS);
    setControl(0, CR0_PAGED);
    asm.mov("ecx", PAE_ALIAS + COUNTERS);
    asm.mov("eax", dword("ecx"));
    store();
    setControl(0, CR0_FLAT);
  }

  /** Both vCPUs run `body` at once; R12 is the number of the one that does. */
  const both = (title: string, body: () => void, results: () => p.Expectation, notOnKvm?: string): void => {
    program.add(
      title,
      () => {
        const over = new Label("over");
        const routine = new Label("routine");
        asm.jmp(over);
        asm.bind(routine);
        asm.db(0xf0);
        asm.inc(dword(BARRIER));
        const meet = asm.label();
        asm.cmp(dword(BARRIER), 2);
        asm.jcc("b", meet);
        body();
        asm.ret();
        asm.bind(over);
        for (let offset = 0; offset < 0x100; offset += 8) asm.mov(qword(COUNTERS + offset), 0);
        asm.mov(dword(BARRIER), 0);
        asm.mov("eax", routine);
        asm.mov(qword(GO), "rax");
        asm.mov("r12", 0);
        asm.call(routine);
        const end = asm.label();
        asm.pause();
        asm.cmp(qword(GO), 0);
        asm.jcc("ne", end);
        return results();
      },
      notOnKvm,
    );
  };
  const repeat = (count: number, body: () => void): void => {
    asm.mov("esi", count);
    const next = asm.label();
    body();
    asm.dec("esi");
    asm.jcc("ne", next);
  };
  const logCounter = (gpa: number): void => {
    asm.mov("eax", dword(gpa));
    program.logRax();
  };
  const counts = (title: string, gpa: number, change: () => void, notOnKvm?: string): void => {
    both(
      title,
      () => repeat(turns, change),
      () => {
        logCounter(gpa);
        return [2 * turns];
      },
      notOnKvm,
    );
  };
  /** With a register or a number in ModRM.reg, and [disp32]. */
  const absolute = (bytes: number[], reg: number, gpa: number): void => {
    asm.db(...bytes, 0x04 | (reg << 3), 0x25);
    asm.dd(gpa);
  };
  const lockInc = (gpa: number) => (): void => absolute([0xf0, 0xff], 0, gpa);
  counts("LOCK INC", COUNTERS, lockInc(COUNTERS));
  counts("LOCK XADD", COUNTERS, () => {
    asm.mov("eax", 1);
    absolute([0xf0, 0x0f, 0xc1], 0, COUNTERS);
  });
  counts("LOCK CMPXCHG", COUNTERS, () => {
    const again = asm.label();
    asm.mov("eax", dword(COUNTERS));
    // LEA EDX, [RAX + 1]
    asm.db(0x8d, 0x50, 0x01);
    absolute([0xf0, 0x0f, 0xb1], 2, COUNTERS);
    asm.jcc("ne", again);
  });
  counts("a lock by XCHG", COUNTERS, () => {
    const again = asm.label();
    asm.mov("eax", 1);
    absolute([0x87], 0, COUNTERS + 0x40);
    asm.cmp("eax", 0);
    asm.jcc("ne", again);
    asm.inc(dword(COUNTERS));
    asm.mov(dword(COUNTERS + 0x40), 0);
  });
  counts(
    "a lock by XCHG over two cache lines",
    COUNTERS,
    () => {
      const again = asm.label();
      asm.mov("eax", 1 << 16);
      absolute([0x87], 0, COUNTERS + 0x3e);
      asm.cmp("eax", 0);
      asm.jcc("ne", again);
      asm.inc(dword(COUNTERS));
      asm.mov(dword(COUNTERS + 0x3e), 0);
    },
    NOT_ATOMIC,
  );
  counts("LOCK INC within a quadword", COUNTERS + 2, lockInc(COUNTERS + 2), NOT_ATOMIC);
  counts("LOCK INC over two quadwords", COUNTERS + 6, lockInc(COUNTERS + 6), NOT_ATOMIC);
  counts(
    "LOCK XADD over two cache lines",
    COUNTERS + 62,
    () => {
      asm.mov("eax", 1);
      absolute([0xf0, 0x0f, 0xc1], 0, COUNTERS + 62);
    },
    NOT_ATOMIC,
  );
  counts("LOCK INC over two pages", COUNTERS + 0xffe, lockInc(COUNTERS + 0xffe), NOT_ATOMIC);
  both(
    "LOCK of one over two quadwords, and of the other within each of them",
    () => {
      const second = new Label("second");
      const end = new Label("end");
      asm.cmp("r12", 0);
      asm.jcc("ne", second);
      repeat(turns, lockInc(COUNTERS + 6));
      asm.jmp(end);
      asm.bind(second);
      repeat(turns, () => {
        // LOCK INC WORD
        absolute([0x66, 0xf0, 0xff], 0, COUNTERS + 4);
        absolute([0x66, 0xf0, 0xff], 0, COUNTERS + 10);
      });
      asm.bind(end);
    },
    () => {
      logCounter(COUNTERS + 6);
      for (const gpa of [COUNTERS + 4, COUNTERS + 10]) {
        asm.movzx("eax", word(gpa));
        program.logRax();
      }
      return [turns, turns & 0xffff, turns & 0xffff];
    },
    NOT_ATOMIC,
  );
  /** CMPXCHG8B or CMPXCHG16B of two counters. */
  const pair = (rex: number[], halfBytes: number) => (): void => {
    const again = asm.label();
    const bits = halfBytes === 8 ? qword : dword;
    asm.mov(halfBytes === 8 ? "rax" : "eax", bits(COUNTERS));
    asm.mov(halfBytes === 8 ? "rdx" : "edx", bits(COUNTERS + halfBytes));
    // LEA RBX, [RAX + 1]; LEA RCX, [RDX + 1]
    asm.db(0x48, 0x8d, 0x58, 0x01, 0x48, 0x8d, 0x4a, 0x01);
    absolute([0xf0, ...rex, 0x0f, 0xc7], 1, COUNTERS);
    asm.jcc("ne", again);
  };
  const counter2 = (gpa: number) => (): p.Expectation => {
    logCounter(COUNTERS);
    logCounter(gpa);
    return [2 * turns, 2 * turns];
  };
  both("LOCK CMPXCHG8B", () => repeat(turns, pair([], 4)), counter2(COUNTERS + 4));
  both("LOCK CMPXCHG16B", () => repeat(turns, pair([0x48], 8)), counter2(COUNTERS + 8), NO_PAIR);
  program.add(
    "LOCK INC in a page of code",
    () => {
      const over = new Label("over");
      const counter = new Label("counter");
      const routine = new Label("routine");
      asm.jmp(over);
      asm.align(8);
      asm.bind(counter);
      asm.dq(0n);
      asm.bind(routine);
      repeat(CODE_TURNS, () => {
        asm.db(0xf0);
        asm.inc(dword(counter));
        asm.db(0xf0);
        asm.inc(dword(counter, 3));
      });
      asm.ret();
      asm.bind(over);
      asm.mov("eax", routine);
      asm.mov(qword(GO), "rax");
      asm.call(routine);
      const end = asm.label();
      asm.pause();
      asm.cmp(qword(GO), 0);
      asm.jcc("ne", end);
      asm.mov("rax", qword(counter));
      program.logRax();
      return [2 * CODE_TURNS * (1 + (1 << 24))];
    },
    NOT_ATOMIC,
  );

  program.add("code that one vCPU changes, and the other runs after an IPI", () => {
    const over = new Label("over");
    const handler = new Label("handler");
    const routine = new Label("routine");
    const wrong = new Label("wrong");
    const end = new Label("end");
    asm.jmp(over);
    asm.bind(handler);
    asm.push("rax");
    asm.push("rbx");
    asm.push("rcx");
    asm.push("rdx");
    asm.push("rdi");
    // It serializes.
    asm.cpuid();
    asm.mov(dword(SEEN), 0);
    asm.inc(dword(IPIS));
    asm.mov("rdi", BigInt(p.LAPIC + 0xb0));
    asm.mov(dword("rdi"), 0);
    asm.pop("rdi");
    asm.pop("rdx");
    asm.pop("rcx");
    asm.pop("rbx");
    asm.pop("rax");
    asm.iretq();
    asm.bind(routine);
    asm.mov("rdi", BigInt(p.LAPIC + 0xf0));
    asm.mov(dword("rdi"), 0x1ff);
    asm.mov("ebx", CHANGED_CODE);
    const loop = asm.label();
    // Not between the call and the note of what it gave.
    asm.sti();
    for (let index = 0; index < 4; index++) asm.db(0x90);
    asm.cli();
    // CALL RBX
    asm.db(0xff, 0xd3);
    asm.mov(dword(SEEN), "eax");
    asm.cmp(dword(IPIS), CROSS_TURNS);
    asm.jcc("ne", loop);
    asm.ret();
    asm.bind(over);
    program.gate(IPI_VECTOR, handler);
    // MOV EAX, 0; RET
    asm.mov(byte(CHANGED_CODE), 0xb8);
    asm.mov(dword(CHANGED_CODE + 1), 0x1000);
    asm.mov(byte(CHANGED_CODE + 5), 0xc3);
    asm.mov(dword(IPIS), 0);
    asm.mov(dword(SEEN), 0);
    asm.mov("eax", routine);
    asm.mov(qword(GO), "rax");
    asm.mov("ebx", 0);
    const turn = asm.label();
    // It runs the code there is now.
    const running = asm.label();
    asm.cmp(dword(SEEN), 0);
    asm.jcc("e", running);
    asm.inc("ebx");
    asm.mov(dword(CHANGED_CODE + 1), "ebx");
    program.sendIpi(0x4000 | IPI_VECTOR);
    const sent = asm.label();
    asm.cmp(dword(IPIS), "ebx");
    asm.jcc("ne", sent);
    const told = asm.label();
    asm.mov("eax", dword(SEEN));
    asm.cmp("eax", 0);
    asm.jcc("e", told);
    asm.cmp("eax", "ebx");
    asm.jcc("ne", wrong);
    asm.cmp("ebx", CROSS_TURNS);
    asm.jcc("b", turn);
    asm.jmp(end);
    asm.bind(wrong);
    program.logRax();
    asm.bind(end);
    asm.mov("eax", "ebx");
    program.logRax();
    return [CROSS_TURNS];
  });
}
