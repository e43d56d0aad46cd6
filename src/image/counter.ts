// SPDX-License-Identifier: Apache-2.0
// A Linux program that does nothing but count, in a page that can be found from outside in the guest's RAM.
//
//   page + 0x00   magic
//   page + 0x40   u64, increased as fast as the CPU can
import { Assembler } from "../payload/assembler.ts";
import { wrapElf } from "../payload/elf.ts";
import { qword } from "../payload/registers.ts";

/** "BATONCNT", little-endian. */
export const COUNTER_MAGIC = 0x544e_434e_4f54_4142n;
export const COUNTER_OFFSET = 0x40;

const CODE_ADDRESS = 0x40_0000;
/** Not in the file, so that no copy of it is in the guest's page cache. */
const PAGE_ADDRESS = CODE_ADDRESS + 0x1000;
const END_ADDRESS = PAGE_ADDRESS + 0x1000;

/** A static ELF program. */
export function buildCounter(): Uint8Array {
  const asm = new Assembler(CODE_ADDRESS);
  asm.mov("rax", COUNTER_MAGIC);
  asm.mov(qword(PAGE_ADDRESS), "rax");
  const loop = asm.label("loop");
  asm.inc(qword(PAGE_ADDRESS + COUNTER_OFFSET));
  asm.jmp(loop);
  return wrapElf(asm.assemble(), { loadGpa: CODE_ADDRESS, memorySizeBytes: END_ADDRESS - CODE_ADDRESS });
}
