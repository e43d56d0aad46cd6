// SPDX-License-Identifier: Apache-2.0
// Exceptions, interrupts and returns from them: SDM volume 3, chapter 6; volume 2, IRET.
import { dword, Label, qword } from "../../../../src/payload/registers.ts";
import * as p from "./program.ts";

const IF = 0x200;
const TF = 0x100;
const NT = 0x4000;
const RF = 0x1_0000;
/** Error code of what is met on the way to a handler: the vector, in the IDT, of something that is no instruction. */
const onTheWayTo = (vector: number, isExternal = true): number => 8 * vector + 2 + (isExternal ? 1 : 0);
const INT80 = [0xcd, 0x80];
/** Why a KVM that interprets is not asked. */
const HAS_NO_INT = "a KVM that interprets has no INT n";
const TAKES_LATE = "a KVM that interprets takes interrupts an instruction late";
const CHECKS_LESS = "a KVM that interprets does not check that";
const HOLE = 0x8000_0000_0000n;

/** Instructions that are for level 0 alone, and their operands do not matter. */
const PRIVILEGED: Record<string, number[]> = {
  HLT: [0xf4],
  CLI: [0xfa],
  STI: [0xfb],
  "IN AL, 0x80": [0xe4, 0x80],
  "OUT 0x80, AL": [0xe6, 0x80],
  CLTS: [0x0f, 0x06],
  INVD: [0x0f, 0x08],
  WBINVD: [0x0f, 0x09],
  "MOV CR0, RAX": [0x0f, 0x22, 0xc0],
  "MOV RAX, CR3": [0x0f, 0x20, 0xd8],
  "MOV RAX, CR8": [0x44, 0x0f, 0x20, 0xc0],
  "MOV DR7, RAX": [0x0f, 0x23, 0xf8],
  "MOV RAX, DR0": [0x0f, 0x21, 0xc0],
  RDMSR: [0x0f, 0x32],
  WRMSR: [0x0f, 0x30],
  SYSRETQ: [0x48, 0x0f, 0x07],
  SWAPGS: [0x0f, 0x01, 0xf8],
  "LGDT [RSP]": [0x0f, 0x01, 0x14, 0x24],
  "LIDT [RSP]": [0x0f, 0x01, 0x1c, 0x24],
  "LMSW AX": [0x0f, 0x01, 0xf0],
  "INVLPG [RSP]": [0x0f, 0x01, 0x3c, 0x24],
  "LTR AX": [0x0f, 0x00, 0xd8],
  "LLDT AX": [0x0f, 0x00, 0xd0],
};

