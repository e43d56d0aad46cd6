// SPDX-License-Identifier: Apache-2.0
// The payload's checks of time: the TSC and kvmclock never go backwards, and kvmclock does not jump.
//
// https://docs.kernel.org/virt/kvm/x86/msr.html, https://docs.kernel.org/virt/kvm/x86/cpuid.html
import { joinEdxEax, type VcpuProgram } from "./plan.ts";
import { byte, dword, Label, qword } from "./registers.ts";
import {
  CPU_CLOCK_FLAGS_U32,
  CPU_LAST_CLOCK_U64,
  CPU_LAST_TSC_U64,
  CPU_LONGEST_ROUND_TSC_U64,
  CPU_PVCLOCK,
  ERROR_CLOCK_BACKWARDS,
  ERROR_CLOCK_JUMP,
  ERROR_CLOCK_STUCK,
  ERROR_TSC_BACKWARDS,
} from "./report.ts";

const CPUID_1_ECX_HYPERVISOR = 1 << 31;
const CPUID_HYPERVISOR_SIGNATURE = 0x4000_0000;
const CPUID_KVM_FEATURES = 0x4000_0001;
const KVM_SIGNATURE = { ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d } as const;
const KVM_FEATURE_CLOCKSOURCE2 = 1 << 3;
const MSR_KVM_SYSTEM_TIME_NEW = 0x4b56_4d01;

// struct pvclock_vcpu_time_info
const PVCLOCK_VERSION_U32 = 0;
const PVCLOCK_TSC_TIMESTAMP_U64 = 8;
const PVCLOCK_SYSTEM_TIME_U64 = 16;
const PVCLOCK_TSC_TO_SYSTEM_MUL_U32 = 24;
const PVCLOCK_TSC_SHIFT_I8 = 28;
const PVCLOCK_FLAGS_U8 = 29;

/** Reads of kvmclock's page before its version is taken for stuck. */
const MAX_READS = 1000;

/** Emits the first look at the TSC, and the registration of kvmclock's page where the CPU says KVM. */
export function emitClockStart(program: VcpuProgram): void {
  const { asm } = program;
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.mov(program.field64(CPU_LAST_TSC_U64), "rax");
  program.activate(ERROR_TSC_BACKWARDS);

  const none = new Label("none");
  asm.mov("eax", 1);
  asm.cpuid();
  asm.test("ecx", CPUID_1_ECX_HYPERVISOR);
  asm.jcc("e", none);
  asm.mov("eax", CPUID_HYPERVISOR_SIGNATURE);
  asm.cpuid();
  for (const register of ["ebx", "ecx", "edx"] as const) {
    asm.cmp(register, KVM_SIGNATURE[register]);
    asm.jcc("ne", none);
  }
  asm.mov("eax", CPUID_KVM_FEATURES);
  asm.cpuid();
  asm.test("eax", KVM_FEATURE_CLOCKSOURCE2);
  asm.jcc("e", none);
  asm.mov("ecx", MSR_KVM_SYSTEM_TIME_NEW);
  asm.mov("eax", program.field(CPU_PVCLOCK) | 1);
  asm.mov("edx", 0);
  asm.wrmsr();
  for (const check of [ERROR_CLOCK_BACKWARDS, ERROR_CLOCK_JUMP, ERROR_CLOCK_STUCK]) program.activate(check);
  const stuck = new Label("stuck");
  emitReadClock(program, stuck);
  asm.mov(program.field64(CPU_LAST_CLOCK_U64), "rax");
  asm.bind(stuck);
  asm.bind(none);
}

