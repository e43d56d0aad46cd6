// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { VmmError } from "../../../src/errors.ts";
import { ALIGNMENT_BYTES, CRC_OFFSET, HEADER_SIZE_BYTES, MAX_IMAGE_SIZE_BYTES } from "../../../src/state/format.ts";
import { checkChecksum, readDirectory, StateReader } from "../../../src/state/reader.ts";
import { StateWriter } from "../../../src/state/writer.ts";
import { PRODUCER } from "../../../src/version.ts";
import { assert, describe } from "../../harness.ts";
import { changed, KNOWN, makeImage, REGS, withDirectory } from "./images.ts";

const test = describe("state image");

function refusal(image: Uint8Array, known: Record<string, number> = KNOWN): string {
  try {
    new StateReader(image, known);
  } catch (error) {
    assert.instance(error, VmmError);
    assert.is((error as VmmError).code, "state-refused");
    return (error as VmmError).message;
  }
  assert.unreachable("the image was not refused");
  return "";
}

/** What using a section's parts throws. */
function partRefusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    assert.is((error as VmmError).code, "state-refused");
    return (error as VmmError).message;
  }
  assert.unreachable("nothing was refused");
  return "";
}

test("what is written is read", () => {
  const reader = new StateReader(makeImage(), KNOWN);
  assert.is(reader.producer, PRODUCER);
  assert.equal(reader.section("machine").json(), { cpuCount: 2, name: "größe" });
  for (const instance of [0, 1]) {
    const section = reader.section("vcpu", instance);
    assert.is(section.version, 2);
    assert.is(section.title, `vcpu ${instance}`);
    assert.equal(
      section.part("regs", 144),
      REGS.map((byte) => byte + instance),
    );
    assert.is(section.part("empty", 0).length, 0);
    assert.ok(section.has("regs"));
    assert.not(section.has("sregs"));
  }
  assert.is(reader.find("vcpu", 2), undefined);
  assert.is(reader.sections().length, 3);
});

test("what is filled in after the layout is read", () => {
  const writer = new StateWriter();
  const section = writer.plan({ id: "vcpu", version: 1 }, [
    { name: "a", type: "u8[]", sizeBytes: 1 },
    { name: "b", type: "u8[]", sizeBytes: 100 },
  ]);
  writer.lay();
  writer.view(section, "b").fill(7);
  writer.view(section, "a").fill(9);
  const read = new StateReader(writer.seal(), KNOWN).section("vcpu");
  assert.equal([...read.part("a")], [9]);
  assert.ok(read.part("b", 100).every((byte) => byte === 7));
  assert.throws(() => writer.plan({ id: "late", version: 1 }, []), /laid out already/);
  assert.throws(() => writer.view(section, "c"), /No part c in vcpu/);
});

/** An image with a part that may turn out shorter, between two others. */
function withLimit(usedBytes: number | undefined): Uint8Array {
  const writer = new StateWriter();
  const section = writer.plan({ id: "vcpu", version: 1 }, [
    { name: "before", type: "u8[]", sizeBytes: 10 },
    { name: "limited", type: "u8[]", sizeBytes: 5000, isLimit: true },
  ]);
  const last = writer.plan({ id: "vcpu", instance: 1, version: 1 }, [{ name: "after", type: "u8[]", sizeBytes: 20 }]);
  writer.lay();
  writer.view(section, "before").fill(1);
  writer.view(section, "limited").fill(2);
  writer.view(last, "after").fill(3);
  if (usedBytes !== undefined) writer.shorten(section, "limited", usedBytes);
  return writer.seal();
}

test("a part that turns out shorter takes no more room than it has", () => {
  const full = withLimit(undefined);
  for (const usedBytes of [0, 1, 100, 4999, 5000]) {
    const image = withLimit(usedBytes);
    assert.ok(Math.abs(full.length - image.length - (5000 - usedBytes)) < ALIGNMENT_BYTES);
    const reader = new StateReader(image, KNOWN);
    assert.equal(reader.section("vcpu").part("limited"), new Uint8Array(usedBytes).fill(2));
    assert.equal(reader.section("vcpu").part("before", 10), new Uint8Array(10).fill(1));
    assert.equal(reader.section("vcpu", 1).part("after", 20), new Uint8Array(20).fill(3));
  }
  assert.throws(() => withLimit(5001), /cannot have 5001 bytes/);
});

