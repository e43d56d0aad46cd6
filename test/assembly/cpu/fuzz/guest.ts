// SPDX-License-Identifier: Apache-2.0
// Guests that are plausible enough to run for a while: in each mode, with descriptors, page tables and registers that are mostly what
// they should be.
import * as layout from "../../../../assembly/cpu/layout.ts";
import type { Chance } from "./chance.ts";
import { fillWithCode } from "./code.ts";
import { type FuzzMachine, RAM_SIZE_BYTES } from "./machine.ts";

export const MODES = ["real", "protected-16", "protected-32", "paged-32", "pae", "long", "compatibility"] as const;
export type Mode = (typeof MODES)[number];

const PAGE = 0x1000;
const GDT = 0x1000;
const IDT = 0x2000;
const TSS = 0x3000;
const TABLES = 0x4000;
const TABLES_END = 0x1_0000;
const CODE = 0x1_0000;
const CODE_SIZE_BYTES = 0x8000;
const DATA = 0x2_0000;

const GDT_COUNT = 32;
/** Types of descriptors that a guest may have, bits 40 to 47. */
// biome-ignore format: a table
const ACCESS = [0x9b, 0x93, 0xfb, 0xf3, 0x9a, 0x92, 0xfa, 0xf2, 0x9f, 0xff, 0x97, 0x1b, 0x13, 0x89, 0x8b, 0x82, 0x8c, 0xec, 0x85, 0x8e, 0xbb, 0xb3];
const SIZES = [0x20, 0x40, 0x00, 0x60, 0xa0, 0xc0, 0x80];
const GATES = [0x8e, 0x8f, 0xee, 0xef, 0x86, 0xe7, 0x85, 0x0e, 0x8c];

// biome-ignore format: a table
const MSRS = [
  0x10, 0x1b, 0x3b, 0x8b, 0xfe, 0x174, 0x175, 0x176, 0x1a0, 0x200, 0x20f, 0x250, 0x258, 0x26f, 0x277, 0x2ff, 0x6e0, 0x800, 0x808,
  0x80b, 0x80f, 0x828, 0x830, 0x832, 0x838, 0x83e, 0x83f, 0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01, 0xc000_0080, 0xc000_0081, 0xc000_0082,
  0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102, 0xc000_0103, 0xc001_0015,
];
/** Of interrupt controllers, as addresses and ports. */
const DEVICES = [0xfee0_0000n, 0xfee0_0300n, 0xfee0_0380n, 0xfec0_0000n, 0xfec0_0010n, 0x40n, 0x43n, 0x20n, 0xa1n];

const PE = 1n;
const PG = 0x8000_0000n;
const PAE = 0x20n;
const LME = 0x100n;
const LMA = 0x400n;
const NXE = 0x800n;

/** Makes the guest of a case. */
export function makeGuest(machine: FuzzMachine, chance: Chance): Mode {
  const { ram } = machine;
  const mode = chance.oneOf(MODES);
  fillWithCode(ram.subarray(CODE, CODE + CODE_SIZE_BYTES), chance);
  for (let at = 0; at < 0x400; at++) ram[DATA + chance.below(0x1_0000)] = chance.word();
  if (mode === "real") writeVectors(machine, chance);
  else {
    writeDescriptors(machine, chance, mode);
    writeGates(machine, chance, mode);
  }
  writeTables(machine, chance, mode);
  writeRegisters(machine, chance, mode);
  return mode;
}

function isPaged(mode: Mode): boolean {
  return mode === "paged-32" || mode === "pae" || isLong(mode);
}

function isLong(mode: Mode): boolean {
  return mode === "long" || mode === "compatibility";
}

function codeAddress(chance: Chance): number {
  return (
    CODE +
    (chance.oneIn(4)
      ? chance.below(CODE_SIZE_BYTES / PAGE) * PAGE + 0xff8 + chance.below(8)
      : chance.below(CODE_SIZE_BYTES))
  );
}

