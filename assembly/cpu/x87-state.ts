// SPDX-License-Identifier: Apache-2.0
// Registers of the x87: the stack, control, status and tag words, and what instructions save of them. SDM volume 1, 8.1.
import { isCanonical, isPlain, toRead, toWrite } from "./access.ts";
import { ripOf } from "./blocks.ts";
import { CR0_EM, CR0_TS } from "./control-bits.ts";
import {
  CPU_CR0,
  CPU_MODE,
  CPU_SEGMENTS,
  CPU_X87_CONTROL,
  CPU_X87_DP,
  CPU_X87_IP,
  CPU_X87_OPCODE,
  CPU_X87_REGISTERS,
  CPU_X87_STATUS,
  CPU_X87_TOP,
  CPU_X87_VALID,
  SEGMENT_BASE_U64,
  SEGMENT_FS,
  SEGMENT_SIZE_BYTES,
} from "./layout.ts";
import { exponentOf, MAX_EXPONENT } from "./float80.ts";
import { MODE_64 } from "./modes.ts";
import { finishWrite } from "./slow-access.ts";
import { address, COLD_CODE, COLD_MODRM, COLD_SEGMENT, isMemory } from "./uop.ts";
import { cpu, MF, NM, raise } from "./vcpu.ts";

// Status word. TOP, bits 11 to 13, is kept by itself.
export const STATUS_EXCEPTIONS: u32 = 0x3f;
export const STATUS_SF: u32 = 0x40;
/** Error summary: an exception that is not masked waits to be raised. */
export const STATUS_ES: u32 = 0x80;
export const STATUS_C0: u32 = 0x100;
export const STATUS_C1: u32 = 0x200;
export const STATUS_C2: u32 = 0x400;
export const STATUS_C3: u32 = 0x4000;
export const STATUS_B: u32 = 0x8000;
const STATUS_TOP: u32 = 0x3800;
const STATUS_TOP_SHIFT: u32 = 11;

/** After FNINIT: all exceptions masked, to nearest, 64 bits. */
const CONTROL_DEFAULT: u16 = 0x37f;
/** Bit 6 is always set; 13 to 15 never are. */
const CONTROL_WRITABLE: u32 = 0x1f3f;
const CONTROL_FIXED: u32 = 0x40;

const REGISTER_STRIDE_BYTES: u32 = 16;

// ── The stack ──

/** ST(index): its mantissa; its sign and exponent are 8 bytes further. */
@inline
export function stackRegister(index: u32): usize {
  return cpu + CPU_X87_REGISTERS + physical(index) * REGISTER_STRIDE_BYTES;
}

@inline
function physical(index: u32): u32 {
  return (<u32>load<u8>(cpu, CPU_X87_TOP) + index) & 7;
}

@inline
export function mantissaOf(register: usize): u64 {
  return load<u64>(register);
}

@inline
export function headOf(register: usize): u32 {
  return load<u16>(register, 8);
}

@inline
export function isEmpty(index: u32): bool {
  return !((load<u8>(cpu, CPU_X87_VALID) >> <u8>physical(index)) & 1);
}

export function setEmpty(index: u32): void {
  store<u8>(cpu, load<u8>(cpu, CPU_X87_VALID) & ~(<u8>1 << <u8>physical(index)), CPU_X87_VALID);
}

/** Leaves the tag alone. */
export function loadRegister(index: u32, head: u32, mantissa: u64): void {
  const register = stackRegister(index);
  store<u64>(register, mantissa);
  store<u16>(register, <u16>head, 8);
}

export function setRegister(index: u32, head: u32, mantissa: u64): void {
  loadRegister(index, head, mantissa);
  store<u8>(cpu, load<u8>(cpu, CPU_X87_VALID) | (<u8>1 << <u8>physical(index)), CPU_X87_VALID);
}

/** Turns the stack without looking at tags. */
export function moveTop(by: u32): void {
  store<u8>(cpu, <u8>physical(by), CPU_X87_TOP);
}

export function push(head: u32, mantissa: u64): void {
  moveTop(7);
  setRegister(0, head, mantissa);
}

export function pop(): void {
  setEmpty(0);
  moveTop(1);
}

// ── Words ──

@inline
export function controlWord(): u32 {
  return load<u16>(cpu, CPU_X87_CONTROL);
}

export function setControlWord(value: u32): void {
  store<u16>(cpu, <u16>((value & CONTROL_WRITABLE) | CONTROL_FIXED), CPU_X87_CONTROL);
  setStatus(load<u16>(cpu, CPU_X87_STATUS));
}

/** Status word as programs see it. */
export function statusWord(): u32 {
  return load<u16>(cpu, CPU_X87_STATUS) | (<u32>load<u8>(cpu, CPU_X87_TOP) << STATUS_TOP_SHIFT);
}

