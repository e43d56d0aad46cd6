// SPDX-License-Identifier: Apache-2.0
// Processor state that the payload fills with values of its own and checks in every round.
import { canary, joinEdxEax, type VcpuProgram, writeMsr } from "./plan.ts";
import { Label, qword, type Register64 } from "./registers.ts";
import {
  CPU_CONTROL_U64X4,
  CPU_FLAGS_U64,
  CPU_REGISTERS_U64X16,
  CPU_VECTORS,
  ERROR_CONTROL,
  ERROR_DEBUG,
  ERROR_FLAGS,
  ERROR_MSR,
  ERROR_REGISTER,
  ERROR_TSC_AUX,
  ERROR_XMM,
  ERROR_YMM,
} from "./report.ts";

const REGISTERS: Register64[] = [
  ...(["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"] as const),
  ...(["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"] as const),
];

/** Identification, alignment check (without effect in ring 0), interrupts. Not every KVM keeps the I/O privilege. */
const FLAGS_SET = 0x24_0202;
/** What `dec` to zero leaves, beside the carry that it keeps. */
const FLAGS_AFTER_BURST = FLAGS_SET | 0x45;

const MSR_SYSENTER_CS = 0x174;
const MSR_SYSENTER_ESP = 0x175;
const MSR_SYSENTER_EIP = 0x176;
const MSR_PAT = 0x277;
const MSR_EFER = 0xc000_0080;
const MSR_STAR = 0xc000_0081;
const MSR_LSTAR = 0xc000_0082;
const MSR_CSTAR = 0xc000_0083;
const MSR_SFMASK = 0xc000_0084;
const MSR_FS_BASE = 0xc000_0100;
const MSR_GS_BASE = 0xc000_0101;
const MSR_KERNEL_GS_BASE = 0xc000_0102;
const MSR_TSC_AUX = 0xc000_0103;

const CPUID_1_ECX_XSAVE_AVX = (1 << 26) | (1 << 28);
const CPUID_80000001_EDX_RDTSCP = 1 << 27;
const CR4_OSXSAVE = 1 << 18;
const XCR0_X87_SSE_AVX = 7;
/** `where` of XCR0 among the control registers. */
const WHERE_XCR0 = 0x100;
/** No breakpoint is enabled; length and type of the first are set, and bit 10 always reads as one. */
const DR7_CANARY = 0x000d_0400n;
const TPR_CANARY = 1;
const EFER_SCE_LME_LMA = 0x501n;
/** Entries 4 to 7, which no page uses, differ from the power-on value. */
const PAT_CANARY = 0x0001_0506_0007_0406n;

function msrCanaries(vcpu: number): [msr: number, value: bigint][] {
  const low = (use: number): bigint => canary(vcpu, use) & 0x7fff_ffffn;
  // Addresses must be canonical.
  const address = (use: number): bigint => BigInt.asUintN(47, canary(vcpu, use));
  return [
    [MSR_SYSENTER_CS, 0x50n],
    [MSR_SYSENTER_ESP, low(0x21)],
    [MSR_SYSENTER_EIP, low(0x22)],
    [MSR_PAT, PAT_CANARY],
    [MSR_STAR, canary(vcpu, 0x23)],
    [MSR_LSTAR, address(0x24)],
    [MSR_CSTAR, address(0x25)],
    [MSR_SFMASK, low(0x26)],
    [MSR_FS_BASE, address(0x27)],
    [MSR_GS_BASE, address(0x28)],
    [MSR_KERNEL_GS_BASE, address(0x29)],
  ];
}

const debugCanary = (vcpu: number, index: number): bigint => BigInt.asUintN(47, canary(vcpu, 0x30 + index));
const cr2Canary = (vcpu: number): bigint => BigInt.asUintN(47, canary(vcpu, 0x40));
const tscAuxCanary = (vcpu: number): bigint => canary(vcpu, 0x41) & 0x7fff_ffffn;

/** The checks of one vCPU's registers. */
export class Canaries {
  readonly #program: VcpuProgram;
  readonly #expectedRegisters: Label;
  readonly #expectedXmm: Label;
  readonly #expectedYmm: Label;