test("a part that was made shorter does not get longer", () => {
  const writer = new StateWriter();
  const section = writer.plan({ id: "vcpu", version: 1 }, [
    { name: "a", type: "u8[]", sizeBytes: 1000, isLimit: true },
  ]);
  writer.lay();
  writer.shorten(section, "a", 3);
  assert.throws(() => writer.shorten(section, "a", 4), /cannot have 4 bytes/);
  assert.is(new StateReader(writer.seal(), KNOWN).section("vcpu").part("a").length, 3);
});

test("of two parts that may be shorter, the second keeps its room", () => {
  const writer = new StateWriter();
  const part = { name: "a", type: "u8[]", sizeBytes: 1000, isLimit: true };
  const sections = [0, 1].map((instance) => writer.plan({ id: "vcpu", instance, version: 1 }, [part]));
  writer.lay();
  for (const section of sections) {
    writer.view(section, "a").fill(5, 0, 10);
    writer.shorten(section, "a", 10);
  }
  const reader = new StateReader(writer.seal(), KNOWN);
  assert.equal(reader.section("vcpu").part("a"), new Uint8Array(10).fill(5));
  assert.equal(
    reader.section("vcpu", 1).part("a"),
    new Uint8Array([...new Uint8Array(10).fill(5), ...new Uint8Array(990)]),
  );
});

test("parts are aligned, do not overlap, and nothing else is in the image but zeros", () => {
  const image = makeImage();
  const parts = readDirectory(image).sections.flatMap((section) => section.parts);
  const covered = new Uint8Array(image.length);
  covered.fill(1, 0, HEADER_SIZE_BYTES + new DataView(image.buffer).getUint32(24, true));
  for (const { offset, sizeBytes } of parts) {
    assert.is(offset % ALIGNMENT_BYTES, 0);
    assert.ok(covered.subarray(offset, offset + sizeBytes).every((byte) => byte === 0));
    covered.fill(1, offset, offset + sizeBytes);
  }
  assert.ok(image.every((byte, index) => covered[index] === 1 || byte === 0));
});

test("an image in the middle of a larger buffer is read", () => {
  const image = makeImage();
  const buffer = new Uint8Array(image.length + 100);
  buffer.set(image, 33);
  const reader = new StateReader(buffer.subarray(33, 33 + image.length), KNOWN);
  assert.is(reader.section("vcpu", 1).part("regs")[0], 1);
});

test("any sections survive the way through an image", () => {
  const part = fc.record({ name: fc.string(), type: fc.string(), bytes: fc.uint8Array({ maxLength: 300 }) });
  const section = fc.record({
    id: fc.string(),
    instance: fc.nat(),
    version: fc.integer({ min: 1, max: 9 }),
    required: fc.boolean(),
    parts: fc.uniqueArray(part, { maxLength: 5, selector: ({ name }) => name }),
  });
  const sections = fc.uniqueArray(section, { selector: ({ id, instance }) => `${id} ${instance}`, maxLength: 8 });
  fc.assert(
    fc.property(sections, (written) => {
      const writer = new StateWriter();
      for (const { parts, ...head } of written) writer.add(head, parts);
      writer.lay();
      const known = Object.fromEntries(written.map(({ id }) => [id, 9]));
      const reader = new StateReader(writer.seal(), known);
      for (const { id, instance, parts } of written) {
        const read = reader.section(id, instance);
        for (const { name, bytes } of parts) assert.equal(read.part(name, bytes.length), bytes);
      }
    }),
    { numRuns: 200 },
  );
});

test("an image that is cut anywhere is refused", () => {
  const image = makeImage();
  for (let length = 0; length < image.length; length++) {
    assert.match(refusal(image.subarray(0, length)), /^State image is cut short/);
  }
});

test("an image with bytes behind it is refused", () => {
  const image = makeImage();
  const longer = new Uint8Array(image.length + 1);
  longer.set(image);
  assert.is(
    refusal(longer),
    `State image is cut short or too long: ${image.length + 1} bytes, its header says ${image.length}`,
  );
});

test("an image with any bit flipped is refused", () => {
  const image = makeImage();
  const position = fc.record({ byte: fc.nat(image.length - 1), bit: fc.nat(7) });
  const flip = ({ byte, bit }: { byte: number; bit: number }): void => {
    const copy = image.slice();
    copy[byte]! ^= 1 << bit;
    assert.match(refusal(copy), /magic|format version|damaged|cut short/);
  };
  for (let byte = 0; byte < HEADER_SIZE_BYTES; byte++) for (let bit = 0; bit < 8; bit++) flip({ byte, bit });
  fc.assert(fc.property(position, flip), { numRuns: 1000 });
});

