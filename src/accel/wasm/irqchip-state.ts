// SPDX-License-Identifier: Apache-2.0
// The engine's interrupt controllers in KVM's structs: what KVM saves restores here, and the other way round.
//
// Most of it lies in memory in that very form (assembly/irqchip/layout.ts), so that saving is copying. What is not:
//   I/O APIC   lines whose edge was delivered are not in the saved IRR, as with KVM: who restores it delivers what is there
//   PIT        COUNT_LOAD_TIME is the host's CLOCK_MONOTONIC there, the devices' clock here. KVM begins to count anew when it
//              restores a PIT; here it goes on counting. A new count that waits for its turn, or a counter that waits for its count, is
//              saved as KVM knows it: the last count, counting
//   lapic      CURRENT_COUNT is made from the time that is left
//
// Order of restoring: the local APICs, each after IA32_APIC_BASE of its vCPU; then the rest, which delivers to them.

import { CPU_LAPIC, CPU_LAPIC_SIZE_BYTES } from "../../../assembly/cpu/layout.ts";
import * as layout from "../../../assembly/irqchip/layout.ts";
import {
  CONTROL_MONOTONIC_OFFSET,
  CPU_STATE_BASE,
  CPU_STATE_STRIDE_BYTES,
  IRQCHIP_BASE,
} from "../../../assembly/layout.ts";
import { modules } from "../../../build/irqchip.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import { vcpuWaker } from "./sleep.ts";

/** What the module `irqchip` exports: assembly/irqchip/chip.ts and lapic.ts. 32 bit results come as signed numbers. */
export interface IrqchipExports {
  reset(): void;
  resetLapic(index: number): void;
  initLapicOf(index: number): void;
  setIrq(gsi: number, level: number): void;
  hasPort(port: number): number;
  readPort(port: number): number;
  writePort(port: number, value: number): void;
  hasAddress(gpa: bigint): number;
  readIoapic(gpa: bigint, sizeBytes: number): number;
  writeIoapic(gpa: bigint, sizeBytes: number, value: number): void;
  runPit(): void;
  savedIrr(): number;
  picsRestored(): void;
  ioapicRestored(): void;
  settle(): void;
  pitRestored(): void;
  currentCount(index: number, tsc: bigint): number;
  lapicRestored(index: number, tsc: bigint): void;
}

let compiled: WebAssembly.Module | undefined;

/** An instance for the calling thread. `monotonicNs` is the devices' clock (clock-origin.ts). */
export function instantiateIrqchip(memory: WebAssembly.Memory, monotonicNs: () => bigint): IrqchipExports {
  compiled ??= new WebAssembly.Module(Uint8Array.fromBase64(modules.irqchip));
  const host = { monotonicNs, wakeVcpu: vcpuWaker(memory) };
  const instance = new WebAssembly.Instance(compiled, { env: { memory }, host });
  return instance.exports as unknown as IrqchipExports;
}

/** What is to be known of the host before power-on. `tscKhz` is the frequency of the TSC that the engine's `hostTsc` gives. */
export function configureIrqchip(
  memory: WebAssembly.Memory,
  { cpuCount, tscKhz }: { cpuCount: number; tscKhz: number },
): void {
  const page = new DataView(memory.buffer, IRQCHIP_BASE);
  page.setUint32(layout.IRQCHIP_CPU_COUNT_U32, cpuCount, true);
  page.setUint32(layout.IRQCHIP_TSC_KHZ_U32, tscKhz, true);
}

/** struct kvm_irqchip: what precedes the chip's own struct. */
const CHIP_OFFSET = 8;

export class IrqchipState {
  readonly #irqchip: IrqchipExports;
  readonly #bytes: Uint8Array;
  readonly #monotonicOffset: BigInt64Array;
  readonly #hostTsc: () => bigint;

  /** `hostTsc` is the engine's. */
  constructor(memory: WebAssembly.Memory, irqchip: IrqchipExports, hostTsc: () => bigint) {
    this.#irqchip = irqchip;
    this.#bytes = new Uint8Array(memory.buffer);
    this.#monotonicOffset = new BigInt64Array(memory.buffer, CONTROL_MONOTONIC_OFFSET, 1);
    this.#hostTsc = hostTsc;
  }

