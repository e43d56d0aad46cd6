// SPDX-License-Identifier: Apache-2.0
// Segments, tables and control registers between the engine's state page and struct kvm_sregs (<asm/kvm.h>; kvm_sregs2 is
// the same up to the APIC base).
import * as layout from "../../../assembly/cpu/layout.ts";
import { KVM_SREGS_SIZE_BYTES } from "../../../ffi/kvm/abi.ts";

/** KVM's order. */
const SEGMENTS = [
  layout.SEGMENT_CS,
  layout.SEGMENT_DS,
  layout.SEGMENT_ES,
  layout.SEGMENT_FS,
  layout.SEGMENT_GS,
  layout.SEGMENT_SS,
  layout.SEGMENT_TR,
  layout.SEGMENT_LDTR,
];
const TABLES_OFFSET = SEGMENTS.length * 24;
const CONTROL_OFFSET = TABLES_OFFSET + 2 * 16;
const CONTROL = [
  layout.CPU_CR0,
  layout.CPU_CR2,
  layout.CPU_CR3,
  layout.CPU_CR4,
  layout.CPU_CR8,
  layout.CPU_EFER,
  layout.CPU_APIC_BASE,
];
const BITMAP_OFFSET = CONTROL_OFFSET + 8 * CONTROL.length;

/** struct kvm_segment from here on: u8 type, present, dpl, db, s, l, g, avl, unusable. */
const FLAGS_OFFSET = 14;
/** Where SEGMENT_ATTRIBUTES_U32 has each of them, and how many bits. */
const FLAG_PLACES = [
  [0, 4],
  [7, 1],
  [5, 2],
  [14, 1],
  [4, 1],
  [13, 1],
  [15, 1],
  [12, 1],
  [16, 1],
] as const;

export function saveSregs(page: DataView, sregs: Uint8Array): void {
  const view = new DataView(sregs.buffer, sregs.byteOffset, sregs.byteLength);
  for (const [position, number] of SEGMENTS.entries()) {
    const from = layout.CPU_SEGMENTS + number * layout.SEGMENT_SIZE_BYTES;
    const to = position * 24;
    view.setBigUint64(to, page.getBigUint64(from + layout.SEGMENT_BASE_U64, true), true);
    view.setUint32(to + 8, page.getUint32(from + layout.SEGMENT_LIMIT_U32, true), true);
    view.setUint16(to + 12, page.getUint16(from + layout.SEGMENT_SELECTOR_U16, true), true);
    const attributes = page.getUint32(from + layout.SEGMENT_ATTRIBUTES_U32, true);
    for (const [index, [shift, bits]] of FLAG_PLACES.entries()) {
      view.setUint8(to + FLAGS_OFFSET + index, (attributes >> shift) & ((1 << bits) - 1));
    }
    view.setUint8(to + FLAGS_OFFSET + FLAG_PLACES.length, 0);
  }
  for (const [position, base] of [layout.CPU_GDTR_BASE, layout.CPU_IDTR_BASE].entries()) {
    view.setBigUint64(TABLES_OFFSET + position * 16, page.getBigUint64(base, true), true);
    view.setBigUint64(TABLES_OFFSET + position * 16 + 8, BigInt(page.getUint16(base + 8, true)), true);
  }
  for (const [position, place] of CONTROL.entries()) {
    view.setBigUint64(CONTROL_OFFSET + position * 8, page.getBigUint64(place, true), true);
  }
  // Interrupts that are acknowledged and not delivered: events have those.
  sregs.fill(0, BITMAP_OFFSET, KVM_SREGS_SIZE_BYTES);
}

export function restoreSregs(page: DataView, sregs: Uint8Array): void {
  const view = new DataView(sregs.buffer, sregs.byteOffset, sregs.byteLength);
  for (const [position, number] of SEGMENTS.entries()) {
    const to = layout.CPU_SEGMENTS + number * layout.SEGMENT_SIZE_BYTES;
    const from = position * 24;
    page.setBigUint64(to + layout.SEGMENT_BASE_U64, view.getBigUint64(from, true), true);
    page.setUint32(to + layout.SEGMENT_LIMIT_U32, view.getUint32(from + 8, true), true);
    page.setUint16(to + layout.SEGMENT_SELECTOR_U16, view.getUint16(from + 12, true), true);
    let attributes = 0;
    for (const [index, [shift, bits]] of FLAG_PLACES.entries()) {
      attributes |= (view.getUint8(from + FLAGS_OFFSET + index) & ((1 << bits) - 1)) << shift;
    }
    page.setUint32(to + layout.SEGMENT_ATTRIBUTES_U32, attributes, true);
  }
  for (const [position, base] of [layout.CPU_GDTR_BASE, layout.CPU_IDTR_BASE].entries()) {
    page.setBigUint64(base, view.getBigUint64(TABLES_OFFSET + position * 16, true), true);
    page.setBigUint64(base + 8, BigInt(view.getUint16(TABLES_OFFSET + position * 16 + 8, true)), true);
  }
  for (const [position, place] of CONTROL.entries()) {
    page.setBigUint64(place, view.getBigUint64(CONTROL_OFFSET + position * 8, true), true);
  }
}
