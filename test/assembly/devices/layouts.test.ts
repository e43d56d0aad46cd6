// SPDX-License-Identifier: Apache-2.0
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { DEVICE_STRIDE_BYTES } from "../../../assembly/layout.ts";
import { deviceFields, fieldSizeBytes } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("device layouts");

const devicesUrl = new URL("../../../assembly/devices/", import.meta.url);
const LOCK_SIZE_BYTES = 4;
const ALIGNMENT = { u8: 1, u16: 2, u32: 4, i64: 8 };

const names = readdirSync(fileURLToPath(devicesUrl), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

for (const name of names) {
  test(`${name}: fields are aligned, apart, in the state, and leave the lock word alone`, async () => {
    const layout: Record<string, number> = await import(new URL(`${name}/layout.ts`, devicesUrl).href);
    assert.is(typeof layout.STATE_VERSION, "number");
    let end = 0;
    for (const field of deviceFields(layout)) {
      assert.ok(field.offset >= end, `${field.name} overlaps the field before it`);
      assert.is(field.offset % ALIGNMENT[field.type], 0, field.name);
      end = field.offset + fieldSizeBytes(field);
    }
    assert.ok(end <= layout.STATE_SIZE_BYTES!);
    assert.ok(layout.STATE_SIZE_BYTES! <= DEVICE_STRIDE_BYTES - LOCK_SIZE_BYTES);
    const constants = Object.keys(layout).filter((constant) => constant.startsWith("FIELD_"));
    assert.is(deviceFields(layout).length, constants.length, "a FIELD_ constant has no known type");
  });
}

test.run();
