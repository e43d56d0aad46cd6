// SPDX-License-Identifier: Apache-2.0
// The x87 against a real one: test/fixtures/x87.gz has what an AMD Zen 5 did with some 6000 instructions, chosen for the ways they
// can end. A case, little-endian:
//
//   u8 opcode, u8 ModRM, u16 control word, u16 status word, u8 valid physical registers, u16 RFLAGS
//   u8 map of ST(0) to ST(7), 10 bytes each that is in it; the others are 2^(index + 1)
//   u8[10] memory, of forms with memory
//   u8 exception, 255 for none, which is all there is after one
//   u16 control word, u16 status word, u8 valid physical registers, u16 RFLAGS
//   u8 map of physical registers that have changed, 10 bytes each
//   u8 whether memory has changed, and its 10 bytes if so; of forms with memory
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import {
  CPU_CR0,
  CPU_GPRS,
  CPU_MXCSR,
  CPU_X87_CONTROL,
  CPU_X87_DP,
  CPU_X87_IP,
  CPU_X87_OPCODE,
  CPU_X87_REGISTERS,
  CPU_X87_STATUS,
  CPU_X87_TOP,
  CPU_X87_VALID,
  CPU_XMMS,
} from "../../../assembly/cpu/layout.ts";
import { assert, describe } from "../../harness.ts";
import { createMachine, RAM_SIZE_BYTES, RIP } from "./x87-machine.ts";

const test = describe("x87");

const UD = 6;
const NM = 7;
const GP = 13;
const PF = 14;
const MF = 16;
const NONE = 255;
const OPERAND = 0x1000;
const OPERAND_SIZE_BYTES = 10;
const REGISTER_STRIDE = 16;
const REGISTER_SIZE_BYTES = 10;
const FIRST_REGISTER_FORM = 0xc0;
const STATUS_TOP = 0x3800;
const STATUS_TOP_SHIFT = 11;
const STATUS_C1 = 0x200;
const STATUS_ES_AND_B = 0x8080;
const ARITHMETIC_FLAGS = 0x8d5;

/** Second bytes of D9 whose results have no one right value. */
const TRANSCENDENTAL = new Set([0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff]);

const machine = await createMachine();
const { state, ram } = machine;

function register(physical: number): Uint8Array {
  const at = state.byteOffset + CPU_X87_REGISTERS + physical * REGISTER_STRIDE;
  return new Uint8Array(state.buffer, at, REGISTER_SIZE_BYTES);
}

function operand(): Uint8Array {
  return new Uint8Array(ram.buffer, ram.byteOffset + OPERAND, OPERAND_SIZE_BYTES);
}

const word = (at: number): number => state.getUint16(at, true);
const hex = (bytes: Iterable<number>): string => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function statusWord(): number {
  return word(CPU_X87_STATUS) | (state.getUint8(CPU_X87_TOP) << STATUS_TOP_SHIFT);
}

function setStatusWord(value: number): void {
  state.setUint16(CPU_X87_STATUS, value & ~STATUS_TOP, true);
  state.setUint8(CPU_X87_TOP, (value & STATUS_TOP) >> STATUS_TOP_SHIFT);
}

class Reader {
  #at = 0;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  u8(): number {
    return this.#bytes[this.#at++]!;
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  take(sizeBytes: number): Uint8Array {
    this.#at += sizeBytes;
    return this.#bytes.subarray(this.#at - sizeBytes, this.#at);
  }
}

/** Units in the last place between two values, which may be of two binades. */
function distance(a: Uint8Array, b: Uint8Array): number {
  const ordinal = (bytes: Uint8Array): bigint => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return (BigInt(view.getUint16(8, true)) << 63n) + view.getBigUint64(0, true);
  };
  return Math.abs(Number(ordinal(a) - ordinal(b)));
}

