// SPDX-License-Identifier: Apache-2.0
import { helpText } from "../../../src/config/help.ts";
import { FOREIGN_OPTIONS, findOption, OPTIONS } from "../../../src/config/options.ts";
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveOptions } from "../../../src/config/resolve.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("help");

test("helpText() fits on a page and names every option", () => {
  const lines = helpText().split("\n");
  assert.ok(lines.length <= 90, `${lines.length} lines`);
  for (const line of lines) assert.ok(line.length <= 120, line);
  for (const { flag } of OPTIONS) {
    const name = flag.length === 1 ? `  -${flag}` : `  --${flag}`;
    assert.ok(
      lines.some((line) => line === name || line.startsWith(`${name} `) || line.startsWith(`${name},`)),
      flag,
    );
  }
});

test("the examples of the help are command lines that work", () => {
  const text = helpText().replaceAll("\\\n", " ");
  const examples = text.split("\n").filter((line) => line.startsWith("  baton -"));
  assert.is(examples.length, 1);
  for (const example of examples) {
    const spec = resolveOptions(parseArguments(example.trim().split(/\s+/).slice(1)).options);
    assert.is(spec.monitors.length, 1);
  }
});

test("every name is there once, and Baton's options are not called foreign", () => {
  const names = OPTIONS.flatMap(({ flag, aliases }) => [flag, ...(aliases ?? [])]);
  assert.is(new Set(names).size, names.length);
  for (const name of Object.keys(FOREIGN_OPTIONS)) assert.is(findOption(name), undefined, name);
});

test.run();
