// SPDX-License-Identifier: Apache-2.0
// A guest of two vCPUs that write their own pages for ever, on a bare KVM VM: for tests of what tracks and slows them.
import { closeSync, openSync, readSync } from "node:fs";
import { VCPU_BASE, VCPU_EXITS } from "../../../../assembly/layout.ts";
import { close } from "../../../../ffi/fd.ts";
import { KvmAcceleratedVm } from "../../../../src/accel/kvm/vm.ts";
import { gdtWrite, protectedModeState } from "../../../../src/machine/boot/vcpu-state.ts";
import { createMemory, mapRam } from "../../../../src/memory/ram.ts";
import { Assembler } from "../../../../src/payload/assembler.ts";
import { dword } from "../../../../src/payload/registers.ts";

export const PAGE = 4096;
export const RAM_SIZE_BYTES = 20 << 20;
export const RAM_PAGES = RAM_SIZE_BYTES / PAGE;

const SECOND_CODE_GPA = 0x8000;
const FIRST_CODE_GPA = 0x9000;
/** The second vCPU counts in the first word of each of these pages. */
export const COUNTER_GPA = 0x2_0000;
export const COUNTER_PAGES = 16;
/** The first vCPU writes a page of these at a time, in an order that looks like chance. */
export const SCATTER_GPA = 0x10_0000;
export const SCATTER_PAGES = 4096;

/**
 * Rounds of waiting after each write. A KVM that interprets guest code looks at the dirty ring only now and then, and overruns
 * it when the guest does nothing but write.
 */
const DELAY_ROUNDS = 24;

const APIC_ICR_GPA = 0xfee0_0300;
const ICR_INIT_OTHERS = 0xc4500;
const ICR_STARTUP_OTHERS = 0xc4600 | (SECOND_CODE_GPA >> 12);

function firstCode(): Uint8Array {
  const asm = new Assembler(FIRST_CODE_GPA, 32);
  asm.mov("eax", APIC_ICR_GPA);
  asm.mov(dword("eax"), ICR_INIT_OTHERS);
  asm.mov(dword("eax"), ICR_STARTUP_OTHERS);
  const next = asm.label("next");
  asm.add("ecx", 0x1e37_79b1);
  asm.mov("edi", "ecx");
  asm.shr("edi", 20);
  asm.shl("edi", 12);
  asm.mov(dword("edi", SCATTER_GPA), "ecx");
  asm.mov("edx", DELAY_ROUNDS);
  const wait = asm.label("wait");
  asm.dec("edx");
  asm.jcc("ne", wait);
  asm.jmp(next);
  return asm.assemble();
}

/** `mov ax, 0x2000; mov ds, ax; xor bx, bx; next: inc dword [bx]; add bx, 0x1000; mov cx, N; loop $; jmp next`. */
// biome-ignore format: one instruction after the other
const SECOND_CODE = [
  0xb8, 0, 0x20, 0x8e, 0xd8, 0x31, 0xdb, 0x66, 0xff, 0x07, 0x81, 0xc3, 0, 0x10, 0xb9, DELAY_ROUNDS, 0, 0xe2, 0xfe, 0xeb, 0xf2,
];

/** Such a VM, parked and never run. */
export class WritingGuest implements AsyncDisposable {
  readonly memory = createMemory(RAM_SIZE_BYTES);
  readonly accel: KvmAcceleratedVm;
  readonly ram: Uint8Array;
  readonly #fd: number;
  /** What vCPUs died of. */
  readonly errors: string[] = [];

  constructor(dirtyRingEntries: number) {
    const ram = mapRam(this.memory, {
      qomType: "memory-backend-memfd",
      id: "ram0",
      sizeBytes: RAM_SIZE_BYTES,
      share: true,
    });
    this.#fd = ram.fd!;
    this.ram = new Uint8Array(this.memory.buffer, ram.base, RAM_SIZE_BYTES);
    this.accel = new KvmAcceleratedVm({
      memory: this.memory,
      ramBase: ram.base,
      ramSizeBytes: RAM_SIZE_BYTES,
      cpuCount: 2,
      cpu: { topology: { sockets: 1, cores: 2, threads: 1 }, features: {} },
      devices: [],
      dirtyRingEntries,
      onVcpuError: (index, message) => this.errors.push(`vCPU ${index}: ${message}`),
    });
    const gdt = gdtWrite("protected32");
    if (gdt.kind === "bytes") this.ram.set(gdt.bytes, gdt.gpa);
    this.ram.set(firstCode(), FIRST_CODE_GPA);
    this.ram.set(SECOND_CODE, SECOND_CODE_GPA);
    this.accel.reset(protectedModeState(FIRST_CODE_GPA, {}));
  }

  page(index: number): Uint8Array {
    return this.ram.subarray(index * PAGE, (index + 1) * PAGE);
  }

  /** What the second vCPU has counted in its first page. */
  get counter(): number {
    return new Uint32Array(this.ram.buffer, this.ram.byteOffset + COUNTER_GPA, 1)[0]!;
  }

  /** Exits of the first vCPU: here they all are for its dirty ring. */
  get exits(): number {
    return new Int32Array(this.memory.buffer, VCPU_BASE + VCPU_EXITS, 1)[0]!;
  }

  /** CPU time of the vCPUs' threads. */
  cpuTimeNs(): number {
    return this.accel.vcpuThreadIds().reduce((sum, tid) => sum + schedstat(tid), 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.accel.close();
    close(this.#fd);
  }
}

/** Time on the CPU, the first number of /proc/PID/task/TID/schedstat. */
function schedstat(tid: number): number {
  const fd = openSync(`/proc/self/task/${tid}/schedstat`, "r");
  try {
    const bytes = new Uint8Array(100);
    return Number.parseInt(new TextDecoder().decode(bytes.subarray(0, readSync(fd, bytes))), 10);
  } finally {
    closeSync(fd);
  }
}
