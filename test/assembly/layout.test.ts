// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import * as layout from "../../assembly/layout.ts";
import { assert, describe } from "../harness.ts";

const test = describe("assembly/layout");

const SIZES_BYTES: Record<string, number> = { i32: 4, u32: 4, i64: 8 };

/** The words of a block, as the comments of the layout declare them: where they are, and how many bytes they have. */
function declaredWords(prefix: string): { name: string; start: number; sizeBytes: number }[] {
  const source = readFileSync(new URL("../../assembly/layout.ts", import.meta.url), "utf8");
  const words = [...source.matchAll(/\/\*\*\s*(?:\*\s*)?(i32|u32|i64)\b(?:(?!\*\/)[\s\S])*\*\/\nexport const (\w+)/g)];
  return words
    .filter(([, , name]) => name!.startsWith(prefix))
    .map(([, type, name]) => ({
      name: name!,
      start: (layout as unknown as Record<string, number>)[name!]!,
      sizeBytes: SIZES_BYTES[type!]!,
    }));
}

for (const [prefix, base, sizeBytes, count] of [
  ["CONTROL_", layout.CONTROL_BASE, layout.CONTROL_SIZE_BYTES, 9],
  ["VCPU_", 0, layout.VCPU_STRIDE_BYTES, 9],
] as const) {
  test(`no two words of ${prefix}* are in the same place`, () => {
    const words = declaredWords(prefix).sort((one, other) => one.start - other.start);
    assert.is(words.length, count, words.map(({ name }) => name).join(" "));
    let end = base;
    for (const { name, start, sizeBytes: size } of words) {
      assert.ok(start >= end, `${name} overlaps what is before it`);
      assert.is(start % size, 0, `${name} is aligned`);
      end = start + size;
    }
    assert.ok(end <= base + sizeBytes);
  });
}

test.run();
