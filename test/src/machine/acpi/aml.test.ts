// SPDX-License-Identifier: Apache-2.0
import * as aml from "../../../../src/machine/acpi/aml.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("AML");

test("integer() takes the shortest form", () => {
  assert.equal(aml.integer(0), [0x00]);
  assert.equal(aml.integer(1), [0x01]);
  assert.equal(aml.integer(2), [0x0a, 2]);
  assert.equal(aml.integer(0xff), [0x0a, 0xff]);
  assert.equal(aml.integer(0x100), [0x0b, 0x00, 0x01]);
  assert.equal(aml.integer(0x1_0000), [0x0c, 0, 0, 1, 0]);
  assert.equal(aml.integer(0xffff_ffff), [0x0c, 0xff, 0xff, 0xff, 0xff]);
});

test("eisaId() compresses as the specification's example PNP0C09 does", () => {
  assert.equal(aml.eisaId("PNP0501"), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
  assert.equal(aml.eisaId("PNP0C09"), [0x0c, 0x41, 0xd0, 0x0c, 0x09]);
  assert.throws(() => aml.eisaId("PNP050"), RangeError);
});

test("name() pads its segment and keeps the root", () => {
  assert.equal(aml.name("_S5", aml.integer(0)), [0x08, 0x5f, 0x53, 0x35, 0x5f, 0x00]);
  assert.equal(aml.name("\\_S5", aml.integer(0)), [0x08, 0x5c, 0x5f, 0x53, 0x35, 0x5f, 0x00]);
  assert.throws(() => aml.name("TOOLONG", aml.integer(0)), RangeError);
  assert.throws(() => aml.name("9ABC", aml.integer(0)), RangeError);
});

test("package lengths count themselves and change form at 63, 4095 and 1048575", () => {
  const lengthOf = (term: aml.Aml): { fieldBytes: number; length: number } => {
    const lead = term[1]!;
    const extra = lead >> 6;
    let length = extra === 0 ? lead & 0x3f : lead & 0xf;
    for (let index = 0; index < extra; index++) length += term[2 + index]! * 2 ** (4 + 8 * index);
    return { fieldBytes: 1 + extra, length };
  };
  const filling = (sizeBytes: number): aml.Aml => new Array<number>(sizeBytes).fill(0);
  // The scope's name takes four bytes of each body.
  for (const [bodyBytes, fieldBytes] of [
    [5, 1],
    [62, 1],
    [63, 2],
    [4093, 2],
    [4094, 3],
    [0xffffc, 3],
    [0xffffd, 4],
  ] as const) {
    const term = aml.scope("TEST", filling(bodyBytes - 4));
    assert.equal(lengthOf(term), { fieldBytes, length: bodyBytes + fieldBytes }, `${bodyBytes} bytes`);
    assert.is(term.length, 1 + fieldBytes + bodyBytes);
  }
});

test("resource templates hold their size and an end tag", () => {
  assert.equal(
    aml.resourceTemplate(aml.io(0x3f8, 8), aml.irqNoFlags(4)),
    [0x11, 16, 0x0a, 13, 0x47, 1, 0xf8, 0x03, 0xf8, 0x03, 1, 8, 0x22, 0x10, 0x00, 0x79, 0x00],
  );
});

test("string(), pack() and device() nest", () => {
  assert.equal(aml.pack(aml.integer(5), aml.string("A")), [0x12, 7, 2, 0x0a, 5, 0x0d, 0x41, 0]);
  assert.equal(
    aml.device("D", aml.name("N", aml.integer(1))),
    [0x5b, 0x82, 11, 0x44, 0x5f, 0x5f, 0x5f, 0x08, 0x4e, 0x5f, 0x5f, 0x5f, 0x01],
  );
});

test.run();
