// SPDX-License-Identifier: Apache-2.0
// Initial states of a vCPU: the three processor modes that boot protocols ask for, and waking from S3.
// Intel SDM vol. 3, chapters 2 (control registers), 3 (segments) and 4 (paging).
import { GDT_GPA, PAGE_TABLES_GPA } from "./layout.ts";
import { bytesWrite } from "./placement.ts";
import type { GuestWrite, InitialVcpuState, Registers, Segment } from "./types.ts";

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;
/** Always set; interrupts are off. */
const RFLAGS_RESERVED = 2n;

const PTE_PRESENT = 1n;
const PTE_WRITE = 2n;
const PTE_HUGE = 0x80n;

/** Flat 4 GiB segments, accessed. Linux wants code and data at these very selectors (__BOOT_CS, __BOOT_DS). */
const CODE_SELECTOR = 0x10;
const DATA_SELECTOR = 0x18;
const TSS_SELECTOR = 0x20;
const CODE64_DESCRIPTOR = 0x00af_9b00_0000_ffffn;
const CODE32_DESCRIPTOR = 0x00cf_9b00_0000_ffffn;
const DATA_DESCRIPTOR = 0x00cf_9300_0000_ffffn;
/** Busy and 0x68 bytes long: VMX enters a guest with no other. */
const TSS_DESCRIPTOR = 0x0000_8b00_0000_0067n;
/** Two entries of the TSS: in long mode its descriptor has 16 bytes. */
const GDT_SIZE_BYTES = 6 * 8;

const NULL_SEGMENT: Segment = {
  base: 0n,
  limit: 0,
  selector: 0,
  type: 0,
  present: 0,
  dpl: 0,
  db: 0,
  s: 0,
  l: 0,
  g: 0,
  avl: 0,
  unusable: 1,
};

/** What the processor caches when it loads `selector`; bases are zero here. */
function segmentOf(selector: number, descriptor: bigint): Segment {
  const high = Number(descriptor >> 32n);
  const g = (high >> 23) & 1;
  const rawLimit = Number(descriptor & 0xffffn) | (high & 0xf0000);
  return {
    base: 0n,
    limit: g === 1 ? ((rawLimit << 12) | 0xfff) >>> 0 : rawLimit,
    selector,
    type: (high >> 8) & 0xf,
    present: (high >> 15) & 1,
    dpl: (high >> 13) & 3,
    db: (high >> 22) & 1,
    s: (high >> 12) & 1,
    l: (high >> 21) & 1,
    g,
    avl: (high >> 20) & 1,
    unusable: 0,
  };
}

function registers(rip: number, given: Partial<Registers>): Registers {
  return {
    rax: 0n,
    rbx: 0n,
    rcx: 0n,
    rdx: 0n,
    rsi: 0n,
    rdi: 0n,
    rsp: 0n,
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    ...given,
    rip: BigInt(rip),
    rflags: RFLAGS_RESERVED,
  };
}

function flatState(rip: number, given: Partial<Registers>, codeDescriptor: bigint): InitialVcpuState {
  const data = segmentOf(DATA_SELECTOR, DATA_DESCRIPTOR);
  return {
    mode: "protected32",
    regs: registers(rip, given),
    sregs: {
      cs: segmentOf(CODE_SELECTOR, codeDescriptor),
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
      tr: segmentOf(TSS_SELECTOR, TSS_DESCRIPTOR),
      ldt: NULL_SEGMENT,
      gdt: { base: BigInt(GDT_GPA), limit: GDT_SIZE_BYTES - 1 },
      // No interrupt can be served yet: an exception is a triple fault, and the VM resets.
      idt: { base: 0n, limit: 0 },
      cr0: CR0_PE | CR0_ET,
      cr2: 0n,
      cr3: 0n,
      cr4: 0n,
      cr8: 0n,
      efer: 0n,
    },
  };
}

