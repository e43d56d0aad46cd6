// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import * as layout from "../../../assembly/devices/i8042/layout.ts";
import { EVENT_RESET } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import { DeviceRig } from "./rig.ts";

const test = describe("i8042");

function createController(): DeviceRig<"i8042"> {
  return new DeviceRig("i8042", deviceFields(layout));
}

test("status and data read as 0, everything else as all ones", () => {
  const controller = createController();
  for (let offset = 0; offset < 8; offset++) {
    const isRegister = offset === layout.DATA_OFFSET || offset === layout.STATUS_OFFSET;
    assert.is(controller.read(offset), isRegister ? 0 : 0xff);
    assert.is(controller.read(offset, 2), 0xffff);
  }
});

test("commands: those that pulse the CPU's reset line reset, 0xfe above all", () => {
  const controller = createController();
  controller.write(layout.STATUS_OFFSET, 0xfe);
  assert.is(controller.takeEvents(), EVENT_RESET);
  for (let command = 0; command < 0x100; command++) {
    controller.write(layout.STATUS_OFFSET, command);
    assert.is(controller.takeEvents(), command >= 0xf0 && command % 2 === 0 ? EVENT_RESET : 0, `command ${command}`);
  }
});

test("has no state, whatever is written", () => {
  fc.assert(
    fc.property(fc.nat(8), fc.nat(0xff), fc.constantFrom(1, 2, 4), (offset, value, sizeBytes) => {
      const controller = createController();
      controller.write(offset, value, sizeBytes);
      assert.is(controller.save().length, layout.STATE_SIZE_BYTES);
      const isReset = offset === layout.STATUS_OFFSET && sizeBytes === 1 && (value & 0xf1) === 0xf0;
      assert.is(controller.takeEvents(), isReset ? EVENT_RESET : 0);
      assert.is(controller.read(layout.STATUS_OFFSET), 0);
    }),
  );
});

test.run();
