// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import * as layout from "../../../assembly/devices/port92/layout.ts";
import { EVENT_RESET } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import { DeviceRig } from "./rig.ts";

const test = describe("port92");

const [FAST_INIT, FAST_A20] = [0x01, 0x02];

function createPort(): DeviceRig<"port92"> {
  return new DeviceRig("port92", deviceFields(layout));
}

test("the register has its reset value and mask", () => {
  const port = createPort();
  assert.is(port.read(0), FAST_A20);
  port.write(0, 0xff);
  assert.is(port.read(0), FAST_A20 | FAST_INIT);
  port.write(0, 0);
  assert.is(port.read(0), 0);
});

test("other offsets and sizes read as all ones and write nothing", () => {
  const port = createPort();
  port.write(1, 1);
  port.write(0, 1, 2);
  assert.is(port.takeEvents(), 0);
  assert.is(port.read(1), 0xff);
  assert.is(port.read(0, 2), 0xffff);
  assert.is(port.read(0), FAST_A20);
});

test("A20: reads as written", () => {
  const port = createPort();
  for (const value of [0, FAST_A20, 0, FAST_A20]) {
    port.write(0, value);
    assert.is(port.read(0), value);
  }
  assert.is(port.takeEvents(), 0);
});

test("fast reset: on the rising edge", () => {
  const port = createPort();
  port.write(0, FAST_A20 | FAST_INIT);
  assert.is(port.takeEvents(), EVENT_RESET);
  port.write(0, FAST_INIT);
  assert.is(port.takeEvents(), 0);
  port.write(0, 0);
  port.write(0, FAST_INIT);
  assert.is(port.takeEvents(), EVENT_RESET);
  port.device.reset(port.state);
  assert.is(port.read(0), FAST_A20);
});

test("behaves like the model, also after save and restore at any point", () => {
  fc.assert(
    fc.property(fc.array(fc.nat(0xff)), fc.array(fc.nat(0xff)), (before, after) => {
      let control = FAST_A20;
      const perform = (port: DeviceRig<"port92">, value: number) => {
        port.write(0, value);
        assert.is(port.takeEvents(), (value & ~control & FAST_INIT) !== 0 ? EVENT_RESET : 0);
        control = value & 3;
        assert.is(port.read(0), control);
      };
      const source = createPort();
      for (const value of before) perform(source, value);
      const target = createPort();
      target.restoreFrom(source);
      assert.equal(target.save(), source.save());
      for (const value of after) perform(target, value);
    }),
  );
});

test.run();
