// SPDX-License-Identifier: Apache-2.0

import type { Segment } from "../../../../src/machine/boot/types.ts";
import {
  gdtWrite,
  longModeState,
  pageTablesWrite,
  protectedModeState,
  realModeState,
  wakeState,
} from "../../../../src/machine/boot/vcpu-state.ts";
import { assert, describe } from "../../../harness.ts";
import { contents, readU64 } from "./images.ts";

const GIB = 0x4000_0000;
const ENTRY = 0x100000;

/** A descriptor made from a segment, as it must be in the GDT. */
function descriptorOf(segment: Segment): bigint {
  const limit = BigInt(segment.g === 1 ? segment.limit >>> 12 : segment.limit);
  const { type, s, dpl, present, avl, l, db, g } = segment;
  const high =
    (type << 8) | (s << 12) | (dpl << 13) | (present << 15) | (avl << 20) | (l << 21) | (db << 22) | (g << 23);
  return (limit & 0xffffn) | (BigInt(high >>> 0) << 32n) | ((limit >> 16n) << 48n);
}

const test = describe("vCPU states");

test("segments and the GDT that they are loaded from agree", () => {
  for (const [mode, state] of [
    ["long64", longModeState(ENTRY, {})],
    ["protected32", protectedModeState(ENTRY, {})],
  ] as const) {
    const write = gdtWrite(mode);
    const table = new BigUint64Array(contents(write).buffer);
    assert.is(state.sregs.gdt.base, BigInt(write.gpa));
    assert.is(state.sregs.gdt.limit, write.sizeBytes - 1);
    for (const name of ["cs", "ds", "es", "fs", "gs", "ss", "tr"] as const) {
      const segment = state.sregs[name];
      assert.is(table[segment.selector / 8], descriptorOf(segment), `${mode} ${name}`);
    }
    assert.is(state.sregs.ldt.unusable, 1);
  }
});

test("long mode has a 64-bit code segment at 0x10, data at 0x18, paging and no interrupts", () => {
  const { regs, sregs } = longModeState(ENTRY, { rsi: 7n });
  assert.equal([regs.rip, regs.rsi, regs.rflags], [0x100000n, 7n, 2n]);
  assert.equal([sregs.cs.selector, sregs.cs.l, sregs.cs.db], [0x10, 1, 0]);
  assert.equal([sregs.ds.selector, sregs.ss.limit], [0x18, 0xffff_ffff]);
  assert.equal([sregs.cr0, sregs.cr4, sregs.efer], [0x8000_0011n, 0x20n, 0x500n]);
  assert.is(sregs.cr3, BigInt(pageTablesWrite().gpa));
});

test("protected mode is flat, of 32 bits and without paging", () => {
  const { sregs } = protectedModeState(ENTRY, {});
  assert.equal([sregs.cs.l, sregs.cs.db, sregs.cs.limit, sregs.cs.base], [0, 1, 0xffff_ffff, 0n]);
  assert.equal([sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer], [0x11n, 0n, 0n, 0n]);
  assert.equal([sregs.tr.type, sregs.tr.limit, sregs.tr.s], [0xb, 0x67, 0]);
});

test("real mode has bases of 16 times the selector and limits of 64 KiB", () => {
  const { regs, sregs } = realModeState(0xf000, 0xfff0);
  assert.equal([sregs.cs.base, sregs.cs.selector, regs.rip], [0xf0000n, 0xf000, 0xfff0n]);
  assert.equal([sregs.ds.base, sregs.ds.limit, sregs.cr0], [0n, 0xffff, 0x10n]);
});

test("wakeState() splits the waking vector as ACPI says", () => {
  const { mode, regs, sregs } = wakeState(0x9a123);
  assert.is(mode, "real");
  assert.equal([sregs.cs.selector, sregs.cs.base, regs.rip], [0x9a12, 0x9a120n, 3n]);
});

test("the page tables map the first 4 GiB to themselves and nothing else", () => {
  const write = pageTablesWrite();
  const bytes = contents(write);
  const entryAt = (tableGpa: number, index: number): number => readU64(bytes, tableGpa - write.gpa + index * 8);
  const translate = (gva: number): number | undefined => {
    const pml4 = entryAt(write.gpa, Math.floor(gva / 2 ** 39) % 512);
    if ((pml4 & 1) === 0) return undefined;
    const pdpt = entryAt(pml4 - (pml4 % 4096), Math.floor(gva / 2 ** 30) % 512);
    if ((pdpt & 1) === 0) return undefined;
    const pd = entryAt(pdpt - (pdpt % 4096), Math.floor(gva / 2 ** 21) % 512);
    assert.is(pd & 0x83, 0x83);
    return pd - (pd % 2 ** 21) + (gva % 2 ** 21);
  };
  for (let gva = 0; gva < 4 * GIB; gva += 0x1f_f123) assert.is(translate(gva), gva);
  assert.is(translate(4 * GIB - 1), 4 * GIB - 1);
  assert.is(translate(4 * GIB), undefined);
  assert.is(translate(2 ** 39), undefined);
});

test.run();
