// SPDX-License-Identifier: Apache-2.0
import { HOST_FROZEN, RING_RESERVE_BYTES } from "../../../assembly/devices/uart16550/layout.ts";
import { DEVICE_BASE, RING_CAPACITY_BYTES } from "../../../assembly/layout.ts";
import type { Chardev, ChardevFrontend } from "../../../src/backends/chardev/types.ts";
import type { Uart16550Exports } from "../../../src/machine/device-module.ts";
import { DeviceSet } from "../../../src/machine/device-set.ts";
import type { DeviceInstance } from "../../../src/machine/device-table.ts";
import { IoBus } from "../../../src/machine/io-bus.ts";
import type { SerialPort } from "../../../src/machine/serial-port.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { StateWriter } from "../../../src/state/writer.ts";
import { assert, describe } from "../../harness.ts";
import { StreamCheck, streamBytes } from "../backends/support.ts";

const test = describe("src/machine: serial port");

const COM1: DeviceInstance = {
  module: "uart16550",
  instance: 0,
  state: DEVICE_BASE,
  ioBase: 0x3f8,
  ioSizeBytes: 8,
  ring: 0,
  chardev: "c",
};

/** A console whose client does not read: it queues whatever it is given. */
class StalledChardev {
  readonly check = new StreamCheck();
  queuedBytes = 0;
  frontend: ChardevFrontend | undefined;

  attach(frontend: ChardevFrontend): void {
    this.frontend = frontend;
  }

  write(bytes: Uint8Array): void {
    this.check.add(bytes);
    this.queuedBytes += bytes.length;
  }

  acceptInput(): void {}

  /** The client reads at last. */
  read(): void {
    this.queuedBytes = 0;
    this.frontend!.drained?.();
  }
}

/** The main thread's devices, and a guest that writes THR in the same thread. */
class Machine {
  readonly memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
  readonly devices = new DeviceSet(this.memory, [COM1], () => {});
  readonly port: SerialPort = this.devices.serialPorts[0]!;
  readonly #bus = new IoBus(this.memory, [COM1], () => {});
  sentBytes = 0;

  constructor() {
    this.devices.reset();
  }

  send(byteCount: number): void {
    for (const byte of streamBytes(this.sentBytes, byteCount)) this.#bus.write(0x3f8, 1, byte);
    this.sentBytes += byteCount;
  }

  attach(chardev: StalledChardev): void {
    this.port.attach(chardev as unknown as Chardev);
  }

  freeze(): void {
    const uart = this.#bus.exportsOf(COM1) as Uart16550Exports;
    uart.freeze(COM1.state);
    assert.is(new Uint32Array(this.memory.buffer)[(COM1.state + HOST_FROZEN) >> 2], 1);
  }

  save(): Uint8Array {
    const writer = new StateWriter();
    const bind = this.devices.planState(writer);
    writer.lay();
    bind()();
    return writer.seal();
  }

  restore(image: Uint8Array): void {
    this.devices.restoreState(new StateReader(image, { "device/uart16550": 1 }));
  }
}

test("a thread that empties the ring itself never waits for room in it, and loses nothing", () => {
  for (const isAttachedFirst of [false, true]) {
    const machine = new Machine();
    const chardev = new StalledChardev();
    if (isAttachedFirst) machine.attach(chardev);
    machine.send(3 * RING_CAPACITY_BYTES + 5);
    if (!isAttachedFirst) machine.attach(chardev);
    machine.send(100);
    chardev.read();
    machine.port.flush();
    assert.is(chardev.check.byteCount, machine.sentBytes);
    assert.is(machine.port.droppedBytes, 0);
  }
});

test("output that went to another process with the guest is not printed here as well", () => {
  const here = new Machine();
  const there = new Machine();
  const chardev = new StalledChardev();
  here.attach(chardev);
  here.send(100);
  here.port.flush();
  here.send(50);
  there.restore(here.save());
  here.port.discardOutput();
  here.port.flush();
  assert.is(chardev.check.byteCount, 100);
  there.attach(chardev);
  there.port.flush();
  assert.is(chardev.check.byteCount, 150);
});

test("what was taken before there was a chardev is saved, before what is in the ring", () => {
  let machine = new Machine();
  machine.send(2 * RING_CAPACITY_BYTES + 700);
  for (let update = 0; update < 3; update++) {
    const { sentBytes } = machine;
    const image = machine.save();
    machine = new Machine();
    machine.restore(image);
    machine.sentBytes = sentBytes;
    machine.send(RING_CAPACITY_BYTES);
  }
  const chardev = new StalledChardev();
  machine.attach(chardev);
  chardev.read();
  machine.port.flush();
  assert.is(chardev.check.byteCount, machine.sentBytes);
});

test("while a port is held its chardev gets nothing, and the next one everything, in order", () => {
  const machine = new Machine();
  const [first, second] = [new StalledChardev(), new StalledChardev()];
  machine.attach(first);
  machine.send(100);
  machine.port.flush();
  machine.port.hold();
  machine.send(RING_CAPACITY_BYTES + 10);
  machine.port.flush();
  machine.freeze();
  machine.devices.thawOutput();
  machine.send(50);
  assert.is(first.check.byteCount, 100);
  second.check.add(streamBytes(0, 100));
  machine.attach(second);
  assert.is(second.check.byteCount, 100);
  machine.port.release();
  second.read();
  machine.port.flush();
  assert.is(first.check.byteCount, 100);
  assert.is(second.check.byteCount, machine.sentBytes);
  assert.is(machine.port.droppedBytes, 0);
});

test("an unconnected port's output goes nowhere, whoever runs the guest", () => {
  const memory = new WebAssembly.Memory({ initial: 64, maximum: 65536, shared: true });
  const table = [{ ...COM1, chardev: null }];
  const devices = new DeviceSet(memory, table, () => {});
  devices.reset();
  const bus = new IoBus(memory, table, () => {});
  for (let byte = 0; byte < 2 * RING_CAPACITY_BYTES; byte++) bus.write(0x3f8, 1, byte & 0xff);
  assert.ok(devices.serialPorts[0]!.pendingOutput().length <= RING_CAPACITY_BYTES);
});

test("each parking has the whole reserve, however long the client does not read", () => {
  const machine = new Machine();
  const chardev = new StalledChardev();
  machine.attach(chardev);
  chardev.queuedBytes = 1 << 20;
  machine.send(RING_CAPACITY_BYTES - RING_RESERVE_BYTES);
  for (let parking = 0; parking < 2 * RING_RESERVE_BYTES; parking++) {
    machine.freeze();
    machine.send(8);
    machine.devices.thawOutput();
  }
  assert.is(machine.port.droppedBytes, 0);
  chardev.read();
  machine.port.flush();
  assert.is(chardev.check.byteCount, machine.sentBytes);
});

test("a frozen UART never waits: beyond the reserve bytes are dropped and counted", () => {
  const machine = new Machine();
  machine.freeze();
  machine.send(RING_CAPACITY_BYTES + 3);
  assert.is(machine.port.droppedBytes, 3);
  machine.devices.thawOutput();
  const chardev = new StalledChardev();
  machine.attach(chardev);
  machine.port.flush();
  assert.is(chardev.check.byteCount, RING_CAPACITY_BYTES);
});

test.run();
