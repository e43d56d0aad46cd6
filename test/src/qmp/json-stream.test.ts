// SPDX-License-Identifier: Apache-2.0
import * as fc from "fast-check";
import { type JsonResult, JsonStream, MAX_DEPTH, MAX_VALUE_BYTES } from "../../../src/qmp/json-stream.ts";
import { formatJson } from "../../../src/qmp/json-writer.ts";
import { assert, describe } from "../../harness.ts";
import { bytesOf, utf8 } from "./fake-target.ts";

function drain(stream: JsonStream): JsonResult[] {
  const results: JsonResult[] = [];
  for (let result = stream.next(); result !== undefined; result = stream.next()) results.push(result);
  return results;
}

function parse(input: string): JsonResult[] {
  const stream = new JsonStream();
  stream.feed(bytesOf(input));
  return drain(stream);
}

const test = describe("json-stream");

test("values need no separator", () => {
  assert.equal(parse('{}[]"a"{"b":1}true null'), [
    { value: {} },
    { value: [] },
    { value: "a" },
    { value: { b: 1 } },
    { value: true },
  ]);
});

test("a bare scalar waits for a delimiter or the end", () => {
  const stream = new JsonStream();
  stream.feed(bytesOf("nul"));
  assert.equal(drain(stream), []);
  stream.feed(bytesOf("l"));
  assert.equal(drain(stream), []);
  stream.feed(bytesOf("\n12"));
  assert.equal(drain(stream), [{ value: null }]);
  stream.end();
  assert.equal(drain(stream), [{ value: 12 }]);
});

test("strings may have single quotes", () => {
  assert.equal(parse(`'it\\'s' {'a':"'"} '"'`), [{ value: "it's" }, { value: { a: "'" } }, { value: '"' }]);
});

