// SPDX-License-Identifier: Apache-2.0
// A vCPU of the engine as saving and restoring see it: its state page in KVM's structs. The vCPU is parked.
import * as layout from "../../../assembly/cpu/layout.ts";
import { CPU_STATE_BASE, CPU_STATE_STRIDE_BYTES } from "../../../assembly/layout.ts";
import * as abi from "../../../ffi/kvm/abi.ts";
import { VmmError } from "../../errors.ts";
import type { StateVcpu } from "../state/types.ts";
import { engineTsc, tscKhzOf } from "./clock.ts";
import { restoreEvents, restoreMpState, saveEvents, saveMpState } from "./events.ts";
import type { IrqchipState } from "./irqchip-state.ts";
import { isMeaningless, MSR_PLACES, MSR_TSC, MSR_TSC_DEADLINE } from "./msrs.ts";
import { restoreSregs, saveSregs } from "./special-registers.ts";
import { restoreXsave, saveXsave } from "./x87-area.ts";

/** struct kvm_regs: numbers of the registers in KVM's order. */
const GPRS = [0, 3, 1, 2, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
const REGS_RIP_U64 = 128;
const REGS_RFLAGS_U64 = 136;
/** CF, PF, AF, ZF, SF, OF: in CPU_FLAG_CARRY while CPU_FLAG_KIND is 0, FLAGS_KNOWN (assembly/cpu/flags.ts). */
const ARITHMETIC_FLAGS = 0x8d5n;
const ZF = 0x40n;
/** struct kvm_debugregs: u64 db[4], dr6, dr7, flags. */
const DEBUGREGS_DR6_U64 = 32;
/** struct kvm_xcrs: u32 nr_xcrs, flags; entries of u32 xcr, reserved, u64 value. */
const XCRS_VALUE_U64 = 16;
/** x87, without which there is no XCR0. */
const XCR0_X87 = 1n;
/** struct pvclock_vcpu_time_info: u8 flags, and the one that says that the guest was stopped. */
const PVCLOCK_FLAGS_U8 = 29;
const PVCLOCK_GUEST_STOPPED = 2;

export interface GuestRam {
  base: number;
  sizeBytes: number;
  /** The page has been written. */
  noteWrite(gpa: number): void;
}

export class EngineVcpu implements StateVcpu {
  readonly #memory: WebAssembly.Memory;
  readonly #index: number;
  readonly #irqchip: IrqchipState;
  readonly #ram: GuestRam | undefined;
  readonly #page: DataView;
  readonly #pending: Int32Array;
  readonly #tsc: () => bigint;

  /** Without `ram` it never runs. */
  constructor(memory: WebAssembly.Memory, index: number, irqchip: IrqchipState, ram?: GuestRam) {
    const base = CPU_STATE_BASE + index * CPU_STATE_STRIDE_BYTES;
    this.#memory = memory;
    this.#index = index;
    this.#irqchip = irqchip;
    this.#ram = ram;
    this.#page = new DataView(memory.buffer, base, CPU_STATE_STRIDE_BYTES);
    this.#pending = new Int32Array(memory.buffer, base + layout.CPU_PENDING, 1);
    this.#tsc = engineTsc(memory);
  }

  /** Power-on state, but for the local APIC's. SDM volume 3, table 10-1. `tsc` is the same for all vCPUs, as their TSC will be. */
  powerOn(tsc: bigint): void {
    const page = this.#page;
    new Uint8Array(page.buffer, page.byteOffset, layout.CPU_LAPIC).fill(0);
    writeInitState(page, this.#index);
    page.setUint32(layout.CPU_INDEX, this.#index, true);
    page.setUint32(layout.CPU_EXCEPTION, layout.NO_EXCEPTION, true);
    page.setUint32(layout.CPU_MXCSR, 0x1f80, true);
    page.setUint16(layout.CPU_X87_CONTROL, 0x37f, true);
    page.setBigUint64(layout.CPU_PAT, 0x0007_0406_0007_0406n, true);
    page.setBigUint64(layout.CPU_MISC_ENABLE, 1n, true);
    page.setBigInt64(layout.CPU_TSC_OFFSET, -tsc, true);
    const activity = this.#index === 0 ? layout.CPU_ACTIVITY_RUNNING : layout.CPU_ACTIVITY_WAITING_FOR_SIPI;
    page.setUint32(layout.CPU_ACTIVITY, activity, true);
    this.#changed();
  }

  #changed(): void {
    this.#page.setUint32(layout.CPU_IS_CHANGED, 1, true);
  }

  transfer(name: string, request: number, struct: Uint8Array): void {
    const view = new DataView(struct.buffer, struct.byteOffset, struct.byteLength);
    const pending = Atomics.load(this.#pending, 0);
    switch (request) {
      case abi.KVM_GET_REGS:
        this.#saveRegs(view);
        return;
      case abi.KVM_GET_SREGS:
        saveSregs(this.#page, struct);
        return;
      case abi.KVM_GET_XSAVE:
        saveXsave(this.#page, struct);
        return;
      case abi.KVM_GET_XCRS:
        struct.fill(0);
        view.setUint32(0, 1, true);
        view.setBigUint64(XCRS_VALUE_U64, XCR0_X87, true);
        return;
      case abi.KVM_GET_DEBUGREGS:
        struct.fill(0);
        for (let index = 0; index < 4; index++) this.#copyOut(layout.CPU_DRS + index * 8, view, index * 8);
        for (let index = 0; index < 2; index++) {
          this.#copyOut(layout.CPU_DRS + 48 + index * 8, view, DEBUGREGS_DR6_U64 + index * 8);
        }
        return;
      case abi.KVM_GET_LAPIC:
        this.#irqchip.getLapic(this.#index, struct);
        return;
      case abi.KVM_GET_MP_STATE:
        view.setUint32(0, saveMpState(this.#page, pending), true);
        return;
      case abi.KVM_GET_VCPU_EVENTS:
        saveEvents(this.#page, pending, struct);
        return;
      default:
        this.#changed();
        this.#restore(name, request, struct, view);
    }
  }

  #restore(name: string, request: number, struct: Uint8Array, view: DataView): void {
    switch (request) {
      case abi.KVM_SET_REGS:
        this.#restoreRegs(view);
        return;
      case abi.KVM_SET_SREGS:
      case abi.KVM_SET_SREGS2:
        restoreSregs(this.#page, struct);
        return;
      case abi.KVM_SET_XSAVE:
        restoreXsave(this.#page, struct);
        return;
      case abi.KVM_SET_XCRS:
        refuseXcrs(view);
        return;
      case abi.KVM_SET_DEBUGREGS:
        for (let index = 0; index < 4; index++) this.#copyIn(view, index * 8, layout.CPU_DRS + index * 8);
        for (let index = 0; index < 2; index++) {
          this.#copyIn(view, DEBUGREGS_DR6_U64 + index * 8, layout.CPU_DRS + 48 + index * 8);
        }
        return;
      case abi.KVM_SET_LAPIC:
        this.#irqchip.setLapic(this.#index, struct);
        return;
      case abi.KVM_SET_MP_STATE:
        this.#setPending(
          layout.CPU_PENDING_SIPI | layout.CPU_PENDING_INIT,
          restoreMpState(this.#page, view.getUint32(0, true)),
        );
        return;
      case abi.KVM_SET_VCPU_EVENTS:
        this.#setPending(layout.CPU_PENDING_NMI, restoreEvents(this.#page, struct));
        return;
      default:
        throw new RangeError(`The engine has no ${name}`);
    }
  }

  #setPending(mask: number, bits: number): void {
    Atomics.and(this.#pending, 0, ~mask);
    Atomics.or(this.#pending, 0, bits);
  }

  #copyOut(place: number, view: DataView, offset: number): void {
    view.setBigUint64(offset, this.#page.getBigUint64(place, true), true);
  }

  #copyIn(view: DataView, offset: number, place: number): void {
    this.#page.setBigUint64(place, view.getBigUint64(offset, true), true);
  }

  #saveRegs(view: DataView): void {
    for (let position = 0; position < GPRS.length; position++) {
      this.#copyOut(layout.CPU_GPRS + GPRS[position]! * 8, view, position * 8);
    }
    this.#copyOut(layout.CPU_RIP, view, REGS_RIP_U64);
    const flags = BigInt(this.#page.getUint32(layout.CPU_FLAG_CARRY, true)) & ARITHMETIC_FLAGS;
    view.setBigUint64(REGS_RFLAGS_U64, this.#page.getBigUint64(layout.CPU_RFLAGS, true) | flags, true);
  }

  #restoreRegs(view: DataView): void {
    const page = this.#page;
    for (let position = 0; position < GPRS.length; position++) {
      this.#copyIn(view, position * 8, layout.CPU_GPRS + GPRS[position]! * 8);
    }
    this.#copyIn(view, REGS_RIP_U64, layout.CPU_RIP);
    const flags = view.getBigUint64(REGS_RFLAGS_U64, true);
    page.setBigUint64(layout.CPU_RFLAGS, (flags & ~ARITHMETIC_FLAGS) | 2n, true);
    page.setUint32(layout.CPU_FLAG_CARRY, Number(flags & ARITHMETIC_FLAGS), true);
    page.setBigUint64(layout.CPU_FLAG_RESULT, (flags & ZF) === 0n ? 1n : 0n, true);
    page.setUint32(layout.CPU_FLAG_KIND, 0, true);
  }

  getMsrs(msrs: Uint8Array): number {
    return this.#eachMsr(msrs, (number, view, offset) => {
      if (number === MSR_TSC) {
        const tsc = this.#tsc() + this.#page.getBigInt64(layout.CPU_TSC_OFFSET, true);
        view.setBigUint64(offset, BigInt.asUintN(64, tsc), true);
        return true;
      }
      const place = MSR_PLACES.get(number);
      if (place !== undefined) this.#copyOut(place, view, offset);
      return place !== undefined;
    });
  }

  setMsrs(msrs: Uint8Array): number {
    this.#changed();
    return this.#eachMsr(msrs, (number, view, offset) => {
      if (number === MSR_TSC) {
        this.#page.setBigInt64(layout.CPU_TSC_OFFSET, view.getBigInt64(offset, true) - this.#tsc(), true);
        return true;
      }
      const place = MSR_PLACES.get(number);
      if (place !== undefined) this.#copyIn(view, offset, place);
      return place !== undefined || isMeaningless(number);
    });
  }

  #eachMsr(msrs: Uint8Array, action: (number: number, view: DataView, offset: number) => boolean): number {
    const view = new DataView(msrs.buffer, msrs.byteOffset, msrs.byteLength);
    const count = view.getUint32(0, true);
    for (let position = 0; position < count; position++) {
      const entry = abi.KVM_MSRS_HEADER_SIZE_BYTES + position * abi.KVM_MSR_ENTRY_SIZE_BYTES;
      if (!action(view.getUint32(entry, true), view, entry + 8)) return position;
    }
    return count;
  }

  notePause(): void {
    const place = this.#page.getBigUint64(layout.CPU_KVM_SYSTEM_TIME, true);
    const gpa = Number(place & ~1n);
    if (this.#ram === undefined || (place & 1n) === 0n || gpa + PVCLOCK_FLAGS_U8 >= this.#ram.sizeBytes) return;
    new Uint8Array(this.#memory.buffer)[this.#ram.base + gpa + PVCLOCK_FLAGS_U8]! |= PVCLOCK_GUEST_STOPPED;
    this.#ram.noteWrite(gpa);
  }

  tscKhz(): number {
    return tscKhzOf(this.#memory)[0]!;
  }

  /** All vCPUs have the same. */
  setTscKhz(khz: number): void {
    tscKhzOf(this.#memory)[0] = khz;
  }

  hasTscOffset(): boolean {
    return true;
  }

  getTscOffset(value: Uint8Array): void {
    this.#copyOut(layout.CPU_TSC_OFFSET, new DataView(value.buffer, value.byteOffset, 8), 0);
  }

  setTscOffset(value: Uint8Array): void {
    this.#changed();
    this.#copyIn(new DataView(value.buffer, value.byteOffset, 8), 0, layout.CPU_TSC_OFFSET);
  }
}

/** What the engine can save: all that it keeps. */
export const engineSystem = {
  checkExtension: (capability: number): number => (capability === abi.KVM_CAP_TSC_CONTROL ? 1 : 0),
  msrIndices: (): Uint32Array => Uint32Array.of(MSR_TSC, ...MSR_PLACES.keys(), MSR_TSC_DEADLINE),
};

/** What INIT and power-on have in common; x87, SSE and MSRs are left alone. SDM volume 3, table 10-1. */
export function writeInitState(page: DataView, index: number): void {
  const isFirst = index === 0;
  for (let number = 0; number < 16; number++) page.setBigUint64(layout.CPU_GPRS + number * 8, 0n, true);
  // The family of the CPU, as in CPUID leaf 1.
  page.setBigUint64(layout.CPU_GPRS + 2 * 8, 0x80_0f12n, true);
  page.setBigUint64(layout.CPU_RIP, 0xfff0n, true);
  page.setBigUint64(layout.CPU_RFLAGS, 2n, true);
  page.setUint32(layout.CPU_FLAG_KIND, 0, true);
  page.setUint32(layout.CPU_FLAG_CARRY, 0, true);
  page.setBigUint64(layout.CPU_FLAG_RESULT, 1n, true);
  for (let number = 0; number < 8; number++) {
    const isCode = number === layout.SEGMENT_CS;
    const isSystem = number >= layout.SEGMENT_LDTR;
    let attributes = 0x93;
    if (isCode) attributes = 0x9b;
    if (isSystem) attributes = number === layout.SEGMENT_TR ? 0x8b : 0x82;
    writeSegment(page, number, isCode ? 0xf000 : 0, isCode ? 0xffff_0000n : 0n, attributes);
  }
  for (const table of [layout.CPU_GDTR_BASE, layout.CPU_IDTR_BASE]) {
    page.setBigUint64(table, 0n, true);
    page.setUint32(table + 8, 0xffff, true);
  }
  page.setBigUint64(layout.CPU_CR0, 0x6000_0010n, true);
  for (const register of [layout.CPU_CR2, layout.CPU_CR3, layout.CPU_CR4, layout.CPU_EFER]) {
    page.setBigUint64(register, 0n, true);
  }
  for (let number = 0; number < 8; number++) page.setBigUint64(layout.CPU_DRS + number * 8, 0n, true);
  page.setBigUint64(layout.CPU_DRS + 6 * 8, 0xffff_0ff0n, true);
  page.setBigUint64(layout.CPU_DRS + 7 * 8, 0x400n, true);
  page.setUint32(layout.CPU_EXCEPTION, layout.NO_EXCEPTION, true);
  page.setUint32(layout.CPU_INTERRUPT_SHADOW, 0, true);
  page.setUint32(layout.CPU_NMI_BLOCKED, 0, true);
  const activity = isFirst ? layout.CPU_ACTIVITY_RUNNING : layout.CPU_ACTIVITY_WAITING_FOR_SIPI;
  page.setUint32(layout.CPU_ACTIVITY, activity, true);
}

export function writeSegment(page: DataView, number: number, selector: number, base: bigint, attributes: number): void {
  const place = layout.CPU_SEGMENTS + number * layout.SEGMENT_SIZE_BYTES;
  page.setBigUint64(place + layout.SEGMENT_BASE_U64, base, true);
  page.setUint32(place + layout.SEGMENT_LIMIT_U32, 0xffff, true);
  page.setUint16(place + layout.SEGMENT_SELECTOR_U16, selector, true);
  page.setUint32(place + layout.SEGMENT_ATTRIBUTES_U32, attributes, true);
}

function refuseXcrs(view: DataView): void {
  const count = view.getUint32(0, true);
  const value = view.getBigUint64(XCRS_VALUE_U64, true);
  if (count === 0 || value === XCR0_X87) return;
  throw new VmmError(
    "state-refused",
    `The guest has XCR0 0x${value.toString(16)}, and the accelerator wasm has no XSAVE: start it with -cpu baton64 for a move to wasm`,
  );
}