  /** As KVM_GET_IRQCHIP: `chip` is a struct kvm_irqchip whose chip_id the caller has set. */
  getIrqchip(chip: Uint8Array): void {
    const source = this.#chip(chip[0]!);
    chip.fill(0, CHIP_OFFSET);
    chip.set(source, CHIP_OFFSET);
    if (chip[0] === abi.KVM_IRQCHIP_IOAPIC) {
      viewOf(chip).setUint32(CHIP_OFFSET + layout.IOAPIC_IRR_U32, this.#irqchip.savedIrr() >>> 0, true);
    }
  }

  /** As KVM_SET_IRQCHIP. */
  setIrqchip(chip: Uint8Array): void {
    const target = this.#chip(chip[0]!);
    target.set(chip.subarray(CHIP_OFFSET, CHIP_OFFSET + target.length));
    if (chip[0] === abi.KVM_IRQCHIP_IOAPIC) this.#irqchip.ioapicRestored();
    else this.#irqchip.picsRestored();
  }

  #chip(id: number): Uint8Array {
    if (id === abi.KVM_IRQCHIP_IOAPIC) return this.#part(layout.IRQCHIP_IOAPIC, layout.IOAPIC_SIZE_BYTES);
    const which = id === abi.KVM_IRQCHIP_PIC_SLAVE ? layout.PIC_SLAVE : 0;
    return this.#part(layout.IRQCHIP_PICS + which, layout.PIC_SIZE_BYTES);
  }

  /** As KVM_GET_PIT2: struct kvm_pit_state2. */
  getPit2(state: Uint8Array): void {
    this.#irqchip.settle();
    state.set(this.#part(layout.IRQCHIP_PIT, layout.PIT_SIZE_BYTES));
    shiftLoadTimes(viewOf(state), -this.#monotonicOffset[0]!);
  }

  /**
   * As KVM_SET_PIT2, but that counters go on counting. `savedMonotonicOffset` is what the devices' clock showed more than CLOCK_MONOTONIC where
   * the state was saved: in another boot that is another offset, and the devices' clock goes on.
   */
  setPit2(state: Uint8Array, savedMonotonicOffset = this.#monotonicOffset[0]!): void {
    const target = this.#part(layout.IRQCHIP_PIT, layout.PIT_SIZE_BYTES);
    target.set(state);
    shiftLoadTimes(viewOf(target), savedMonotonicOffset);
    this.#irqchip.pitRestored();
  }

  /** As KVM_GET_LAPIC: struct kvm_lapic_state of a vCPU that is parked. */
  getLapic(index: number, lapic: Uint8Array): void {
    lapic.set(this.#lapic(index));
    const count = this.#irqchip.currentCount(index, this.#hostTsc());
    viewOf(lapic).setUint32(layout.APIC_CURRENT_COUNT, count >>> 0, true);
  }

  /** As KVM_SET_LAPIC; the vCPU has its IA32_APIC_BASE already. */
  setLapic(index: number, lapic: Uint8Array): void {
    this.#lapic(index).set(lapic);
    this.#irqchip.lapicRestored(index, this.#hostTsc());
  }

  #lapic(index: number): Uint8Array {
    const start = CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES + CPU_LAPIC;
    return this.#bytes.subarray(start, start + CPU_LAPIC_SIZE_BYTES);
  }

  #part(offset: number, sizeBytes: number): Uint8Array {
    return this.#bytes.subarray(IRQCHIP_BASE + offset, IRQCHIP_BASE + offset + sizeBytes);
  }
}

function shiftLoadTimes(pit: DataView, deltaNs: bigint): void {
  for (let channel = 0; channel < layout.PIT_CHANNEL_COUNT; channel++) {
    const offset = channel * layout.PIT_CHANNEL_SIZE_BYTES + layout.PIT_COUNT_LOAD_TIME_I64;
    pit.setBigInt64(offset, pit.getBigInt64(offset, true) + deltaNs, true);
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
