// SPDX-License-Identifier: Apache-2.0
// Getting the engine's code compiled before the guest needs it. A new process begins in the runtime's interpreter of Wasm, which takes
// 20 to 100 ns for an instruction of the guest: the guest would stand for milliseconds more. What the runtime has
// compiled belongs to the module, not to the instance: so another instance, with a memory of its own, runs a small
// guest of ours. It reaches nothing of the real one.
import * as layout from "../../../assembly/cpu/layout.ts";
import {
  CPU_CACHES_BASE,
  CPU_CACHES_STRIDE_BYTES,
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  VCPU_REQUEST_PARK,
  WASM_PAGE_SIZE_BYTES,
} from "../../../assembly/layout.ts";
import { IoBus } from "../../machine/io-bus.ts";
import { VcpuControl } from "../vcpu-control.ts";
import { instantiateCpu } from "./cpu-module.ts";
import { createMachine } from "./machine.ts";
import { EngineRunner } from "./run-loop.ts";

/** After these the runtime knows that the loop is hot, and begins to make the best of it, in a thread of its own. */
const BUSY_ROUNDS = 40;
/** That takes 50 to 200 ms, and comes into use with one of the next rounds. The thread wants this CPU, maybe: so these have naps in between. */
const LAZY_ROUNDS = 60;
const NAP_MS = 3;
/** Instructions of a round: after each of them somebody may want to run the real guest. */
const ROUND_BUDGET = 4096;

/** Where the small guest's RAM is: behind the caches of its one vCPU. */
const RAM_BASE = CPU_CACHES_BASE + CPU_CACHES_STRIDE_BYTES;
const RAM_SIZE_BYTES = WASM_PAGE_SIZE_BYTES;
const TABLES = [0x1000, 0x2000, 0x3000] as const;
const GDT = 0x4000;
const IDT = 0x5000;
const STACK_TOP = 0x7000;
const CODE = 0x9000;
const HANDLER = 0x9080;
const VECTOR = 0x20;

const PRESENT_WRITABLE = 3n;
const LARGE = 0x80n;
const CODE64_DESCRIPTOR = 0x00af_9b00_0000_ffffn;
const CODE64_ATTRIBUTES = 0xa09b;
const DATA_ATTRIBUTES = 0xc093;
const CR0_PG_WP_NE_MP_PE = 0x8001_0033n;
const CR4_PAE_OSFXSR_OSXMMEXCPT = 0x620n;
const EFER_NXE_LMA_LME_SCE = 0xd01n;

/** What guests do all the time: memory, branches, calls, an interrupt and its end, the clock. */
const PROGRAM = [
  ...[0xb9, 0x40, 0x00, 0x00, 0x00], //                               mov ecx, 64
  ...[0x48, 0xff, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00], //       loop: inc qword [0x8000]
  ...[0x48, 0x03, 0x04, 0x25, 0x00, 0x80, 0x00, 0x00], //             add rax, [0x8000]
  ...[0x50, 0x5a], //                                                 push rax; pop rdx
  ...[0x48, 0xff, 0xc9, 0x75, 0xe9], //                               dec rcx; jnz loop
  ...[0xcd, VECTOR, 0x0f, 0x31], //                                   int VECTOR; rdtsc
  ...[0xe8, 0x02, 0x00, 0x00, 0x00, 0xeb, 0xd9], //                   call next; jmp 0
  ...[0xc3], //                                                 next: ret
];
/** Ends an interrupt at the local APIC, as handlers do. */
const HANDLER_PROGRAM = [
  ...[0xb8, 0xb0, 0x00, 0xe0, 0xfe], //                               mov eax, 0xfee000b0
  ...[0xc7, 0x00, 0x00, 0x00, 0x00, 0x00, 0x48, 0xcf], //             mov dword [rax], 0; iretq
];

