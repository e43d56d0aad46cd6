// SPDX-License-Identifier: Apache-2.0
// The payload's checks of RAM: a working set that changes in every round, and a slow sweep over all other pages.
//
// Every word's value follows from its address and its generation, so that a stale page shows as well as a lost one.
import { touchStartGpa, type VcpuProgram, workingSetGpa } from "./plan.ts";
import { dword, Label, qword } from "./registers.ts";
import {
  CPU_GENERATION_U64,
  CPU_SWEEP_GENERATION_U64,
  CPU_SWEEP_GPA_U64,
  ERROR_PAGE,
  ERROR_WORKING_SET,
  HEADER_SWEEPS_U32,
  HEADER_TOUCHED_PAGES_U32,
  REPORT_GPA,
} from "./report.ts";

const PAGE_SIZE_BYTES = 4096;

/** Emits the first writing of the working set: each word holds its address, generation 0 in the high half. */
export function emitWorkingSetStart(program: VcpuProgram): void {
  const { asm } = program;
  program.activate(ERROR_WORKING_SET);
  emitForWorkingSet(program, () => asm.mov(qword("r12"), "r12"));
}

/** Emits the check of all words of the working set, each of which moves on to the next generation. */
export function emitWorkingSetCheck(program: VcpuProgram): void {
  const { asm } = program;
  const generation = program.field64(CPU_GENERATION_U64);
  // r14 the generation in the high half; rsi = expected.
  asm.mov("r14", generation);
  asm.shl("r14", 32);
  asm.mov("r15", "r14");
  asm.mov("rax", 1n << 32n);
  asm.add("r15", "rax");
  emitForWorkingSet(program, () => {
    emitCheckWord(program, ERROR_WORKING_SET);
    program.step();
  });
  asm.inc(generation);
}

/** Emits: the word at r12 must hold r12 + r14 and becomes r12 + r15. */
function emitCheckWord(program: VcpuProgram, code: number): void {
  const { asm } = program;
  const equal = new Label("equal");
  asm.mov("rsi", "r12");
  asm.add("rsi", "r14");
  asm.mov("rdx", qword("r12"));
  asm.cmp("rdx", "rsi");
  asm.jcc("e", equal);
  asm.mov("edi", code);
  asm.mov("r8", "r12");
  asm.call(program.recordError);
  asm.bind(equal);
  asm.mov("rsi", "r12");
  asm.add("rsi", "r15");
  asm.mov(qword("r12"), "rsi");
}

/** Emits a loop over the working set's words with r12 as address; `body` keeps r12 and r13. */
function emitForWorkingSet(program: VcpuProgram, body: () => void): void {
  const { asm, settings } = program;
  const { workingSetBytes, workingSetStrideBytes } = settings;
  const words = Math.floor(workingSetBytes / workingSetStrideBytes);
  if (words === 0) return;
  asm.mov("r12d", workingSetGpa(settings, program.vcpu));
  asm.mov("r13d", words);
  const next = asm.label("next");
  body();
  asm.add("r12", workingSetStrideBytes);
  asm.dec("r13");
  asm.jcc("ne", next);
}

/** Emits the first pass over the touched pages: each one's first word holds its address. */
export function emitTouch(program: VcpuProgram): void {
  const { asm, settings } = program;
  const start = touchStartGpa(settings);
  const pages = Math.floor((settings.touchBytes - start) / PAGE_SIZE_BYTES);
  asm.mov("eax", start);
  asm.mov(program.field64(CPU_SWEEP_GPA_U64), "rax");
  if (pages === 0) return;
  const next = asm.label("next");
  asm.mov(qword("rax"), "rax");
  program.step();
  asm.inc(dword(REPORT_GPA, HEADER_TOUCHED_PAGES_U32));
  asm.add("rax", PAGE_SIZE_BYTES);
  asm.cmp(dword(REPORT_GPA, HEADER_TOUCHED_PAGES_U32), pages);
  asm.jcc("ne", next);
  if (settings.sweepPagesPerRound > 0) program.activate(ERROR_PAGE);
}

/** Emits the check of the next few touched pages, each of which moves on to the next generation. */
export function emitSweepCheck(program: VcpuProgram): void {
  const { asm, settings } = program;
  const start = touchStartGpa(settings);
  const end = start + Math.floor((settings.touchBytes - start) / PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES;
  if (settings.sweepPagesPerRound === 0 || start === end) return;
  const inside = new Label("inside");
  asm.mov("r13d", settings.sweepPagesPerRound);
  asm.mov("r12", program.field64(CPU_SWEEP_GPA_U64));
  const next = asm.label("next");
  asm.mov("r14", program.field64(CPU_SWEEP_GENERATION_U64));
  asm.shl("r14", 32);
  asm.mov("r15", 1n << 32n);
  asm.add("r15", "r14");
  emitCheckWord(program, ERROR_PAGE);
  program.step();
  asm.add("r12", PAGE_SIZE_BYTES);
  asm.mov("eax", end);
  asm.cmp("r12", "rax");
  asm.jcc("b", inside);
  asm.mov("r12d", start);
  asm.inc(program.field64(CPU_SWEEP_GENERATION_U64));
  asm.inc(dword(REPORT_GPA, HEADER_SWEEPS_U32));
  asm.bind(inside);
  asm.dec("r13");
  asm.jcc("ne", next);
  asm.mov(program.field64(CPU_SWEEP_GPA_U64), "r12");
}
