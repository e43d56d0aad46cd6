// SPDX-License-Identifier: Apache-2.0
// The self-checking guest: counts as fast as it can, so that a pause shows from outside, and checks at every clock
// tick that nothing of its state was lost. Its findings are in the report page (report.ts).
//
//   boot ─ timer ─ start other vCPUs ─ touch RAM ─ ready
//                                                    │
//      ┌─ load canaries ─ burst: count, count, … ◄──┤ no tick yet
//      └── round of checks ◄─────────────────────────┘
import { Assembler } from "./assembler.ts";
import { assembleTrampoline, emitDescriptorTables, emitEntry, emitMagic, emitStartOthers } from "./boot.ts";
import { Canaries } from "./canaries.ts";
import { emitClockCheck, emitClockStart, emitTscCheck } from "./clocks.ts";
import { Console } from "./console.ts";
import { wrapElf } from "./elf.ts";
import { emitLapicCheck, emitTickCheck, emitTimerHandler, emitTimerStart } from "./lapic.ts";
import { emitSweepCheck, emitTouch, emitWorkingSetCheck, emitWorkingSetStart } from "./memory.ts";
import {
  CODE_END_GPA,
  CODE_GPA,
  header32,
  type SelfCheckOptions,
  type Settings,
  settle,
  VcpuProgram,
  VECTOR_SERIAL,
  VECTOR_TIMER,
} from "./plan.ts";
import { dword, Label, qword } from "./registers.ts";
import {
  CPU_BURSTS_U64,
  CPU_ERROR_COUNT_U32,
  CPU_ERRORS,
  CPU_LAST_TICKS_U64,
  CPU_PROBE_U32,
  CPU_ROUNDS_U64,
  CPU_TICKS_U64,
  ERROR_CODE_U32,
  ERROR_COUNTER_U64,
  ERROR_EXPECTED_U64,
  ERROR_FOUND_U64,
  ERROR_ROUND_U64,
  ERROR_STRIDE_BYTES,
  ERROR_WHERE_U64,
  HEADER_ONLINE_U32,
  HEADER_PHASE_U32,
  HEADER_READY_U32,
  MAX_ERRORS_KEPT,
  PHASE_RUN,
  PHASE_TIMER,
  PHASE_TOUCH,
  PHASE_VCPUS,
  REPORT_GPA,
} from "./report.ts";

export type { SelfCheckOptions } from "./plan.ts";

/** First line on COM1. */
export const BANNER = "Baton self-check\n";
/** Line on COM1 when `ready` is set in the report. */
export const READY_LINE = "ready\n";

/** Flat code for `CODE_GPA`, entered at its first byte in 32-bit protected mode with paging off. */
export function assembleSelfCheck(options: SelfCheckOptions = {}): Uint8Array {
  const settings = settle(options);
  const asm = new Assembler(CODE_GPA);
  const entries = Array.from({ length: settings.cpuCount }, (_, vcpu) => new Label(`vcpu${vcpu}`));
  const apEntry = emitEntry(asm, entries);
  const trampoline = assembleTrampoline(apEntry);
  for (const [vcpu, entry] of entries.entries()) emitVcpu(asm, settings, vcpu, entry, trampoline);
  const code = asm.assemble();
  if (CODE_GPA + code.length > REPORT_GPA) throw new Error("The payload's code reaches into its report");
  return code;
}

/**
 * The self-checking payload as an ELF file for PVH loaders.
 *
 * @example
 * writeFileSync("self-check.elf", buildSelfCheck({ cpuCount: 2, touchBytes: 128 << 20 }));
 */
export function buildSelfCheck(options: SelfCheckOptions = {}): Uint8Array {
  return wrapElf(assembleSelfCheck(options), { loadGpa: CODE_GPA, memorySizeBytes: CODE_END_GPA - CODE_GPA });
}

