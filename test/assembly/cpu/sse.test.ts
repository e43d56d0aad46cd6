// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { CPU_X87_STATUS, CPU_X87_TOP, CPU_X87_VALID } from "../../../assembly/cpu/layout.ts";
import { assert, describe } from "../../harness.ts";
import { MXCSR_DEFAULT, RAM_SIZE_BYTES, RAX, RCX, RDI, RDX, SseMachine } from "./sse-machine.ts";
import { CR0_EM, CR0_PE, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT } from "./uop.ts";

const test = describe("sse");

const machine = await SseMachine.create();

const UD = 6;
const NM = 7;
const GP = 13;
const MF = 16;
const XM = 19;

const OPERAND = 0x1000;
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const code = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));

function reset(): void {
  machine.setControl(CR0_PE, CR4_OSFXSR | CR4_OSXMMEXCPT);
  machine.mxcsr = MXCSR_DEFAULT;
  machine.state.setUint16(CPU_X87_STATUS, 0, true);
  machine.setRegister(RDI, BigInt(OPERAND));
}

/**
 * What a CPU (AMD, family 26) did, one case after the other. The file has
 *   u8 entries - 1, entries of 16 bytes: values of operands
 *   u16 instructions, each: u8 length, code; u8 length, name; u8 cases, each:
 *     numbers of the entries in XMM0, XMM1, XMM2, at [RDI], in MM1 with MM2, and of those whose first halves are in RAX, RCX, RDX;
 *     u8 what is added to RDI, which is on a boundary of 64 bytes; u16 MXCSR
 *     then u8 exception, 0 for none; u16 MXCSR; u16 flags; u8 which of those eight have changed, and their new values
 */
class Corpus {
  readonly #bytes = gunzipSync(readFileSync(new URL("../../fixtures/sse-cases.bin.gz", import.meta.url)));
  #at = 0;