/** Sets a case up, runs it, and tells what is not as it should be. */
function runCase(reader: Reader): { title: string; isTranscendental: boolean; problem: string } {
  const opcode = reader.u8();
  const modrm = reader.u8();
  const hasMemory = modrm < FIRST_REGISTER_FORM;
  const isTranscendental = opcode === 0xd9 && TRANSCENDENTAL.has(modrm);
  const control = reader.u16();
  const status = reader.u16();
  state.setUint16(CPU_X87_CONTROL, control, true);
  setStatusWord((status & ~STATUS_ES_AND_B) | (status & ~control & 0x3f ? STATUS_ES_AND_B : 0));
  state.setUint8(CPU_X87_VALID, reader.u8());
  machine.setFlags(reader.u16());
  const top = state.getUint8(CPU_X87_TOP);
  const map = reader.u8();
  for (let index = 0; index < 8; index++) {
    const place = register((top + index) & 7);
    if ((map >> index) & 1) place.set(reader.take(REGISTER_SIZE_BYTES));
    else place.set([0, 0, 0, 0, 0, 0, 0, 0x80, index, 0x40]);
  }
  const before = [0, 1, 2, 3, 4, 5, 6, 7].map((physical) => register(physical).slice());
  if (hasMemory) operand().set(reader.take(OPERAND_SIZE_BYTES));
  const memoryBefore = operand().slice();
  const title = `${hex([opcode, modrm])} control ${control.toString(16)} status ${status.toString(16)} ST ${hex(before[top]!)}`;

  const isDone = machine.run({ opcode, modrm, address: OPERAND });

  const problems: string[] = [];
  const check = (what: string, actual: number | string, expected: number | string): void => {
    if (actual !== expected) problems.push(`${what}: ${actual}, expected ${expected}`);
  };
  const exception = reader.u8();
  check("exception", isDone ? NONE : machine.exception(), exception);
  if (exception === NONE) {
    check("control", word(CPU_X87_CONTROL), reader.u16());
    const ignored = isTranscendental ? STATUS_C1 : 0;
    check("status", statusWord() & ~ignored, reader.u16() & ~ignored);
    check("valid", state.getUint8(CPU_X87_VALID), reader.u8());
    check("flags", machine.flags() & ARITHMETIC_FLAGS, reader.u16());
    const changed = reader.u8();
    for (let physical = 0; physical < 8; physical++) {
      const expected = (changed >> physical) & 1 ? reader.take(REGISTER_SIZE_BYTES) : before[physical]!;
      const actual = register(physical).slice();
      const isNear = isTranscendental && distance(actual, expected) <= 1;
      if (!isNear) check(`register ${physical}`, hex(actual), hex(expected));
    }
    if (hasMemory) {
      const expected = reader.u8() === 0 ? memoryBefore : reader.take(OPERAND_SIZE_BYTES);
      check("memory", hex(operand()), hex(expected));
    }
  }
  return { title, isTranscendental, problem: problems.join("; ") };
}

const CORPUS = new URL("../../fixtures/x87.gz", import.meta.url);

test("instructions do what a real x87 does, transcendental ones to 1 ulp", () => {
  const reader = new Reader(gunzipSync(readFileSync(CORPUS)));
  const failures: string[] = [];
  let count = 0;
  while (!reader.isAtEnd) {
    const { title, problem } = runCase(reader);
    if (problem !== "") failures.push(`${title}: ${problem}`);
    count++;
  }
  assert.equal(failures.slice(0, 5), []);
  assert.ok(count > 6000, `${count} cases`);
});

/** As after FNINIT, with nothing that holds instructions off. */
function initialize(): void {
  state.setBigUint64(CPU_CR0, 0n, true);
  assert.ok(machine.run({ opcode: 0xdb, modrm: 0xe3 }));
}

const FLD1 = { opcode: 0xd9, modrm: 0xe8 };
const FLDPI = { opcode: 0xd9, modrm: 0xeb };
const FLDZ = { opcode: 0xd9, modrm: 0xee };
const FDIVP = { opcode: 0xde, modrm: 0xf9 };
const FNSTSW_AX = { opcode: 0xdf, modrm: 0xe0 };
const FNCLEX = { opcode: 0xdb, modrm: 0xe2 };
const FWAIT = { opcode: 0x9b, modrm: 0 };
const EMMS = { opcode: 0x177, modrm: 0 };
const memoryForm = (opcode: number, operation: number, address = OPERAND) => ({
  opcode,
  modrm: operation << 3,
  address,
});
const FXSAVE = { opcode: 0x1ae, modrm: 0x00, address: OPERAND };
const FXRSTOR = { opcode: 0x1ae, modrm: 0x08, address: OPERAND };
const FORM_REX_W = 32;

