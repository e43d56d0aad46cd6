// SPDX-License-Identifier: Apache-2.0
import { FIELD_EXIT_CODE_U32 } from "../../../assembly/devices/debug-exit/layout.ts";
import { DEVICE_BASE, DEVICE_STRIDE_BYTES } from "../../../assembly/layout.ts";
import type { DeviceInstance } from "../../../src/machine/device-table.ts";
import { IoBus } from "../../../src/machine/io-bus.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("src/machine: I/O bus");

const at = (slot: number): number => DEVICE_BASE + slot * DEVICE_STRIDE_BYTES;
const DEBUG_EXIT: DeviceInstance = { module: "debug-exit", instance: 0, state: at(2), ioBase: 0xf4, ioSizeBytes: 4 };
const TABLE: DeviceInstance[] = [
  { module: "mc146818", instance: 0, state: at(0), ioBase: 0x70, ioSizeBytes: 2 },
  { module: "port92", instance: 0, state: at(1), ioBase: 0x92, ioSizeBytes: 1 },
  DEBUG_EXIT,
  { module: "acpi-pm", instance: 0, state: at(3), ioBase: 0x600, ioSizeBytes: 16 },
  // Two devices side by side, as no PC has them.
  { module: "uart16550", instance: 0, state: at(8), ioBase: 0x2f8, ioSizeBytes: 8, ring: 0, chardev: null },
  { module: "i8042", instance: 0, state: at(4), ioBase: 0x300, ioSizeBytes: 5 },
];

function createBus(): { bus: IoBus; memory: WebAssembly.Memory } {
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
  const bus = new IoBus(memory, TABLE, () => {});
  for (const device of TABLE) bus.exportsOf(device).reset(device.state);
  return { bus, memory };
}

test("a wide write to an 8-bit device is one to each of consecutive ports", () => {
  const { bus } = createBus();
  // Index and data of the RTC's RAM at once, the usual way to write it.
  bus.write(0x70, 2, 0x5a33);
  bus.write(0x70, 1, 0x33);
  assert.is(bus.read(0x71, 1) & 0xff, 0x5a);
  assert.is(bus.read(0x70, 2) >>> 8, 0x5a);
  // Scratch is the UART's last register, and behind it comes another device.
  bus.write(0x2fb, 1, 0x03);
  bus.write(0x2ff, 4, 0x0000_0077);
  assert.is(bus.read(0x2ff, 1) & 0xff, 0x77);
  assert.is(bus.read(0x2ff, 2), 0x0077, "a scratch register, and the data of a keyboard that says nothing");
  assert.is(bus.read(0x2fb, 1) & 0xff, 0x03);
});

test("ports with nothing behind them are all ones, within a wide access too", () => {
  const { bus } = createBus();
  for (const [size, ones] of [
    [1, 0xff],
    [2, 0xffff],
    [4, 0xffff_ffff],
  ] as const) {
    assert.is(bus.read(0x1000, size), ones);
    bus.write(0x1000, size, 0);
  }
  assert.is((bus.read(0x91, 4) | 0xff00) >>> 0, 0xffff_ffff);
  assert.not(((bus.read(0x91, 2) >>> 8) & 0xff) === 0xff, "the port between them answers");
  assert.is(bus.read(0xffff, 4), 0xffff_ffff);
});

test("devices that take wide accesses get them whole", () => {
  const { bus, memory } = createBus();
  bus.write(0xf4, 4, 0x1234);
  assert.is(new DataView(memory.buffer).getUint32(DEBUG_EXIT.state + FIELD_EXIT_CODE_U32, true), (0x1234 << 1) | 1);
  // PM1a_EN: all of its bits in one access.
  bus.write(0x602, 2, 0x0100);
  assert.is(bus.read(0x602, 2) & 0xffff, 0x0100);
  assert.is(bus.read(0x602, 1) & 0xff, 0x00);
});

test.run();
