// SPDX-License-Identifier: Apache-2.0
// Puts uops into the arena: operands of the instruction at hand, registers as addresses, addresses of memory, ends of blocks.
import * as d from "./decode.ts";
import {
  CPU_ADDRESS,
  CPU_GPRS,
  CPU_NEXT_UOP,
  CPU_SEGMENTS,
  CPU_XMMS,
  CPU_ZERO,
  SEGMENT_FS,
  SEGMENT_SIZE_BYTES,
} from "./layout.ts";
import { MODE_64 } from "./modes.ts";
import { OP_ADDRESS, OP_ADDRESS16, OP_ADDRESS32, OP_ADDRESS_FAR, OP_END, OP_RAISE } from "./ops.ts";
import {
  COLD_ADDRESS_SIZE,
  COLD_CODE,
  COLD_FORM,
  COLD_IMMEDIATE,
  COLD_LENGTH,
  COLD_MODRM,
  COLD_SEGMENT,
  COLD_SIZE,
  FORM_MEMORY,
  UOP_A,
  UOP_B,
  UOP_BRANCH_SIZE_BYTES,
  UOP_COUNT,
  UOP_IMMEDIATE,
  UOP_INDEX,
  UOP_LINK_EPOCH,
  UOP_NEXT,
  UOP_NEXT_LINK_EPOCH,
  UOP_OP,
  UOP_RIP,
  UOP_SCALE,
  UOP_SECOND_IMMEDIATE,
  UOP_SIZE_BYTES,
  UOP_TARGET,
} from "./uop.ts";
import { cpu } from "./vcpu.ts";

/** The block goes on after the instruction at hand. */
export let isOpen: bool = true;
let count: u32 = 0;
/** Linear address of the block's page. */
let page: u64 = 0;
/** The uop that has set the flags last, when nobody can have seen them since; 0 for none. */
let unseenFlags: usize = 0;
/** Number of the uop that does the same without flags. */
let quietOp: u16 = 0;
/** The same of a rotate, which sets some flags only. */
let unseenRotate: usize = 0;
let quietRotateOp: u16 = 0;
/** And of a shift by CL, which may set none. */
let unseenShift: usize = 0;
let quietShiftOp: u16 = 0;

/** No link was made yet. */
const NO_EPOCH: u32 = 0xffff_ffff;

export function beginBlock(): void {
  page = d.rip & ~(<u64>0xfff);
  isOpen = true;
  count = 0;
  noteFlagsSeen();
}

export function endInstruction(): void {
  count++;
}

/** The block ends with the instruction at hand. */
export function closeBlock(): void {
  isOpen = false;
}

/** Address of a general register; of 8 bits without REX numbers 4 to 7 are AH, CH, DH and BH. */
export function gpr(number: u32, sizeBytes: u32): u32 {
  if (sizeBytes == 1 && d.rex == 0 && number >= 4 && number < 8) return <u32>cpu + CPU_GPRS + (number - 4) * 8 + 1;
  return <u32>cpu + CPU_GPRS + number * 8;
}

/** Number of the register in the opcode's low three bits. */
export function opcodeNumber(): u32 {
  return (d.code & 7) | ((d.rex & 1) << 3);
}

/** ModRM.reg where it chooses the operation. */
export function group(): u32 {
  return (d.modrm >> 3) & 7;
}

/** Bytes or the operand's size, as the opcode's lowest bit says. */
export function sizeByOpcode(): u32 {
  return d.code & 1 ? d.operandSize : 1;
}

/** Uops for 64 and for 32 bits are next to each other. */
export function half(sizeBytes: u32): u16 {
  return sizeBytes == 8 ? 0 : 1;
}

export function xmm(number: u32): u32 {
  return <u32>cpu + CPU_XMMS + number * 16;
}

/** A uop with nothing but what it does and where it is. */
export function put(op: u16, sizeBytes: u32): usize {
  const uop: usize = load<u32>(cpu, CPU_NEXT_UOP);
  store<u32>(cpu, <u32>uop + sizeBytes, CPU_NEXT_UOP);
  store<u64>(uop, op);
  store<u64>(uop, 0, 8);
  store<u8>(uop, <u8>(count + 1), UOP_COUNT);
  store<u16>(uop, <u16>(d.rip - page), UOP_RIP);
  return uop;
}