/** Emits the TSC check; leaves the cycles since the last round in rbx. */
export function emitTscCheck(program: VcpuProgram): void {
  const { asm } = program;
  const forwards = new Label("forwards");
  const notLongest = new Label("notLongest");
  asm.rdtsc();
  joinEdxEax(asm, "rdx");
  asm.mov("rsi", program.field64(CPU_LAST_TSC_U64));
  asm.mov(program.field64(CPU_LAST_TSC_U64), "rdx");
  asm.mov("rbx", "rdx");
  asm.sub("rbx", "rsi");
  asm.jcc("ns", forwards);
  asm.mov("edi", ERROR_TSC_BACKWARDS);
  asm.mov("r8d", 0);
  asm.call(program.recordError);
  asm.mov("rbx", 0);
  asm.bind(forwards);
  asm.cmp("rbx", program.field64(CPU_LONGEST_ROUND_TSC_U64));
  asm.jcc("be", notLongest);
  asm.mov(program.field64(CPU_LONGEST_ROUND_TSC_U64), "rbx");
  asm.bind(notLongest);
  program.step();
}

/** Emits the kvmclock check. */
export function emitClockCheck(program: VcpuProgram): void {
  const { asm, settings } = program;
  program.ifActive(ERROR_CLOCK_BACKWARDS, () => {
    const stuck = new Label("stuck");
    const forwards = new Label("forwards");
    const done = new Label("done");
    emitReadClock(program, stuck);
    program.step();
    asm.mov("rdx", "rax");
    asm.mov("rsi", program.field64(CPU_LAST_CLOCK_U64));
    asm.mov(program.field64(CPU_LAST_CLOCK_U64), "rdx");
    asm.mov("r8d", 0);
    asm.sub("rax", "rsi");
    asm.jcc("ns", forwards);
    asm.mov("edi", ERROR_CLOCK_BACKWARDS);
    asm.call(program.recordError);
    asm.jmp(done);
    asm.bind(forwards);
    asm.mov("rcx", BigInt(settings.clockJumpLimitNs));
    asm.cmp("rax", "rcx");
    asm.jcc("be", done);
    asm.mov("edi", ERROR_CLOCK_JUMP);
    asm.call(program.recordError);
    asm.jmp(done);
    asm.bind(stuck);
    asm.mov("edx", "ebx");
    asm.mov("rsi", 0);
    asm.mov("r8d", 0);
    asm.mov("edi", ERROR_CLOCK_STUCK);
    asm.call(program.recordError);
    asm.bind(done);
  });
}

/** Emits kvmclock's time in ns → rax, or a jump to `stuck` with the version in ebx. Changes rcx, rdx, r9. */
function emitReadClock(program: VcpuProgram, stuck: Label): void {
  const { asm } = program;
  const field32 = (offset: number) => dword(program.field(CPU_PVCLOCK), offset);
  const field64 = (offset: number) => qword(program.field(CPU_PVCLOCK), offset);
  const negative = new Label("negative");
  const shifted = new Label("shifted");
  asm.mov("r9d", MAX_READS);
  const again = asm.label("again");
  asm.mov("ebx", field32(PVCLOCK_VERSION_U32));
  asm.dec("r9d");
  asm.jcc("e", stuck);
  asm.test("ebx", 1);
  asm.jcc("ne", again);
  asm.rdtsc();
  joinEdxEax(asm, "rax");
  asm.sub("rax", field64(PVCLOCK_TSC_TIMESTAMP_U64));
  asm.movsx("ecx", byte(program.field(CPU_PVCLOCK), PVCLOCK_TSC_SHIFT_I8));
  asm.cmp("ecx", 0);
  asm.jcc("l", negative);
  asm.shl("rax", "cl");
  asm.jmp(shifted);
  asm.bind(negative);
  asm.neg("ecx");
  asm.shr("rax", "cl");
  asm.bind(shifted);
  asm.mov("edx", field32(PVCLOCK_TSC_TO_SYSTEM_MUL_U32));
  asm.mul("rdx");
  asm.shrd("rax", "rdx", 32);
  asm.add("rax", field64(PVCLOCK_SYSTEM_TIME_U64));
  asm.movzx("ecx", byte(program.field(CPU_PVCLOCK), PVCLOCK_FLAGS_U8));
  asm.or(program.field32(CPU_CLOCK_FLAGS_U32), "ecx");
  asm.cmp("ebx", field32(PVCLOCK_VERSION_U32));
  asm.jcc("ne", again);
}
