// SPDX-License-Identifier: Apache-2.0
// Whether this machine's KVM runs guests on the CPU. There are KVMs that open, and do all that is asked of them, but interpret the
// guest's code in the kernel: in virtual machines without nested virtualisation, say. Linux does not get anywhere there.
//
// A guest of one page counts down, and its CPU time is taken. That time is only the guest's, however much else this machine has to do.
import { PAGE_SIZE_BYTES, WASM_PAGE_SIZE_BYTES } from "../../../assembly/layout.ts";
import { threadCpuMs } from "../../../ffi/clock.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import { KvmSystem, type KvmVcpu, type KvmVm } from "../../../ffi/kvm/kvm.ts";
import { mapAnonymousOver } from "../../../ffi/mmap.ts";
import { VmmError } from "../../errors.ts";
import { protectedModeState } from "../../machine/boot/vcpu-state.ts";
import { setBootState } from "../state/boot-state.ts";

export type KvmFitness =
  /** Guests run on the CPU. */
  | { verdict: "good" }
  | { verdict: "interprets"; loopsPerSecond: number }
  /** /dev/kvm is not there, may not be opened, or makes no VM that runs. */
  | { verdict: "unusable"; error: unknown };

/** Loops in a second. CPUs do a thousand million and more; where KVM interprets guests it is about one. */
export const GOOD_LOOPS_PER_SECOND = 4e6;
const LOOPS = 1000;
/** The fastest counts: a machine that is emulated itself may have stood still in the middle of one. */
const ROUNDS = 4;
/** Enter the guest and leave it: that takes a microsecond or a hundred, and the first time a thousand. */
const EMPTY_ROUNDS = 8;

/** What the guest does, 32-bit code at address 0; the number is the immediate at COUNT_OFFSET. */
const CODE = [
  ...[0xb9, 0, 0, 0, 0], // mov ecx, COUNT
  ...[0x49], //             dec ecx
  ...[0x75, 0xfd], //       jnz the line above
  ...[0xf4], //             hlt
  ...[0xeb, 0xf5], //       jmp the first line
];
const COUNT_OFFSET = 1;

/** Takes some milliseconds where KVM interprets, less where it does not. Throws nothing. */
export function probeKvm(): KvmFitness {
  try {
    const system = new KvmSystem();
    try {
      const vm = system.createVm();
      try {
        return judge(measure(system, vm));
      } finally {
        vm.close();
      }
    } finally {
      system.close();
    }
  } catch (error) {
    return { verdict: "unusable", error };
  }
}

export function judge(loopsPerSecond: number): KvmFitness {
  return loopsPerSecond >= GOOD_LOOPS_PER_SECOND ? { verdict: "good" } : { verdict: "interprets", loopsPerSecond };
}

/** Of the fastest round. */
function measure(system: KvmSystem, vm: KvmVm): number {
  const runSizeBytes = system.vcpuMmapSizeBytes();
  const pages = Math.ceil((PAGE_SIZE_BYTES + runSizeBytes) / WASM_PAGE_SIZE_BYTES);
  const memory = new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer);
  memory.set(CODE);
  vm.setUserMemoryRegion(0, 0, PAGE_SIZE_BYTES, memory, 0);
  const vcpu = vm.createVcpu(0);
  try {
    vcpu.mapRun(memory, PAGE_SIZE_BYTES, runSizeBytes);
    setBootState(vcpu, protectedModeState(0, {}));
    const view = new DataView(memory.buffer);
    let emptyMs = Number.POSITIVE_INFINITY;
    for (let round = 0; round < EMPTY_ROUNDS; round++) emptyMs = Math.min(emptyMs, timeRound(vcpu, view, 1));
    let fastest = 0;
    for (let round = 0; round < ROUNDS && fastest < GOOD_LOOPS_PER_SECOND; round++) {
      // Where guests are fast, both may be the same.
      const loopsMs = Math.max(timeRound(vcpu, view, LOOPS) - emptyMs, Number.EPSILON);
      fastest = Math.max(fastest, (LOOPS / loopsMs) * 1000);
    }
    return fastest;
  } finally {
    // Else the mapping holds the vCPU, and with it the VM.
    mapAnonymousOver(memory, PAGE_SIZE_BYTES, runSizeBytes);
    vcpu.close();
  }
}

function timeRound(vcpu: KvmVcpu, view: DataView, loops: number): number {
  view.setUint32(COUNT_OFFSET, loops, true);
  const startMs = threadCpuMs();
  runToHalt(vcpu, view);
  return threadCpuMs() - startMs;
}

/** A signal may come in between. @throws VmmError "kvm-unavailable" */
function runToHalt(vcpu: KvmVcpu, view: DataView): void {
  for (;;) {
    if (vcpu.run() !== 0) continue;
    const reason = view.getUint32(PAGE_SIZE_BYTES + abi.KVM_RUN_EXIT_REASON_U32, true);
    if (reason === abi.KVM_EXIT_HLT) return;
    throw new VmmError("kvm-unavailable", `KVM does not run a guest: exit reason ${reason}`);
  }
}