function writeVectors({ ramView }: FuzzMachine, chance: Chance): void {
  for (let vector = 0; vector < 256; vector++) {
    const target = codeAddress(chance);
    ramView.setUint32(IDT + vector * 4, ((target >> 4) << 16) | (target & 15), true);
  }
}

function descriptor(chance: Chance, access: number, size: number): bigint {
  const base = chance.oneIn(6) ? chance.word() : chance.oneIn(4) ? chance.below(0x3_0000) : 0;
  const limit = chance.oneIn(6) ? chance.below(0x10_0000) : 0xf_ffff;
  const low = (limit & 0xffff) | ((base & 0xffff) << 16);
  const high = ((base >>> 16) & 0xff) | (access << 8) | (limit & 0xf_0000) | (size << 16) | (base & 0xff00_0000);
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function writeDescriptors({ ramView }: FuzzMachine, chance: Chance, mode: Mode): void {
  for (let number = 1; number < GDT_COUNT; number++) {
    const value = chance.oneIn(8) ? chance.quad() : descriptor(chance, chance.oneOf(ACCESS), chance.oneOf(SIZES));
    ramView.setBigUint64(GDT + 8 * number, value, true);
  }
  // These are good: code, data, and both of user mode.
  const size = mode === "long" ? 0xa0 : mode === "protected-16" ? 0x00 : 0xc0;
  for (const [number, access] of [0x9b, 0x93, 0xfb, 0xf3].entries()) {
    ramView.setBigUint64(GDT + 8 * (number + 1), descriptorOf(access, access & 8 ? size : 0xc0), true);
  }
  if (isLong(mode)) ramView.setBigUint64(GDT + 8 * 5, descriptorOf(0x9b, 0xa0), true);
  for (let at = 0; at < 0x80; at += 8) {
    ramView.setBigUint64(TSS + at + 4, chance.oneIn(8) ? chance.quad() : BigInt(DATA + chance.below(0x2000) * 8), true);
  }
}

function descriptorOf(access: number, size: number): bigint {
  return (BigInt(((access << 8) | (size << 16) | 0xf_0000) >>> 0) << 32n) | 0xffffn;
}

function writeGates({ ramView }: FuzzMachine, chance: Chance, mode: Mode): void {
  const gateSize = isLong(mode) ? 16 : 8;
  for (let vector = 0; vector < 256; vector++) {
    const where = IDT + vector * gateSize;
    if (where + 16 > TSS) break;
    const target = chance.oneIn(20) ? chance.word() : codeAddress(chance);
    const selector = chance.oneIn(10) ? chance.below(GDT_COUNT * 8) : isLong(mode) ? 5 * 8 : 8;
    const type = chance.oneIn(8) ? chance.oneOf(GATES) : mode === "protected-16" ? 0x86 : 0x8e;
    const stack = isLong(mode) && chance.oneIn(3) ? chance.below(8) : 0;
    ramView.setUint32(where, (target & 0xffff) | (selector << 16), true);
    ramView.setUint32(where + 4, (target & 0xffff_0000) | (type << 8) | stack, true);
    if (isLong(mode)) ramView.setBigUint64(where + 8, chance.oneIn(40) ? chance.quad() : 0n, true);
  }
}

/** Entries that map RAM to itself; here and there with other rights, to other places, or noise. */
function writeTables({ ramView }: FuzzMachine, chance: Chance, mode: Mode): void {
  if (!isPaged(mode)) return;
  const isLegacy = mode === "paged-32";
  const entryBytes = isLegacy ? 4 : 8;
  const flags = (): bigint => {
    if (!chance.oneIn(10)) return 0x67n;
    return BigInt(chance.below(0x200)) | (chance.oneIn(4) && !isLegacy ? 1n << 63n : 0n);
  };
  const put = (table: number, index: number, target: number): void => {
    const value = chance.oneIn(60) ? chance.quad() : BigInt(target) | flags();
    if (isLegacy) ramView.setUint32(table + index * entryBytes, Number(value & 0xffff_ffffn), true);
    else ramView.setBigUint64(table + index * entryBytes, value, true);
  };
  const last = TABLES_END - PAGE;
  for (let page = 0; page < RAM_SIZE_BYTES / PAGE; page++) {
    if (page < PAGE / entryBytes) put(last, page, page * PAGE);
  }
  const tables = isLegacy
    ? [TABLES]
    : mode === "pae"
      ? [TABLES + PAGE, TABLES]
      : [TABLES + 2 * PAGE, TABLES + PAGE, TABLES];
  let below = last;
  for (const table of tables) {
    const count = mode === "pae" && table === TABLES ? 4 : PAGE / entryBytes;
    const slots = count === 4 ? [0, 1, 2, 3] : [0, 1, count - 1, count / 2, chance.below(count)];
    // Some are large pages of what is not RAM.
    for (const slot of slots) put(table, slot, chance.oneIn(3) && slot > 0 ? (chance.word() & ~0xfff) >>> 0 : below);
    const isTop = table === TABLES;
    const entry = BigInt(below) | (mode === "pae" && isTop ? 1n : 0x67n);
    if (isLegacy) ramView.setUint32(table, Number(entry), true);
    else ramView.setBigUint64(table, entry, true);
    below = table;
  }
  // The interrupt controllers.
  if (isLegacy) ramView.setUint32(TABLES + 4 * 0x3fb, 0xfec0_0083, true);
}

function value(chance: Chance): bigint {
  switch (chance.below(9)) {
    case 0:
      return chance.quad();
    case 1:
      return BigInt(chance.word());
    case 2:
      return BigInt(chance.below(256));
    case 3:
      return BigInt(chance.below(512) * PAGE + 0xff0 + chance.below(32));
    case 4:
      return BigInt.asUintN(64, -BigInt(chance.below(0x2000)));
    case 5:
      return chance.oneOf([
        0x7fff_ffff_ffffn,
        0x8000_0000_0000n,
        0xffff_8000_0000_0000n,
        0x1_0000_0000n,
        0xffff_fff8n,
        1n << 63n,
      ]);
    case 6:
      return BigInt(chance.oneOf(MSRS));
    case 7:
      return chance.oneOf(DEVICES);
    default:
      return BigInt(DATA + chance.below(0x4_0000));
  }
}

function setSegment({ view }: FuzzMachine, number: number, selector: number, base: bigint, attributes: number): void {
  const at = layout.CPU_SEGMENTS + number * layout.SEGMENT_SIZE_BYTES;
  view.setBigUint64(at + layout.SEGMENT_BASE_U64, base, true);
  view.setUint32(at + layout.SEGMENT_LIMIT_U32, 0xffff_ffff, true);
  view.setUint16(at + layout.SEGMENT_SELECTOR_U16, selector, true);
  view.setUint32(at + layout.SEGMENT_ATTRIBUTES_U32, attributes, true);
}

function writeRegisters(machine: FuzzMachine, chance: Chance, mode: Mode): void {
  const { view } = machine;
  for (let number = 0; number < 16; number++) view.setBigUint64(layout.CPU_GPRS + 8 * number, value(chance), true);
  for (let at = 0; at < 0x100; at += 8) view.setBigUint64(layout.CPU_XMMS + at, value(chance), true);
  for (let at = 0; at < 0x80; at += 8) view.setBigUint64(layout.CPU_X87_REGISTERS + at, chance.quad(), true);
  view.setUint32(layout.CPU_MXCSR, chance.oneIn(2) ? 0x1f80 : chance.below(0x1_0000), true);
  view.setUint16(layout.CPU_X87_CONTROL, chance.oneIn(2) ? 0x37f : chance.below(0x2000), true);
  view.setUint8(layout.CPU_X87_TOP, chance.below(8));
  view.setUint8(layout.CPU_X87_VALID, chance.below(256));
  if (!chance.oneIn(4)) view.setBigUint64(layout.CPU_GPRS + 8 * 4, BigInt(DATA + chance.below(0x4000) * 8), true);
  const isUser = mode !== "real" && chance.oneIn(3);
  const level = isUser ? 3 : 0;
  const size = mode === "long" ? 0xa000 : mode === "real" || mode === "protected-16" ? 0 : 0xc000;
  const small = mode === "real" || mode === "protected-16";
  const base = mode === "real" ? BigInt(CODE) : 0n;
  const data = (isUser ? 0xf3 : 0x93) | (small ? 0 : 0xc000);
  for (const number of [
    layout.SEGMENT_ES,
    layout.SEGMENT_SS,
    layout.SEGMENT_DS,
    layout.SEGMENT_FS,
    layout.SEGMENT_GS,
  ]) {
    const isOdd = number !== layout.SEGMENT_SS && chance.oneIn(5);
    setSegment(
      machine,
      number,
      (isUser ? 0x20 : 0x10) | level,
      isOdd ? value(chance) & 0xffff_ffffn : small ? BigInt(DATA) : 0n,
      data,
    );
  }
  setSegment(machine, layout.SEGMENT_CS, (isUser ? 0x18 : 0x08) | level, base, (isUser ? 0xfb : 0x9b) | size);
  setSegment(machine, layout.SEGMENT_LDTR, 0, BigInt(GDT), chance.oneIn(2) ? 0x1_0000 : 0x82);
  setSegment(machine, layout.SEGMENT_TR, 0x30, BigInt(TSS), 0x8b);
  view.setBigUint64(layout.CPU_GDTR_BASE, BigInt(GDT), true);
  view.setUint32(layout.CPU_GDTR_LIMIT, GDT_COUNT * 8 - 1, true);
  view.setBigUint64(layout.CPU_IDTR_BASE, chance.oneIn(30) ? value(chance) : BigInt(IDT), true);
  view.setUint32(layout.CPU_IDTR_LIMIT, chance.oneIn(10) ? chance.below(0x1000) : 0xfff, true);
  const start = codeAddress(chance);
  view.setBigUint64(layout.CPU_RIP, BigInt(mode === "real" ? start - CODE : start), true);
  let cr0 =
    0x10n |
    BigInt(chance.below(8) & (chance.oneIn(3) ? 14 : 2)) |
    (chance.oneIn(2) ? 0x1_0000n : 0n) |
    (chance.oneIn(4) ? 0x4_0020n : 0x20n);
  if (mode !== "real") cr0 |= PE;
  if (isPaged(mode)) cr0 |= PG;
  view.setBigUint64(layout.CPU_CR0, cr0, true);
  view.setBigUint64(layout.CPU_CR3, BigInt(TABLES), true);
  const hasPae = mode === "pae" || isLong(mode);
  view.setBigUint64(layout.CPU_CR4, (hasPae ? PAE : 0n) | 0x600n | BigInt(chance.below(256) & 0x9c), true);
  const nxe = chance.oneIn(2) ? NXE : 0n;
  view.setBigUint64(layout.CPU_EFER, (isLong(mode) ? LME | LMA : 0n) | 1n | nxe, true);
  view.setBigUint64(layout.CPU_RFLAGS, 2n | BigInt(chance.oneIn(3) ? chance.below(0x8000) & 0x7700 : 0x200), true);
  view.setUint32(layout.CPU_FLAG_CARRY, chance.word() & 0x895, true);
  view.setBigUint64(layout.CPU_FLAG_RESULT, 1n, true);
  for (const msr of [layout.CPU_LSTAR, layout.CPU_CSTAR, layout.CPU_SYSENTER_EIP]) {
    view.setBigUint64(msr, chance.oneIn(8) ? value(chance) : BigInt(codeAddress(chance)), true);
  }
  view.setBigUint64(layout.CPU_STAR, (0x0010_0008n << 32n) | (0x0010n << 48n), true);
  view.setBigUint64(layout.CPU_FMASK, BigInt(chance.word()), true);
  view.setBigUint64(layout.CPU_KERNEL_GS_BASE, value(chance), true);
  if (chance.oneIn(6)) view.setBigUint64(layout.CPU_KVM_SYSTEM_TIME, value(chance), true);
  if (chance.oneIn(3)) view.setBigUint64(layout.CPU_APIC_BASE, 0xfee0_0d00n, true);
}
