// SPDX-License-Identifier: Apache-2.0

import { check } from "../../../src/qmp/schema/check.ts";
import type { SchemaInfo } from "../../../src/qmp/schema/control.ts";
import { introspect } from "../../../src/qmp/schema/introspect.ts";
import { any, arrayOf, bool, int, num, optional, struct, uint } from "../../../src/qmp/schema/types.ts";
import { COMMANDS, EVENTS } from "../../../src/qmp/schema.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("qmp schema");

const schema = introspect(COMMANDS, EVENTS);
const byName = new Map(schema.map((info) => [info.name, info]));

function references(info: SchemaInfo): string[] {
  switch (info["meta-type"]) {
    case "command":
      return [info["arg-type"], info["ret-type"]];
    case "event":
      return [info["arg-type"]];
    case "array":
      return [info["element-type"]];
    case "object":
      return [...info.members, ...(info.variants ?? [])].map(({ type }) => type);
    default:
      return [];
  }
}

test("names are unique and every reference leads somewhere", () => {
  assert.is(byName.size, schema.length);
  for (const info of schema) {
    for (const name of references(info)) assert.ok(byName.has(name), `${info.name} refers to ${name}`);
  }
});

test("nothing is described that nobody refers to", () => {
  const referred = new Set(schema.flatMap(references));
  for (const { name, "meta-type": meta } of schema) {
    if (meta !== "command" && meta !== "event") assert.ok(referred.has(name), name);
  }
});

test("commands and events of the tables are all there, and types have numbers", () => {
  for (const name of Object.keys(COMMANDS)) assert.is(byName.get(name)?.["meta-type"], "command");
  for (const name of Object.keys(EVENTS)) assert.is(byName.get(name)?.["meta-type"], "event");
  for (const info of schema) {
    if (info["meta-type"] === "object" || info["meta-type"] === "enum") assert.match(info.name, /^\d+$/);
  }
});

test("arguments and return of migrate-set-parameters", () => {
  assert.equal(byName.get("0"), { name: "0", "meta-type": "object", members: [] });
  const command = byName.get("migrate-set-parameters") as SchemaInfo & { "meta-type": "command" };
  assert.is(command["ret-type"], "0");
  const args = byName.get(command["arg-type"]) as SchemaInfo & { "meta-type": "object" };
  const mode = args.members.find(({ name }) => name === "mode")!;
  assert.is(mode.default, null);
  assert.equal(byName.get(mode.type), {
    name: mode.type,
    "meta-type": "enum",
    members: ["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"].map((name) => ({ name })),
    values: ["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"],
  });
  assert.is(args.members.find(({ name }) => name === "cpr-exec-command")?.type, "[str]");
});

test("a union has its tag and a case for each value", () => {
  const union = schema.find((info) => info["meta-type"] === "object" && info.tag === "transport");
  assert.equal(
    (union as SchemaInfo & { "meta-type": "object" }).variants?.map((variant) => variant.case),
    ["socket", "exec", "file"],
  );
});

test("check: numbers", async () => {
  const cases: [type: Parameters<typeof check>[0], value: unknown, message: string][] = [
    [int, 1.5, "Invalid parameter type for 'x', expected: integer"],
    [int, "1", "Invalid parameter type for 'x', expected: integer"],
    [int, 2n ** 63n, "Parameter 'x' expects int64"],
    [uint, -1, "Parameter 'x' expects uint64"],
    [uint, 2n ** 64n, "Parameter 'x' expects uint64"],
    [num, "1", "Invalid parameter type for 'x', expected: number"],
    [bool, 1, "Invalid parameter type for 'x', expected: boolean"],
    [bool, "on", "Invalid parameter type for 'x', expected: boolean"],
  ];
  for (const [type, value, message] of cases) {
    assert.is((await rejection(() => check(type, value, "x"))).message, message);
  }
  assert.is(check(int, -5n, "x"), -5);
  assert.is(check(uint, 2n ** 64n - 1n, "x"), 2n ** 64n - 1n);
  assert.is(check(num, 5n, "x"), 5);
});

test("check: text of key=value options", () => {
  const type = struct({ a: int, b: optional(bool), c: optional(arrayOf(any)) });
  assert.equal(check(type, { a: "12", b: "on" }, "", { keyval: true }), { a: 12, b: true });
});

test("check: members that an object only inherits do not count", async () => {
  const type = struct({ constructor: optional(int), a: optional(int) });
  assert.equal(check(type, {}), {});
  assert.is(
    (await rejection(() => check(struct({}), JSON.parse('{"__proto__": 1}')))).message,
    "Parameter '__proto__' is unexpected",
  );
});

test.run();