  u8(): number {
    return this.#bytes[this.#at++]!;
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  take(count: number): Uint8Array {
    this.#at += count;
    return this.#bytes.subarray(this.#at - count, this.#at);
  }
}

test("every instruction does what a CPU does, MXCSR and flags included", () => {
  const corpus = new Corpus();
  const entryCount = corpus.u8() + 1;
  const entries = Array.from({ length: entryCount }, () => corpus.take(16));
  const problems: string[] = [];
  let caseCount = 0;
  for (let instructions = corpus.u16(); instructions > 0; instructions--) {
    const bytes = corpus.take(corpus.u8());
    const name = Buffer.from(corpus.take(corpus.u8())).toString();
    for (let cases = corpus.u8(); cases > 0; cases--, caseCount++) {
      reset();
      const numbers = corpus.take(8);
      const before = Array.from(numbers, (number, index) => entries[number]!.slice(0, index < 5 ? 16 : 8));
      const offset = corpus.u8();
      const memory = machine.ram.subarray(OPERAND + offset, OPERAND + offset + 16);
      const inMmx = before[4]!;
      const places = [machine.xmm(0), machine.xmm(1), machine.xmm(2), memory];
      for (const [index, place] of places.entries()) place.set(before[index]!);
      machine.mmx(1).set(inMmx.subarray(0, 8));
      machine.mmx(2).set(inMmx.subarray(8));
      for (const [index, register] of [RAX, RCX, RDX].entries()) machine.register(register).set(before[5 + index]!);
      machine.setRegister(RDI, BigInt(OPERAND + offset));
      machine.mxcsr = corpus.u16();

      const wantedException = corpus.u8();
      const wantedMxcsr = corpus.u16();
      const wantedFlags = corpus.u16();
      const changed = corpus.u8();
      const wanted = before.map((value, index) => (changed & (1 << index) ? corpus.take(value.length) : value));

      const flagsBefore = machine.flags;
      const exception = machine.run(bytes) ?? 0;
      const inMmxNow = Buffer.concat([machine.mmx(1).subarray(0, 8), machine.mmx(2).subarray(0, 8)]);
      const registers = [RAX, RCX, RDX].map((register) => machine.register(register));
      const got = [...places, inMmxNow, ...registers];
      const setsFlags = wantedFlags !== 0 || FLAG_SETTERS.test(name);
      const flags =
        exception === 0 && (setsFlags || machine.flags !== flagsBefore) ? machine.flags & ARITHMETIC_FLAGS : 0;
      const isSame =
        exception === wantedException &&
        machine.mxcsr === wantedMxcsr &&
        flags === wantedFlags &&
        got.every((value, index) => hex(value) === hex(wanted[index]!));
      if (!isSame) {
        problems.push(
          `${name} of ${before.map(hex)}: ${exception} ${machine.mxcsr.toString(16)} ${flags.toString(16)} ${got.map(hex)},` +
            ` not ${wantedException} ${wantedMxcsr.toString(16)} ${wantedFlags.toString(16)} ${wanted.map(hex)}`,
        );
      }
    }
  }
  assert.is(problems.slice(0, 10).join("\n"), "");
  assert.ok(caseCount > 7000);
});

const ARITHMETIC_FLAGS = 0x8d5;
const FLAG_SETTERS = /comis|ptest|pcmp.str/;

test("instructions are there or not as CR0 and CR4 say", () => {
  const paddb = code("660ffcca");
  const paddbMmx = code("0ffcca");
  const crc32 = code("f20f38f1c1");
  const cases: [bigint, bigint, number | undefined, number | undefined][] = [
    [CR0_PE, CR4_OSFXSR, undefined, undefined],
    [CR0_PE, 0n, UD, undefined],
    [CR0_PE | CR0_EM, CR4_OSFXSR, UD, UD],
    [CR0_PE | CR0_TS, CR4_OSFXSR, NM, NM],
    [CR0_PE | CR0_EM | CR0_TS, CR4_OSFXSR, UD, UD],
  ];
  for (const [cr0, cr4, xmm, mmx] of cases) {
    reset();
    machine.setControl(cr0, cr4);
    assert.is(machine.run(paddb), xmm);
    assert.is(machine.run(paddbMmx), mmx);
    assert.is(machine.run(crc32), undefined);
  }
});

test("an unmasked exception is #UD where the system knows nothing of #XM, and changes no register", () => {
  const divps = code("0f5eca");
  for (const [cr4, exception] of [
    [CR4_OSFXSR, UD],
    [CR4_OSFXSR | CR4_OSXMMEXCPT, XM],
  ] as const) {
    reset();
    machine.setControl(CR0_PE, cr4);
    machine.mxcsr = 0x1d80;
    machine.xmm(1).fill(0x3f);
    machine.xmm(2).fill(0);
    assert.is(machine.run(divps), exception);
    assert.is(machine.mxcsr, 0x1d84);
    assert.is(hex(machine.xmm(1)), "3f".repeat(16));
  }
});

test("MMX instructions take the x87's registers, and wait for its exceptions", () => {
  const x87 = (): number[] => [machine.state.getUint8(CPU_X87_TOP), machine.state.getUint8(CPU_X87_VALID)];
  const clear = (): void => {
    reset();
    machine.state.setUint8(CPU_X87_TOP, 6);
    machine.state.setUint8(CPU_X87_VALID, 0xc0);
    machine.mmx(1).fill(0);
  };
  // PADDB, MOVD to a register, CVTPI2PS: any.
  for (const text of ["0ffcca", "0f7ec9", "0f2aca"]) {
    clear();
    assert.is(machine.run(code(text)), undefined);
    assert.equal(x87(), [0, 0xff], text);
    clear();
    machine.state.setUint16(CPU_X87_STATUS, 0x80, true);
    assert.is(machine.run(code(text)), MF);
    assert.equal(x87(), [6, 0xc0], text);
  }
  clear();
  machine.run(code("0ffcca"));
  assert.is(hex(machine.mmx(1).subarray(8)), "ffff");
  // CVTPI2PS from memory.
  clear();
  assert.is(machine.run(code("0f2a0f")), undefined);
  assert.equal(x87(), [6, 0xc0]);
});

test("operands of 16 bytes are aligned but where they need not be, and may reach into another page", () => {
  const last = 0x2000 - 8;
  for (const [text, isFree] of [
    ["0f100f", true],
    ["f30f6f0f", true],
    ["f20ff00f", true],
    ["660f3a630f0c", true],
    ["0f280f", false],
    ["660f6f0f", false],
    ["0f580f", false],
    ["660f38000f", false],
    ["0f290f", false],
    ["660fe70f", false],
  ] as const) {
    reset();
    machine.setRegister(RDI, BigInt(last));
    assert.is(machine.run(code(text)), isFree ? undefined : GP, text);
  }
  reset();
  machine.setRegister(RDI, BigInt(last));
  for (let index = 0; index < 16; index++) machine.ram[last + index] = index;
  machine.run(code("0f100f"));
  assert.is(hex(machine.xmm(1)), "000102030405060708090a0b0c0d0e0f");
  machine.xmm(1).reverse();
  machine.run(code("0f110f"));
  assert.is(hex(machine.ram.subarray(last, last + 16)), "0f0e0d0c0b0a09080706050403020100");
});

test("operands that are shorter than a register are not read beyond their end", () => {
  // PMOVZXBQ, MOVLPS, PUNPCKLBW of MMX, CVTPS2PD, MOVSS, PINSRW, CVTDQ2PD.
  for (const [text, sizeBytes] of [
    ["660f38320f", 2],
    ["0f120f", 8],
    ["0f600f", 4],
    ["0f5a0f", 8],
    ["f30f100f", 4],
    ["660fc40f00", 2],
    ["f30fe60f", 8],
  ] as const) {
    for (const missing of [0, 1]) {
      reset();
      machine.readsBeyondRam = 0;
      machine.setRegister(RDI, BigInt(RAM_SIZE_BYTES - sizeBytes + missing));
      assert.is(machine.run(code(text)), undefined, text);
      assert.is(machine.readsBeyondRam > 0, missing > 0, text);
    }
  }
});

test("RCPSS and RSQRTSS are at most 1.5 * 2^-12 off, and exact at the ends", () => {
  const bits = new DataView(new ArrayBuffer(4));
  const run = (text: string, value: number): number => {
    reset();
    bits.setUint32(0, value);
    for (let index = 0; index < 4; index++) machine.xmm(2)[index] = bits.getUint8(3 - index);
    assert.is(machine.run(code(text)), undefined);
    assert.is(machine.mxcsr, MXCSR_DEFAULT);
    return new DataView(machine.xmm(1).buffer, machine.xmm(1).byteOffset).getUint32(0, true);
  };
  const rcp = "f30f53ca";
  const rsqrt = "f30f52ca";
  for (const [value, reciprocal, root] of [
    [0, 0x7f800000, 0x7f800000],
    [0x80000000, 0xff800000, 0xff800000],
    [1, 0x7f800000, 0x7f800000],
    [0x807fffff, 0xff800000, 0xff800000],
    [0x7f800000, 0, 0],
    [0xff800000, 0x80000000, 0xffc00000],
    [0x7f800001, 0x7fc00001, 0x7fc00001],
    [0xffc12345, 0xffc12345, 0xffc12345],
    [0x7f7fffff, 0, undefined],
    [0xff000000, 0x80000000, 0xffc00000],
  ] as const) {
    assert.is(run(rcp, value), reciprocal);
    if (root !== undefined) assert.is(run(rsqrt, value), root);
  }
  const toFloat = (value: number): number => {
    bits.setUint32(0, value);
    return bits.getFloat32(0);
  };
  for (let value = 0x3f000001; value < 0x41000000; value += 0x31337) {
    const limit = 1.5 * 2 ** -12;
    assert.ok(Math.abs(toFloat(run(rcp, value)) * toFloat(value) - 1) <= limit);
    assert.ok(Math.abs(toFloat(run(rsqrt, value)) * Math.sqrt(toFloat(value)) - 1) <= limit);
  }
});

test("what is not SSE, or not yet, is #UD", () => {
  // MOVNTSS and MOVBE, which CPUs may have; the others have a prefix too many or too few.
  for (const text of ["f30f2b0f", "f30ffcca", "f20f5bca", "0f38f00f", "f30f3800ca", "0f3a0eca00", "0f6cca"]) {
    reset();
    assert.is(machine.knows(code(text)), false, text);
    assert.is(machine.run(code(text)), UD, text);
  }
  // Only registers, or only memory.
  for (const text of ["0f500f", "0f2bca", "660f12ca", "660fd70f", "0fe7ca", "660f382aca", "f20ff0ca", "0f71ca05"]) {
    reset();
    assert.is(machine.run(code(text)), UD, text);
  }
});

test.run();