test("FNINIT sets the default control word and empties the stack", () => {
  initialize();
  assert.is(word(CPU_X87_CONTROL), 0x37f);
  assert.is(statusWord(), 0);
  assert.is(state.getUint8(CPU_X87_VALID), 0);
});

test("CR0.TS and CR0.EM are #NM; of FWAIT only TS with MP", () => {
  initialize();
  const [MP, EM, TS] = [2n, 4n, 8n];
  for (const cr0 of [EM, TS]) {
    state.setBigUint64(CPU_CR0, cr0, true);
    for (const instruction of [FLD1, FNSTSW_AX, FXSAVE, FXRSTOR]) {
      assert.not.ok(machine.run(instruction));
      assert.is(machine.exception(), NM);
    }
    assert.ok(machine.run(FWAIT));
    assert.not.ok(machine.run(EMMS));
    assert.is(machine.exception(), cr0 === EM ? UD : NM);
  }
  state.setBigUint64(CPU_CR0, TS | MP, true);
  assert.not.ok(machine.run(FWAIT));
  assert.is(machine.exception(), NM);
});

test("an exception that is not masked is #MF of the next instruction that waits", () => {
  initialize();
  state.setUint16(CPU_X87_CONTROL, 0x37b, true);
  for (const instruction of [FLD1, FLDZ, FDIVP]) assert.ok(machine.run(instruction));
  for (const instruction of [FWAIT, FLD1, EMMS, memoryForm(0xdd, 4)]) {
    assert.not.ok(machine.run(instruction));
    assert.is(machine.exception(), MF);
  }
  assert.ok(machine.run(FNSTSW_AX));
  assert.is(state.getUint16(CPU_GPRS, true), 0xb084);
  assert.ok(machine.run(FNCLEX));
  assert.ok(machine.run(FWAIT));
});

test("a page fault leaves all as it was", () => {
  initialize();
  assert.ok(machine.run(FLDPI));
  const before = hex(new Uint8Array(state.buffer, state.byteOffset + CPU_X87_REGISTERS, 0xa0));
  const last = RAM_SIZE_BYTES - 1;
  const stores = [0xd9, 0xdb, 0xdd, 0xdf].map((opcode) => memoryForm(opcode, 3, last));
  const loads = [0xd8, 0xda, 0xdc, 0xde, 0xd9, 0xdb, 0xdd].map((opcode) => memoryForm(opcode, 0, last));
  const others = [
    memoryForm(0xdb, 5, last),
    memoryForm(0xdb, 7, last),
    memoryForm(0xdf, 4, last),
    memoryForm(0xdf, 6, last),
  ];
  const states = [0xd9, 0xdd].flatMap((opcode) => [memoryForm(opcode, 4, last - 20), memoryForm(opcode, 6, last - 20)]);
  const images = [FXSAVE, FXRSTOR].map((instruction) => ({ ...instruction, address: RAM_SIZE_BYTES - 256 }));
  for (const instruction of [...stores, ...loads, ...others, ...states, ...images]) {
    assert.not.ok(machine.run(instruction));
    assert.is(machine.exception(), PF);
    assert.is(hex(new Uint8Array(state.buffer, state.byteOffset + CPU_X87_REGISTERS, 0xa0)), before);
  }
});

test("FNSTENV masks exceptions, and FLDENV brings back what it saved", () => {
  initialize();
  state.setUint16(CPU_X87_CONTROL, 0xf72, true);
  for (const instruction of [FLD1, FLDPI, memoryForm(0xd9, 6)]) assert.ok(machine.run(instruction));
  const fields = [0, 1, 2, 3, 4, 5, 6].map((index) => ram.getUint32(OPERAND + index * 4, true));
  assert.equal(fields, [0xffff0f72, 0xffff3000, 0xffff0fff, RIP, 0x01eb0000, 0, 0xffff0000]);
  assert.is(word(CPU_X87_CONTROL), 0xf7f);
  initialize();
  assert.ok(machine.run(memoryForm(0xd9, 4)));
  assert.is(word(CPU_X87_CONTROL), 0xf72);
  assert.is(statusWord(), 0x3000);
  assert.is(state.getUint8(CPU_X87_VALID), 0xc0);
  assert.is(word(CPU_X87_OPCODE), 0x1eb);
});

