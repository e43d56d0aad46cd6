// SPDX-License-Identifier: Apache-2.0
// KVM's interrupt controllers with a guest that does what it is told: port I/O, accesses to memory, MSRs. For comparisons.
import * as abi from "../../../../ffi/kvm/abi.ts";
import { KvmSystem, type KvmVcpu, type KvmVm } from "../../../../ffi/kvm/kvm.ts";
import { cpuidsFor } from "../../../../src/accel/kvm/power-on.ts";
import { Assembler } from "../../../../src/payload/assembler.ts";
import { dword, Label } from "../../../../src/payload/registers.ts";

export type Step =
  | { op: "out"; port: number; value: number }
  | { op: "in"; port: number }
  | { op: "write"; gpa: number; value: number }
  | { op: "read"; gpa: number }
  | { op: "wrmsr"; msr: number; value: bigint }
  | { op: "rdmsr"; msr: number };

const OPS: readonly Step["op"][] = ["out", "in", "write", "read", "wrmsr", "rdmsr"];

const RAM_SIZE_BYTES = 0x1_0000;
const CODE_GPA = 0x1000;
const SCRIPT_GPA = 0x4000;
/** u32 operation (its place in OPS from 1 on, 0 for the end), u32 where, u64 value. */
const STEP_SIZE_BYTES = 16;
const MAX_STEPS = 0x800;
const EXIT_PORT = 0xf4;

/** struct kvm_segment has 24 bytes; struct kvm_sregs has eight of them, two tables, then CR0. */
const SEGMENT_SIZE_BYTES = 24;
const SREGS_CR0 = 224;
const SREGS_APIC_BASE = 272;
const REGS_RIP = 128;
const REGS_RFLAGS = 136;

function code(): Uint8Array {
  const asm = new Assembler(CODE_GPA, 32);
  const labels = OPS.map((op) => new Label(op));
  const start = asm.label("start");
  asm.mov("esi", SCRIPT_GPA);
  const next = asm.label("next");
  asm.mov("ebx", dword("esi"));
  asm.mov("edx", dword("esi", 4));
  asm.mov("eax", dword("esi", 8));
  for (const [at, label] of labels.entries()) {
    asm.cmp("ebx", at + 1);
    asm.jcc("e", label);
  }
  asm.out(EXIT_PORT, "al");
  asm.jmp(start);
  const done = new Label("done");
  const bodies: Record<Step["op"], () => void> = {
    out: () => asm.out("dx", "al"),
    in: () => asm.in("al", "dx"),
    write: () => asm.mov(dword("edx"), "eax"),
    read: () => asm.mov("eax", dword("edx")),
    wrmsr: () => {
      asm.mov("ecx", "edx");
      asm.mov("edx", dword("esi", 12));
      asm.wrmsr();
    },
    rdmsr: () => {
      asm.mov("ecx", "edx");
      asm.rdmsr();
    },
  };
  for (const [at, op] of OPS.entries()) {
    asm.bind(labels[at]!);
    bodies[op]();
    asm.jmp(done);
  }
  asm.bind(done);
  asm.mov(dword("esi", 8), "eax");
  asm.mov(dword("esi", 12), "edx");
  asm.add("esi", STEP_SIZE_BYTES);
  asm.jmp(next);
  return asm.assemble();
}

export class KvmTwin {
  readonly vm: KvmVm;
  readonly vcpus: KvmVcpu[];
  readonly #system = new KvmSystem();
  readonly #memory = new WebAssembly.Memory({ initial: 64, maximum: 64, shared: true });
  readonly #ram: DataView;
  readonly #run: DataView;

