// SPDX-License-Identifier: Apache-2.0
// The payload's use of the local APIC: its timer, the tick check, and register canaries. Intel SDM volume 3, chapter 11.
//
// The memory-mapped registers are used, not x2APIC's MSRs: every CPU and emulator has them.
import type { Assembler } from "./assembler.ts";
import { joinEdxEax, LAPIC_GPA, type VcpuProgram, VECTOR_SPURIOUS, VECTOR_TIMER } from "./plan.ts";
import { dword, Label } from "./registers.ts";
import {
  CPU_LAST_TICKS_U64,
  CPU_STALE_TSC_U64,
  CPU_TICK_LIMIT_U64,
  CPU_TICK_STEP_U64,
  CPU_TICKS_U64,
  CPU_TSC_PER_TICK_U64,
  ERROR_LAPIC,
  ERROR_TICKS_LOST,
} from "./report.ts";

const EOI = 0xb0;
const LOGICAL_DESTINATION = 0xd0;
const SPURIOUS_VECTOR = 0xf0;
const ERROR_STATUS = 0x280;
const LVT_TIMER = 0x320;
const TIMER_INITIAL_COUNT = 0x380;
const TIMER_DIVIDE = 0x3e0;

const SPURIOUS_ENABLE = 0x100;
const LVT_MASKED = 0x1_0000;
const LVT_PERIODIC = 0x2_0000;
const LVT_TSC_DEADLINE = 0x4_0000;
const DIVIDE_BY_1 = 0xb;

const MSR_TSC_DEADLINE = 0x6e0;
const CPUID_1_ECX_TSC_DEADLINE = 1 << 24;

const CALIBRATION_TICKS_SHIFT = 2;
/** Cycles after which a timer that did not tick never will: some 10 s. */
const CALIBRATION_LIMIT_SHIFT = 35;

/** Emits a write to a local APIC register. Changes rax. */
function write(asm: Assembler, register: number, value: number): void {
  asm.mov("eax", LAPIC_GPA + register);
  asm.mov(dword("rax"), value);
}

/** Emits the write that makes the APIC forget earlier errors, so that the next command starts clean. Changes rax. */
export function clearLapicError(asm: Assembler): void {
  write(asm, ERROR_STATUS, 0);
}

/** Emits the end of an interrupt. Changes rax. */
export function endOfInterrupt(asm: Assembler): void {
  write(asm, EOI, 0);
}

/** Emits a wait of 2 ** `shift` TSC cycles with `body` inside, which must keep r10. Changes rax, rdx, r10. */
export function spinCycles(program: VcpuProgram, shift: number, body: () => void): void {
  const { asm } = program;
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.mov("r10", "rax");
  const again = asm.label("again");
  body();
  program.step();
  asm.pause();
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.sub("rax", "r10");
  asm.shr("rax", shift);
  asm.jcc("e", again);
}

/** Emits the timer's interrupt handler. */
export function emitTimerHandler(program: VcpuProgram): Label {
  const { asm } = program;
  const handler = asm.label("timerHandler");
  asm.inc(program.field64(CPU_TICKS_U64));
  asm.push("rax");
  if (program.settings.timer === "deadline") {
    const periodic = new Label("periodic");
    asm.cmp(program.field64(CPU_TICK_STEP_U64), 0);
    asm.jcc("e", periodic);
    asm.push("rcx");
    asm.push("rdx");
    emitDeadline(program);
    asm.pop("rdx");
    asm.pop("rcx");
    asm.bind(periodic);
  }
  endOfInterrupt(asm);
  asm.pop("rax");
  asm.iretq();
  return handler;
}

/** Emits arming of the next TSC deadline. Changes rax, rcx, rdx. */
function emitDeadline(program: VcpuProgram): void {
  const { asm } = program;
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.add("rax", program.field64(CPU_TICK_STEP_U64));
  asm.mov("rdx", "rax");
  asm.shr("rdx", 32);
  asm.mov("ecx", MSR_TSC_DEADLINE);
  asm.wrmsr();
}

const logicalId = (vcpu: number): number => (1 << vcpu) << 24;