test("headers that are wrong say so", () => {
  const image = makeImage();
  assert.is(refusal(new Uint8Array(0)), "State image is cut short: 0 bytes, the header alone has 64");
  assert.is(
    refusal(changed(image, (_, bytes) => bytes.set([0x51], 0))),
    "State image has a wrong magic: it is not Baton's state",
  );
  assert.is(
    refusal(changed(image, (view) => view.setUint32(8, 2, true))),
    `State image has format version 2; ${PRODUCER} reads version 1`,
  );
  assert.is(
    refusal(changed(image, (_, bytes) => bytes.set(new TextEncoder().encode("arm64\0"), 32))),
    'State image is of architecture "arm64" instead of x86_64',
  );
  assert.match(
    refusal(changed(image, (view) => view.setUint32(24, 0xffff_ffff, true))),
    "State image has a directory of 4294967295 bytes, more than the image holds",
  );
  assert.is(
    refusal(changed(image, (view) => view.setUint32(24, 10, true))),
    "State image has a directory that is not JSON",
  );
  assert.is(
    refusal(image.map((byte, index) => (index === image.length - 1 ? byte ^ 1 : byte))),
    "State image is damaged: its CRC-32 does not match",
  );
});

test("an image beyond the limit is refused before anything is read", () => {
  const length = MAX_IMAGE_SIZE_BYTES + 1;
  assert.is(
    refusal(new Uint8Array(length)),
    `State image has ${length} bytes, more than the limit of ${MAX_IMAGE_SIZE_BYTES}`,
  );
});

test("directories that are wrong say so", () => {
  const part = { name: "regs", type: "u8", offset: 64, sizeBytes: 1 };
  const section = { id: "vcpu", instance: 0, version: 1, required: true, parts: [part] };
  const refuse = (directory: unknown): string => refusal(withDirectory(JSON.stringify(directory)));
  for (const directory of [
    null,
    3,
    [],
    {},
    { producer: "x" },
    { producer: 1, sections: [] },
    { producer: "x", sections: {} },
  ]) {
    assert.is(refuse(directory), "State image has a directory without producer and sections");
  }
  const wrongSections = [
    null,
    "vcpu",
    { ...section, id: 1 },
    { ...section, instance: -1 },
    { ...section, version: 1.5 },
    { ...section, required: 1 },
    { ...section, parts: {} },
    { ...section, version: 2 ** 60 },
  ];
  for (const wrong of wrongSections) {
    assert.match(
      refuse({ producer: "x", sections: [wrong] }),
      /^State image has a directory entry that is not a section/,
    );
  }
  const wrongParts = [
    null,
    { ...part, name: 1 },
    { ...part, type: undefined },
    { ...part, offset: 63 },
    { ...part, offset: -64 },
    { ...part, offset: 1e9 },
    { ...part, sizeBytes: 1e9 },
    { ...part, sizeBytes: -1 },
    { ...part, sizeBytes: "1" },
    { ...part, offset: Number.MAX_SAFE_INTEGER, sizeBytes: Number.MAX_SAFE_INTEGER },
  ];
  for (const wrong of wrongParts) {
    const directory = { producer: "x", sections: [{ ...section, parts: [wrong] }] };
    assert.is(refuse(directory), "State section vcpu 0 has a part outside the image");
  }
  assert.is(refuse({ producer: "x", sections: [section, section] }), "State section vcpu 0 is there twice");
});

test("no directory makes the reader fail in any other way", () => {
  const key = fc.constantFrom("producer", "sections", "id", "instance", "version", "required", "parts", "__proto__");
  const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
    tree: fc.oneof(
      { depthSize: "small" },
      fc.constantFrom(null, true, 0, 1, 64, -1, 1e300, "x", "vcpu"),
      fc.array(tie("tree"), { maxLength: 4 }),
      fc.dictionary(key, tie("tree"), { maxKeys: 6 }),
    ),
  }));
  const directory = fc.oneof(
    tree,
    fc.record({ producer: fc.constant("x"), sections: fc.array(tree, { maxLength: 3 }) }),
  );
  fc.assert(
    fc.property(directory, (value) => {
      const image = withDirectory(JSON.stringify(value) ?? "");
      try {
        new StateReader(image, KNOWN);
      } catch (error) {
        assert.is((error as VmmError).code, "state-refused");
      }
    }),
    { numRuns: 1000 },
  );
});

