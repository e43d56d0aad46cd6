// SPDX-License-Identifier: Apache-2.0
// What saving and restoring see of an accelerator: calls and structs are KVM's (ffi/kvm/kvm.ts), whoever answers them.
import type { Rehearsal } from "../types.ts";

/** What the accelerator has on this host at all. */
export interface StateSystem {
  checkExtension(capability: number): number;
  /** MSRs that can be saved and restored. */
  msrIndices(): Uint32Array;
}

/** A vCPU that is not in the guest. */
export interface StateVcpu {
  /** Reads or writes one whole struct; `request` is one of the KVM_GET_ or KVM_SET_ numbers that take a plain struct. */
  transfer(name: string, request: number, struct: Uint8Array): void;
  /** Fills in the data of a struct kvm_msrs. Returns how many were read; the first one that failed has that position. */
  getMsrs(msrs: Uint8Array): number;
  /** Writes a struct kvm_msrs. Returns how many were written. */
  setMsrs(msrs: Uint8Array): number;
  /** The guest's watchdogs are told that it was stopped. */
  notePause(): void;
  /** Frequency of the guest's TSC in kHz; 0 when nobody can tell. */
  tscKhz(): number;
  setTscKhz(khz: number): void;
  hasTscOffset(): boolean;
  /** `value` is one u64: guest TSC minus host TSC. */
  getTscOffset(value: Uint8Array): void;
  setTscOffset(value: Uint8Array): void;
}

/** What the vCPUs share, while none is in the guest. */
export interface StateVm {
  /** `chip` is a struct kvm_irqchip whose chip_id the caller has set. */
  getIrqchip(chip: Uint8Array): void;
  setIrqchip(chip: Uint8Array): void;
  /** struct kvm_pit_state2. */
  getPit2(state: Uint8Array): void;
  /** `savedMonotonicOffset` is that of the devices' clock where the state was saved, if that was in another boot. */
  setPit2(state: Uint8Array, savedMonotonicOffset?: bigint): void;
  /** struct kvm_clock_data. */
  getClock(data: Uint8Array): void;
  setClock(data: Uint8Array): void;
}

/** All of a VM that has state. */
export interface StateMachine {
  system: StateSystem;
  vm: StateVm;
  vcpus: readonly StateVcpu[];
  /** struct kvm_cpuid2 of each vCPU. */
  cpuids: readonly Uint8Array[];
  /** Whose TSC offsets these are: they mean something only to the same accelerator, in the same boot. */
  tscOrigin: TscOrigin;
}

/** A StateMachine that never runs, and has power-on state. */
export interface ScratchMachine extends StateMachine {
  close: Rehearsal["close"];
}

/** Offsets are to the CPU's own TSC, or to that of the engine, which goes by CLOCK_MONOTONIC. */
export type TscOrigin = "host" | "engine";
