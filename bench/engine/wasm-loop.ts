// SPDX-License-Identifier: Apache-2.0
// A loop of WebAssembly that never changes: how fast the machine and the runtime are at that moment, whatever the engine does.

/** Bytes of memory that it works on, from 0 on: those of a first-level cache. */
const MEMORY_PAGES = 1;

const I32 = 0x7f;
const I64 = 0x7e;
const LOCAL_GET = 0x20;
const LOCAL_SET = 0x21;
const LOCAL_TEE = 0x22;
const I64_LOAD = 0x29;
const I64_STORE = 0x37;
const I32_CONST = 0x41;
const I64_CONST = 0x42;
const I32_SUB = 0x6b;
const I32_AND = 0x71;
const I64_ADD = 0x7c;
const I64_XOR = 0x85;
const I64_SHL = 0x86;
const I64_SHR_U = 0x88;
const I32_WRAP = 0xa7;
const LOOP = 0x03;
const BR_IF = 0x0d;
const END = 0x0b;
const EMPTY = 0x40;

const N = 0;
const X = 1;
const ADDRESS = 2;

/** `x ^= x OPERATION count`; counts are less than 64, one byte of LEB128. */
const mix = (operation: number, count: number): number[] => [
  ...[LOCAL_GET, X, LOCAL_GET, X, I64_CONST, count, operation, I64_XOR, LOCAL_SET, X],
];

/** (n: i32) → i64: n turns of a 64-bit xorshift, each with a load and a store where its number says. */
const BODY = [
  // Two locals: an i64, and an i32.
  ...[2, 1, I64, 1, I32],
  ...[I64_CONST, 1, LOCAL_SET, X],
  ...[LOOP, EMPTY],
  ...mix(I64_SHL, 13),
  ...mix(I64_SHR_U, 7),
  ...mix(I64_SHL, 17),
  // address = x & 0x3ff8
  ...[LOCAL_GET, X, I32_WRAP, I32_CONST, 0xf8, 0xff, 0x00, I32_AND, LOCAL_TEE, ADDRESS],
  ...[LOCAL_GET, ADDRESS, I64_LOAD, 3, 0, LOCAL_GET, X, I64_ADD, I64_STORE, 3, 0],
  ...[LOCAL_GET, N, I32_CONST, 1, I32_SUB, LOCAL_TEE, N, BR_IF, 0],
  END,
  ...[LOCAL_GET, X, END],
];

const section = (id: number, ...content: number[]): number[] => [id, content.length, ...content];

const MODULE = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
  ...section(1, 1, 0x60, 1, I32, 1, I64),
  ...section(3, 1, 0),
  ...section(5, 1, 0, MEMORY_PAGES),
  // Exports function 0 as "f".
  ...section(7, 1, 1, 0x66, 0, 0),
  ...section(10, 1, BODY.length, ...BODY),
);

/** Runs so many turns and returns the last number of the series. */
export function loadWasmLoop(): (turns: number) => bigint {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(MODULE));
  return exports.f as (turns: number) => bigint;
}