test("escapes and UTF-8", () => {
  const text = `${String.raw`"\"\\\/\b\f\n\r\t\u0041\ud83d\ude00\u0000`}é€😀"`;
  const stream = new JsonStream();
  stream.feed(utf8(text));
  assert.equal(drain(stream), [{ value: '"\\/\b\f\n\r\tA😀\u0000é€😀' }]);
});

test("integers of 64 bits keep their digits", () => {
  const numbers = "[12345678901234567890,-9223372036854775808,9007199254740991,1.5,2.0,1e5,-0,99999999999999999999]";
  assert.is(
    formatJson((parse(numbers)[0] as { value: unknown }).value),
    "[12345678901234567890, -9223372036854775808, 9007199254740991, 1.5, 2, 100000, 0, 100000000000000000000]",
  );
});

test("__proto__ is a key like any other", () => {
  const [result] = parse('{"__proto__":{"x":1}}');
  assert.is(formatJson((result as { value: unknown }).value), '{"__proto__": {"x": 1}}');
  assert.is(({} as { x?: number }).x, undefined);
});

/** Input, its first error, and what else comes before the command that follows it on a new line. */
const BAD: [input: string, error: string, more?: JsonResult[]][] = [
  ["{]", "1:2: JSON parse error, expecting key"],
  ["{\xff", "1:2: JSON parse error, stray '\ufffd'"],
  ["{\x01", "1:2: JSON parse error, stray '\x01'"],
  ["{'bad \xff", "1:2: JSON parse error, stray ''bad \ufffd'"],
  ["{'execute': 'nonexistent', 'id':'\n", "1:33: JSON parse error, stray ''\n'"],
  ["%p", "1:1: JSON parse error, stray '%'"],
  ["nul", "1:1: JSON parse error, invalid keyword 'nul'"],
  ['{"a" 1}', "1:6: JSON parse error, expecting ':'"],
  ['{"a":}', "1:6: JSON parse error, expecting value"],
  ["[1 2]", "1:4: JSON parse error, expected ',' or ']'"],
  ["[1,]", "1:4: JSON parse error, expecting value"],
  ['{"a":1,}', "1:8: JSON parse error, expecting key"],
  ['{"a":1 "b"}', "1:8: JSON parse error, expected ',' or '}'"],
  ['{"a":1,"a":2}', "1:12: JSON parse error, duplicate key"],
  ["]", "1:1: JSON parse error, expecting value"],
  ["01", "1:1: JSON parse error, stray '01'"],
  ["1.", "1:1: JSON parse error, stray '1.'"],
  ["1e400", "1:1: JSON parse error, number out of range"],
  ['"\\x"', "1:1: JSON parse error, invalid escape sequence in string"],
  ['"\\ud800"', "1:1: JSON parse error, \\ud800 is not a valid Unicode character"],
  ['"\\ud800\\u0041"', "1:1: JSON parse error, \\ud800 is not a valid Unicode character"],
  ['"\\udc00"', "1:1: JSON parse error, \\udc00 is not a valid Unicode character"],
  ['"\\u12g4"', "1:1: JSON parse error, \\u12g4 is not a valid Unicode character"],
  ['"\xc3"', "1:1: JSON parse error, invalid UTF-8 sequence in string"],
  ['"\xed\xa0\x80"', "1:1: JSON parse error, invalid UTF-8 sequence in string"],
  ["Tr", "1:1: JSON parse error, stray 'T'"],
  ['@@@ {"x":1}', "1:1: JSON parse error, stray '@'", [{ value: { x: 1 } }]],
  ["\xef\xbb\xbf{}", "1:1: JSON parse error, stray '\ufffd'", [{ value: {} }]],
  ['"abc\x01def" 1 2', `1:1: JSON parse error, stray '"abc\x01'`],
];

for (const [input, error, more = []] of BAD) {
  test(`says what is wrong with ${JSON.stringify(input)} and goes on`, () => {
    assert.equal(parse(`${input}\n{"execute":"x"}`), [{ error }, ...more, { value: { execute: "x" } }]);
  });
}

test("after a misplaced token everything up to the closing bracket is one error", () => {
  assert.equal(parse('{"a": [x, {"b": 1}, "}"], "c": 2} {}'), [
    { error: "1:8: JSON parse error, invalid keyword 'x'" },
    { value: {} },
  ]);
});

test("0xFF and a line end bring back a stream in any state", () => {
  for (const start of ["{", '{"a":[1,{', '"abc', "{'x", "12", "{x {[", "@@", '{]"\\']) {
    const results = parse(`${start}\xff\n{"execute":"x"}\n`);
    assert.equal(results.at(-1), { value: { execute: "x" } }, start);
  }
});

test("lines are counted over the whole connection", () => {
  assert.equal(parse('{}\n\n  {"a":\n1 2}'), [{ value: {} }, { error: "4:3: JSON parse error, expected ',' or '}'" }]);
});

test("the end of input inside a value is an error", () => {
  const stream = new JsonStream();
  stream.feed(bytesOf('{"a": [1'));
  stream.end();
  assert.equal(drain(stream), [{ error: "1:9: JSON parse error, premature end of input" }]);
});

test(`nests ${MAX_DEPTH} deep and no deeper`, () => {
  const nested = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);
  assert.is(parse(nested(MAX_DEPTH)).filter((result) => "value" in result).length, 1);
  assert.equal(parse(`${nested(MAX_DEPTH + 1)}{}`), [{ error: "JSON nesting depth limit exceeded" }, { value: {} }]);
  assert.equal(parse("[".repeat(100_000)), [{ error: "JSON nesting depth limit exceeded" }]);
});

test("a value over the size limit is one error, in pieces and in one", () => {
  const long = utf8(`{"a":"${"x".repeat(MAX_VALUE_BYTES)}"}{}`);
  const expected = [{ error: "JSON token size limit exceeded" }, { value: {} }];
  const whole = new JsonStream();
  whole.feed(long);
  assert.equal(drain(whole), expected);
  const pieces = new JsonStream();
  const results: JsonResult[] = [];
  for (let at = 0; at < long.length; at += 60_000) {
    pieces.feed(long.subarray(at, at + 60_000));
    results.push(...drain(pieces));
  }
  assert.equal(results, expected);
});

test("a number over the size limit does not swallow the next line", () => {
  const stream = new JsonStream();
  const results: JsonResult[] = [];
  for (let i = 0; i < 18; i++) {
    stream.feed(new Uint8Array(1 << 20).fill(0x31));
    results.push(...drain(stream));
  }
  stream.feed(bytesOf("\n{}"));
  results.push(...drain(stream));
  assert.equal(results, [{ error: "JSON token size limit exceeded" }, { value: {} }]);
});

test("a value of very many parts is an error", () => {
  assert.equal(parse(`[${"1,".repeat(3 << 20)}1]{}`), [{ error: "JSON token count limit exceeded" }, { value: {} }]);
});

test("what JSON.stringify writes is read back", () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      const text = JSON.stringify(value);
      const stream = new JsonStream();
      stream.feed(utf8(`${text}\n`));
      const [result] = drain(stream);
      assert.is(formatJson((result as { value: unknown }).value), formatJson(JSON.parse(text)));
    }),
  );
});

/** Bytes that bring the parser into all its states. */
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 60 }),
  fc.string({ unit: fc.constantFrom(..."{}[]:,\"'\\ \n\t\xff\x01aetrunl01-.e%"), maxLength: 60 }).map(bytesOf),
);

test("any bytes give the same results in one piece, byte by byte, and across a save at every byte", () => {
  fc.assert(
    fc.property(bytes, (input) => {
      const whole = new JsonStream();
      whole.feed(input);
      const expected = drain(whole).map((result) => formatJson(result));
      let stream = new JsonStream();
      const results: string[] = [];
      for (const byte of input) {
        stream.feed(Uint8Array.of(byte));
        results.push(...drain(stream).map((result) => formatJson(result)));
        stream = new JsonStream(JSON.parse(JSON.stringify(stream.save())));
      }
      assert.equal(results, expected);
      stream.feed(bytesOf('\xff\n{"execute":"x"}\n'));
      assert.equal(drain(stream).at(-1), { value: { execute: "x" } });
    }),
    { numRuns: 2000 },
  );
});

test("unread input is saved with the rest", () => {
  const stream = new JsonStream();
  stream.feed(bytesOf('{"a":1}{"b":2}{"c"'));
  assert.equal(stream.next(), { value: { a: 1 } });
  const restored = new JsonStream(stream.save());
  restored.feed(bytesOf(":3}"));
  assert.equal(drain(restored), [{ value: { b: 2 } }, { value: { c: 3 } }]);
});

test("output is ASCII, with QEMU's spacing", () => {
  assert.is(
    formatJson({ a: [1, "é😀\u007f"], b: {}, c: undefined, d: null }),
    String.raw`{"a": [1, "\u00E9\uD83D\uDE00\u007F"], "b": {}, "d": null}`,
  );
  assert.is(formatJson({ a: [1], b: {} }, true), '{\n    "a": [\n        1\n    ],\n    "b": {}\n}');
});

test.run();
