// SPDX-License-Identifier: Apache-2.0
// Writes a boot protocol's initial registers into KVM's structs (https://docs.kernel.org/virt/kvm/api.html#kvm-set-regs).
import {
  KVM_GET_SREGS,
  KVM_REGS_SIZE_BYTES,
  KVM_SET_REGS,
  KVM_SET_SREGS,
  KVM_SREGS_SIZE_BYTES,
} from "../../../ffi/kvm/abi.ts";
import type { DescriptorTable, InitialVcpuState, Registers, Segment } from "../../machine/boot/types.ts";
import type { StateVcpu } from "./types.ts";

export const REGISTER_ORDER: readonly (keyof Registers)[] = [
  "rax",
  "rbx",
  "rcx",
  "rdx",
  "rsi",
  "rdi",
  "rsp",
  "rbp",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
  "rip",
  "rflags",
];
const SEGMENT_ORDER = ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"] as const;
/** Size of struct kvm_segment. */
const SEGMENT_SIZE_BYTES = 24;
/** Size of struct kvm_dtable. */
const DTABLE_SIZE_BYTES = 16;

/** Has a vCPU that is in its power-on state start as a boot protocol says. */
export function setBootState(vcpu: Pick<StateVcpu, "transfer">, { regs, sregs }: InitialVcpuState): void {
  const bytes = new Uint8Array(KVM_SREGS_SIZE_BYTES);
  vcpu.transfer("KVM_GET_SREGS", KVM_GET_SREGS, bytes);
  patchSregs(bytes, sregs);
  vcpu.transfer("KVM_SET_SREGS", KVM_SET_SREGS, bytes);
  vcpu.transfer("KVM_SET_REGS", KVM_SET_REGS, encodeRegs(regs));
}

/** struct kvm_regs. */
function encodeRegs(regs: Registers): Uint8Array {
  const bytes = new Uint8Array(KVM_REGS_SIZE_BYTES);
  const view = new DataView(bytes.buffer);
  for (const [index, name] of REGISTER_ORDER.entries()) view.setBigUint64(index * 8, regs[name], true);
  return bytes;
}

/** Puts the initial special registers into a struct kvm_sregs (or kvm_sregs2: the same up to efer). */
function patchSregs(bytes: Uint8Array, sregs: InitialVcpuState["sregs"]): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let offset = 0;
  for (const name of SEGMENT_ORDER) {
    setSegment(view, offset, sregs[name]);
    offset += SEGMENT_SIZE_BYTES;
  }
  for (const table of [sregs.gdt, sregs.idt]) {
    setTable(view, offset, table);
    offset += DTABLE_SIZE_BYTES;
  }
  for (const value of [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer]) {
    view.setBigUint64(offset, value, true);
    offset += 8;
  }
}

/** struct kvm_segment: u64 base, u32 limit, u16 selector, u8 type, present, dpl, db, s, l, g, avl, unusable, pad. */
function setSegment(view: DataView, offset: number, segment: Segment): void {
  view.setBigUint64(offset, segment.base, true);
  view.setUint32(offset + 8, segment.limit, true);
  view.setUint16(offset + 12, segment.selector, true);
  const { type, present, dpl, db, s, l, g, avl, unusable } = segment;
  for (const [index, value] of [type, present, dpl, db, s, l, g, avl, unusable].entries()) {
    view.setUint8(offset + 14 + index, value);
  }
}

/** struct kvm_dtable: u64 base, u16 limit, u16 padding[3]. */
function setTable(view: DataView, offset: number, table: DescriptorTable): void {
  view.setBigUint64(offset, table.base, true);
  view.setUint16(offset + 8, table.limit, true);
}