  constructor(program: VcpuProgram) {
    const { asm, vcpu } = program;
    this.#program = program;
    this.#expectedRegisters = program.constant(8, () => {
      for (const register of REGISTERS) asm.dq(this.#expectedRegister(register));
    });
    const vector = (quadwords: number, use: number): Label =>
      program.constant(32, () => {
        for (let index = 0; index < quadwords; index++) asm.dq(canary(vcpu, use + index));
      });
    this.#expectedXmm = vector(32, 0x80);
    this.#expectedYmm = vector(64, 0x100);
  }

  /** The burst counts rcx down to zero and rsp stands at the top of the stack; the others hold canaries. */
  #expectedRegister(register: Register64): bigint {
    if (register === "rcx") return 0n;
    if (register === "rsp") return BigInt(this.#program.stackTop);
    return canary(this.#program.vcpu, REGISTERS.indexOf(register));
  }

  /** Emits the filling of everything but the general registers. */
  emitFill(): void {
    const { asm, vcpu, settings } = this.#program;
    for (const [msr, value] of msrCanaries(vcpu)) writeMsr(asm, msr, value);
    for (const index of [0, 1, 2, 3] as const) {
      asm.mov("rax", debugCanary(vcpu, index));
      asm.movToDebug(index, "rax");
    }
    asm.mov("rax", DR7_CANARY);
    asm.movToDebug(7, "rax");
    asm.mov("rax", cr2Canary(vcpu));
    asm.movToControl(2, "rax");
    asm.mov("rax", TPR_CANARY);
    asm.movToControl(8, "rax");
    const checks = [ERROR_REGISTER, ERROR_FLAGS, ERROR_XMM, ERROR_MSR, ERROR_CONTROL, ERROR_DEBUG];
    for (const check of checks) this.#program.activate(check);

    const noTscAux = new Label("noTscAux");
    asm.mov("eax", 0x8000_0001);
    asm.cpuid();
    asm.test("edx", CPUID_80000001_EDX_RDTSCP);
    asm.jcc("e", noTscAux);
    writeMsr(asm, MSR_TSC_AUX, tscAuxCanary(vcpu));
    this.#program.activate(ERROR_TSC_AUX);
    asm.bind(noTscAux);

    if (settings.avx) this.#emitEnableAvx();
    for (const [slot, control] of ([0, 3, 4] as const).entries()) {
      asm.movFromControl("rax", control);
      asm.mov(this.#program.field64(CPU_CONTROL_U64X4 + 8 * slot), "rax");
    }
    this.#emitLoadVectors();
  }

  #emitEnableAvx(): void {
    const { asm } = this.#program;
    const none = new Label("none");
    asm.mov("eax", 1);
    asm.cpuid();
    asm.and("ecx", CPUID_1_ECX_XSAVE_AVX);
    asm.cmp("ecx", CPUID_1_ECX_XSAVE_AVX);
    asm.jcc("ne", none);
    asm.movFromControl("rax", 4);
    asm.or("rax", CR4_OSXSAVE);
    asm.movToControl(4, "rax");
    asm.mov("ecx", 0);
    asm.mov("edx", 0);
    asm.mov("eax", XCR0_X87_SSE_AVX);
    asm.xsetbv();
    this.#program.activate(ERROR_YMM);
    asm.bind(none);
  }

  #emitLoadVectors(): void {
    const { asm, settings } = this.#program;
    for (let xmm = 0; xmm < 16; xmm++) asm.movdquLoad(xmm, qword(this.#expectedXmm, 16 * xmm));
    if (!settings.avx) return;
    this.#program.ifActive(ERROR_YMM, () => {
      for (let ymm = 0; ymm < 16; ymm++) asm.vmovdquLoad(ymm, qword(this.#expectedYmm, 32 * ymm));
    });
  }

  /** Emits the loading of flags and general registers, rcx aside. */
  emitLoad(): void {
    const { asm } = this.#program;
    asm.mov("eax", FLAGS_SET);
    asm.push("rax");
    asm.popfq();
    for (const register of REGISTERS) {
      if (register !== "rcx" && register !== "rsp") asm.mov(register, this.#expectedRegister(register));
    }
  }

  /** Emits the saving of the flags at the end of a burst. Changes rcx. */
  emitSaveFlags(): void {
    const { asm } = this.#program;
    asm.pushfq();
    asm.pop("rcx");
    asm.mov(this.#program.field64(CPU_FLAGS_U64), "rcx");
  }

  /** Emits the comparison of flags, general and vector registers with what they held before the burst. */
  emitCheckRegisters(): void {
    const { asm, settings } = this.#program;
    for (const [index, register] of REGISTERS.entries()) {
      if (register !== "rcx") asm.mov(this.#program.field64(CPU_REGISTERS_U64X16 + 8 * index), register);
    }
    this.#program.step();
    this.#emitCompare(ERROR_REGISTER, this.#expectedRegisters, CPU_REGISTERS_U64X16, REGISTERS.length);
    asm.mov("rdx", this.#program.field64(CPU_FLAGS_U64));
    asm.mov("rsi", FLAGS_AFTER_BURST);
    this.#program.expectEqual(ERROR_FLAGS, 0);

    const found = this.#program.field(CPU_VECTORS);
    const compared = new Label("compared");
    if (settings.avx) {
      this.#program.ifActive(ERROR_YMM, () => {
        for (let ymm = 0; ymm < 16; ymm++) asm.vmovdquStore(qword(found, 32 * ymm), ymm);
        this.#emitCompare(ERROR_YMM, this.#expectedYmm, CPU_VECTORS, 64);
        asm.mov("ecx", 0);
        asm.xgetbv();
        joinEdxEax(asm, "rdx");
        asm.mov("rsi", XCR0_X87_SSE_AVX);
        this.#program.expectEqual(ERROR_CONTROL, WHERE_XCR0);
        asm.jmp(compared);
      });
    }
    for (let xmm = 0; xmm < 16; xmm++) asm.movdquStore(qword(found, 16 * xmm), xmm);
    this.#emitCompare(ERROR_XMM, this.#expectedXmm, CPU_VECTORS, 32);
    asm.bind(compared);
    this.#emitLoadVectors();
  }

  #emitCompare(code: number, expected: Label, foundField: number, quadwords: number): void {
    const { asm } = this.#program;
    asm.mov("r12d", expected);
    asm.mov("r13d", this.#program.field(foundField));
    asm.mov("r14d", quadwords);
    asm.mov("r15d", code);
    asm.call(this.#program.compareBlock);
  }

  /** Emits the comparison of MSRs, control and debug registers. A difference is reported once: it is put right. */
  emitCheckSystem(): void {
    const { asm, vcpu } = this.#program;
    const program = this.#program;
    const checkMsr = (code: number, msr: number, value: bigint): void => {
      asm.mov("ecx", msr);
      asm.rdmsr();
      joinEdxEax(asm, "rdx");
      asm.mov("rsi", value);
      program.expectEqual(code, msr, () => writeMsr(asm, msr, value));
      program.step();
    };
    for (const [msr, value] of msrCanaries(vcpu)) checkMsr(ERROR_MSR, msr, value);
    checkMsr(ERROR_MSR, MSR_EFER, EFER_SCE_LME_LMA);
    program.ifActive(ERROR_TSC_AUX, () => checkMsr(ERROR_TSC_AUX, MSR_TSC_AUX, tscAuxCanary(vcpu)));

    for (const [slot, control] of ([0, 3, 4] as const).entries()) {
      asm.movFromControl("rdx", control);
      const expected = program.field64(CPU_CONTROL_U64X4 + 8 * slot);
      asm.mov("rsi", expected);
      program.expectEqual(ERROR_CONTROL, control, () => asm.mov(expected, "rdx"));
      program.step();
    }
    for (const [control, value] of [[2, cr2Canary(vcpu)] as const, [8, BigInt(TPR_CANARY)] as const]) {
      asm.movFromControl("rdx", control);
      asm.mov("rsi", value);
      program.expectEqual(ERROR_CONTROL, control, () => asm.movToControl(control, "rsi"));
    }
    const checkDebug = (index: 0 | 1 | 2 | 3 | 7, value: bigint): void => {
      asm.movFromDebug("rdx", index);
      asm.mov("rsi", value);
      program.expectEqual(ERROR_DEBUG, index, () => asm.movToDebug(index, "rsi"));
      program.step();
    };
    for (const index of [0, 1, 2, 3] as const) checkDebug(index, debugCanary(vcpu, index));
    checkDebug(7, DR7_CANARY);
  }
}
