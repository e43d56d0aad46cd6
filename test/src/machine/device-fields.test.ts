// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import {
  convertDevice,
  type DeviceField,
  deviceFields,
  fieldSizeBytes,
  parseFields,
  restoreDevice,
  saveDevice,
} from "../../../src/machine/device-fields.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("device-fields");

const STATE = 0x2_0000;
const PAGE_SIZE_BYTES = 4096;

function createPage() {
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
  return { memory, page: new Uint8Array(memory.buffer, STATE, PAGE_SIZE_BYTES) };
}

const LAYOUT = {
  FIELD_RX_FIFO_U8X16: 16,
  FIELD_IER_U8: 0,
  FIELD_DIVISOR_U16: 2,
  FIELD_PHASE_NS_U32: 4,
  FIELD_OFFSET_NS_I64: 8,
  HOST_RING_INDEX: 32,
  STATE_VERSION: 1,
  STATE_SIZE_BYTES: 32,
};

test("deviceFields() reads name, type, count and offset, in the order of the page", () => {
  assert.equal(deviceFields(LAYOUT), [
    { name: "ier", type: "u8", count: 1, offset: 0 },
    { name: "divisor", type: "u16", count: 1, offset: 2 },
    { name: "phase-ns", type: "u32", count: 1, offset: 4 },
    { name: "offset-ns", type: "i64", count: 1, offset: 8 },
    { name: "rx-fifo", type: "u8", count: 16, offset: 16 },
  ]);
});

test("saveDevice() copies the fields, and zeros for what lies between them", () => {
  const { memory, page } = createPage();
  page.fill(0xee);
  const saved = saveDevice(memory, STATE, deviceFields(LAYOUT));
  assert.is(saved.length, 32);
  assert.is(saved.buffer instanceof SharedArrayBuffer, false);
  assert.is(saved[1], 0, "byte 1 is no field");
  assert.is(saved.filter((byte) => byte === 0xee).length, 31);
  page.fill(0);
  assert.is(saved[0], 0xee, "it is a copy");
});

test("restoreDevice() writes the fields and nothing else", () => {
  const fields = deviceFields(LAYOUT);
  const { memory, page } = createPage();
  restoreDevice(memory, STATE, fields, new Uint8Array(32).fill(0xff));
  assert.is(page[1], 0);
  assert.is(page[32], 0);
  assert.is(page.filter((byte) => byte === 0xff).length, 31);
});

test("restoreDevice() takes a state without fields", () => {
  const { memory, page } = createPage();
  assert.is(saveDevice(memory, STATE, []).length, 0);
  restoreDevice(memory, STATE, [], new Uint8Array(0));
  assert.ok(page.every((byte) => byte === 0));
});

test("restoreDevice() matches another version's fields by name and type", () => {
  const saved: DeviceField[] = [
    { name: "moved", type: "u16", count: 1, offset: 0 },
    { name: "dropped", type: "u32", count: 1, offset: 4 },
    { name: "widened", type: "u8", count: 1, offset: 8 },
    { name: "longer", type: "u8", count: 4, offset: 9 },
  ];
  const own: DeviceField[] = [
    { name: "added", type: "u16", count: 1, offset: 0 },
    { name: "widened", type: "u16", count: 1, offset: 2 },
    { name: "longer", type: "u8", count: 8, offset: 4 },
    { name: "moved", type: "u16", count: 1, offset: 12 },
  ];
  const { memory, page } = createPage();
  page.fill(0xaa);
  restoreDevice(
    memory,
    STATE,
    own,
    Uint8Array.from({ length: 13 }, (_, at) => at + 1),
    saved,
  );
  assert.equal([...page.subarray(0, 16)], [...Array(12).fill(0xaa), 1, 2, 0xaa, 0xaa]);
});

test("restoreDevice() refuses a state that is too short for its fields", async () => {
  const { memory, page } = createPage();
  const fields = deviceFields(LAYOUT);
  const error = await rejection(() => restoreDevice(memory, STATE, fields, new Uint8Array(31)));
  assert.instance(error, RangeError);
  assert.match(error.message, /31 bytes where its fields take 32/);
  assert.ok(page.every((byte) => byte === 0));
});

test("a running device gets the form of another version: by name, new fields as at power-on, the rest untouched", () => {
  const { memory, page } = createPage();
  const old = parseFields("a:u8@0 b:u16@2 gone:u32@4 c:u8x2@8")!;
  const next = parseFields("c:u8x2@0 new:u32@4 a:u16@12 b:u16@14")!;
  page.set([1, 99, 2, 3, 4, 5, 6, 7, 8, 9, 55, 56]);
  const saved = saveDevice(memory, STATE, old);
  const powerOn = new Uint8Array(PAGE_SIZE_BYTES).fill(0xee);
  convertDevice(memory, STATE, { fields: next, powerOn, saved, savedFields: old });
  // Byte 1 was no field of either; 10 and 11 neither. `a` is of another type now.
  assert.equal([...page.subarray(0, 16)], [8, 9, 0, 0, 0xee, 0xee, 0xee, 0xee, 0, 0, 55, 56, 0xee, 0xee, 2, 3]);
});

/** Field lists without overlaps, with gaps. */
const fieldLists = fc
  .array(
    fc.record({
      type: fc.constantFrom("u8" as const, "u16" as const, "u32" as const, "i64" as const),
      count: fc.integer({ min: 1, max: 20 }),
      gapBytes: fc.nat(5),
    }),
    { maxLength: 12 },
  )
  .map((drafts) => {
    let end = 0;
    return drafts.map(({ type, count, gapBytes }, at): DeviceField => {
      const field: DeviceField = { name: `field-${at}`, type, count, offset: end + gapBytes };
      end = field.offset + fieldSizeBytes(field);
      return field;
    });
  });

test("save, restore, save is byte-identical for any list of fields", () => {
  const source = createPage();
  const target = createPage();
  fc.assert(
    fc.property(
      fieldLists,
      fc.uint8Array({ minLength: PAGE_SIZE_BYTES, maxLength: PAGE_SIZE_BYTES }),
      (fields, bytes) => {
        source.page.set(bytes);
        const saved = saveDevice(source.memory, STATE, fields);
        restoreDevice(target.memory, STATE, fields, saved);
        assert.equal(saveDevice(target.memory, STATE, fields), saved);
      },
    ),
    { numRuns: 50 },
  );
});

test.run();
