// SPDX-License-Identifier: Apache-2.0
import { readWasm, withCustomSection } from "../../../src/machine/wasm-file.ts";
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

test.run();
