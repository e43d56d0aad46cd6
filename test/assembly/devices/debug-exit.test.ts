// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import * as layout from "../../../assembly/devices/debug-exit/layout.ts";
import { EVENT_DEBUG_EXIT } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import { DeviceRig } from "./rig.ts";

const test = describe("debug-exit");

function createPort() {
  const rig = new DeviceRig("debug-exit", deviceFields(layout));
  return {
    rig,
    exitCode: () => new DataView(rig.memory.buffer).getUint32(rig.state + layout.FIELD_EXIT_CODE_U32, true),
  };
}

test("the register reads as 0, before and after a write", () => {
  const { rig, exitCode } = createPort();
  assert.is(exitCode(), 0);
  assert.is(rig.read(0), 0);
  rig.write(0, 0xff);
  assert.is(rig.read(0), 0);
});

test("exit code: a write of v ends with (v << 1) | 1", () => {
  fc.assert(
    fc.property(fc.nat(1), fc.nat(0xffff_ffff), fc.constantFrom(1, 2, 4), (offset, value, sizeBytes) => {
      const { rig, exitCode } = createPort();
      rig.write(offset, value, sizeBytes);
      assert.is(rig.takeEvents(), EVENT_DEBUG_EXIT);
      const written = value % 2 ** (8 * sizeBytes);
      assert.is(exitCode(), ((written << 1) | 1) >>> 0);
    }),
  );
});

test("save, restore, save is byte-identical, and reset forgets", () => {
  const { rig } = createPort();
  rig.write(0, 21);
  const target = createPort();
  target.rig.restoreFrom(rig);
  assert.equal(target.rig.save(), rig.save());
  assert.is(target.exitCode(), 43);
  target.rig.device.reset(rig.state);
  assert.is(target.exitCode(), 0);
});

test.run();