/** 32-bit protected mode, flat, no paging. Needs `gdtWrite("protected32")` in RAM. */
export function protectedModeState(rip: number, given: Partial<Registers>): InitialVcpuState {
  return flatState(rip, given, CODE32_DESCRIPTOR);
}

/** 64-bit mode, the first 4 GiB mapped to themselves. Needs `gdtWrite("long64")` and `pageTablesWrite()` in RAM. */
export function longModeState(rip: number, given: Partial<Registers>): InitialVcpuState {
  const state = flatState(rip, given, CODE64_DESCRIPTOR);
  return {
    ...state,
    mode: "long64",
    sregs: {
      ...state.sregs,
      cr0: CR0_PE | CR0_ET | CR0_PG,
      cr3: BigInt(PAGE_TABLES_GPA),
      cr4: CR4_PAE,
      efer: EFER_LME | EFER_LMA,
    },
  };
}

/** Real mode at `segment:offset`, as after reset otherwise. */
export function realModeState(segment: number, offset: number, given: Partial<Registers> = {}): InitialVcpuState {
  const data: Segment = { ...NULL_SEGMENT, limit: 0xffff, type: 3, present: 1, s: 1, unusable: 0 };
  return {
    mode: "real",
    regs: registers(offset, given),
    sregs: {
      cs: { ...data, base: BigInt(segment * 16), selector: segment, type: 0xb },
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
      tr: { ...NULL_SEGMENT, limit: 0xffff, type: 0xb, present: 1, unusable: 0 },
      ldt: { ...NULL_SEGMENT, limit: 0xffff, type: 2, present: 1, unusable: 0 },
      gdt: { base: 0n, limit: 0xffff },
      idt: { base: 0n, limit: 0xffff },
      cr0: CR0_ET,
      cr2: 0n,
      cr3: 0n,
      cr4: 0n,
      cr8: 0n,
      efer: 0n,
    },
  };
}

/**
 * How vCPU 0 starts when the machine wakes from S3.
 * @param wakingVector the FACS's Firmware_Waking_Vector, as the guest left it in RAM
 */
export function wakeState(wakingVector: number): InitialVcpuState {
  // ACPI 6.5, 16.3.1.2: the vector is entered in real mode as CS = vector >> 4, IP = vector & 15.
  return realModeState((wakingVector >>> 4) & 0xffff, wakingVector & 0xf);
}

/** The descriptor table behind `longModeState` or `protectedModeState`. */
export function gdtWrite(mode: "long64" | "protected32"): GuestWrite {
  const code = mode === "long64" ? CODE64_DESCRIPTOR : CODE32_DESCRIPTOR;
  const table = new BigUint64Array(GDT_SIZE_BYTES / 8);
  table[CODE_SELECTOR / 8] = code;
  table[DATA_SELECTOR / 8] = DATA_DESCRIPTOR;
  table[TSS_SELECTOR / 8] = TSS_DESCRIPTOR;
  return bytesWrite("GDT", GDT_GPA, new Uint8Array(table.buffer));
}

/** Page tables that map the first 4 GiB to themselves in pages of 2 MiB: PML4, PDPT, four page directories. */
export function pageTablesWrite(): GuestWrite {
  const tableEntries = 512;
  const directoryCount = 4;
  const entries = new BigUint64Array((2 + directoryCount) * tableEntries);
  const tableGpa = (index: number): bigint => BigInt(PAGE_TABLES_GPA + index * tableEntries * 8);
  entries[0] = tableGpa(1) | PTE_PRESENT | PTE_WRITE;
  for (let index = 0; index < directoryCount; index++) {
    entries[tableEntries + index] = tableGpa(2 + index) | PTE_PRESENT | PTE_WRITE;
  }
  for (let index = 0; index < directoryCount * tableEntries; index++) {
    entries[2 * tableEntries + index] = (BigInt(index) << 21n) | PTE_PRESENT | PTE_WRITE | PTE_HUGE;
  }
  return bytesWrite("page tables", PAGE_TABLES_GPA, new Uint8Array(entries.buffer));
}
