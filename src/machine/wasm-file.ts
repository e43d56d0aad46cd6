// SPDX-License-Identifier: Apache-2.0
// What a WebAssembly module says of itself that JavaScript does not tell: signatures, and whether it keeps anything.
// https://webassembly.github.io/spec/core/binary/modules.html
//
// Only for bytes that the engine has accepted as a module: the form is not checked again.

export interface WasmFile {
  /** Signatures of imported and exported functions, as `i32 i32 -> i64`; imports by `module.name`. */
  imports: ReadonlyMap<string, string>;
  exports: ReadonlyMap<string, string>;
  /** It writes to memory when it is instantiated. */
  hasData: boolean;
  hasOwnMemory: boolean;
  hasMutableGlobals: boolean;
}

const SECTION_TYPE = 1;
const SECTION_IMPORT = 2;
const SECTION_FUNCTION = 3;
const SECTION_MEMORY = 5;
const SECTION_GLOBAL = 6;
const SECTION_EXPORT = 7;
const SECTION_CODE = 10;
const SECTION_DATA = 11;

const KIND_FUNCTION = 0;
const KIND_TABLE = 1;
const KIND_MEMORY = 2;
const KIND_GLOBAL = 3;

const FUNCTION_TYPE = 0x60;
const VALUE_TYPES: Readonly<Record<number, string>> = {
  127: "i32",
  126: "i64",
  125: "f32",
  124: "f64",
  123: "v128",
  112: "funcref",
  111: "externref",
};
const HEADER_SIZE_BYTES = 8;

class Cursor {
  readonly bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = bytes;
    this.at = at;
  }

  byte(): number {
    return this.bytes[this.at++] ?? 0;
  }

  /** LEB128, unsigned, of 32 bits. */
  u32(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value |= (byte & 0x7f) << shift;
      if ((byte & 0x80) === 0) break;
    }
    return value >>> 0;
  }

  name(): string {
    const length = this.u32();
    this.at += length;
    return new TextDecoder().decode(this.bytes.subarray(this.at - length, this.at));
  }

  /** Of a table or memory: flags, minimum, and the maximum if there is one. */
  skipLimits(): void {
    const flags = this.u32();
    this.u32();
    if ((flags & 1) !== 0) this.u32();
  }
}

/** The sections of a module: id, where the content begins and where it ends. */
function* sections(bytes: Uint8Array): Generator<{ id: number; cursor: Cursor; end: number }> {
  for (let at = HEADER_SIZE_BYTES; at < bytes.length; ) {
    const cursor = new Cursor(bytes, at);
    const id = cursor.byte();
    const sizeBytes = cursor.u32();
    at = cursor.at + sizeBytes;
    yield { id, cursor, end: at };
  }
}

export function readWasm(bytes: Uint8Array): WasmFile {
  const types: string[] = [];
  const functions: string[] = [];
  const imports = new Map<string, string>();
  const exports = new Map<string, string>();
  let [hasData, hasOwnMemory, hasMutableGlobals] = [false, false, false];
  for (const { id, cursor } of sections(bytes)) {
    if (id === SECTION_DATA) hasData = cursor.u32() > 0;
    if (id === SECTION_MEMORY) hasOwnMemory = cursor.u32() > 0;
    if (id === SECTION_TYPE) readTypes(cursor, types);
    if (id === SECTION_GLOBAL) hasMutableGlobals = readGlobals(cursor);
    if (id === SECTION_IMPORT) readImports(cursor, types, functions, imports);
    if (id === SECTION_FUNCTION) {
      for (let left = cursor.u32(); left > 0; left--) functions.push(types[cursor.u32()] ?? "");
    }
    if (id === SECTION_EXPORT) {
      for (let left = cursor.u32(); left > 0; left--) {
        const name = cursor.name();
        const kind = cursor.byte();
        const index = cursor.u32();
        if (kind === KIND_FUNCTION) exports.set(name, functions[index] ?? "");
      }
    }
  }
  return { imports, exports, hasData, hasOwnMemory, hasMutableGlobals };
}

/** Of the functions' bodies in bytes, in their order; imported ones have none. */
export function functionSizes(bytes: Uint8Array): number[] {
  const sizes: number[] = [];
  for (const { id, cursor } of sections(bytes)) {
    if (id !== SECTION_CODE) continue;
    for (let left = cursor.u32(); left > 0; left--) {
      const sizeBytes = cursor.u32();
      sizes.push(sizeBytes);
      cursor.at += sizeBytes;
    }
  }
  return sizes;
}

function readTypes(cursor: Cursor, types: string[]): void {
  const values = (): string => {
    const names: string[] = [];
    for (let left = cursor.u32(); left > 0; left--) names.push(VALUE_TYPES[cursor.byte()] ?? "other");
    return names.join(" ");
  };
  for (let left = cursor.u32(); left > 0; left--) {
    // Types of a later proposal: what comes after this one cannot be read, and has no signature.
    if (cursor.byte() !== FUNCTION_TYPE) return;
    const parameters = values();
    types.push(`${parameters} -> ${values()}`.trim());
  }
}

function readImports(cursor: Cursor, types: string[], functions: string[], imports: Map<string, string>): void {
  for (let left = cursor.u32(); left > 0; left--) {
    const name = `${cursor.name()}.${cursor.name()}`;
    const kind = cursor.byte();
    if (kind === KIND_FUNCTION) {
      const signature = types[cursor.u32()] ?? "";
      functions.push(signature);
      imports.set(name, signature);
    } else if (kind === KIND_MEMORY) {
      cursor.skipLimits();
    } else if (kind === KIND_TABLE) {
      cursor.byte();
      cursor.skipLimits();
    } else if (kind === KIND_GLOBAL) {
      cursor.byte();
      cursor.byte();
    }
  }
}

/** Whether one of the globals can change. Initial values are constants, which are skipped up to their `end`. */
function readGlobals(cursor: Cursor): boolean {
  for (let left = cursor.u32(); left > 0; left--) {
    cursor.byte();
    if (cursor.byte() !== 0) return true;
    if (!skipConstant(cursor)) return true;
  }
  return false;
}

const END = 0x0b;
const I32_CONST = 0x41;
const I64_CONST = 0x42;
const F32_CONST = 0x43;
const F64_CONST = 0x44;

/** False for an expression that is not a plain number: nothing is known of what follows it. */
function skipConstant(cursor: Cursor): boolean {
  const opcode = cursor.byte();
  if (opcode === I32_CONST || opcode === I64_CONST) while ((cursor.byte() & 0x80) !== 0);
  else if (opcode === F32_CONST) cursor.at += 4;
  else if (opcode === F64_CONST) cursor.at += 8;
  else return false;
  return cursor.byte() === END;
}

/** The module with a custom section appended. */
export function withCustomSection(bytes: Uint8Array, name: string, content: Uint8Array): Uint8Array<ArrayBuffer> {
  const title = new TextEncoder().encode(name);
  const body = [...leb128(title.length), ...title, ...content];
  return Uint8Array.from([...bytes, 0, ...leb128(body.length), ...body]);
}

function leb128(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return [...bytes, rest];
    bytes.push((rest & 0x7f) | 0x80);
  }
}
