// SPDX-License-Identifier: Apache-2.0
// A small x86 assembler as a typed builder: the instructions the payload needs, in 16-, 32- and 64-bit code.
//
// Encodings: Intel SDM volume 2. Methods carry the mnemonic, operands are in Intel order (destination first).
import {
  isMemory,
  Label,
  type Memory,
  type OperandBits,
  type Register,
  type Register8,
  type Register32,
  type Register64,
  registerBits,
  registerNumber,
  type SegmentRegister,
  segmentNumber,
} from "./registers.ts";

export type CodeBits = 16 | 32 | 64;

// biome-ignore format: the order is the encoding
const CONDITIONS = [
  "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g",
] as const;
export type Condition = (typeof CONDITIONS)[number];

/** The operations' numbers in opcodes and in ModRM.reg. */
const ALU = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const;
const SHIFT = { shl: 4, shr: 5 } as const;

interface Fixup {
  offset: number;
  sizeBytes: 1 | 2 | 4 | 8;
  label: Label;
  /** Added to the label's address; for a relative fixup it holds minus the address of the next instruction. */
  addend: number;
  relative: boolean;
}

const isInt8 = (value: number): boolean => value >= -128 && value <= 127;

/** Assembles at a fixed address. Call the mnemonics in order, then `assemble()`. */
export class Assembler {
  readonly origin: number;
  #bytes: number[] = [];
  #fixups: Fixup[] = [];
  #bits: CodeBits;

  constructor(origin: number, bits: CodeBits = 64) {
    this.origin = origin;
    this.#bits = bits;
  }

  /** Address of the next byte. */
  get here(): number {
    return this.origin + this.#bytes.length;
  }

  /** Code after this is for another mode of the processor. */
  bits(bits: CodeBits): void {
    this.#bits = bits;
  }

  /** A label bound to the next byte. */
  label(name = "here"): Label {
    const label = new Label(name);
    this.bind(label);
    return label;
  }

  bind(label: Label): void {
    if (label.address !== undefined) throw new Error(`Label ${label.name} is bound twice`);
    label.address = this.here;
  }

