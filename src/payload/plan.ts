// SPDX-License-Identifier: Apache-2.0
// What the self-checking payload is built from: its options, its memory map, and what one vCPU's code needs to know.
//
// Every vCPU has code of its own with its addresses and canaries as immediates, so that no register is needed to tell
// the vCPUs apart and all of them can be checked.
//
//   0x00_8000  trampoline of the application processors (real mode)
//   0x10_0000  code and constants
//   0x18_0000  report (report.ts)
//   0x19_0000  page tables: 4 GiB mapped one to one with 2 MiB pages
//   0x1a_0000  stacks, 4 KiB for each vCPU
//   0x1b_0000  interrupt descriptor tables, 4 KiB for each vCPU
//   0x20_0000  working sets, then the pages that are touched and swept, up to `touchBytes`
import type { Assembler } from "./assembler.ts";
import { dword, Label, type Memory, qword } from "./registers.ts";
import {
  COUNTER_OFFSET,
  COUNTER_STRIDE_BYTES,
  CPU_CHECKS_U32,
  cpuPageGpa,
  REPORT_GPA,
  REPORT_MAX_VCPUS,
} from "./report.ts";

export interface SelfCheckOptions {
  /** vCPUs with APIC ids 0 … cpuCount − 1. Default 1. */
  cpuCount?: number;
  /** Guest physical address at which touching stops: the RAM below 3 GiB. Default 16 MiB. */
  touchBytes?: number;
  /** RAM of each vCPU that is checked and changed in every round. Default 2 KiB. */
  workingSetBytes?: number;
  /** Distance of the words in the working set. Default 8: all of it. */
  workingSetStrideBytes?: number;
  /** Touched pages that each round of vCPU 0 checks and changes, one word each. Default 4, 0 for none. */
  sweepPagesPerRound?: number;
  /** Counter steps between two looks at the clock tick. Default 2048: 4 ms where KVM interprets the guest. */
  iterationsPerBurst?: number;
  /** Bursts after which a round of checks runs even if no tick came. Default 256: 1 ms on a CPU, 1 s interpreted. */
  burstsPerRound?: number;
  /** How the local APIC timer is armed. Default "periodic"; "deadline" falls back to it where the CPU lacks it. */
  timer?: "periodic" | "deadline" | "none";
  /** Timer counts between ticks, at KVM's and QEMU's 1 GHz. Default 20 000 000: 20 ms. A round runs at every tick. */
  timerPeriodNs?: number;
  /** Ticks that may fail to come before it is an error. Default 50. */
  lostTickLimit?: number;
  /** Longest kvmclock step between two rounds. Default 5 s. */
  clockJumpLimitNs?: number;
  /** Halts after each burst until the next interrupt: most of the guest's time is then spent in `hlt`. Default false. */
  idle?: boolean;
  /**
   * Checks YMM registers where CPUID has AVX. Default false: a KVM that interprets the guest may announce AVX and stop
   * at its first instruction.
   */
  avx?: boolean;
  /** COM1 is used at all. Default true. */
  serial?: boolean;
  /** Sends bytes received on COM1 back: polled once in each round, or by IRQ 4 over the I/O APIC. Default "off". */
  echo?: "off" | "poll" | "irq";
  /** Timer ticks of vCPU 0 between two lines `tick NNNNNNNN`. Default 0: none. */
  ticksPerLine?: number;
  /** I/O port that every vCPU reads a byte from in each round. Default: none. */
  probePort?: number | undefined;
  /** With echo, this byte shuts down. Default 0x71 ("q"); undefined for none. */
  quitByte?: number | undefined;
  /** The write that ends the VM. Default: 32-bit 0 to port 0xf4. */
  shutdown?: { port: number; value: number; sizeBytes: 1 | 2 | 4 };
}

type MayBeAbsent = "quitByte" | "probePort";
export type Settings = Required<Omit<SelfCheckOptions, MayBeAbsent>> & {
  [Name in MayBeAbsent]: SelfCheckOptions[Name];
};

export const TRAMPOLINE_GPA = 0x8000;
export const CODE_GPA = 0x10_0000;
export const PAGE_TABLES_GPA = 0x19_0000;
export const STACKS_GPA = 0x1a_0000;
export const IDTS_GPA = 0x1b_0000;
export const CODE_END_GPA = 0x1c_0000;
export const WORKING_SETS_GPA = 0x20_0000;

export const LAPIC_GPA = 0xfee0_0000;
export const IOAPIC_GPA = 0xfec0_0000;
export const COM1 = 0x3f8;

export const VECTOR_SERIAL = 0x24;
export const VECTOR_TIMER = 0x40;
export const VECTOR_SPURIOUS = 0xff;