/** Emits the enabling of the APIC and, if wanted, the start of its timer. Interrupts are enabled afterwards. */
export function emitTimerStart(program: VcpuProgram): void {
  const { asm, settings } = program;
  write(asm, SPURIOUS_VECTOR, SPURIOUS_ENABLE | VECTOR_SPURIOUS);
  write(asm, LOGICAL_DESTINATION, logicalId(program.vcpu));
  write(asm, LVT_TIMER, LVT_MASKED | VECTOR_TIMER);
  program.activate(ERROR_LAPIC);
  if (settings.timer === "none") {
    asm.sti();
    return;
  }
  write(asm, LVT_TIMER, LVT_PERIODIC | VECTOR_TIMER);
  write(asm, TIMER_DIVIDE, DIVIDE_BY_1);
  write(asm, TIMER_INITIAL_COUNT, settings.timerPeriodNs);
  asm.sti();

  const done = new Label("done");
  const dead = new Label("dead");
  const ticks = program.field64(CPU_TICKS_U64);
  // Measures the period in TSC cycles, from the first tick on: rbx holds the ticks, r11 the first time.
  asm.mov("rbx", 0);
  emitAwaitTick(program, dead, 0);
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.mov("r11", "rax");
  asm.mov("rbx", ticks);
  emitAwaitTick(program, dead, (1 << CALIBRATION_TICKS_SHIFT) - 1);
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.sub("rax", "r11");
  asm.shr("rax", CALIBRATION_TICKS_SHIFT);
  asm.mov(program.field64(CPU_TSC_PER_TICK_U64), "rax");
  asm.mov("ecx", settings.lostTickLimit);
  asm.mul("rcx");
  asm.mov(program.field64(CPU_TICK_LIMIT_U64), "rax");
  program.activate(ERROR_TICKS_LOST);
  if (settings.timer === "deadline") {
    asm.mov("eax", 1);
    asm.cpuid();
    asm.test("ecx", CPUID_1_ECX_TSC_DEADLINE);
    asm.jcc("e", done);
    write(asm, LVT_TIMER, LVT_TSC_DEADLINE | VECTOR_TIMER);
    asm.mov("rax", program.field64(CPU_TSC_PER_TICK_U64));
    asm.mov(program.field64(CPU_TICK_STEP_U64), "rax");
    emitDeadline(program);
  }
  asm.jmp(done);

  asm.bind(dead);
  asm.mov("rsi", 1);
  asm.mov("rdx", 0);
  asm.mov("edi", ERROR_TICKS_LOST);
  asm.mov("r8d", 0);
  asm.call(program.recordError);
  asm.bind(done);
}

/** Emits a wait until there are more than rbx + `more` ticks. */
function emitAwaitTick(program: VcpuProgram, dead: Label, more: number): void {
  const { asm } = program;
  const ticked = new Label("ticked");
  asm.add("rbx", more);
  spinCycles(program, CALIBRATION_LIMIT_SHIFT, () => {
    asm.cmp(program.field64(CPU_TICKS_U64), "rbx");
    asm.jcc("a", ticked);
  });
  asm.jmp(dead);
  asm.bind(ticked);
}

/**
 * Emits the check that ticks arrive; rbx holds the cycles since the last round.
 *
 * One round adds at most half of the limit, so that a long pause of the whole guest is no lost tick.
 */
export function emitTickCheck(program: VcpuProgram): void {
  const { asm } = program;
  program.ifActive(ERROR_TICKS_LOST, () => {
    const stale = new Label("stale");
    const fits = new Label("fits");
    const done = new Label("done");
    const staleTsc = program.field64(CPU_STALE_TSC_U64);
    const limit = program.field64(CPU_TICK_LIMIT_U64);
    asm.mov("rax", program.field64(CPU_TICKS_U64));
    asm.cmp("rax", program.field64(CPU_LAST_TICKS_U64));
    asm.jcc("e", stale);
    asm.mov(program.field64(CPU_LAST_TICKS_U64), "rax");
    asm.mov(staleTsc, 0);
    asm.jmp(done);
    asm.bind(stale);
    asm.mov("rdx", limit);
    asm.mov("rsi", "rdx");
    asm.shr("rdx", 1);
    asm.cmp("rbx", "rdx");
    asm.jcc("b", fits);
    asm.mov("rbx", "rdx");
    asm.bind(fits);
    asm.mov("rdx", staleTsc);
    asm.add("rdx", "rbx");
    asm.mov(staleTsc, "rdx");
    asm.cmp("rdx", "rsi");
    asm.jcc("b", done);
    asm.mov("edi", ERROR_TICKS_LOST);
    asm.mov("r8", "rax");
    asm.call(program.recordError);
    asm.mov(staleTsc, 0);
    asm.bind(done);
    program.step();
  });
}

/** Emits the check of local APIC registers that nobody changes. */
export function emitLapicCheck(program: VcpuProgram): void {
  const { asm, settings, vcpu } = program;
  const check = (register: number, emitExpected: () => void): void => {
    asm.mov("eax", LAPIC_GPA + register);
    asm.mov("edx", dword("rax"));
    emitExpected();
    program.expectEqual(ERROR_LAPIC, register, () => {
      asm.mov("eax", LAPIC_GPA + register);
      asm.mov(dword("rax"), "esi");
    });
    program.step();
  };
  const constant = (value: number) => (): void => asm.mov("esi", value);
  check(SPURIOUS_VECTOR, constant(SPURIOUS_ENABLE | VECTOR_SPURIOUS));
  check(LOGICAL_DESTINATION, constant(logicalId(vcpu)));
  if (settings.timer === "none") {
    check(LVT_TIMER, constant(LVT_MASKED | VECTOR_TIMER));
    return;
  }
  check(LVT_TIMER, () => {
    asm.mov("esi", LVT_PERIODIC | VECTOR_TIMER);
    if (settings.timer === "periodic") return;
    const known = new Label("known");
    asm.cmp(program.field64(CPU_TICK_STEP_U64), 0);
    asm.jcc("e", known);
    asm.mov("esi", LVT_TSC_DEADLINE | VECTOR_TIMER);
    asm.bind(known);
  });
  // Deadline mode makes the initial count read as zero.
  if (settings.timer === "periodic") check(TIMER_INITIAL_COUNT, constant(settings.timerPeriodNs));
}
