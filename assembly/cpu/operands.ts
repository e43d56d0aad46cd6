// SPDX-License-Identifier: Apache-2.0
// Addresses that an instruction makes when it is run: bits beyond an operand, tables, strings.
import { CPU_MODE, SEGMENT_FS } from "./layout.ts";
import { MODE_64, segment } from "./modes.ts";
import { address, COLD_ADDRESS_SIZE, COLD_SEGMENT } from "./uop.ts";
import { cpu } from "./vcpu.ts";

/** Linear address of what is `offset` bytes from the operand in memory. */
export function operandAt(pc: usize, offset: i64): u64 {
  const number = <u32>load<u8>(pc, COLD_SEGMENT);
  return linear(number, address(pc) - baseOf(number) + offset, load<u8>(pc, COLD_ADDRESS_SIZE));
}

/** Base of a segment; in 64-bit mode only FS and GS have one. */
export function baseOf(number: u32): u64 {
  if (load<u32>(cpu, CPU_MODE) & MODE_64 && number < <u32>SEGMENT_FS) return 0;
  return load<u64>(segment(number));
}

/** An effective address, of which as much counts as addresses are long, in a segment. */
export function linear(number: u32, offset: u64, addressSizeBytes: u32): u64 {
  if (addressSizeBytes == 8) return baseOf(number) + offset;
  const cut = addressSizeBytes == 4 ? offset & 0xffff_ffff : offset & 0xffff;
  const where = baseOf(number) + cut;
  return load<u32>(cpu, CPU_MODE) & MODE_64 ? where : where & 0xffff_ffff;
}

/** An effective address in the segment of the instruction. */
export function tableAddress(pc: usize, offset: u64): u64 {
  return linear(load<u8>(pc, COLD_SEGMENT), offset, load<u8>(pc, COLD_ADDRESS_SIZE));
}