export function settle(options: SelfCheckOptions): Settings {
  const settings: Settings = {
    cpuCount: 1,
    touchBytes: 0x100_0000,
    workingSetBytes: 2048,
    workingSetStrideBytes: 8,
    sweepPagesPerRound: 4,
    iterationsPerBurst: 2048,
    burstsPerRound: 256,
    timer: "periodic",
    timerPeriodNs: 20_000_000,
    lostTickLimit: 50,
    clockJumpLimitNs: 5_000_000_000,
    idle: false,
    avx: false,
    serial: true,
    echo: "off",
    ticksPerLine: 0,
    probePort: undefined,
    quitByte: 0x71,
    shutdown: { port: 0xf4, value: 0, sizeBytes: 4 },
    ...options,
  };
  if (settings.cpuCount < 1 || settings.cpuCount > REPORT_MAX_VCPUS) {
    throw new RangeError(`The payload runs on 1 to ${REPORT_MAX_VCPUS} vCPUs`);
  }
  if (touchStartGpa(settings) > settings.touchBytes)
    throw new RangeError("The working sets do not fit below touchBytes");
  if (settings.touchBytes > 0xc000_0000) throw new RangeError("The payload touches no RAM above 3 GiB");
  if (settings.idle && settings.timer === "none") throw new RangeError("An idle guest needs a timer to wake up");
  if (settings.ticksPerLine > 0 && settings.timer === "none") throw new RangeError("Lines are printed by timer ticks");
  return settings;
}

function workingSetSpanBytes(settings: Settings): number {
  return Math.ceil(settings.workingSetBytes / 4096) * 4096;
}

export function workingSetGpa(settings: Settings, vcpu: number): number {
  return WORKING_SETS_GPA + vcpu * workingSetSpanBytes(settings);
}

/** Where the pages begin that are touched once and then swept. */
export function touchStartGpa(settings: Settings): number {
  return workingSetGpa(settings, settings.cpuCount);
}

/** A value nothing else holds, different for each vCPU and use; bits 62…32 are set in a pattern, bit 63 is clear. */
export function canary(vcpu: number, use: number): bigint {
  return 0x1234_0000_8000_0000n + (BigInt(vcpu + 1) << 40n) + (BigInt(use) << 8n) + BigInt(vcpu * 16 + 5);
}

/** Constants that follow the code: tables of canaries, strings. */
type Constants = (asm: Assembler) => void;

/** One vCPU's view of the program that is being assembled. */
export class VcpuProgram {
  readonly asm: Assembler;
  readonly settings: Settings;
  readonly vcpu: number;
  /** Step of the counter that measures the pause. */
  readonly counter: Memory;
  /** Subroutine: records an error. edi code, r8 where, rsi expected, rdx found; changes rax and r9. */
  readonly recordError = new Label("recordError");
  /** Subroutine: compares r14 quadwords at r12 (expected) and r13 (found) and records errors with code r15d. */
  readonly compareBlock = new Label("compareBlock");
  readonly #constants: Constants[] = [];

  constructor(asm: Assembler, settings: Settings, vcpu: number) {
    this.asm = asm;
    this.settings = settings;
    this.vcpu = vcpu;
    this.counter = qword(REPORT_GPA + COUNTER_OFFSET + vcpu * COUNTER_STRIDE_BYTES);
  }

  get stackTop(): number {
    return STACKS_GPA + 0x1000 * (this.vcpu + 1);
  }

  /** Address of a field of this vCPU's page in the report. */
  field(offset: number): number {
    return cpuPageGpa(this.vcpu) + offset;
  }
  field64(offset: number): Memory {
    return qword(this.field(offset));
  }
  field32(offset: number): Memory {
    return dword(this.field(offset));
  }

  /** Puts constants behind the code; returns their address. */
  constant(alignment: number, emit: Constants): Label {
    const label = new Label("constant");
    this.#constants.push((asm) => {
      asm.align(alignment);
      asm.bind(label);
      emit(asm);
    });
    return label;
  }
  emitConstants(): void {
    for (const emit of this.#constants) emit(this.asm);
  }

  /** Keeps the counter moving: to be called every few instructions outside the tight loop. Changes the flags but CF. */
  step(): void {
    this.asm.inc(this.counter);
  }

  /** Compares rdx (found) with rsi (expected), records an error if they differ, and then runs `heal`. */
  expectEqual(code: number, where: number, heal?: () => void): void {
    const { asm } = this;
    const equal = new Label("equal");
    asm.cmp("rdx", "rsi");
    asm.jcc("e", equal);
    asm.mov("edi", code);
    asm.mov("r8d", where);
    asm.call(this.recordError);
    heal?.();
    asm.bind(equal);
  }

  /** Marks a check as running on this vCPU. */
  activate(code: number): void {
    this.asm.or(this.field32(CPU_CHECKS_U32), 1 << code);
  }
  /** Emits `body`, to run only if the check is active. */
  ifActive(code: number, body: () => void): void {
    const skip = new Label("skip");
    this.asm.test(this.field32(CPU_CHECKS_U32), 1 << code);
    this.asm.jcc("e", skip);
    body();
    this.asm.bind(skip);
  }
}

/** Field of the report's header. */
export function header32(offset: number): Memory {
  return dword(REPORT_GPA + offset);
}

/** Emits `rdx:rax` → `target`, as `rdtsc` and `rdmsr` return it. Changes rdx. */
export function joinEdxEax(asm: Assembler, target: "rdx" | "rax"): void {
  asm.shl("rdx", 32);
  asm.or(target, target === "rdx" ? "rax" : "rdx");
}

/** Emits a write of a constant to an MSR. Changes eax, ecx, edx. */
export function writeMsr(asm: Assembler, msr: number, value: bigint): void {
  asm.mov("ecx", msr);
  asm.mov("eax", Number(value & 0xffff_ffffn));
  asm.mov("edx", Number(value >> 32n));
  asm.wrmsr();
}
