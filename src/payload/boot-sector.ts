// SPDX-License-Identifier: Apache-2.0
// A boot sector that dirties memory for ever: prints `A`, then steps the first byte of every page of a range and prints
// `B` every so many passes. Needs no firmware: it is entered in real mode at 0x7c00 and calls nothing.
import { Assembler } from "./assembler.ts";
import { byte, Label, word } from "./registers.ts";

export const BOOT_SECTOR_GPA = 0x7c00;
export const BOOT_SECTOR_SIZE_BYTES = 512;

const SIGNATURE_OFFSET = 510;
const COM1_THR = 0x3f8;
const COM1_LSR = 0x3fd;
const LSR_THR_EMPTY = 0x20;
/** Bit 1 opens the A20 gate; bit 0 would reset the machine. */
const SYSTEM_CONTROL_PORT_A = 0x92;
const SELECTOR_CODE = 0x08;
const SELECTOR_DATA = 0x10;
const PAGE_SIZE_BYTES = 4096;

export interface BootSectorOptions {
  /** First page. Default 1 MiB. */
  startGpa?: number;
  /** End of the last page. Default 100 MiB. */
  endGpa?: number;
  /** Passes between two `B`. Default 64. */
  passesPerByte?: number;
}

/** The 512 bytes of the boot sector, to be placed at `BOOT_SECTOR_GPA`. */
export function buildBootSector(options: BootSectorOptions = {}): Uint8Array {
  const { startGpa = 0x10_0000, endGpa = 100 * 0x10_0000, passesPerByte = 64 } = options;
  if (startGpa >= endGpa) throw new RangeError("The range of the boot sector is empty");
  const asm = new Assembler(BOOT_SECTOR_GPA, 16);
  const gdtPointer = new Label("gdtPointer");
  const protectedMode = new Label("protectedMode");
  asm.cli();
  asm.cld();
  asm.mov("ax", 0);
  asm.movSegment("ds", "ax");
  emitSend(asm, "A");
  asm.in("al", SYSTEM_CONTROL_PORT_A);
  asm.or("al", 2);
  asm.and("al", 0xfe);
  asm.out(SYSTEM_CONTROL_PORT_A, "al");
  asm.lgdt(word(gdtPointer));
  asm.movFromControl("eax", 0);
  asm.or("al", 1);
  asm.movToControl(0, "eax");
  asm.ljmp(SELECTOR_CODE, protectedMode);

  asm.bits(32);
  asm.bind(protectedMode);
  asm.mov("eax", SELECTOR_DATA);
  for (const segment of ["ds", "es", "ss"] as const) asm.movSegment(segment, "eax");
  const again = asm.label("again");
  asm.mov("ebx", passesPerByte);
  const pass = asm.label("pass");
  asm.mov("eax", startGpa);
  const page = asm.label("page");
  asm.inc(byte("eax"));
  asm.add("eax", PAGE_SIZE_BYTES);
  asm.cmp("eax", endGpa);
  asm.jcc("b", page);
  asm.dec("ebx");
  asm.jcc("ne", pass);
  emitSend(asm, "B");
  asm.jmp(again);

  asm.align(8);
  const gdt = asm.label("gdt");
  asm.dq(0n, 0x00cf_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn);
  asm.bind(gdtPointer);
  asm.dw(3 * 8 - 1);
  asm.dd(gdt);

  const code = asm.assemble();
  if (code.length > SIGNATURE_OFFSET) throw new Error("The boot sector is too long");
  const sector = new Uint8Array(BOOT_SECTOR_SIZE_BYTES);
  sector.set(code);
  sector.set([0x55, 0xaa], SIGNATURE_OFFSET);
  return sector;
}

function emitSend(asm: Assembler, character: string): void {
  asm.mov("dx", COM1_LSR);
  const wait = asm.label("wait");
  asm.in("al", "dx");
  asm.test("al", LSR_THR_EMPTY);
  asm.jcc("e", wait);
  asm.mov("al", character.charCodeAt(0));
  asm.mov("dx", COM1_THR);
  asm.out("dx", "al");
}