test("parts that are not as expected are refused by name", () => {
  const reader = new StateReader(makeImage(), KNOWN);
  const section = reader.section("vcpu", 1);
  assert.is(
    partRefusal(() => section.part("sregs")),
    "State section vcpu 1 has no part sregs",
  );
  assert.is(
    partRefusal(() => section.part("regs", 4)),
    "State part regs of vcpu 1 has 144 bytes instead of 4",
  );
  assert.is(
    partRefusal(() => section.json()),
    "State section vcpu 1 has no part value",
  );
  assert.is(
    partRefusal(() => reader.section("vcpu", 2)),
    "State section vcpu 2 is missing",
  );
  const wrong = makeImage((writer) =>
    writer.add({ id: "machine", instance: 1, version: 1 }, [{ name: "value", type: "json", bytes: REGS }]),
  );
  assert.is(
    partRefusal(() => new StateReader(wrong, KNOWN).section("machine", 1).json()),
    "State section machine 1 is not JSON",
  );
});

test("a required section that is unknown or too new is refused with both versions", () => {
  const bytes = [{ name: "value", type: "u8[]", bytes: REGS }];
  const unknown = makeImage((writer) => writer.add({ id: "gpu", instance: 3, version: 1 }, bytes));
  const text = "State section gpu 3 has version 1, written by";
  assert.is(refusal(unknown), `${text} ${PRODUCER}; this is ${PRODUCER}, which does not know it`);
  assert.is(refusal(unknown, { ...KNOWN, gpu: 0 }), `${text} ${PRODUCER}; this is ${PRODUCER}, which does not know it`);
  const newer = makeImage((writer) => writer.add({ id: "machine", instance: 1, version: 3 }, bytes));
  assert.is(
    refusal(newer),
    `State section machine 1 has version 3, written by ${PRODUCER}; this is ${PRODUCER}, which reads versions up to 1`,
  );
  // Names that every object has are no sections that anybody knows.
  for (const id of ["constructor", "__proto__", "toString"]) {
    assert.match(refusal(makeImage((writer) => writer.add({ id, version: 1 }, bytes))), "does not know it");
  }
  const zero = makeImage((writer) => writer.add({ id: "gpu", version: 0 }, bytes));
  assert.match(refusal(zero), "which does not know it");
});

test("an optional section that is unknown or too new is skipped", () => {
  const image = makeImage((writer) => {
    const bytes = [{ name: "value", type: "u8[]", bytes: REGS }];
    writer.add({ id: "hint", version: 1, required: false }, bytes);
    writer.add({ id: "machine", instance: 1, version: 9, required: false }, bytes);
  });
  const reader = new StateReader(image, KNOWN);
  assert.is(reader.find("hint"), undefined);
  assert.is(reader.find("machine", 1), undefined, "not even found: its parts may mean something else");
  assert.is(reader.sections().length, 3);
  const knowing = new StateReader(image, { machine: 9, vcpu: 2, hint: 1 });
  assert.equal(knowing.section("hint").part("value"), REGS);
});

test("an older version of a section is read, and says which it is", () => {
  const reader = new StateReader(makeImage(), { machine: 5, vcpu: 7 });
  assert.is(reader.section("vcpu").version, 2);
});

test("who reads along hears what is there, and in a fixed layout nothing is moved or cut off", () => {
  const writer = new StateWriter();
  const limited = writer.plan({ id: "vcpu", version: 1 }, [
    { name: "output", type: "u8[]", sizeBytes: 1000, isLimit: true },
  ]);
  const progress = [writer.planProgress()];
  const section = writer.plan({ id: "vcpu", instance: 1, version: 1 }, [{ name: "a", type: "u8[]", sizeBytes: 5 }]);
  progress.push(writer.planProgress());
  const sizeBytes = writer.lay({ isFixed: true });
  const heard: number[] = [];
  writer.onProgress = (image, filledBytes) => {
    assert.is(image.length, sizeBytes);
    heard.push(filledBytes);
  };
  const tell = progress.map((bind) => bind());
  writer.view(limited, "output").fill(7);
  writer.shorten(limited, "output", 10);
  tell[0]!();
  writer.view(section, "a").fill(8);
  tell[1]!();
  const reader = new StateReader(writer.seal(), KNOWN);
  assert.is(reader.section("vcpu").part("output").length, 1000);
  assert.ok(reader.section("vcpu").endOffset <= heard[0]!);
  assert.ok(reader.section("vcpu", 1).endOffset > heard[0]!);
  assert.is(heard[1], sizeBytes);
});

test("an image that is still arriving is read before its checksum is right", () => {
  const image = changed(makeImage(), () => {});
  image[CRC_OFFSET]! ^= 1;
  assert.match(refusal(image), "CRC-32");
  assert.is(new StateReader(image, KNOWN, { isArriving: true }).sections().length, 3);
  assert.throws(() => checkChecksum(image), "CRC-32");
  image[CRC_OFFSET]! ^= 1;
  checkChecksum(image);
});

test.run();