/** Returns when the engine is warm, or as soon as the vCPU of `control` is to run. */
export function warmUp(control: VcpuControl): void {
  const { runner } = createSmallGuest();
  for (let round = 0; round < BUSY_ROUNDS + LAZY_ROUNDS && control.request === VCPU_REQUEST_PARK; round++) {
    if (round >= BUSY_ROUNDS) control.sleepWhileRequest(VCPU_REQUEST_PARK, NAP_MS);
    runner.rehearse(ROUND_BUDGET);
  }
}

/** The small guest, its state page and its RAM. */
export function createSmallGuest(): { runner: EngineRunner; page: DataView; ram: DataView } {
  const pages = (RAM_BASE + RAM_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const { irqchip } = createMachine(memory, [new Uint8Array(0)]);
  const bus = new IoBus(memory, [], () => {});
  const control = new VcpuControl(memory, 0);
  const cpu = instantiateCpu(memory, { irqchip, bus: () => bus, onAccess: () => control.countExit() });
  cpu.select(0, RAM_BASE, BigInt(RAM_SIZE_BYTES));
  const page = new DataView(memory.buffer, CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES);
  const ram = new DataView(memory.buffer, RAM_BASE, RAM_SIZE_BYTES);
  writeRam(ram);
  writeState(page);
  return { runner: new EngineRunner(memory, 0, { cpu, irqchip, control }), page, ram };
}

function writeRam(ram: DataView): void {
  const [level4, level3, level2] = TABLES;
  ram.setBigUint64(level4, BigInt(level3) | PRESENT_WRITABLE, true);
  ram.setBigUint64(level3, BigInt(level2) | PRESENT_WRITABLE, true);
  // The local APIC is in the fourth GiB.
  ram.setBigUint64(level3 + 3 * 8, 0xc000_0000n | LARGE | PRESENT_WRITABLE, true);
  ram.setBigUint64(level2, LARGE | PRESENT_WRITABLE, true);
  ram.setBigUint64(GDT + 8, CODE64_DESCRIPTOR, true);
  ram.setBigUint64(IDT + VECTOR * 16, BigInt(HANDLER) | (8n << 16n) | (0x8e00n << 32n), true);
  const bytes = new Uint8Array(ram.buffer, ram.byteOffset, ram.byteLength);
  bytes.set(PROGRAM, CODE);
  bytes.set(HANDLER_PROGRAM, HANDLER);
}

function writeState(page: DataView): void {
  for (let number = 0; number < 8; number++) {
    const place = layout.CPU_SEGMENTS + number * layout.SEGMENT_SIZE_BYTES;
    const isCode = number === layout.SEGMENT_CS;
    page.setBigUint64(place + layout.SEGMENT_BASE_U64, 0n, true);
    page.setUint32(place + layout.SEGMENT_LIMIT_U32, 0xffff_ffff, true);
    page.setUint16(place + layout.SEGMENT_SELECTOR_U16, isCode ? 8 : 0, true);
    page.setUint32(place + layout.SEGMENT_ATTRIBUTES_U32, isCode ? CODE64_ATTRIBUTES : DATA_ATTRIBUTES, true);
  }
  page.setBigUint64(layout.CPU_GDTR_BASE, BigInt(GDT), true);
  page.setBigUint64(layout.CPU_IDTR_BASE, BigInt(IDT), true);
  page.setBigUint64(layout.CPU_CR0, CR0_PG_WP_NE_MP_PE, true);
  page.setBigUint64(layout.CPU_CR3, BigInt(TABLES[0]), true);
  page.setBigUint64(layout.CPU_CR4, CR4_PAE_OSFXSR_OSXMMEXCPT, true);
  page.setBigUint64(layout.CPU_EFER, EFER_NXE_LMA_LME_SCE, true);
  page.setBigUint64(layout.CPU_GPRS + 4 * 8, BigInt(STACK_TOP), true);
  page.setBigUint64(layout.CPU_RIP, BigInt(CODE), true);
}
