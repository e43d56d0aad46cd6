// SPDX-License-Identifier: Apache-2.0
// Operands of SSE and MMX instructions. SDM volume 2, 2.1.2 (mandatory prefixes); volume 3, 12 (MMX and the x87).
import { isPlain, toRead, toWrite, writeValue } from "./access.ts";
import { CPU_TEMPORARY, CPU_X87_REGISTERS, CPU_X87_TOP, CPU_X87_VALID } from "./layout.ts";
import { finishWrite } from "./slow-access.ts";
import {
  address,
  COLD_FORM,
  COLD_IMMEDIATE,
  COLD_SIZE,
  FORM_66,
  FORM_F2,
  FORM_F3,
  FORM_REX_W,
  isMemory,
  registerA,
  registerB,
} from "./uop.ts";
import { cpu, GP, raiseWith } from "./vcpu.ts";

/** The prefix that is part of the opcode. For most it says what the operands are made of: PS, PD, SS, SD. */
export const PREFIX_NONE: u32 = 0;
export const PREFIX_66: u32 = 1;
export const PREFIX_F3: u32 = 2;
export const PREFIX_F2: u32 = 3;

@inline
export function prefixOf(form: u32): u32 {
  return form & FORM_F3 ? PREFIX_F3 : form & FORM_F2 ? PREFIX_F2 : form & FORM_66 ? PREFIX_66 : PREFIX_NONE;
}

@inline
export function prefix(pc: usize): u32 {
  return prefixOf(load<u8>(pc, COLD_FORM));
}

@inline
export function imm8(pc: usize): u32 {
  return load<u8>(pc, COLD_IMMEDIATE);
}

/** Size of a general register or of a number in memory where REX.W chooses between 4 and 8 bytes. */
@inline
export function wideSize(pc: usize): u32 {
  return load<u8>(pc, COLD_FORM) & FORM_REX_W ? 8 : 4;
}

/** Where ModRM.rm's operand can be read, an XMM or general register or memory. 0: an exception was raised. */
export function source(pc: usize, sizeBytes: u32): usize {
  return isMemory(pc) ? toRead(address(pc), sizeBytes) : registerB(pc);
}

/** 16 bytes, in memory on a boundary of 16: what every instruction wants that does not say otherwise. */
export function source128(pc: usize): usize {
  if (!isMemory(pc)) return registerB(pc);
  const at = address(pc);
  if (at & 15) {
    raiseWith(GP, 0);
    return 0;
  }
  return toRead(at, 16);
}

export function sourceMmx(pc: usize, sizeBytes: u32): usize {
  return isMemory(pc) ? toRead(address(pc), sizeBytes) : mmx(registerB(pc));
}

@inline
export function mmx(number: usize): usize {
  return cpu + CPU_X87_REGISTERS + ((number & 7) << 4);
}

/** Writes an MMX register; the x87 sees a NaN or an infinity in it. */
export function setMmx(number: usize, value: u64): void {
  store<u64>(mmx(number), value);
  store<u16>(mmx(number), 0xffff, 8);
}

/** What every MMX instruction but EMMS does to the x87. */
export function enterMmx(): void {
  store<u8>(cpu, 0, CPU_X87_TOP);
  store<u8>(cpu, 0xff, CPU_X87_VALID);
}

/** A general register of 4 or 8 bytes; the former clears the upper half. */
@inline
export function setGeneral(register: usize, value: u64, sizeBytes: u32): void {
  store<u64>(register, sizeBytes == 8 ? value : <u64>(<u32>value));
}

/** 16 bytes from a register to memory. */
export function write128(at: u64, register: usize): bool {
  const pointer = toWrite(at, 16);
  if (pointer == 0) return false;
  v128.store(pointer, v128.load(register));
  return isPlain(pointer) || finishWrite();
}

/** The low half of ModRM.reg's XMM register goes to ModRM.rm, of which nothing else changes. */
export function writeLow(pc: usize, sizeBytes: u32): bool {
  const value = load<u64>(registerA(pc));
  if (isMemory(pc)) return writeValue(address(pc), sizeBytes, value);
  if (sizeBytes == 8) store<u64>(registerB(pc), value);
  else store<u32>(registerB(pc), <u32>value);
  return true;
}

/** Where an instruction puts its result together before it can be sure that there will be one. */
@inline
export function draft(): usize {
  return cpu + CPU_TEMPORARY;
}

/** Of general registers that may have 16 bits too. */
@inline
export function generalSize(pc: usize): u32 {
  return load<u8>(pc, COLD_SIZE);
}

/** Numbers of the bytes of a vector. */
@inline
export function byteNumbers(): v128 {
  return i8x16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
