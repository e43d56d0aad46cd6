// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { formatSize, Properties, parseOptionString, parseSize } from "../../../src/config/qemu-options.ts";
import { nearest } from "../../../src/config/suggest.ts";
import { UsageError } from "../../../src/config/usage.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("qemu-options");

const parse = (text: string, impliedKey?: string): [string, unknown][] =>
  parseOptionString(text, impliedKey).map(({ name, value }) => [name, value]);

const read = (text: string): Properties => new Properties("-x", parseOptionString(text, "first"));

test("parseOptionString() splits at commas and gives the first value its implied name", () => {
  assert.equal(parse("microvm,memory-backend=ram0", "type"), [
    ["type", "microvm"],
    ["memory-backend", "ram0"],
  ]);
  assert.equal(parse("type=q35", "type"), [["type", "q35"]]);
  assert.equal(parse("", "type"), []);
});

test("parseOptionString() takes two commas for one, also in the implied value", () => {
  assert.equal(parse("a,,b,path=c,,,,d,e=", "first"), [
    ["first", "a,b"],
    ["path", "c,,d"],
    ["e", ""],
  ]);
});

test("parseOptionString() keeps short forms apart from values, and a trailing comma is nothing", () => {
  assert.equal(parseOptionString("unix,server,nowait,", "first"), [
    { name: "first", value: "unix", bare: false },
    { name: "server", value: true, bare: true },
    { name: "nowait", value: true, bare: true },
  ]);
  assert.equal(parseOptionString("server"), [{ name: "server", value: true, bare: true }]);
});

test("parseOptionString() keeps equals signs of a value", () => {
  assert.equal(parse("append=console=ttyS0"), [["append", "console=ttyS0"]]);
});

test("parseOptionString() gives back any values that were escaped", () => {
  const value = fc.string().filter((text) => !text.includes("\0"));
  fc.assert(
    fc.property(fc.array(value, { minLength: 1 }), (values) => {
      const text = values.map((each, index) => `k${index}=${each.replaceAll(",", ",,")}`).join(",");
      assert.equal(
        parse(text),
        values.map((each, index) => [`k${index}`, each]),
      );
    }),
  );
});

test("parseSize() reads suffixes, fractions and hexadecimal numbers", () => {
  assert.is(parseSize("0"), 0);
  assert.is(parseSize("512"), 512);
  assert.is(parseSize("512", 1024 * 1024), 512 * 1024 * 1024);
  assert.is(parseSize("1k"), 1024);
  assert.is(parseSize("1.5G"), 1.5 * 1024 ** 3);
  assert.is(parseSize(".5m"), 512 * 1024);
  assert.is(parseSize("2T"), 2 * 1024 ** 4);
  assert.is(parseSize("7B"), 7);
  assert.is(parseSize("7B", 1024), 7);
  assert.is(parseSize("0x10"), 16);
});

test("parseSize() refuses everything else", () => {
  for (const text of ["", "G", "-1", "1e3", "12MB", "128MiB", "1.5", "0x", "0x1G", "1 M", "9999999E", "1..2", "."]) {
    assert.is(parseSize(text), undefined, text);
  }
});

test("formatSize() uses the largest unit that divides", () => {
  assert.is(formatSize(3 * 1024 ** 3), "3 GiB");
  assert.is(formatSize(1536 * 1024 * 1024), "1536 MiB");
  assert.is(formatSize(4096), "4 KiB");
  assert.is(formatSize(1000), "1000 bytes");
});

test("switch() reads on and off and the short forms; the last one counts", () => {
  assert.is(read("a,server").switch("server"), true);
  assert.is(read("a,noserver").switch("server"), false);
  assert.is(read("a,server=off").switch("server"), false);
  assert.is(read("a,server=yes").switch("server"), true);
  assert.is(read("a,server,server=off").switch("server"), false);
  assert.is(read("a").switch("server"), undefined);
  const json = new Properties("-x", [{ name: "server", value: false, bare: false }]);
  assert.is(json.switch("server"), false);
});

test("every reader names the option, the property, the value and what is accepted", async () => {
  const cases: [string, (properties: Properties) => unknown, string][] = [
    ["a,n=maybe", (p) => p.switch("n"), "-x: Parameter 'n' expects 'on' or 'off', got 'maybe'"],
    ["a,n=maybe,n=on", (p) => p.switch("n"), "-x: Parameter 'n' expects 'on' or 'off', got 'maybe'"],
    ["a,n=9", (p) => p.integer("n", 1, 8), "-x: Parameter 'n' expects a number from 1 to 8, got '9'"],
    ["a,n=-1", (p) => p.integer("n", 0, 8), "-x: Parameter 'n' expects a number from 0 to 8, got '-1'"],
    ["a,n", (p) => p.integer("n", 1, 8), "-x: Parameter 'n' expects a number from 1 to 8, got 'true'"],
    [
      "a,n=12MB",
      (p) => p.size("n"),
      "-x: Parameter 'n' expects a size such as 512M or 1.5G (suffixes k, M, G, T), got '12MB'",
    ],
    [
      "a,n=b",
      (p) => p.choice("n", ["control", "readline"]),
      "-x: Parameter 'n' does not accept value 'b'; accepted: control, readline",
    ],
    [
      "a,n=contrl",
      (p) => p.choice("n", ["control", "readline"]),
      "-x: Parameter 'n' does not accept value 'contrl' (did you mean 'control'?); accepted: control, readline",
    ],
    [
      "a,n=1x",
      (p) => p.identifier("n"),
      "-x: Parameter 'n' expects an identifier, got '1x' (it starts with a letter and consists of letters, digits, '-', '.' and '_')",
    ],
    ["a,n=", (p) => p.nonEmpty("n"), "-x: Parameter 'n' must not be empty"],
    ["a,n", (p) => p.text("n"), "-x: Parameter 'n' needs a value: n=…"],
    ["a,n=on", (p) => p.mustBeOff("n", "there is none"), "-x: Parameter 'n' must be off: there is none"],
  ];
  for (const [text, action, message] of cases) {
    const error = await rejection(() => action(read(text)));
    assert.instance(error, UsageError);
    assert.is(error.message, message);
  }
});

test("values of a JSON form must be of the right kind", async () => {
  const json = new Properties("-x", [{ name: "n", value: { toString: 1 }, bare: false }]);
  for (const action of [
    () => json.switch("n"),
    () => json.integer("n", 0, 1),
    () => json.size("n"),
    () => json.text("n"),
  ]) {
    assert.instance(await rejection(action), UsageError);
  }
});

test("refuseOthers() names what nobody read, with a suggestion or a reason", async () => {
  const properties = read("a,sahre=on");
  properties.text("first");
  properties.switch("share");
  const error = await rejection(() => properties.refuseOthers());
  assert.is(error.message, "-x: Invalid parameter 'sahre' (did you mean 'share'?); accepted: first, share");
  const other = await rejection(() => read("logfile=x").refuseOthers({ logfile: "no logs" }));
  assert.is(other.message, "-x: Parameter 'logfile' is not supported: no logs");
  assert.not.throws(() => {
    const fine = read("nowait");
    fine.switch("wait");
    fine.text("first");
  });
});

test("nearest() finds slips of the finger and nothing far away", () => {
  const known = ["machine", "memory", "m", "S", "serial"];
  assert.is(nearest("machien", known), "machine");
  assert.is(nearest("seril", known), "serial");
  assert.is(nearest("s", known), "S");
  assert.is(nearest("x", known), undefined);
  assert.is(nearest("network", known), undefined);
  assert.is(nearest("m".repeat(100_000), known), undefined);
});

test.run();