  constructor(cpuCount: number, { hasPit = false } = {}) {
    this.vm = this.#system.createVm();
    const bytes = new Uint8Array(this.#memory.buffer);
    this.vm.setUserMemoryRegion(0, 0, RAM_SIZE_BYTES, bytes, 0);
    // Some processors need these in any mode without paging.
    this.vm.setIdentityMapAddr(0xfeff_c000);
    this.vm.setTssAddr(0xfeff_d000);
    this.vm.createIrqchip();
    if (hasPit) this.vm.createPit2();
    bytes.set(code(), CODE_GPA);
    this.#ram = new DataView(this.#memory.buffer, 0, RAM_SIZE_BYTES);
    const cpuids = cpuidsFor(this.#system, { sockets: 1, cores: cpuCount, threads: 1 }, {});
    this.vcpus = cpuids.map((cpuid, index) => {
      const vcpu = this.vm.createVcpu(index);
      vcpu.setCpuid2(cpuid);
      return vcpu;
    });
    const runOffset = 0x10_0000;
    this.vcpus[0]!.mapRun(bytes, runOffset, this.#system.vcpuMmapSizeBytes());
    this.#run = new DataView(this.#memory.buffer, runOffset, 4096);
    this.#enterProtectedMode();
  }

  #enterProtectedMode(): void {
    const vcpu = this.vcpus[0]!;
    const sregs = new Uint8Array(abi.KVM_SREGS_SIZE_BYTES);
    vcpu.transfer("KVM_GET_SREGS", abi.KVM_GET_SREGS, sregs);
    const view = new DataView(sregs.buffer);
    for (let segment = 0; segment < 6; segment++) {
      const at = segment * SEGMENT_SIZE_BYTES;
      view.setBigUint64(at, 0n, true);
      view.setUint32(at + 8, 0xffff_ffff, true);
      view.setUint16(at + 12, segment === 0 ? 8 : 16, true);
      // type, present, dpl, db, s, l, g, avl, unusable
      sregs.set([segment === 0 ? 0xb : 3, 1, 0, 1, 1, 0, 1, 0, 0], at + 14);
    }
    view.setBigUint64(SREGS_CR0, view.getBigUint64(SREGS_CR0, true) | 1n, true);
    vcpu.transfer("KVM_SET_SREGS", abi.KVM_SET_SREGS, sregs);
    const regs = new Uint8Array(abi.KVM_REGS_SIZE_BYTES);
    new DataView(regs.buffer).setBigUint64(REGS_RIP, BigInt(CODE_GPA), true);
    new DataView(regs.buffer).setBigUint64(REGS_RFLAGS, 2n, true);
    vcpu.transfer("KVM_SET_REGS", abi.KVM_SET_REGS, regs);
  }

  /** What was read, for the steps that read. */
  run(steps: readonly Step[]): (bigint | undefined)[] {
    const results: (bigint | undefined)[] = [];
    for (let first = 0; first < steps.length; first += MAX_STEPS) {
      results.push(...this.#runSome(steps.slice(first, first + MAX_STEPS)));
    }
    return results;
  }

  #runSome(steps: readonly Step[]): (bigint | undefined)[] {
    for (const [index, step] of steps.entries()) {
      const at = SCRIPT_GPA + index * STEP_SIZE_BYTES;
      const where = "port" in step ? step.port : "gpa" in step ? step.gpa : step.msr;
      this.#ram.setUint32(at, OPS.indexOf(step.op) + 1, true);
      this.#ram.setUint32(at + 4, where, true);
      this.#ram.setBigUint64(at + 8, "value" in step ? BigInt(step.value) : 0n, true);
    }
    this.#ram.setUint32(SCRIPT_GPA + steps.length * STEP_SIZE_BYTES, 0, true);
    while (this.vcpus[0]!.run() !== 0);
    const reason = this.#run.getUint32(abi.KVM_RUN_EXIT_REASON_U32, true);
    const port = this.#run.getUint16(abi.KVM_RUN_IO_PORT_U16, true);
    if (reason !== abi.KVM_EXIT_IO || port !== EXIT_PORT)
      throw new Error(`The guest left for reason ${reason}, port ${port}`);
    return steps.map(({ op }, index) => {
      const value = this.#ram.getBigUint64(SCRIPT_GPA + index * STEP_SIZE_BYTES + 8, true);
      if (op === "in") return value & 0xffn;
      if (op === "read") return value & 0xffff_ffffn;
      return op === "rdmsr" ? value : undefined;
    });
  }

  setApicBase(index: number, base: bigint): void {
    const sregs = new Uint8Array(abi.KVM_SREGS_SIZE_BYTES);
    this.vcpus[index]!.transfer("KVM_GET_SREGS", abi.KVM_GET_SREGS, sregs);
    new DataView(sregs.buffer).setBigUint64(SREGS_APIC_BASE, base, true);
    this.vcpus[index]!.transfer("KVM_SET_SREGS", abi.KVM_SET_SREGS, sregs);
  }

  getChip(id: number): Uint8Array {
    const chip = new Uint8Array(abi.KVM_IRQCHIP_SIZE_BYTES);
    chip[0] = id;
    this.vm.getIrqchip(chip);
    return chip;
  }

  getPit(): Uint8Array {
    const pit = new Uint8Array(abi.KVM_PIT_STATE2_SIZE_BYTES);
    this.vm.getPit2(pit);
    return pit;
  }

  getLapic(index: number): Uint8Array {
    const lapic = new Uint8Array(abi.KVM_LAPIC_STATE_SIZE_BYTES);
    this.vcpus[index]!.transfer("KVM_GET_LAPIC", abi.KVM_GET_LAPIC, lapic);
    return lapic;
  }

  setLapic(index: number, lapic: Uint8Array): void {
    this.vcpus[index]!.transfer("KVM_SET_LAPIC", abi.KVM_SET_LAPIC, lapic);
  }

  close(): void {
    for (const vcpu of this.vcpus) vcpu.close();
    this.vm.close();
    this.#system.close();
  }
}