export function putRegisters(op: u16, a: u32, b: u32): usize {
  const uop = put(op, UOP_SIZE_BYTES);
  store<u16>(uop, <u16>a, UOP_A);
  store<u16>(uop, <u16>b, UOP_B);
  return uop;
}

export function putRegistersImmediate(op: u16, a: u32, b: u32, value: i64): usize {
  const uop = putRegisters(op, a, b);
  store<i32>(uop, <i32>value, UOP_IMMEDIATE);
  return uop;
}

export function putImmediate(op: u16, a: u32, value: i64): usize {
  return putRegistersImmediate(op, a, 0, value);
}

// ── Addresses ──

let base: u32 = 0;
let index: u32 = 0;
let scale: u32 = 0;
let displacement: i32 = 0;

/** Makes what the instruction at hand needs for its address. To be called before its uop is put. `isSegmented`: not for LEA. */
export function prepareAddress(isSegmented: bool): void {
  const zero = <u32>cpu + CPU_ZERO;
  const made = <u32>cpu + CPU_ADDRESS;
  const hasBase = isSegmented && (d.codeSize != MODE_64 || d.segmentNumber >= <u32>SEGMENT_FS);
  const segment = hasBase ? <u32>cpu + CPU_SEGMENTS + d.segmentNumber * SEGMENT_SIZE_BYTES : zero;
  let offset = d.displacement;
  if (d.base == d.BASE_RIP) offset += d.rip + d.length;
  base = d.base < 16 ? <u32>cpu + CPU_GPRS + d.base * 8 : zero;
  index = d.index < 16 ? <u32>cpu + CPU_GPRS + d.index * 8 : zero;
  scale = d.scale;
  if (offset != <i64>(<i32>offset)) {
    if (d.addressSize == 8) {
      // Of these there are no registers in it.
      const uop = put(OP_ADDRESS_FAR, 2 * UOP_SIZE_BYTES);
      store<u64>(uop, offset, UOP_SECOND_IMMEDIATE);
      base = made;
    }
    // Else only its low 32 bits count.
  }
  displacement = base == made ? 0 : <i32>offset;
  if (d.addressSize != 8) {
    // Outside of 64-bit mode linear addresses have 32 bits, too; in it a base is added to what was cut.
    const isLegacy = d.codeSize != MODE_64;
    const uop = put(d.addressSize == 4 ? OP_ADDRESS32 : OP_ADDRESS16, UOP_SIZE_BYTES);
    store<u16>(uop, <u16>(isLegacy ? segment : zero), UOP_A);
    setAddress(uop);
    base = made;
    index = zero;
    scale = 0;
    displacement = 0;
    if (isLegacy) return;
  }
  if (segment == zero) return;
  if (base == zero && index == zero) base = segment;
  else if (index == zero) {
    index = segment;
    scale = 0;
  } else {
    const uop = put(OP_ADDRESS, UOP_SIZE_BYTES);
    store<u16>(uop, <u16>segment, UOP_A);
    setAddress(uop);
    base = made;
    index = zero;
    scale = 0;
    displacement = 0;
  }
}

/** What `prepareAddress` has made. */
export function setAddress(uop: usize): void {
  store<u16>(uop, <u16>base, UOP_B);
  store<u16>(uop, <u16>index, UOP_INDEX);
  store<u8>(uop, <u8>scale, UOP_SCALE);
  store<i32>(uop, displacement, UOP_IMMEDIATE);
}

/** After `prepareAddress`. */
export function putMemory(op: u16, a: u32): usize {
  const uop = put(op, UOP_SIZE_BYTES);
  store<u16>(uop, <u16>a, UOP_A);
  setAddress(uop);
  return uop;
}

export function putMemoryImmediate(op: u16, value: i64): usize {
  const uop = put(op, 2 * UOP_SIZE_BYTES);
  setAddress(uop);
  store<i64>(uop, value, UOP_SECOND_IMMEDIATE);
  return uop;
}

// ── ModRM.rm, register or memory, of uops that may raise an exception when it is memory ──

/** What may raise an exception shows the flags to its handler. */
export function prepareOperand(): void {
  noteFlagsSeen();
  prepareAddress(true);
}

/** A uop of A and the register B, or one of A and an operand in memory. */
export function putOperand(registers: u16, memory: u16, a: u32, b: u32): usize {
  if (!d.hasMemory) return putRegisters(registers, a, b);
  prepareOperand();
  return putMemory(memory, a);
}

