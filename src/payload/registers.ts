// SPDX-License-Identifier: Apache-2.0
// Register names and memory operands of the payload assembler.

const NAMES_64 = [
  ...["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"],
  ...["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"],
];
const NAMES_32 = [
  ...["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"],
  ...["r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"],
];
const NAMES_16 = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
/** Only the four that need no REX prefix and do not turn into AH..DH without one. */
const NAMES_8 = ["al", "cl", "dl", "bl"];
const NAMES_SEGMENT = ["es", "cs", "ss", "ds", "fs", "gs"];

// biome-ignore format: one family to a line
export type Register64 =
  | "rax" | "rcx" | "rdx" | "rbx" | "rsp" | "rbp" | "rsi" | "rdi"
  | "r8" | "r9" | "r10" | "r11" | "r12" | "r13" | "r14" | "r15";
// biome-ignore format: one family to a line
export type Register32 =
  | "eax" | "ecx" | "edx" | "ebx" | "esp" | "ebp" | "esi" | "edi"
  | "r8d" | "r9d" | "r10d" | "r11d" | "r12d" | "r13d" | "r14d" | "r15d";
export type Register16 = "ax" | "cx" | "dx" | "bx" | "sp" | "bp" | "si" | "di";
export type Register8 = "al" | "cl" | "dl" | "bl";
export type Register = Register64 | Register32 | Register16 | Register8;
export type SegmentRegister = "es" | "ss" | "ds" | "fs" | "gs";

export type OperandBits = 8 | 16 | 32 | 64;

const registers = new Map<string, { number: number; bits: OperandBits }>();
for (const [names, bits] of [
  [NAMES_64, 64],
  [NAMES_32, 32],
  [NAMES_16, 16],
  [NAMES_8, 8],
] as const) {
  for (const [number, name] of names.entries()) registers.set(name, { number, bits });
}

export function registerNumber(register: Register): number {
  return registers.get(register)!.number;
}

export function registerBits(register: Register): OperandBits {
  return registers.get(register)!.bits;
}

export function segmentNumber(register: SegmentRegister): number {
  return NAMES_SEGMENT.indexOf(register);
}

/** A place in the program: bind it once, refer to it before or after. */
export class Label {
  address: number | undefined;
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}

/**
 * A memory operand: `[base + disp]`, `[disp]` or `[label + disp]`. Absolute addresses must lie below 2 GiB (64-bit code
 * sign-extends them) and in 16-bit code below 64 KiB.
 */
export interface Memory {
  readonly base: Register64 | Register32 | undefined;
  readonly label: Label | undefined;
  readonly disp: number;
  readonly bits: OperandBits;
}

type Place = Register64 | Register32 | Label | number;

function memory(bits: OperandBits, place: Place, disp: number): Memory {
  if (typeof place === "number") return { base: undefined, label: undefined, disp: place + disp, bits };
  if (place instanceof Label) return { base: undefined, label: place, disp, bits };
  return { base: place, label: undefined, disp, bits };
}

export const byte = (place: Place, disp = 0): Memory => memory(8, place, disp);
export const word = (place: Place, disp = 0): Memory => memory(16, place, disp);
export const dword = (place: Place, disp = 0): Memory => memory(32, place, disp);
export const qword = (place: Place, disp = 0): Memory => memory(64, place, disp);

export function isMemory(operand: unknown): operand is Memory {
  return typeof operand === "object" && operand !== null && "disp" in operand;
}