function emitVcpu(asm: Assembler, settings: Settings, vcpu: number, entry: Label, trampoline: Uint8Array): void {
  const program = new VcpuProgram(asm, settings, vcpu);
  const canaries = new Canaries(program);
  const terminal = vcpu === 0 ? new Console(program) : undefined;

  emitRecordError(program);
  emitCompareBlock(program);
  const handlers = new Map([[VECTOR_TIMER, emitTimerHandler(program)]]);
  const serialHandler = terminal?.emitRoutines();
  if (serialHandler !== undefined) handlers.set(VECTOR_SERIAL, serialHandler);

  asm.bind(entry);
  asm.mov("esp", program.stackTop);
  emitDescriptorTables(program, handlers);
  if (vcpu === 0) {
    emitMagic(asm);
    terminal?.emitStart(BANNER);
    asm.mov(header32(HEADER_PHASE_U32), PHASE_TIMER);
  }
  canaries.emitFill();
  emitTimerStart(program);
  emitWorkingSetStart(program);
  asm.lockOr(header32(HEADER_ONLINE_U32), 1 << vcpu);
  if (vcpu === 0) {
    asm.mov(header32(HEADER_PHASE_U32), PHASE_VCPUS);
    emitStartOthers(
      program,
      program.constant(8, () => asm.bytes(trampoline)),
      trampoline.length,
    );
    asm.mov(header32(HEADER_PHASE_U32), PHASE_TOUCH);
    emitTouch(program);
    asm.mov(header32(HEADER_PHASE_U32), PHASE_RUN);
    asm.mov(header32(HEADER_READY_U32), 1);
    terminal?.emitText(READY_LINE);
  }
  // Last, so that a long start is no jump of the clock.
  emitClockStart(program);
  emitLoop(program, canaries, terminal);
  program.emitConstants();
}

function emitLoop(program: VcpuProgram, canaries: Canaries, terminal: Console | undefined): void {
  const { asm, settings } = program;
  const round = new Label("round");
  const bursts = program.field64(CPU_BURSTS_U64);
  const loop = asm.label("loop");
  asm.mov(bursts, settings.burstsPerRound);
  canaries.emitLoad();
  const burst = asm.label("burst");
  asm.mov("ecx", settings.iterationsPerBurst);
  asm.stc();
  const tight = asm.label("tight");
  asm.inc(program.counter);
  asm.dec("rcx");
  asm.jcc("ne", tight);
  canaries.emitSaveFlags();
  if (settings.idle) asm.hlt();
  asm.mov("rcx", program.field64(CPU_TICKS_U64));
  asm.cmp("rcx", program.field64(CPU_LAST_TICKS_U64));
  asm.jcc("ne", round);
  asm.dec(bursts);
  asm.jcc("ne", burst);

  asm.bind(round);
  canaries.emitCheckRegisters();
  canaries.emitCheckSystem();
  emitLapicCheck(program);
  emitTscCheck(program);
  emitTickCheck(program);
  emitClockCheck(program);
  emitWorkingSetCheck(program);
  if (settings.probePort !== undefined) emitProbe(program, settings.probePort);
  if (terminal !== undefined) {
    emitSweepCheck(program);
    terminal.emitRound();
  }
  asm.inc(program.field64(CPU_ROUNDS_U64));
  asm.jmp(loop);
}

function emitProbe(program: VcpuProgram, port: number): void {
  const { asm } = program;
  asm.mov("eax", 0);
  asm.mov("dx", port);
  asm.in("al", "dx");
  asm.mov(program.field32(CPU_PROBE_U32), "eax");
  program.step();
}

function emitRecordError(program: VcpuProgram): void {
  const { asm } = program;
  const full = new Label("full");
  const count = program.field32(CPU_ERROR_COUNT_U32);
  asm.bind(program.recordError);
  asm.mov("eax", count);
  asm.cmp("eax", MAX_ERRORS_KEPT);
  asm.jcc("ae", full);
  asm.shl("eax", Math.log2(ERROR_STRIDE_BYTES));
  asm.add("rax", program.field(CPU_ERRORS));
  asm.mov(dword("rax", ERROR_CODE_U32), "edi");
  asm.mov(qword("rax", ERROR_WHERE_U64), "r8");
  asm.mov(qword("rax", ERROR_EXPECTED_U64), "rsi");
  asm.mov(qword("rax", ERROR_FOUND_U64), "rdx");
  asm.mov("r9", program.field64(CPU_ROUNDS_U64));
  asm.mov(qword("rax", ERROR_ROUND_U64), "r9");
  asm.mov("r9", program.counter);
  asm.mov(qword("rax", ERROR_COUNTER_U64), "r9");
  asm.bind(full);
  // Counted last: a reader outside never sees a count without its record.
  asm.inc(count);
  asm.ret();
}

function emitCompareBlock(program: VcpuProgram): void {
  const { asm } = program;
  const equal = new Label("equal");
  asm.bind(program.compareBlock);
  asm.mov("rbx", 0);
  const next = asm.label("next");
  asm.mov("rsi", qword("r12"));
  asm.mov("rdx", qword("r13"));
  asm.cmp("rdx", "rsi");
  asm.jcc("e", equal);
  asm.mov("edi", "r15d");
  asm.mov("r8", "rbx");
  asm.call(program.recordError);
  asm.bind(equal);
  program.step();
  asm.add("r12", 8);
  asm.add("r13", 8);
  asm.inc("rbx");
  asm.cmp("rbx", "r14");
  asm.jcc("ne", next);
  asm.ret();
}
