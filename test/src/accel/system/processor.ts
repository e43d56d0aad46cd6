// SPDX-License-Identifier: Apache-2.0
// Segments, system calls, model-specific registers, other modes, code that changes itself, time.
import { byte, dword, Label, qword } from "../../../../src/payload/registers.ts";
import * as p from "./program.ts";

const HOLE = 0x8000_0000_0000n;
const STAR = 0xc000_0081;
const LSTAR = 0xc000_0082;
const CSTAR = 0xc000_0083;
const FMASK = 0xc000_0084;
const FS_BASE = 0xc000_0100;
const GS_BASE = 0xc000_0101;
const KERNEL_GS_BASE = 0xc000_0102;
const HAS_NO_INT = "a KVM that interprets has no INT n";
const HAS_NO_X87 = "a KVM that interprets has no x87";
const STAYS_IN_USER_MODE = "a KVM that interprets stays at level 3";
const CHECKS_LESS = "a KVM that interprets does not check that";
/** SYSCALL: 0x08 and 0x10; SYSRET: 0x23, 0x2b and 0x33. */
const STAR_VALUE = (0x0023n << 48n) | (0x0008n << 32n);

export function addProcessor(program: p.SystemProgram): void {
  const { asm } = program;
  const emit = (...bytes: number[]): Label => {
    const at = asm.label();
    asm.db(...bytes);
    return at;
  };
  const logRegister = (register: "rax" | "rbx" | "rcx" | "rdx" | "rsi" | "rdi" | "rsp" | "r11"): void => {
    if (register !== "rax") asm.mov("rax", register);
    program.logRax();
  };
  /** RBX = CS, RCX = SS, whatever the mode. */
  const logSelectors = (): void => {
    emit(0x8c, 0xcb);
    emit(0x8c, 0xd2);
    logRegister("rbx");
    logRegister("rdx");
  };

  // ── Segments ──
  const loads = (
    title: string,
    number: "ds" | "ss",
    selector: number,
    vector: number,
    errorCode: number,
    notOnKvm?: string,
  ): void => {
    program.add(
      title,
      () => {
        asm.mov("eax", selector);
        const at = asm.label();
        asm.movSegment(number, "eax");
        return [p.fault(vector, errorCode, at)];
      },
      notOnKvm,
    );
  };
  loads("DS of what is beyond the GDT", "ds", p.BEYOND_GDT, p.GP, p.BEYOND_GDT);
  loads("DS of what is not present", "ds", p.DATA_ABSENT, p.NP, p.DATA_ABSENT);
  loads("DS of a TSS", "ds", p.TSS_SELECTOR, p.GP, p.TSS_SELECTOR);
  loads("DS from an LDT that there is not", "ds", 0x0c, p.GP, 0x0c);
  loads("SS of what is not present", "ss", p.DATA_ABSENT, p.SS, p.DATA_ABSENT);
  loads("SS of what cannot be written", "ss", p.DATA_READ_ONLY, p.GP, p.DATA_READ_ONLY);
  loads("SS of another level", "ss", p.USER_DATA, p.GP, p.USER_DATA & ~3);
  loads("SS of code", "ss", p.CODE64, p.GP, p.CODE64);
  program.add("a null selector is good for data, and for SS at level 0", () => {
    asm.mov("eax", 0);
    asm.movSegment("ds", "eax");
    asm.movSegment("ss", "eax");
    asm.mov("rax", qword(p.GDT + 8));
    program.logRax();
    asm.mov("eax", p.DATA);
    asm.movSegment("ds", "eax");
    return [0x00af_9b00_0000_ffffn];
  });
  program.add("a load of a segment marks its descriptor as accessed", () => {
    asm.mov(byte(p.GDT + p.DATA_READ_ONLY + 5), 0x90);
    asm.mov("eax", p.DATA_READ_ONLY);
    asm.movSegment("es", "eax");
    asm.movzx("eax", byte(p.GDT + p.DATA_READ_ONLY + 5));
    program.logRax();
    asm.mov("eax", p.DATA);
    asm.movSegment("es", "eax");
    return [0x91];
  });
  program.add("LTR of a busy TSS", () => {
    asm.mov("eax", p.TSS_SELECTOR);
    return [p.fault(p.GP, p.TSS_SELECTOR, emit(0x0f, 0x00, 0xd8))];
  });
  program.add(
    "LAR, LSL, VERR and VERW",
    () => {
      const expected: p.Expectation = [];
      const ask = (bytes: number[], selector: number, value: number | undefined): void => {
        asm.mov("ecx", selector);
        asm.mov("eax", 0x55);
        asm.db(...bytes);
        // SETZ BL; MOVZX EBX, BL
        asm.db(0x0f, 0x94, 0xc3, 0x0f, 0xb6, 0xdb);
        program.logRax();
        logRegister("rbx");
        expected.push(value ?? 0x55, value === undefined ? 0 : 1);
      };
      const LAR = [0x0f, 0x02, 0xc1];
      const LSL = [0x0f, 0x03, 0xc1];
      const VERR = [0x0f, 0x00, 0xe1];
      const VERW = [0x0f, 0x00, 0xe9];
      ask(LAR, p.DATA, 0x00cf_9300);
      ask(LAR, p.CODE64, 0x00af_9b00);
      ask(LAR, p.BEYOND_GDT, undefined);
      ask(LAR, p.TSS_SELECTOR, 0x0000_8b00);
      ask(LSL, p.DATA, 0xffff_ffff);
      ask(LSL, p.TSS_SELECTOR, 0x67);
      ask(LSL, 0, undefined);
      ask(VERR, p.DATA, 0x55);
      ask(VERW, p.CODE64, undefined);
      ask(VERW, p.DATA_READ_ONLY, undefined);
      return expected;
    },
    "a KVM that interprets has none of these",
  );

  // ── Far transfers ──
  program.add("RETF to 32-bit code, and a far jump back", () => {
    const narrow = new Label("narrow");
    const wide = new Label("wide");
    asm.mov("eax", p.CODE32);
    asm.push("rax");
    asm.mov("eax", narrow);
    asm.push("rax");
    asm.mov("ebx", 5);
    // RETFQ
    emit(0x48, 0xcb);
    asm.bits(32);
    asm.bind(narrow);
    // In 64-bit code a prefix, in 32-bit code INC EBX.
    emit(0x43);
    emit(0x90);
    asm.ljmp(p.CODE64, wide);
    asm.bits(64);
    asm.bind(wide);
    logRegister("rbx");
    logSelectors();
    return [6, p.CODE64, p.DATA];
  });
  program.add("a far call by memory, and RETF", () => {
    const target = new Label("target");
    const over = new Label("over");
    asm.jmp(over);
    asm.bind(target);
    // m16:32: RIP and the old CS have four bytes each.
    asm.mov("esi", dword("rsp"));
    logRegister("rsi");
    logSelectors();
    emit(0xcb);
    asm.bind(over);
    asm.mov("eax", target);
    asm.mov(dword(p.VARIABLES), "eax");
    asm.mov(dword(p.VARIABLES + 4), p.CODE64);
    asm.mov("edi", p.VARIABLES);
    emit(0xff, 0x1f);
    const after = asm.label();
    asm.mov("rax", "rsp");
    program.logRax();
    return [after, p.CODE64, p.DATA, p.STACK];
  });
  program.add("far jumps to what is no code", () => {
    const expected: p.Expectation = [];
    for (const [selector, vector, errorCode] of [
      [p.DATA, p.GP, p.DATA],
      [p.CODE_ABSENT, p.NP, p.CODE_ABSENT],
      [p.BEYOND_GDT, p.GP, p.BEYOND_GDT],
      [0, p.GP, 0],
      [p.USER_CODE64, p.GP, p.USER_CODE64 & ~3],
    ] as const) {
      const next = new Label("next");
      program.resumeAt(next);
      asm.mov(dword(p.VARIABLES), 0);
      asm.mov(dword(p.VARIABLES + 4), selector);
      asm.mov("edi", p.VARIABLES);
      expected.push(p.fault(vector, errorCode, emit(0xff, 0x2f)));
      asm.bind(next);
    }
    return expected;
  });
  program.add(
    "32-bit code of level 3 under a 64-bit system",
    () => {
      const user = new Label("user");
      const handler = new Label("handler");
      program.gate(0x82, handler, p.USER_INTERRUPT_GATE);
      asm.mov("rbx", 0x1_2345_6789n);
      program.enter(user, { cs: p.USER_CODE32 });
      asm.bits(32);
      asm.bind(user);
      emit(0x43);
      // PUSH EBX, POP ECX: four bytes each.
      emit(0x53, 0x59, 0xcd, 0x82);
      const after = asm.label();
      asm.bits(64);
      asm.bind(handler);
      asm.mov("rsi", "rsp");
      logRegister("rbx");
      logRegister("rcx");
      for (const offset of [0, 8, 24, 32]) {
        asm.mov("rax", qword("rsi", offset));
        program.logRax();
      }
      return [0x2345_678a, 0x2345_678a, after, p.USER_CODE32, p.USER_STACK, p.USER_DATA];
    },
    HAS_NO_INT,
  );

  // ── System calls ──
  const prepareCalls = (entry: Label): void => {
    program.writeMsr(STAR, STAR_VALUE);
    asm.mov("ecx", LSTAR | 0);
    asm.mov("eax", entry);
    asm.mov("edx", 0);
    asm.wrmsr();
    asm.mov("ecx", CSTAR | 0);
    asm.wrmsr();
    program.writeMsr(FMASK, 0x700n);
  };
  program.add(
    "SYSCALL and SYSRET",
    () => {
      const entry = new Label("entry");
      const user = new Label("user");
      prepareCalls(entry);
      program.enter(user, { flags: 0x402 | 0x200 });
      asm.bind(user);
      emit(0x0f, 0x05);
      const after = asm.label();
      const end = emit(0x0f, 0x0b);
      asm.bind(entry);
      asm.cli();
      asm.mov("r13", "rcx");
      asm.mov("r14", "r11");
      asm.pushfq();
      asm.pop("rsi");
      asm.mov("r12", "rsp");
      asm.mov("rsp", p.STACK);
      asm.and("rsi", 0x700);
      for (const register of ["r13", "r14", "r12", "rsi"] as const) {
        asm.mov("rax", register);
        program.logRax();
      }
      logSelectors();
      asm.cld();
      asm.mov("rcx", "r13");
      asm.mov("r11", "r14");
      asm.mov("rsp", "r12");
      emit(0x48, 0x0f, 0x07);
      return [after, 0x602, p.USER_STACK, 0, 0x08, 0x10, p.fault(p.UD, 0, end, p.USER_CODE64)];
    },
    STAYS_IN_USER_MODE,
  );
  program.add(
    "SYSRET to 32-bit code",
    () => {
      const user = new Label("user");
      program.writeMsr(STAR, STAR_VALUE);
      asm.mov("ecx", user);
      asm.mov("r11", 2);
      asm.mov("rbx", 1);
      emit(0x0f, 0x07);
      asm.bits(32);
      asm.bind(user);
      emit(0x43);
      const at = emit(0x0f, 0x0b);
      asm.bits(64);
      return [p.fault(p.UD, 0, at, p.USER_CODE32)];
    },
    "a KVM that interprets returns to 64-bit code",
  );
  program.add("SYSCALL of 32-bit code goes where CSTAR says", () => {
    const user = new Label("user");
    const entry = new Label("entry");
    prepareCalls(entry);
    program.enter(user, { cs: p.USER_CODE32 });
    asm.bits(32);
    asm.bind(user);
    emit(0x0f, 0x05);
    const after = asm.label();
    asm.bits(64);
    asm.bind(entry);
    asm.mov("rsp", p.STACK);
    asm.mov("rsi", "rcx");
    logRegister("rsi");
    logSelectors();
    return [after, 0x08, 0x10];
  });
  program.add("SYSCALL without EFER.SCE is #UD", () => {
    program.writeMsr(p.MSR_EFER, BigInt(p.EFER & ~1));
    const end = new Label("end");
    program.resumeAt(end);
    const at = emit(0x0f, 0x05);
    asm.bind(end);
    program.writeMsr(p.MSR_EFER, BigInt(p.EFER));
    return [p.fault(p.UD, 0, at)];
  });
  program.add(
    "SYSCALL whose mask has TF is not stepped into",
    () => {
      const entry = new Label("entry");
      const user = new Label("user");
      prepareCalls(entry);
      program.enter(user, { flags: 0x102 });
      asm.bind(user);
      emit(0x0f, 0x05);
      asm.bind(entry);
      asm.mov("rsp", p.STACK);
      asm.mov("rax", "r11");
      asm.and("rax", 0x100);
      program.logRax();
      return [0x100];
    },
    STAYS_IN_USER_MODE,
  );
  program.add("SWAPGS", () => {
    program.writeMsr(GS_BASE, 0x1111n);
    program.writeMsr(KERNEL_GS_BASE, 0x2222n);
    emit(0x0f, 0x01, 0xf8);
    for (const msr of [GS_BASE, KERNEL_GS_BASE]) {
      asm.mov("ecx", msr | 0);
      asm.rdmsr();
      program.logRax();
    }
    return [0x2222, 0x1111];
  });
  program.add("bases of FS and GS", () => {
    program.writeMsr(FS_BASE, BigInt(p.PAGES));
    asm.mov(dword(p.PAGES + 0x10), 0x4242);
    // MOV EAX, FS:[0x10]
    emit(0x64, 0x8b, 0x04, 0x25, 0x10, 0, 0, 0);
    program.logRax();
    return [0x4242];
  });

  // ── Registers ──
  const refuses = (title: string, body: () => Label, notOnKvm?: string): void =>
    program.add(title, () => [p.fault(p.GP, 0, body())], notOnKvm);
  const writes = (number: number, value: bigint) => (): Label => {
    asm.mov("ecx", number | 0);
    asm.mov("eax", Number(value & 0xffff_ffffn) | 0);
    asm.mov("edx", Number(value >> 32n) | 0);
    return emit(0x0f, 0x30);
  };
  refuses("RDMSR of an unknown register", () => {
    asm.mov("ecx", 0x1234_5678);
    return emit(0x0f, 0x32);
  });
  refuses("WRMSR of an unknown register", writes(0x1234_5678, 0n));
  refuses("WRMSR of an EFER with unknown bits", writes(p.MSR_EFER, BigInt(p.EFER) | 0x2_0000_0000n));
  refuses("WRMSR of an EFER that leaves long mode while paging is on", writes(p.MSR_EFER, BigInt(p.EFER & ~0x100)));
  refuses("WRMSR of an FS base that is no address", writes(FS_BASE, HOLE));
  refuses("WRMSR of an LSTAR that is no address", writes(LSTAR, HOLE));
  const moves = (control: 0 | 3 | 4 | 8, value: bigint) => (): Label => {
    asm.mov("rax", value);
    const at = asm.label();
    asm.movToControl(control, "rax");
    return at;
  };
  refuses("CR0 with PG and without PE", moves(0, 0x8000_0010n));
  refuses("CR0 with NW and without CD", moves(0, 0xa001_0033n));
  refuses("CR0 with a bit of its upper half", moves(0, 0x1_8001_0033n), CHECKS_LESS);
  refuses("CR0 without PG in 64-bit mode", moves(0, 0x0001_0033n));
  refuses("CR3 with a reserved bit", moves(3, (1n << 51n) | 0x40_0000n));
  refuses("CR4 without PAE in long mode", moves(4, BigInt(p.CR4 & ~0x20)));
  refuses("CR4 with an unknown bit", moves(4, BigInt(p.CR4) | (1n << 40n)), CHECKS_LESS);
  refuses("CR8 of more than 15", moves(8, 16n));
  refuses("CMPXCHG16B of what is not aligned", () => {
    asm.mov("edi", p.PAGES + 8);
    return emit(0x48, 0x0f, 0xc7, 0x0f);
  });
  program.add("CR8 is the task priority", () => {
    asm.mov("eax", 5);
    asm.movToControl(8, "rax");
    asm.mov("rdi", BigInt(p.LAPIC + 0x80));
    asm.mov("eax", dword("rdi"));
    program.logRax();
    asm.mov("eax", 0);
    asm.movToControl(8, "rax");
    asm.movFromControl("rax", 8);
    program.logRax();
    return [0x50, 0];
  });
  program.add(
    "an x87 instruction with CR0.TS is #NM",
    () => {
      asm.mov("eax", p.CR0 | 8);
      asm.movToControl(0, "rax");
      const end = new Label("end");
      program.resumeAt(end);
      // FLDZ
      const at = emit(0xd9, 0xee);
      asm.bind(end);
      // CLTS
      emit(0x0f, 0x06);
      return [p.fault(7, 0, at)];
    },
    HAS_NO_X87,
  );
  program.add("RDTSC goes on", () => {
    const wrong = new Label("wrong");
    const end = new Label("end");
    asm.mov("ecx", 1000);
    asm.mov("esi", 0);
    asm.mov("edi", 0);
    const next = asm.label();
    asm.rdtsc();
    asm.shl("rdx", 32);
    asm.or("rax", "rdx");
    asm.cmp("rax", "rsi");
    asm.jcc("b", wrong);
    asm.mov("rsi", "rax");
    asm.dec("ecx");
    asm.jcc("ne", next);
    program.log(1);
    asm.jmp(end);
    asm.bind(wrong);
    program.log(0);
    asm.bind(end);
    return [1];
  });

  // ── Code that changes itself ──
  program.add("an instruction that the one before has written", () => {
    const changed = new Label("changed");
    asm.mov("edi", changed);
    asm.mov(byte("rdi", 1), 7);
    asm.bind(changed);
    emit(0xb8, 0, 0, 0, 0);
    program.logRax();
    return [7];
  });
  program.add("a loop that changes what it runs", () => {
    const changed = new Label("changed");
    asm.mov("edi", changed);
    asm.mov("ebx", 0);
    asm.mov("ecx", 100);
    const next = asm.label();
    asm.bind(changed);
    // ADD EBX, imm32
    emit(0x81, 0xc3, 1, 0, 0, 0);
    asm.add(dword("rdi", 2), 1);
    asm.dec("ecx");
    asm.jcc("ne", next);
    logRegister("rbx");
    return [5050];
  });
  program.add("code over two pages, each of which is changed", () => {
    program.mapPage(0, BigInt(p.PAGES) | 3n);
    program.mapPage(1, BigInt(p.PAGES + 0x1000) | 3n);
    // MOV EAX, imm32 with its opcode and one byte in the first page; RET.
    const write = (first: number, rest: number): void => {
      asm.mov(byte(p.PAGES + 0xffe), 0xb8);
      asm.mov(byte(p.PAGES + 0xfff), first);
      asm.mov(dword(p.PAGES + 0x1000), 0xc300_0000 | rest | 0);
    };
    const run = (): void => {
      asm.mov("rdi", p.WINDOW + 0xffen);
      asm.db(0xff, 0xd7);
      program.logRax();
    };
    write(1, 0);
    run();
    asm.mov(byte(p.PAGES + 0xfff), 2);
    run();
    asm.mov(byte(p.PAGES + 0x1000), 3);
    run();
    program.mapPage(1, BigInt(p.PAGES + 0x2000) | 3n);
    asm.mov(dword(p.PAGES + 0x2000), 0xc300_0009 | 0);
    run();
    return [1, 2, 0x302, 0x902];
  });
  program.add("code that a string instruction has written", () => {
    const source = new Label("source");
    const over = new Label("over");
    asm.jmp(over);
    asm.bind(source);
    emit(0xb8, 0x77, 0, 0, 0, 0xc3);
    asm.bind(over);
    program.mapPage(0, BigInt(p.PAGES) | 3n);
    asm.mov("rbx", p.WINDOW);
    asm.mov("rdi", "rbx");
    asm.mov("esi", source);
    asm.mov("ecx", 6);
    asm.repMovsb();
    // CALL RBX
    emit(0xff, 0xd3);
    program.logRax();
    asm.mov("rdi", "rbx");
    asm.add("rdi", 1);
    asm.mov("eax", 0x0101_0101);
    asm.mov("ecx", 1);
    asm.repStosd();
    emit(0xff, 0xd3);
    program.logRax();
    return [0x77, 0x0101_0101];
  });

  // ── Time ──
  const apic = (register: number, value: number): void => {
    asm.mov("rdi", BigInt(p.LAPIC + register));
    asm.mov(dword("rdi"), value);
  };
  /** Halts until RBX has counted so far. */
  const haltUntil = (count: number): void => {
    const wait = asm.label();
    asm.sti();
    asm.hlt();
    asm.cli();
    asm.cmp("ebx", count);
    asm.jcc("b", wait);
  };
  const timed = (title: string, count: number, start: () => void, stop: () => void): void => {
    program.add(title, () => {
      const handler = new Label("handler");
      const over = new Label("over");
      asm.jmp(over);
      asm.bind(handler);
      asm.inc("ebx");
      asm.push("rdi");
      apic(0xb0, 0);
      asm.pop("rdi");
      asm.iretq();
      asm.bind(over);
      program.gate(0x90, handler);
      asm.mov("ebx", 0);
      apic(0xf0, 0x1ff);
      start();
      haltUntil(count);
      stop();
      logRegister("rbx");
      return [count];
    });
  };
  const TIMER = 0x320;
  const COUNT = 0x380;
  timed(
    "HLT until the local APIC's timer runs out",
    1,
    () => {
      apic(0x3e0, 0xb);
      apic(TIMER, 0x90);
      apic(COUNT, 1_000_000);
    },
    () => apic(TIMER, 0x1_0090),
  );
  timed(
    "HLT until the local APIC's timer has run out five times",
    5,
    () => {
      apic(0x3e0, 0xb);
      apic(TIMER, 0x2_0090);
      apic(COUNT, 3_000_000);
    },
    () => apic(COUNT, 0),
  );
  timed(
    "HLT until the TSC is what was told",
    1,
    () => {
      apic(TIMER, 0x4_0090);
      asm.rdtsc();
      asm.add("eax", 2_000_000);
      // ADC EDX, 0
      emit(0x83, 0xd2, 0x00);
      asm.mov("ecx", 0x6e0);
      asm.wrmsr();
    },
    () => apic(TIMER, 0x1_0090),
  );
  program.add("PIT and PICs", () => {
    const handler = new Label("handler");
    const over = new Label("over");
    asm.jmp(over);
    asm.bind(handler);
    asm.inc("ebx");
    asm.mov("eax", 0x20);
    asm.out(0x20, "al");
    asm.iretq();
    asm.bind(over);
    program.gate(0x70, handler);
    const out = (port: number, ...values: number[]): void => {
      for (const value of values) {
        asm.mov("eax", value);
        asm.out(port, "al");
      }
    };
    out(0x20, 0x11);
    out(0x21, 0x70, 4, 1, 0xfe);
    out(0xa0, 0x11);
    out(0xa1, 0x78, 2, 1, 0xff);
    // ExtINT.
    apic(0xf0, 0x1ff);
    apic(0x350, 0x700);
    out(0x43, 0x34);
    out(0x40, 0x00, 0x10);
    asm.mov("ebx", 0);
    haltUntil(3);
    out(0x21, 0xff);
    logRegister("rbx");
    return [3];
  });
}