/** The same of the instruction's immediate. */
export function putOperandImmediate(register: u16, memory: u16, a: u32): usize {
  if (!d.hasMemory) return putImmediate(register, a, d.immediate);
  prepareOperand();
  return putMemoryImmediate(memory, d.immediate);
}

// ── Flags that nobody sees ──

/** This uop has set all flags; `quiet` does the same without, 0 if there is none. What the one before set was never seen. */
export function noteFlags(uop: usize, quiet: u16): void {
  if (unseenFlags != 0) store<u16>(unseenFlags, quietOp, UOP_OP);
  if (unseenRotate != 0) store<u16>(unseenRotate, quietRotateOp, UOP_OP);
  if (unseenShift != 0) store<u16>(unseenShift, quietShiftOp, UOP_OP);
  unseenRotate = 0;
  unseenShift = 0;
  unseenFlags = quiet != 0 ? uop : 0;
  quietOp = quiet;
}

/** This uop has set CF and OF: nobody sees what a rotate before it has made of them. */
export function noteRotateFlags(uop: usize, quiet: u16): void {
  if (unseenRotate != 0) store<u16>(unseenRotate, quietRotateOp, UOP_OP);
  unseenRotate = uop;
  quietRotateOp = quiet;
}

/** This uop has set all flags, or none. */
export function noteShiftFlags(uop: usize, quiet: u16): void {
  unseenShift = uop;
  quietShiftOp = quiet;
}

/** Whoever comes next may look at the flags: an exception handler does, too. */
export function noteFlagsSeen(): void {
  unseenFlags = 0;
  unseenRotate = 0;
  unseenShift = 0;
}

// ── Cold ones, and ends ──

export function putCold(op: u16, a: u32, b: u32, operandSize: u32): void {
  putDecoded(op, 2 * UOP_SIZE_BYTES, a, b, operandSize);
}

/** A uop with all that was decoded. */
function putDecoded(op: u16, sizeBytes: u32, a: u32, b: u32, operandSize: u32): usize {
  noteFlagsSeen();
  if (d.hasMemory) prepareAddress(true);
  const uop = put(op, sizeBytes);
  store<u16>(uop, <u16>a, UOP_A);
  if (d.hasMemory) setAddress(uop);
  else store<u16>(uop, <u16>b, UOP_B);
  store<u16>(uop, <u16>d.code, COLD_CODE);
  store<u8>(uop, <u8>operandSize, COLD_SIZE);
  store<u8>(uop, <u8>d.form | (d.hasMemory ? FORM_MEMORY : 0), COLD_FORM);
  store<u8>(uop, <u8>d.length, COLD_LENGTH);
  store<u8>(uop, <u8>d.segmentNumber, COLD_SEGMENT);
  store<u8>(uop, <u8>d.modrm, COLD_MODRM);
  store<u8>(uop, <u8>d.addressSize, COLD_ADDRESS_SIZE);
  store<i64>(uop, d.immediate, COLD_IMMEDIATE);
  return uop;
}

/** One that goes elsewhere: it knows where the next instruction is. */
export function putColdEnd(op: u16, a: u32, b: u32, operandSize: u32): void {
  const uop = putDecoded(op, UOP_BRANCH_SIZE_BYTES, a, b, operandSize);
  store<u64>(uop, wrap(d.rip + d.length), UOP_NEXT);
  closeBlock();
}

/** A uop with a link to `target`, and one to the next instruction. */
export function putBranch(op: u16, target: u64): usize {
  noteFlagsSeen();
  const uop = put(op, UOP_BRANCH_SIZE_BYTES);
  store<u32>(uop, NO_EPOCH, UOP_LINK_EPOCH);
  store<u64>(uop, target, UOP_TARGET);
  store<u32>(uop, NO_EPOCH, UOP_NEXT_LINK_EPOCH);
  store<u64>(uop, wrap(d.rip + d.length), UOP_NEXT);
  closeBlock();
  return uop;
}

/** Addresses of code have 64 bits in 64-bit mode only. */
export function wrap(address: u64): u64 {
  return d.codeSize == MODE_64 ? address : address & 0xffff_ffff;
}

/** The block ends before `next` without a branch. */
export function putEnd(next: u64): void {
  count--;
  const uop = putBranch(OP_END, wrap(next));
  store<u16>(uop, <u16>(next - page), UOP_RIP);
}

export function putRaise(vector: u32): void {
  noteFlagsSeen();
  putRegisters(OP_RAISE, vector, 0);
  closeBlock();
}