export function addExceptions(program: p.SystemProgram): void {
  const { asm } = program;
  const emit = (...bytes: number[]): Label => {
    const at = asm.label();
    asm.db(...bytes);
    return at;
  };

  program.add(
    "#DE, #UD and #BP",
    () => {
      const next = new Label("next");
      program.resumeAt(next);
      asm.mov("ecx", 0);
      // DIV ECX
      const divide = emit(0xf7, 0xf1);
      asm.bind(next);
      const last = new Label("last");
      program.resumeAt(last);
      const undefinedAt = emit(0x0f, 0x0b);
      asm.bind(last);
      const end = new Label("end");
      program.resumeAt(end);
      emit(0xcc);
      const after = asm.label();
      asm.bind(end);
      return [p.fault(p.DE, 0, divide), p.fault(p.UD, 0, undefinedAt), p.fault(p.BP, 0, after)];
    },
    HAS_NO_INT,
  );
  program.add(
    "frames of faults have RF, those of INT n have not",
    () => {
      const end = new Label("end");
      program.resumeAt(end);
      asm.mov("rsp", p.STACK - 0x100);
      const at = emit(0x0f, 0x0b);
      asm.bind(end);
      asm.mov("rax", qword(p.STACK - 0x100 - 24));
      asm.and("rax", RF);
      program.logRax();
      const last = new Label("last");
      program.resumeAt(last);
      asm.mov("rsp", p.STACK - 0x100);
      emit(...INT80);
      const after = asm.label();
      asm.bind(last);
      asm.mov("rax", qword(p.STACK - 0x100 - 24));
      asm.and("rax", RF);
      program.logRax();
      return [p.fault(p.UD, 0, at), RF, p.fault(0x80, 0, after), 0];
    },
    HAS_NO_INT,
  );
  program.add(
    "INT n of a gate for level 0 is #GP at level 3",
    () => {
      const user = new Label("user");
      program.enter(user);
      asm.bind(user);
      return [p.fault(p.GP, onTheWayTo(0x80, false), emit(...INT80), p.USER_CODE64)];
    },
    HAS_NO_INT,
  );
  program.add(
    "INT n of a gate that is not present is #NP",
    () => {
      program.changeGate(0x80, 0x0e);
      const end = new Label("end");
      program.resumeAt(end);
      const at = emit(...INT80);
      asm.bind(end);
      program.changeGate(0x80, p.INTERRUPT_GATE);
      return [p.fault(p.NP, onTheWayTo(0x80, false), at)];
    },
    HAS_NO_INT,
  );
  program.add(
    "INT n of what is no gate is #GP",
    () => {
      program.changeGate(0x80, 0x89);
      const end = new Label("end");
      program.resumeAt(end);
      const at = emit(...INT80);
      asm.bind(end);
      program.changeGate(0x80, p.INTERRUPT_GATE);
      return [p.fault(p.GP, onTheWayTo(0x80, false), at)];
    },
    HAS_NO_INT,
  );
  program.add(
    "#UD whose gate is not present is #NP with EXT",
    () => {
      program.changeGate(p.UD, 0x0e);
      const end = new Label("end");
      program.resumeAt(end);
      const at = emit(0x0f, 0x0b);
      asm.bind(end);
      program.changeGate(p.UD, p.INTERRUPT_GATE);
      return [p.fault(p.NP, onTheWayTo(p.UD), at)];
    },
    "a KVM that interprets makes it a double fault",
  );
  program.add("#PF and #GP whose gates are not present are double faults", () => {
    program.changeGate(p.PF, 0x0e);
    program.changeGate(p.GP, 0x0e);
    program.changeGate(p.DF, p.INTERRUPT_GATE, 2);
    const next = new Label("next");
    program.resumeAt(next);
    asm.mov("rdi", 1n << 46n);
    const first = emit(0x48, 0x8b, 0x07);
    asm.bind(next);
    const end = new Label("end");
    program.resumeAt(end);
    asm.mov("rdi", HOLE);
    const second = emit(0x48, 0x8b, 0x07);
    asm.bind(end);
    for (const vector of [p.PF, p.GP, p.DF]) program.changeGate(vector, p.INTERRUPT_GATE);
    return [p.fault(p.DF, 0, first), p.fault(p.DF, 0, second)];
  });
  program.add("a fault on a stack that is not there is a double fault", () => {
    program.mapPage(0, 0n);
    program.changeGate(p.DF, p.INTERRUPT_GATE, 2);
    const end = new Label("end");
    program.resumeAt(end);
    asm.mov("rsp", p.WINDOW + 0x100n);
    const at = emit(0x0f, 0x0b);
    asm.bind(end);
    program.changeGate(p.DF, p.INTERRUPT_GATE);
    // #UD, and #PF on its way, which is benign; then #PF on the way of that.
    return [p.fault(p.DF, 0, at)];
  });

  program.add(
    "a handler's stack from the IST, on a boundary of 16 bytes",
    () => {
      const handler = new Label("handler");
      const end = new Label("end");
      program.gate(0x82, handler, p.INTERRUPT_GATE, 1);
      asm.mov("rsp", p.STACK - 0x13);
      emit(0xcd, 0x82);
      asm.bind(handler);
      asm.mov("rax", "rsp");
      program.logRax();
      program.logMemory(p.IST1 - 16);
      asm.mov("rsp", p.STACK - 0x13);
      program.gate(0x82, end);
      emit(0xcd, 0x82);
      asm.bind(end);
      asm.mov("rax", "rsp");
      program.logRax();
      return [p.IST1 - 40, p.STACK - 0x13, p.STACK - 0x20 - 40];
    },
    HAS_NO_INT,
  );
  program.add(
    "interrupt gates clear IF, trap gates do not; both clear TF and NT",
    () => {
      const expected: number[] = [];
      for (const [type, has] of [
        [p.INTERRUPT_GATE, 0],
        [p.TRAP_GATE, IF],
      ] as const) {
        const handler = new Label("handler");
        program.gate(0x82, handler, type);
        asm.mov("eax", 2 | IF | NT);
        asm.push("rax");
        asm.popfq();
        emit(0xcd, 0x82);
        asm.bind(handler);
        asm.pushfq();
        asm.cli();
        asm.pop("rax");
        asm.and("rax", IF | NT | TF);
        program.logRax();
        asm.mov("rax", qword("rsp", 16));
        asm.and("rax", IF | NT);
        program.logRax();
        asm.mov("rsp", p.STACK);
        asm.mov("eax", 2);
        asm.push("rax");
        asm.popfq();
        expected.push(has, IF | NT);
      }
      return expected;
    },
    HAS_NO_INT,
  );
  program.add(
    "from level 3 the stack is RSP0, and SS is null",
    () => {
      const user = new Label("user");
      const handler = new Label("handler");
      program.gate(0x82, handler, p.USER_INTERRUPT_GATE);
      program.enter(user, { flags: 0x3002 });
      asm.bind(user);
      emit(0xcd, 0x82);
      const after = asm.label();
      asm.bind(handler);
      // MOV EBX, SS
      asm.db(0x8c, 0xd3);
      asm.mov("rsi", "rsp");
      asm.mov("rax", "rsp");
      program.logRax();
      asm.mov("eax", "ebx");
      program.logRax();
      for (const offset of [0, 8, 16, 24, 32]) {
        asm.mov("rax", qword("rsi", offset));
        program.logRax();
      }
      return [p.RSP0 - 40, 0, after, p.USER_CODE64, 0x3002, p.USER_STACK, p.USER_DATA];
    },
    HAS_NO_INT,
  );

  // IRET.
  const iret = (
    title: string,
    frame: { cs?: number; ss?: number; rip?: bigint },
    vector: number,
    errorCode: number,
    notOnKvm?: string,
  ): void => {
    program.add(
      title,
      () => {
        const next = new Label("next");
        for (const value of [frame.ss ?? p.USER_DATA, p.USER_STACK, 2, frame.cs ?? p.USER_CODE64]) {
          asm.mov("eax", value);
          asm.push("rax");
        }
        if (frame.rip === undefined) asm.mov("eax", next);
        else asm.mov("rax", frame.rip);
        asm.push("rax");
        const at = asm.label();
        asm.iretq();
        asm.bind(next);
        return [p.fault(vector, errorCode, at)];
      },
      notOnKvm,
    );
  };
  iret("IRET to a data segment", { cs: p.USER_DATA }, p.GP, p.USER_DATA & ~3, CHECKS_LESS);
  iret("IRET to a null selector", { cs: 3 }, p.GP, 0);
  iret("IRET beyond the GDT", { cs: p.BEYOND_GDT | 3 }, p.GP, p.BEYOND_GDT);
  iret("IRET to code that is not present", { cs: p.CODE_ABSENT, ss: p.DATA }, p.NP, p.CODE_ABSENT, CHECKS_LESS);
  iret("IRET to level 3 with a null SS", { ss: 3 }, p.GP, 0);
  iret("IRET to level 3 with the kernel's SS", { ss: p.DATA | 3 }, p.GP, p.DATA);
  iret("IRET to level 3 with SS of level 0", { ss: p.DATA }, p.GP, p.DATA);
  iret("IRET with SS that is not present", { cs: p.CODE64, ss: p.DATA_ABSENT }, p.SS, p.DATA_ABSENT);
  iret("IRET to what is no address", { cs: p.CODE64, ss: p.DATA, rip: HOLE }, p.GP, 0, CHECKS_LESS);
  program.add("IRET with NT set", () => {
    asm.mov("eax", 2 | NT);
    asm.push("rax");
    asm.popfq();
    const at = asm.label();
    asm.iretq();
    return [p.fault(p.GP, 0, at)];
  });
  program.add("IRET to level 0 takes RSP and SS from the frame, and SS may be null", () => {
    const next = new Label("next");
    program.enter(next, { cs: p.CODE64, ss: 0, stack: p.STACK - 0x123 });
    asm.bind(next);
    asm.mov("rax", "rsp");
    asm.mov("rsp", p.STACK);
    asm.db(0x8c, 0xd3);
    program.logRax();
    asm.mov("eax", "ebx");
    program.logRax();
    return [p.STACK - 0x123, 0];
  });

  for (const [name, bytes] of Object.entries(PRIVILEGED)) {
    program.add(`${name} at level 3`, () => {
      const user = new Label("user");
      program.enter(user);
      asm.bind(user);
      return [p.fault(p.GP, 0, emit(...bytes), p.USER_CODE64)];
    });
  }
  program.add("IRET at level 3 to level 0", () => {
    const user = new Label("user");
    program.enter(user);
    asm.bind(user);
    for (const value of [p.DATA, p.STACK, 2, p.CODE64, 0]) {
      asm.mov("eax", value);
      asm.push("rax");
    }
    return [p.fault(p.GP, p.CODE64, emit(0x48, 0xcf), p.USER_CODE64)];
  });
  program.add(
    "POPF at level 3 changes neither IF nor IOPL, and raises nothing",
    () => {
      const user = new Label("user");
      program.enter(user);
      asm.bind(user);
      asm.mov("eax", 0x3203);
      asm.push("rax");
      asm.popfq();
      asm.pushfq();
      asm.pop("rax");
      asm.mov(qword(p.VARIABLES), "rax");
      emit(0xcd, p.USER_GATE);
      const after = asm.label();
      const end = new Label("end");
      asm.bind(end);
      return [p.fault(p.USER_GATE, 0, after, p.USER_CODE64)];
    },
    HAS_NO_INT,
  );
  program.add(
    "what POPF at level 3 has left",
    () => {
      program.logMemory(p.VARIABLES);
      return [3];
    },
    HAS_NO_INT,
  );

  // Single steps. DR6.BS is 0x4000.
  const step = (title: string, body: () => Label, notOnKvm?: string, extra: () => p.Expectation = () => []): void => {
    program.add(
      title,
      () => {
        const end = new Label("end");
        program.resumeAt(end);
        asm.mov("rax", 0);
        asm.movToDebug(6, "rax");
        const at = body();
        asm.bind(end);
        const more = extra();
        asm.movFromDebug("rax", 6);
        asm.and("rax", 0xf00f);
        program.logRax();
        return [p.fault(p.DB, 0, at), ...more, 0x4000];
      },
      notOnKvm,
    );
  };
  const setTrapFlag = (): void => {
    asm.mov("eax", 2 | TF);
    asm.push("rax");
    asm.popfq();
  };
  step("a single step ends after the instruction behind POPF", () => {
    setTrapFlag();
    emit(0x90);
    const after = asm.label();
    emit(0x90);
    return after;
  });
  step("IRET to a single step ends after one instruction there", () => {
    const next = new Label("next");
    program.enter(next, { cs: p.CODE64, ss: p.DATA, flags: 2 | TF, stack: p.STACK });
    asm.bind(next);
    emit(0x90);
    const after = asm.label();
    emit(0x90);
    return after;
  });
  step(
    "a step over a load of SS ends after the next instruction",
    () => {
      asm.mov("ecx", p.DATA);
      setTrapFlag();
      // MOV SS, ECX
      emit(0x8e, 0xd1, 0x90);
      const after = asm.label();
      emit(0x90);
      return after;
    },
    "a KVM that interprets does not hold it off",
  );
  step(
    "a step of REP ends after one repetition",
    () => {
      asm.mov("rsi", p.PAGES);
      asm.mov("rdi", p.PAGES + 0x100);
      asm.mov("rcx", 5);
      setTrapFlag();
      const at = asm.label();
      asm.repMovsb();
      emit(0x90);
      return at;
    },
    "a KVM that interprets does all repetitions in one step",
    () => {
      asm.mov("rax", "rcx");
      program.logRax();
      return [4];
    },
  );
  program.add("code that has run before is single-stepped, too", () => {
    const loop = new Label("loop");
    const end = new Label("end");
    asm.mov("ebx", 0);
    asm.bind(loop);
    emit(0x90);
    const second = emit(0x90, 0x90);
    asm.inc("ebx");
    asm.cmp("ebx", 3);
    asm.jcc("b", loop);
    program.resumeAt(end);
    program.enter(loop, { cs: p.CODE64, ss: p.DATA, flags: 2 | TF, stack: p.STACK });
    asm.bind(end);
    return [p.fault(p.DB, 0, second)];
  });
  program.add(
    "INT n is not stepped into",
    () => {
      const handler = new Label("handler");
      program.gate(0x82, handler);
      setTrapFlag();
      // POPF and INT n: nothing between them that would be a step.
      emit(0xcd, 0x82);
      asm.bind(handler);
      emit(0x90, 0x90);
      asm.mov("rax", qword("rsp", 16));
      asm.and("rax", TF);
      program.logRax();
      return [TF];
    },
    HAS_NO_INT,
  );

  // Interrupts.
  const ICR = p.LAPIC + 0x300;
  const apic = (register: number, value: number): void => {
    asm.mov("rdi", BigInt(p.LAPIC + register));
    asm.mov(dword("rdi"), value);
  };
  /** When an IPI comes is not said: until long after. */
  const spin = (): void => {
    asm.mov("ecx", 20_000);
    const next = asm.label();
    asm.dec("ecx");
    asm.jcc("ne", next);
  };
  const SELF = 0x4_4000;
  const NMI_ASSERTED = 0x4400;
  program.add(
    "STI holds an interrupt off for one instruction",
    () => {
      const handler = new Label("handler");
      const end = new Label("end");
      program.gate(0x90, handler);
      apic(0xf0, 0x1ff);
      apic(ICR - p.LAPIC, SELF | 0x90);
      asm.mov("ebx", 0);
      asm.sti();
      asm.inc("ebx");
      asm.cli();
      asm.mov("ebx", 100);
      asm.jmp(end);
      asm.bind(handler);
      apic(0xb0, 0);
      asm.bind(end);
      asm.mov("eax", "ebx");
      program.logRax();
      return [1];
    },
    TAKES_LATE,
  );
  program.add(
    "an interrupt that waits comes with POPF and with IRET",
    () => {
      const expected: number[] = [];
      for (const byIret of [false, true]) {
        const handler = new Label("handler");
        const next = new Label("next");
        program.gate(0x90, handler);
        apic(ICR - p.LAPIC, SELF | 0x90);
        asm.mov("ebx", 0);
        if (byIret) program.enter(next, { cs: p.CODE64, ss: p.DATA, flags: 2 | IF, stack: p.STACK });
        else {
          asm.mov("eax", 2 | IF);
          asm.push("rax");
          asm.popfq();
        }
        asm.bind(next);
        asm.inc("ebx");
        asm.cli();
        asm.bind(handler);
        apic(0xb0, 0);
        asm.mov("eax", "ebx");
        asm.mov("rsp", p.STACK);
        program.logRax();
        expected.push(0);
      }
      return expected;
    },
    TAKES_LATE,
  );
  program.add(
    "an NMI is held off until IRET of the one before",
    () => {
      const handler = new Label("handler");
      const second = new Label("second");
      const end = new Label("end");
      program.gate(p.NMI, handler);
      apic(0x310, 0);
      asm.mov("ebx", 0);
      apic(ICR - p.LAPIC, NMI_ASSERTED);
      spin();
      asm.jmp(end);
      asm.bind(handler);
      asm.inc("ebx");
      asm.cmp("ebx", 2);
      asm.jcc("e", second);
      // Another one, which must not come before the mark.
      apic(ICR - p.LAPIC, NMI_ASSERTED);
      spin();
      program.log(0x11);
      asm.bind(second);
      asm.mov("eax", "ebx");
      program.logRax();
      // The end of whatever `spin` it came into.
      asm.mov("ecx", 1);
      asm.iretq();
      asm.bind(end);
      spin();
      program.log(0x33);
      return [0x11, 1, 2, 0x33];
    },
    TAKES_LATE,
  );
}
