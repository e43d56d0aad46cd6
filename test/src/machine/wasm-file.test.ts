// SPDX-License-Identifier: Apache-2.0
import { functionSizes, readWasm, withCustomSection } from "../../../src/machine/wasm-file.ts";
import { assert, describe } from "../../harness.ts";
import { wasm } from "./wasm-builder.ts";

const test = describe("wasm files");

test("functions have the signatures that they were declared with", () => {
  const imports = { one: "i32 i64 -> f64", two: "->" };
  const exports = { three: "f32 -> i32 i64", four: "i32 ->" };
  const bytes = wasm({ imports, exports: { four: exports.four }, importsFrom: "there" });
  const file = readWasm(bytes);
  assert.ok(WebAssembly.validate(bytes), "the builder makes modules");
  assert.equal(
    [...file.imports],
    [
      ["there.one", "i32 i64 -> f64"],
      ["there.two", "->"],
    ],
  );
  assert.equal([...file.exports], [["four", "i32 ->"]]);
  assert.equal([...readWasm(wasm({ exports })).exports], Object.entries(exports));
});

test("what a module keeps", () => {
  const kept = (parts: Parameters<typeof wasm>[0]) => {
    const bytes = wasm(parts);
    assert.ok(WebAssembly.validate(bytes));
    const { hasData, hasOwnMemory, hasMutableGlobals } = readWasm(bytes);
    return { hasData, hasOwnMemory, hasMutableGlobals };
  };
  const nothing = { hasData: false, hasOwnMemory: false, hasMutableGlobals: false };
  assert.equal(kept({}), nothing);
  assert.equal(kept({ constantGlobal: true }), nothing);
  assert.equal(kept({ data: true }), { ...nothing, hasData: true });
  assert.equal(kept({ ownMemory: true }), { ...nothing, hasOwnMemory: true });
  assert.equal(kept({ mutableGlobal: true }), { ...nothing, hasMutableGlobals: true });
  assert.equal(kept({ constantGlobal: true, mutableGlobal: true }), { ...nothing, hasMutableGlobals: true });
});

test("a custom section is found by the engine, whatever its length", () => {
  for (const length of [0, 100, 127, 128, 20_000]) {
    const content = new Uint8Array(length).fill(7);
    const module = new WebAssembly.Module(withCustomSection(wasm({}), "some.name", content));
    const [found] = WebAssembly.Module.customSections(module, "some.name");
    assert.equal(new Uint8Array(found!), content);
  }
});

test("functions have the sizes of their bodies, which imported ones do not have", () => {
  // Types, an import, two functions, and their code: a constant of 1 byte and one of 5 bytes.
  const bytes = Uint8Array.of(
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...[1, 5, 1, 0x60, 0, 1, 0x7f],
    ...[2, 7, 1, 1, 0x61, 1, 0x62, 0, 0],
    ...[3, 3, 2, 0, 0],
    ...[10, 15, 2, 4, 0, 0x41, 0x01, 0x0b, 8, 0, 0x41, 0xff, 0xff, 0xff, 0xff, 0x07, 0x0b],
  );
  assert.ok(WebAssembly.validate(bytes));
  assert.equal(functionSizes(bytes), [4, 8]);
  assert.equal(functionSizes(wasm({})), []);
});

test.run();
