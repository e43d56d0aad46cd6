// SPDX-License-Identifier: Apache-2.0
// Made-up Wasm modules for tests, by hand. https://webassembly.github.io/spec/core/binary/modules.html

/** Signatures by name, as `i32 i32 -> i64`. */
export type Functions = Readonly<Record<string, string>>;

const TYPES: Readonly<Record<string, number>> = { i32: 0x7f, i64: 0x7e, f32: 0x7d, f64: 0x7c };
const END = 0x0b;
const UNREACHABLE = 0x00;

const vector = (items: readonly (readonly number[])[]): number[] => [items.length, ...items.flat()];
const text = (value: string): number[] => [...vector([...new TextEncoder().encode(value)].map((byte) => [byte]))];
const section = (id: number, content: number[]): number[] => [id, ...leb128(content.length), ...content];

function leb128(value: number): number[] {
  return value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...leb128(value >>> 7)];
}

function type(signature: string): number[] {
  const [parameters = "", results = ""] = signature.split("->");
  const values = (list: string): number[] => {
    const names = list.split(" ").filter((name) => name !== "");
    return vector(names.map((name) => [TYPES[name]!]));
  };
  return [0x60, ...values(parameters), ...values(results)];
}

/** A module that imports `env.memory` and these functions, and exports functions that trap. */
export function wasm({
  imports = {},
  importsFrom = "host",
  exports = {},
  ownMemory = false,
  data = false,
  mutableGlobal = false,
  constantGlobal = false,
}: {
  imports?: Functions;
  importsFrom?: string;
  exports?: Functions;
  ownMemory?: boolean;
  data?: boolean;
  mutableGlobal?: boolean;
  constantGlobal?: boolean;
}): Uint8Array<ArrayBuffer> {
  const imported = Object.entries(imports);
  const exported = Object.entries(exports);
  const signatures = [...imported, ...exported].map(([, signature]) => type(signature));
  const functionImports = imported.map(([name], index) => [...text(importsFrom), ...text(name), 0, index]);
  // Shared, at least 1 page, at most 65536.
  const memoryImport = [...text("env"), ...text("memory"), 2, 3, 1, ...leb128(65536)];
  const globals = [
    ...(constantGlobal ? [[0x7f, 0, 0x41, 0x80, 0x01, END]] : []),
    ...(mutableGlobal ? [[0x7e, 1, 0x42, 0x00, END]] : []),
  ];
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
    ...section(1, vector(signatures)),
    ...section(2, vector([...functionImports, ...(ownMemory ? [] : [memoryImport])])),
    ...section(3, vector(exported.map((_, index) => [imported.length + index]))),
    ...(ownMemory ? section(5, vector([[0, 1]])) : []),
    ...(globals.length > 0 ? section(6, vector(globals)) : []),
    ...section(7, vector(exported.map(([name], index) => [...text(name), 0, imported.length + index]))),
    ...section(10, vector(exported.map(() => [3, 0, UNREACHABLE, END]))),
    ...(data ? section(11, vector([[0, 0x41, 0, END, 1, 0x55]])) : []),
  ]);
}