test("FNSAVE initializes, and FRSTOR brings back what it saved", () => {
  initialize();
  for (const instruction of [FLD1, FLDPI]) assert.ok(machine.run(instruction));
  const saved = hex(register(6)) + hex(register(7));
  for (const sizeBytes of [2, 4]) {
    assert.ok(machine.run({ ...memoryForm(0xdd, 6), sizeBytes }));
    assert.is(state.getUint8(CPU_X87_VALID), 0);
    assert.is(statusWord(), 0);
    for (let physical = 0; physical < 8; physical++) register(physical).fill(0);
    assert.ok(machine.run({ ...memoryForm(0xdd, 4), sizeBytes }));
    assert.is(statusWord(), 0x3000);
    assert.is(hex(register(6)) + hex(register(7)), saved);
  }
});

test("FXSAVE has pointers only while an exception waits", () => {
  initialize();
  for (const instruction of [FLD1, FXSAVE]) assert.ok(machine.run(instruction));
  assert.is(ram.getUint16(OPERAND + 4, true), 0x80);
  assert.is(ram.getUint16(OPERAND + 6, true), 0);
  state.setUint16(CPU_X87_CONTROL, 0x37b, true);
  for (const instruction of [FLDZ, FDIVP, { ...FXSAVE, form: FORM_REX_W }]) assert.ok(machine.run(instruction));
  assert.is(ram.getUint16(OPERAND + 6, true), 0x6f9);
  assert.is(ram.getBigUint64(OPERAND + 8, true), BigInt(RIP));
});

test("FXRSTOR brings back what FXSAVE saved", () => {
  initialize();
  const xmms = new Uint8Array(state.buffer, state.byteOffset + CPU_XMMS, 256);
  for (let index = 0; index < xmms.length; index++) xmms[index] = index;
  state.setUint32(CPU_MXCSR, 0x1fa0, true);
  for (const instruction of [FLD1, FLDPI]) assert.ok(machine.run(instruction));
  const registers = hex(register(6)) + hex(register(7));
  assert.ok(machine.run(FXSAVE));
  xmms.fill(0xff);
  state.setUint32(CPU_MXCSR, 0x1f80, true);
  initialize();
  for (let physical = 0; physical < 8; physical++) register(physical).fill(0);
  assert.ok(machine.run(FXRSTOR));
  assert.ok(xmms.every((byte, index) => byte === index));
  assert.is(state.getUint32(CPU_MXCSR, true), 0x1fa0);
  assert.is(hex(register(6)) + hex(register(7)), registers);
  assert.is(state.getUint8(CPU_X87_VALID), 0xc0);
  assert.is(statusWord(), 0x3000);
  assert.is(state.getBigUint64(CPU_X87_IP, true), 0n);
  assert.is(state.getBigUint64(CPU_X87_DP, true), 0n);
});

test("FXSAVE and FXRSTOR refuse an address or MXCSR that they may not have", () => {
  initialize();
  assert.ok(machine.run(FXSAVE));
  for (const instruction of [FXSAVE, FXRSTOR]) {
    assert.not.ok(machine.run({ ...instruction, address: OPERAND + 8 }));
    assert.is(machine.exception(), GP);
  }
  ram.setUint32(OPERAND + 24, 0x8000_0000, true);
  assert.not.ok(machine.run(FXRSTOR));
  assert.is(machine.exception(), GP);
});

test("EMMS empties the stack", () => {
  initialize();
  for (const instruction of [FLD1, FLDPI, EMMS]) assert.ok(machine.run(instruction));
  assert.is(state.getUint8(CPU_X87_VALID), 0);
  assert.is(statusWord(), 0);
});

test("instructions that there are not are #UD", () => {
  initialize();
  for (const [opcode, modrm] of [
    [0xd9, 0x08],
    [0xdb, 0x20],
    [0xdb, 0x30],
    [0xdd, 0x28],
    [0xda, 0xe8],
    [0xd9, 0xd1],
    [0xdf, 0xe1],
  ]) {
    assert.not.ok(machine.run({ opcode: opcode!, modrm: modrm!, address: OPERAND }));
    assert.is(machine.exception(), UD);
  }
});

test.run();
