// SPDX-License-Identifier: Apache-2.0
// Translated instructions ("uops"): what decode.ts makes, and the loop in hot.ts runs.
//
// A uop has 16 bytes, some have 32 or 48. Registers are named by their address in the first 64 KiB, AH to BH by that of the second
// byte of theirs, so that no uop asks what kind of register it has. An address in memory is
//   [b] + ([index] << scale) + displacement
// and what is more complicated than that (a segment with a base, 32-bit and 16-bit addresses, a far RIP-relative one) is
// made by a uop before, in CPU_ADDRESS, which is the base then.
import { CPU_ADDRESS } from "./layout.ts";
import { cpu } from "./vcpu.ts";

/** u16 `OP_*`. */
export const UOP_OP = 0;
/** u16: address of a register. */
export const UOP_A = 2;
/** u16: address of another, or of the base of an address. */
export const UOP_B = 4;
/** u16: address of the index of an address. */
export const UOP_INDEX = 6;
/** i32: immediate, or displacement of an address. */
export const UOP_IMMEDIATE = 8;
/** u8: how far the index is shifted. */
export const UOP_SCALE = 12;
/** u8: instructions from the start of the block up to this one, it included. */
export const UOP_COUNT = 13;
/** u16: offset of the instruction in its page. */
export const UOP_RIP = 14;
export const UOP_SIZE_BYTES = 16;

/** i32 or i64: immediate of a uop of 32 bytes with an address. */
export const UOP_SECOND_IMMEDIATE = 16;

// Of uops that end a block, 48 bytes.
/** u32: the uop at the target, 0 until it is known; u32: the epoch in which it is, 0 for ever. */
export const UOP_LINK = 16;
export const UOP_LINK_EPOCH = 20;
/** u64: address of the target, from which the link is made. */
export const UOP_TARGET = 24;
/** u32, u32: the same of the next instruction. */
export const UOP_NEXT_LINK = 32;
export const UOP_NEXT_LINK_EPOCH = 36;
/** u64: address of the next instruction: what a call pushes, and where a branch that is not taken goes. */
export const UOP_NEXT = 40;
export const UOP_BRANCH_SIZE_BYTES = 48;

// Of OP_COLD, 32 bytes: an instruction as it was decoded, for the functions in integer.ts, strings.ts, jumps.ts, system.ts, sse.ts
// and x87.ts.
//
// UOP_A is the address of the register that ModRM.reg names: a general one (of 8 bits: of its very byte), or XMM; for segment,
// control and debug registers and for opcode groups it is the bare number. UOP_B is that of ModRM.rm's register, or of the one that the
// opcode names instead, or the base of an address when FORM_MEMORY is set. MMX registers are bare numbers, because what they are
// depends on the x87.
/** u16: which instruction: its opcode, see `code` in decode.ts: map << 8 | byte. */
export const COLD_CODE = 16;
/** u8: size of the operand in bytes: 1, 2, 4 or 8. */
export const COLD_SIZE = 18;
/** u8: `FORM_*`. */
export const COLD_FORM = 19;
/** u8: bytes of the instruction. */
export const COLD_LENGTH = 20;
/** u8: number of the segment of its address; of a string, that of its source. */
export const COLD_SEGMENT = 21;
/** u8: ModRM as it is. */
export const COLD_MODRM = 22;
/** u8: size of addresses in bytes: 2, 4 or 8. */
export const COLD_ADDRESS_SIZE = 23;
/** i64: immediate, sign-extended. */
export const COLD_IMMEDIATE = 24;

/** ModRM.rm is memory. */
export const FORM_MEMORY: u8 = 1;
export const FORM_LOCK: u8 = 2;
/** F3, F2 and 66: of SSE they choose the instruction, of strings the first two are REP and REPNE. */
export const FORM_F3: u8 = 4;
export const FORM_F2: u8 = 8;
export const FORM_66: u8 = 16;
export const FORM_REX_W: u8 = 32;
/** Any REX prefix. */
export const FORM_REX: u8 = 64;

/** Maps of opcodes, in COLD_CODE: 0F, 0F 38, 0F 3A; of one byte 0. */
export const MAP_0F: u32 = 0x100;
export const MAP_0F38: u32 = 0x200;
export const MAP_0F3A: u32 = 0x300;

@inline
export function registerA(pc: usize): usize {
  return load<u16>(pc, UOP_A);
}

@inline
export function registerB(pc: usize): usize {
  return load<u16>(pc, UOP_B);
}

/** Linear address of the operand in memory. */
@inline
export function address(pc: usize): u64 {
  const index = load<u64>(load<u16>(pc, UOP_INDEX)) << load<u8>(pc, UOP_SCALE);
  return load<u64>(registerB(pc)) + index + <i64>load<i32>(pc, UOP_IMMEDIATE);
}

@inline
export function immediate(pc: usize): i64 {
  return <i64>load<i32>(pc, UOP_IMMEDIATE);
}

@inline
export function isMemory(pc: usize): bool {
  return (load<u8>(pc, COLD_FORM) & FORM_MEMORY) != 0;
}

/** Where `CPU_ADDRESS` is, as a register. */
@inline
export function addressRegister(): u32 {
  return <u32>cpu + CPU_ADDRESS;
}