  /** The finished bytes. */
  assemble(): Uint8Array {
    const image = Uint8Array.from(this.#bytes);
    const view = new DataView(image.buffer);
    for (const { offset, sizeBytes, label, addend, relative } of this.#fixups) {
      if (label.address === undefined) throw new Error(`Label ${label.name} is not bound`);
      const value = label.address + addend;
      if (relative && sizeBytes === 1 && !isInt8(value)) throw new Error(`Label ${label.name} is out of reach`);
      if (sizeBytes === 1) view.setInt8(offset, value);
      else if (sizeBytes === 2) view.setUint16(offset, value & 0xffff, true);
      else if (sizeBytes === 4) view.setUint32(offset, value >>> 0, true);
      else view.setBigUint64(offset, BigInt(value), true);
    }
    return image;
  }

  // Data.
  db(...values: number[]): void {
    for (const value of values) this.#bytes.push(value & 0xff);
  }
  dw(...values: number[]): void {
    for (const value of values) this.db(value, value >> 8);
  }
  dd(...values: (number | Label)[]): void {
    for (const value of values) this.#int32(value);
  }
  dq(...values: (bigint | Label)[]): void {
    for (const value of values) {
      if (value instanceof Label) {
        this.#fix(value, 8, 0);
      } else {
        const bits = BigInt.asUintN(64, value);
        this.dd(Number(bits & 0xffff_ffffn), Number(bits >> 32n));
      }
    }
  }
  bytes(values: Uint8Array): void {
    this.db(...values);
  }
  ascii(text: string): void {
    this.bytes(new TextEncoder().encode(text));
  }
  /** Fills with zeros up to a multiple of `alignment`. */
  align(alignment: number): void {
    while (this.here % alignment !== 0) this.db(0);
  }

  // Moves.
  mov(target: Register | Memory, source: Register | Memory | number | bigint | Label): void {
    if (typeof source === "bigint") {
      if (isMemory(target) || registerBits(target) !== 64)
        throw new Error("A 64-bit immediate needs a 64-bit register");
      const number = registerNumber(target);
      this.db(0x48 | (number >> 3), 0xb8 | (number & 7));
      this.dq(source);
    } else if (source instanceof Label) {
      // The address of a label fits 32 bits and is zero-extended.
      if (isMemory(target) || registerBits(target) !== 32) throw new Error("An address needs a 32-bit register");
      this.#immediateToRegister(target, source);
    } else if (typeof source !== "number") {
      this.#binary(0x88, target, source);
    } else if (isMemory(target)) {
      const sizeBytes = Math.min(target.bits / 8, 4);
      this.#modrm(target.bits, [target.bits === 8 ? 0xc6 : 0xc7], 0, target);
      this.#immediate(source, sizeBytes);
    } else if (registerBits(target) === 64) {
      this.#modrm(64, [0xc7], 0, target);
      this.#int32(source);
    } else {
      this.#immediateToRegister(target, source);
    }
  }
  movzx(target: Register32, source: Register8 | Memory): void {
    const bits = isMemory(source) ? source.bits : 8;
    this.#modrm(32, [0x0f, bits === 8 ? 0xb6 : 0xb7], registerNumber(target), source);
  }
  movsx(target: Register32, source: Register8 | Memory): void {
    this.#modrm(32, [0x0f, 0xbe], registerNumber(target), source);
  }
  movSegment(target: SegmentRegister, source: "eax" | "ax"): void {
    this.db(0x8e, 0xc0 | (segmentNumber(target) << 3) | registerNumber(source));
  }
  movToControl(control: 0 | 2 | 3 | 4 | 8, source: Register64 | Register32): void {
    this.#system(0x22, control, source);
  }
  movFromControl(target: Register64 | Register32, control: 0 | 2 | 3 | 4 | 8): void {
    this.#system(0x20, control, target);
  }
  movToDebug(debug: 0 | 1 | 2 | 3 | 6 | 7, source: Register64): void {
    this.#system(0x23, debug, source);
  }
  movFromDebug(target: Register64, debug: 0 | 1 | 2 | 3 | 6 | 7): void {
    this.#system(0x21, debug, target);
  }
  /** `movdqu xmm, m128` */
  movdquLoad(xmm: number, source: Memory): void {
    this.#vector(0x6f, xmm, source);
  }
  /** `movdqu m128, xmm` */
  movdquStore(target: Memory, xmm: number): void {
    this.#vector(0x7f, xmm, target);
  }
  /** `vmovdqu ymm, m256` */
  vmovdquLoad(ymm: number, source: Memory): void {
    this.#vex(0x6f, ymm, source);
  }
  /** `vmovdqu m256, ymm` */
  vmovdquStore(target: Memory, ymm: number): void {
    this.#vex(0x7f, ymm, target);
  }
  lea(target: Register64 | Register32, source: Memory): void {
    this.#modrm(registerBits(target), [0x8d], registerNumber(target), source);
  }
  /** 64-bit code pushes and pops 64-bit registers, 32-bit code 32-bit ones. */
  push(register: Register64 | Register32): void {
    this.#shortRegister(0x50, register);
  }
  pop(register: Register64 | Register32): void {
    this.#shortRegister(0x58, register);
  }
  /** `push imm8`, sign-extended. */
  pushImmediate(value: number): void {
    this.db(0x6a, value);
  }

  // Arithmetic.
  add(target: Register | Memory, source: Register | Memory | number): void {
    this.#alu(ALU.add, target, source);
  }
  or(target: Register | Memory, source: Register | Memory | number): void {
    this.#alu(ALU.or, target, source);
  }
  and(target: Register | Memory, source: Register | Memory | number): void {
    this.#alu(ALU.and, target, source);
  }
  sub(target: Register | Memory, source: Register | Memory | number): void {
    this.#alu(ALU.sub, target, source);
  }
  xor(target: Register | Memory, source: Register | Memory | number): void {
    this.#alu(ALU.xor, target, source);
  }
  cmp(target: Register | Memory, source: Register | Memory | number): void {
    this.#alu(ALU.cmp, target, source);
  }
  test(target: Register | Memory, mask: number): void {
    const bits = isMemory(target) ? target.bits : registerBits(target);
    const sizeBytes = Math.min(bits / 8, 4);
    this.#modrm(bits, [bits === 8 ? 0xf6 : 0xf7], 0, target);
    this.#immediate(mask, sizeBytes);
  }
  inc(target: Register | Memory): void {
    this.#unary(0xfe, 0, target);
  }
  dec(target: Register | Memory): void {
    this.#unary(0xfe, 1, target);
  }
  /** `lock or`: for words that several vCPUs change. */
  lockOr(target: Memory, source: number): void {
    this.db(0xf0);
    this.#alu(ALU.or, target, source);
  }
  /** Unsigned `rdx:rax = rax * source`. */
  mul(source: Register | Memory): void {
    this.#unary(0xf6, 4, source);
  }
  neg(target: Register | Memory): void {
    this.#unary(0xf6, 3, target);
  }
  shl(target: Register, count: number | "cl"): void {
    this.#shift(SHIFT.shl, target, count);
  }
  shr(target: Register, count: number | "cl"): void {
    this.#shift(SHIFT.shr, target, count);
  }
  shrd(target: Register, source: Register, count: number): void {
    this.#modrm(registerBits(target), [0x0f, 0xac], registerNumber(source), target);
    this.db(count);
  }

  // Arithmetic of SSE2 between registers.
  paddd(target: number, source: number): void {
    this.#sse2(0xfe, target, source);
  }
  pxor(target: number, source: number): void {
    this.#sse2(0xef, target, source);
  }
  addpd(target: number, source: number): void {
    this.#sse2(0x58, target, source);
  }
  mulpd(target: number, source: number): void {
    this.#sse2(0x59, target, source);
  }

  // Control flow. A bound target in reach gets the short form; a forward one the near form.
  jmp(target: Label): void {
    this.#jump([0xeb], [0xe9], target);
  }
  jcc(condition: Condition, target: Label): void {
    const code = CONDITIONS.indexOf(condition);
    this.#jump([0x70 | code], [0x0f, 0x80 | code], target);
  }
  call(target: Label): void {
    this.#jump(undefined, [0xe8], target);
  }
  ret(): void {
    this.db(0xc3);
  }
  iretq(): void {
    this.db(0x48, 0xcf);
  }
  /** `jmp selector:offset` with a 32-bit offset; not in 64-bit code. */
  ljmp(selector: number, target: Label | number): void {
    if (this.#bits === 64) throw new Error("There is no direct far jump in 64-bit code");
    if (this.#bits === 16) this.db(0x66);
    this.db(0xea);
    this.#int32(target);
    this.dw(selector);
  }

  // Input and output.
  in(target: "al" | "ax" | "eax", port: "dx" | number): void {
    this.#portAccess(0xe4, target, port);
  }
  out(port: "dx" | number, source: "al" | "ax" | "eax"): void {
    this.#portAccess(0xe6, source, port);
  }

  // System.
  lgdt(source: Memory): void {
    this.#descriptorTable(2, source);
  }
  lidt(source: Memory): void {
    this.#descriptorTable(3, source);
  }
  rdtsc(): void {
    this.db(0x0f, 0x31);
  }
  cpuid(): void {
    this.db(0x0f, 0xa2);
  }
  rdmsr(): void {
    this.db(0x0f, 0x32);
  }
  wrmsr(): void {
    this.db(0x0f, 0x30);
  }
  xgetbv(): void {
    this.db(0x0f, 0x01, 0xd0);
  }
  xsetbv(): void {
    this.db(0x0f, 0x01, 0xd1);
  }
  pushfq(): void {
    this.db(0x9c);
  }
  popfq(): void {
    this.db(0x9d);
  }
  cli(): void {
    this.db(0xfa);
  }
  sti(): void {
    this.db(0xfb);
  }
  cld(): void {
    this.db(0xfc);
  }
  stc(): void {
    this.db(0xf9);
  }
  hlt(): void {
    this.db(0xf4);
  }
  pause(): void {
    this.db(0xf3, 0x90);
  }
  lodsb(): void {
    this.db(0xac);
  }
  repMovsb(): void {
    this.db(0xf3, 0xa4);
  }
  repStosd(): void {
    this.db(0xf3, 0xab);
  }

  // Encoding.
  #fix(label: Label, sizeBytes: Fixup["sizeBytes"], addend: number, relative = false): void {
    this.#fixups.push({ offset: this.#bytes.length, sizeBytes, label, addend, relative });
    for (let index = 0; index < sizeBytes; index++) this.#bytes.push(0);
  }
  #int32(value: number | Label): void {
    if (value instanceof Label) this.#fix(value, 4, 0);
    else this.db(value, value >> 8, value >> 16, value >> 24);
  }
  #immediate(value: number, sizeBytes: number): void {
    if (sizeBytes === 1) this.db(value);
    else if (sizeBytes === 2) this.dw(value);
    else this.#int32(value);
  }
  #immediateToRegister(target: Register, value: number | Label): void {
    const bits = registerBits(target);
    this.#prefixes(bits, 0, registerNumber(target));
    this.db((bits === 8 ? 0xb0 : 0xb8) | (registerNumber(target) & 7));
    if (value instanceof Label) this.#int32(value);
    else this.#immediate(value, bits / 8);
  }
  #shortRegister(opcode: number, register: Register64 | Register32): void {
    if (registerBits(register) !== this.#bits) throw new Error(`${register} is not pushed in ${this.#bits}-bit code`);
    const number = registerNumber(register);
    if (number > 7) this.db(0x41);
    this.db(opcode | (number & 7));
  }

  /** Operand-size and REX prefixes. */
  #prefixes(bits: OperandBits, reg: number, rm: number): void {
    const defaultBits = this.#bits === 16 ? 16 : 32;
    if ((bits === 16 || bits === 32) && bits !== defaultBits) this.db(0x66);
    const rex = (bits === 64 ? 8 : 0) | ((reg >> 3) << 2) | (rm >> 3);
    if (rex === 0) return;
    if (this.#bits !== 64) throw new Error("64-bit operands need 64-bit code");
    this.db(0x40 | rex);
  }

  /** An instruction with a ModRM byte. */
  #modrm(bits: OperandBits, opcode: number[], reg: number, rm: Register | Memory): void {
    if (!isMemory(rm)) {
      this.#prefixes(bits, reg, registerNumber(rm));
      this.db(...opcode, 0xc0 | ((reg & 7) << 3) | (registerNumber(rm) & 7));
      return;
    }
    this.#prefixes(bits, reg, rm.base === undefined ? 0 : registerNumber(rm.base));
    this.db(...opcode);
    this.#address(reg & 7, rm);
  }

  #address(reg: number, { base, label, disp }: Memory): void {
    if (base !== undefined) {
      if (this.#bits === 16) throw new Error("16-bit code has absolute addresses only");
      if (registerBits(base) !== this.#bits) throw new Error(`[${base}] is not an address in ${this.#bits}-bit code`);
      const number = registerNumber(base) & 7;
      // [rbp] and [r13] without displacement mean something else, and rsp and r12 need a SIB byte.
      const mode = disp === 0 && number !== 5 ? 0 : isInt8(disp) ? 1 : 2;
      this.db((mode << 6) | (reg << 3) | number);
      if (number === 4) this.db(0x24);
      if (mode === 1) this.db(disp);
      if (mode === 2) this.#int32(disp);
      return;
    }
    // 64-bit code gives mod 00 rm 101 to RIP-relative addresses: absolute ones need a SIB byte without base.
    if (this.#bits === 64) this.db((reg << 3) | 4, 0x25);
    else this.db((reg << 3) | (this.#bits === 16 ? 6 : 5));
    const sizeBytes = this.#bits === 16 ? 2 : 4;
    if (label !== undefined) this.#fix(label, sizeBytes, disp);
    else if (disp < 0 || disp >= (this.#bits === 16 ? 0x1_0000 : 0x8000_0000)) {
      throw new Error(`Address ${disp.toString(16)} is out of reach in ${this.#bits}-bit code`);
    } else this.#immediate(disp, sizeBytes);
  }

  /** Opcodes that come as `r/m, r` (8- and 32-bit) followed by `r, r/m`. */
  #binary(opcode: number, target: Register | Memory, source: Register | Memory): void {
    const register = isMemory(source) ? target : source;
    const other = isMemory(source) ? source : target;
    if (isMemory(register)) throw new Error("Only one operand can be in memory");
    const bits = registerBits(register);
    if (bits !== (isMemory(other) ? other.bits : registerBits(other))) throw new Error("Operands differ in size");
    const form = opcode | (isMemory(source) ? 2 : 0) | (bits === 8 ? 0 : 1);
    this.#modrm(bits, [form], registerNumber(register), other);
  }
  #alu(operation: number, target: Register | Memory, source: Register | Memory | number): void {
    if (typeof source !== "number") {
      this.#binary(operation << 3, target, source);
      return;
    }
    const bits = isMemory(target) ? target.bits : registerBits(target);
    const sizeBytes = bits === 8 || isInt8(source) ? 1 : Math.min(bits / 8, 4);
    this.#modrm(bits, [bits === 8 ? 0x80 : sizeBytes === 1 ? 0x83 : 0x81], operation, target);
    this.#immediate(source, sizeBytes);
  }
  #unary(opcode: number, operation: number, target: Register | Memory): void {
    const bits = isMemory(target) ? target.bits : registerBits(target);
    this.#modrm(bits, [opcode | (bits === 8 ? 0 : 1)], operation, target);
  }
  #shift(operation: number, target: Register, count: number | "cl"): void {
    const bits = registerBits(target);
    if (bits === 8) throw new Error("8-bit shifts are not needed by anything");
    this.#modrm(bits, [count === "cl" ? 0xd3 : 0xc1], operation, target);
    if (count !== "cl") this.db(count);
  }
  #system(opcode: number, special: number, register: Register64 | Register32): void {
    const number = registerNumber(register);
    // The operand size is fixed by the mode: REX only extends the register numbers.
    const rex = ((special >> 3) << 2) | (number >> 3);
    if (rex !== 0) this.db(0x40 | rex);
    this.db(0x0f, opcode, 0xc0 | ((special & 7) << 3) | (number & 7));
  }
  #vector(opcode: number, xmm: number, operand: Memory): void {
    this.db(0xf3);
    const rex = ((xmm >> 3) << 2) | (operand.base === undefined ? 0 : registerNumber(operand.base) >> 3);
    if (rex !== 0) this.db(0x40 | rex);
    this.db(0x0f, opcode);
    this.#address(xmm & 7, operand);
  }
  #sse2(opcode: number, target: number, source: number): void {
    this.db(0x66);
    const rex = ((target >> 3) << 2) | (source >> 3);
    if (rex !== 0) this.db(0x40 | rex);
    this.db(0x0f, opcode, 0xc0 | ((target & 7) << 3) | (source & 7));
  }
  #vex(opcode: number, ymm: number, operand: Memory): void {
    if (operand.base !== undefined && registerNumber(operand.base) > 7) throw new Error("The short VEX form has no B");
    // Two-byte VEX: inverted R, vvvv unused, L = 256 bits, pp = F3.
    this.db(0xc5, (ymm > 7 ? 0 : 0x80) | 0x7e, opcode);
    this.#address(ymm & 7, operand);
  }
  #descriptorTable(operation: number, source: Memory): void {
    // Without 0x66 a 16-bit load takes only 24 bits of the base.
    if (this.#bits === 16) this.db(0x66);
    this.db(0x0f, 0x01);
    this.#address(operation, source);
  }
  #portAccess(opcode: number, register: "al" | "ax" | "eax", port: "dx" | number): void {
    const bits = registerBits(register);
    this.#prefixes(bits === 8 ? 8 : bits, 0, 0);
    this.db(opcode | (port === "dx" ? 8 : 0) | (bits === 8 ? 0 : 1));
    if (port !== "dx") this.db(port);
  }
  #jump(short: number[] | undefined, near: number[], target: Label): void {
    if (short !== undefined && target.address !== undefined && isInt8(target.address - (this.here + 2))) {
      this.db(...short);
      this.#fix(target, 1, -(this.here + 1), true);
      return;
    }
    const sizeBytes = this.#bits === 16 ? 2 : 4;
    this.db(...near);
    this.#fix(target, sizeBytes, -(this.here + sizeBytes), true);
  }
}