export function setStatusWord(value: u32): void {
  store<u8>(cpu, <u8>((value & STATUS_TOP) >> STATUS_TOP_SHIFT), CPU_X87_TOP);
  setStatus(value);
}

/** All but TOP. ES, and B with it, tell what the control word makes of the exceptions. */
export function setStatus(value: u32): void {
  const isPending = (value & ~controlWord() & STATUS_EXCEPTIONS) != 0;
  const others = value & ~(STATUS_TOP | STATUS_ES | STATUS_B);
  store<u16>(cpu, <u16>(others | (isPending ? STATUS_ES | STATUS_B : 0)), CPU_X87_STATUS);
}

/** Two bits for each physical register: valid, zero, special, empty. */
export function tagWord(): u32 {
  let tags: u32 = 0;
  for (let index: u32 = 0; index < 8; index++) {
    tags |= tagOf(index) << (physical(index) * 2);
  }
  return tags;
}

function tagOf(index: u32): u32 {
  if (isEmpty(index)) return 3;
  const register = stackRegister(index);
  const mantissa = mantissaOf(register);
  const exponent = exponentOf(headOf(register));
  if (exponent == 0 && mantissa == 0) return 1;
  return exponent == 0 || exponent == MAX_EXPONENT || <i64>mantissa >= 0 ? 2 : 0;
}

export function setTagWord(tags: u32): void {
  let valid: u32 = 0;
  for (let index: u32 = 0; index < 8; index++) {
    if (((tags >> (index * 2)) & 3) != 3) valid |= 1 << index;
  }
  store<u8>(cpu, <u8>valid, CPU_X87_VALID);
}

// ── What comes before an instruction ──

/** #NM, of an instruction that uses the x87's state. */
export function isAvailable(): bool {
  return load<u64>(cpu, CPU_CR0) & (CR0_EM | CR0_TS) ? raise(NM) : true;
}

/** #MF of an earlier instruction, whatever CR0.NE says: there is no FERR# pin. */
export function hasNothingPending(): bool {
  return load<u16>(cpu, CPU_X87_STATUS) & STATUS_ES ? raise(MF) : true;
}

/** Keeps where the last instruction that was not one of control is, and its operand. */
export function notePointers(pc: usize): void {
  const opcode = ((load<u16>(pc, COLD_CODE) & 7) << 8) | load<u8>(pc, COLD_MODRM);
  store<u16>(cpu, opcode, CPU_X87_OPCODE);
  store<u64>(cpu, ripOf(pc), CPU_X87_IP);
  if (isMemory(pc)) store<u64>(cpu, address(pc) - segmentBase(load<u8>(pc, COLD_SEGMENT)), CPU_X87_DP);
}

/** As addresses have it: in 64-bit mode only FS and GS have one. */
function segmentBase(number: u32): u64 {
  if (load<u32>(cpu, CPU_MODE) & MODE_64 && number < <u32>SEGMENT_FS) return 0;
  return load<u64>(cpu + CPU_SEGMENTS + number * SEGMENT_SIZE_BYTES, SEGMENT_BASE_U64);
}

export function reset(): void {
  store<u16>(cpu, CONTROL_DEFAULT, CPU_X87_CONTROL);
  store<u16>(cpu, 0, CPU_X87_STATUS);
  store<u8>(cpu, 0, CPU_X87_TOP);
  store<u8>(cpu, 0, CPU_X87_VALID);
  store<u16>(cpu, 0, CPU_X87_OPCODE);
  store<u64>(cpu, 0, CPU_X87_IP);
  store<u64>(cpu, 0, CPU_X87_DP);
}

// ── More memory than one access ──

const PAGE_MASK: u64 = ~(<u64>0xfff);

/** All of up to a page can be read, so that what follows does not fail halfway. */
export function canRead(at: u64, sizeBytes: u32): bool {
  const last = at + sizeBytes - 1;
  // That comes before a fault of the first page.
  if (!isCanonical(last)) return toRead(last, 1) != 0;
  return toRead(at, 1) != 0 && toRead(max<u64>(at, last & PAGE_MASK), 1) != 0;
}

export function canWrite(at: u64, sizeBytes: u32): bool {
  const last = at + sizeBytes - 1;
  // That comes before a fault of the first page.
  if (!isCanonical(last)) return toWrite(last, 1) != 0;
  return toWrite(at, 1) != 0 && toWrite(max<u64>(at, last & PAGE_MASK), 1) != 0;
}

/** Up to 16 bytes of which `canWrite` is known. */
export function writeBytes(at: u64, from: usize, sizeBytes: u32): void {
  const pointer = toWrite(at, sizeBytes);
  memory.copy(pointer, from, sizeBytes);
  if (!isPlain(pointer)) finishWrite();
}
