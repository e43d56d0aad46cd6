// SPDX-License-Identifier: Apache-2.0
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import * as layout from "../../../assembly/devices/uart16550/layout.ts";
import { EVENT_CHARDEV, RING_CAPACITY_BYTES } from "../../../assembly/layout.ts";
import { deviceFields } from "../../../src/machine/device-fields.ts";
import { assert, describe } from "../../harness.ts";
import { DeviceRig, OutputRing } from "./rig.ts";
import { UartModel } from "./uart-model.ts";
import type { UartWorkerData } from "./uart-worker.ts";

const test = describe("uart16550");

const [THR, RBR, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR] = [0, 0, 1, 2, 2, 3, 4, 5, 6, 7];
const DLAB = 0x80;
const FIFOS = 0x01;
const LOOP = 0x10;

function createUart() {
  const rig = new DeviceRig("uart16550", deviceFields(layout));
  const ring = new OutputRing(rig.memory);
  return {
    rig,
    ring,
    /** Leaves that many bytes of room, beside the reserve. */
    setRoom: (roomBytes: number) => ring.fillUpTo(roomBytes + layout.RING_RESERVE_BYTES),
    roomBytes: () => ring.roomBytes - layout.RING_RESERVE_BYTES,
    receive: (...bytes: number[]) => bytes.map((byte) => rig.device.receive(rig.state, byte)),
    receiveSpace: () => rig.device.receiveSpace(rig.state),
    outputDrained: () => rig.device.outputDrained(rig.state),
  };
}

/** Offset, value after reset, bits that keep what is written. */
const REGISTERS: [string, number, number, number][] = [
  ["IER", IER, 0x00, 0x0f],
  ["LCR", LCR, 0x00, 0xff],
  ["MCR", MCR, 0x00, 0x1f],
  ["LSR", LSR, 0x60, 0x00],
  ["MSR", MSR, 0xb0, 0x00],
  ["SCR", SCR, 0x00, 0xff],
];

test("registers have their reset values and masks", () => {
  for (const [name, offset, resetValue, mask] of REGISTERS) {
    const { rig } = createUart();
    assert.is(rig.read(offset), resetValue, `${name} after reset`);
    if (offset === LSR || offset === MSR) {
      rig.write(offset, resetValue ^ 0xff);
      assert.is(rig.read(offset), resetValue, `${name} is read only`);
    } else {
      rig.write(offset, 0xff);
      assert.is(rig.read(offset), mask, `${name} with all bits set`);
      rig.write(offset, 0);
      assert.is(rig.read(offset), 0, `${name} with all bits clear`);
    }
  }
  const { rig } = createUart();
  assert.is(rig.read(IIR), 0x01);
  assert.is(rig.read(RBR), 0x00);
});

test("divisor latch: DLAB puts it in place of RBR, THR and IER", () => {
  const { rig, ring } = createUart();
  rig.write(LCR, DLAB);
  assert.equal([rig.read(0), rig.read(1)], [12, 0]);
  rig.write(0, 0x34);
  rig.write(1, 0x12);
  assert.equal([rig.read(0), rig.read(1)], [0x34, 0x12]);
  rig.write(LCR, 0x03);
  assert.is(rig.read(IER), 0);
  assert.equal(ring.take(), []);
  rig.write(LCR, DLAB);
  assert.equal([rig.read(0), rig.read(1)], [0x34, 0x12]);
});

test("reset brings back the power-on state and drops the interrupt line", () => {
  const { rig, receive } = createUart();
  const fresh = rig.save();
  rig.write(IER, 0x0f);
  rig.write(FCR, FIFOS);
  rig.write(SCR, 0x55);
  receive(1, 2, 3);
  assert.is(rig.irqLevel, 1);
  rig.device.reset(rig.state);
  assert.is(rig.irqLevel, 0);
  assert.equal(rig.save(), fresh);
});

test("accesses wider than a byte read as all ones and write nothing", () => {
  const { rig, ring } = createUart();
  assert.is(rig.read(SCR, 2), 0xffff);
  assert.is(rig.read(LSR, 4), 0xffff_ffff);
  rig.write(THR, 0x4141, 2);
  assert.equal(ring.take(), []);
  assert.is(rig.read(8), 0xff);
});

test("transmitter: bytes go out in order and THR is empty again at once", () => {
  const { rig, ring } = createUart();
  for (const byte of [0x48, 0x69, 0x0a]) {
    rig.write(THR, byte);
    assert.is(rig.read(LSR), 0x60);
    assert.is(rig.takeEvents(), EVENT_CHARDEV);
  }
  assert.equal(ring.take(), [0x48, 0x69, 0x0a]);
});

test("transmitter: THRE and TEMT stay clear from a full ring until the host has drained it", () => {
  const { rig, ring, setRoom, roomBytes, outputDrained } = createUart();
  setRoom(20);
  rig.write(IER, 0x02);
  rig.read(IIR);
  for (let byte = 0; byte < 4; byte++) {
    assert.is(rig.read(LSR) & 0x60, 0x60);
    rig.write(THR, byte);
  }
  assert.is(rig.read(LSR) & 0x60, 0x60);
  rig.write(THR, 4);
  assert.is(rig.read(LSR) & 0x60, 0, "a driver that sees THRE may write 16 bytes");
  assert.is(rig.irqLevel, 0);
  for (let byte = 5; byte < 20; byte++) rig.write(THR, byte);
  assert.is(roomBytes(), 0);

  outputDrained();
  assert.is(rig.read(LSR) & 0x60, 0, "nothing was taken yet");
  assert.equal(
    ring.take().slice(-20),
    Array.from({ length: 20 }, (_, byte) => byte),
  );
  assert.is(rig.read(LSR) & 0x60, 0, "the host has not told yet");
  outputDrained();
  assert.is(rig.read(LSR) & 0x60, 0x60);
  assert.is(rig.irqLevel, 1);
  assert.is(rig.read(IIR), 0x02);
});

test("transmitter: writers that ignore THRE wait for the host, and nothing is lost", async () => {
  const { rig, ring, outputDrained } = createUart();
  const rounds = 300;
  const bytesEach = rounds * 128;
  assert.ok(bytesEach > RING_CAPACITY_BYTES);
  const workers = [0, 128].map((firstByte) => {
    const workerData: UartWorkerData = { memory: rig.memory, state: rig.state, firstByte, rounds };
    return new Worker(new URL("./uart-worker.ts", import.meta.url), { workerData });
  });
  const taken: number[] = [];
  while (taken.length < 2 * bytesEach) {
    taken.push(...ring.take(4096));
    outputDrained();
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(workers.map((worker) => worker.terminate()));
  assert.is(taken.length, 2 * bytesEach);
  for (const firstByte of [0, 128]) {
    const own = taken.filter((byte) => (byte & 128) === firstByte);
    assert.is(own.length, bytesEach);
    assert.ok(own.every((byte, at) => byte === firstByte + (at % 128)));
  }
});

test("transmitter: freezing ends a write that waits, and its bytes follow the others", async () => {
  const { rig, ring, setRoom, roomBytes, outputDrained } = createUart();
  setRoom(10);
  const workerData: UartWorkerData = { memory: rig.memory, state: rig.state, firstByte: 0, rounds: 1 };
  const worker = new Worker(new URL("./uart-worker.ts", import.meta.url), { workerData });
  while (roomBytes() > 0) await new Promise((resolve) => setTimeout(resolve, 1));
  rig.device.freeze(rig.state);
  await once(worker, "exit");
  assert.is(roomBytes(), 10 - 128);
  rig.device.thaw(rig.state);
  assert.is(rig.read(LSR) & 0x60, 0);
  outputDrained();
  assert.is(rig.read(LSR) & 0x60, 0, "the reserve is no room for drivers");
  assert.equal(
    ring.take().slice(-128),
    Array.from({ length: 128 }, (_, byte) => byte),
  );
});

test("transmitter: a full ring is emptied by the writing thread itself if that is the one to do so", () => {
  const { rig, ring, setRoom } = createUart();
  setRoom(0);
  const taken: number[] = [];
  rig.takeOutput = () => {
    taken.push(...ring.take());
    return true;
  };
  rig.write(THR, 0x41);
  assert.is(taken.length, RING_CAPACITY_BYTES - layout.RING_RESERVE_BYTES);
  assert.equal(ring.take(), [0x41]);
  assert.is(rig.read(LSR) & 0x60, 0x60);
});

test("transmitter: frozen with its reserve used up it does not wait, but drops and counts", () => {
  const { rig, ring } = createUart();
  ring.fillUpTo(1);
  rig.device.freeze(rig.state);
  for (let byte = 0; byte < 3; byte++) rig.write(THR, byte);
  assert.is(ring.roomBytes, 0);
  assert.is(new DataView(rig.memory.buffer).getUint32(rig.state + layout.HOST_DROPPED_BYTES, true), 2);
  assert.is(rig.read(LSR) & 0x60, 0);
});

test("IIR: line status, received data, transmitter, modem status, in this order", () => {
  const { rig } = createUart();
  rig.write(IER, 0x0f);
  rig.write(MCR, LOOP);
  rig.write(THR, 1);
  rig.write(THR, 2);
  assert.is(rig.read(IIR), 0x06);
  assert.is(rig.read(LSR), 0x63);
  assert.is(rig.read(IIR), 0x04);
  assert.is(rig.read(RBR), 2);
  assert.is(rig.read(IIR), 0x02);
  assert.is(rig.read(IIR), 0x00);
  assert.is(rig.read(MSR), 0x0b);
  assert.is(rig.read(IIR), 0x01);
  assert.is(rig.irqLevel, 0);
});

test("IIR: only reading it while it reports THR empty acknowledges THR empty", () => {
  const { rig, receive } = createUart();
  rig.write(IER, 0x03);
  receive(0x41);
  assert.is(rig.read(IIR), 0x04);
  assert.is(rig.read(RBR), 0x41);
  assert.is(rig.read(IIR), 0x02);
  assert.is(rig.read(IIR), 0x01);
});

test("IER: each enabling of the transmitter interrupt interrupts while THR is empty", () => {
  const { rig } = createUart();
  for (let time = 0; time < 2; time++) {
    rig.write(IER, 0x02);
    assert.is(rig.irqLevel, 1);
    assert.is(rig.read(IIR), 0x02);
    assert.is(rig.irqLevel, 0);
    rig.write(IER, 0x02);
    assert.is(rig.read(IIR), 0x01, "it was enabled before");
    rig.write(IER, 0x00);
  }
});

test("THR: a write in answer to the interrupt makes an edge even if IIR was not read", () => {
  const { rig } = createUart();
  rig.write(IER, 0x02);
  rig.takeIrqHistory();
  rig.write(THR, 0x41);
  assert.equal(rig.takeIrqHistory(), [0, 1]);
});

test("FIFO: 16 bytes, interrupts from the trigger level, times out below it", () => {
  for (const [code, trigger] of [1, 4, 8, 14].entries()) {
    const { rig, receive, receiveSpace } = createUart();
    rig.write(FCR, FIFOS | (code << 6));
    rig.write(IER, 0x01);
    assert.is(receiveSpace(), 16);
    for (let count = 1; count <= 16; count++) {
      assert.equal(receive(count), [1]);
      assert.is(rig.read(IIR), count < trigger ? 0xcc : 0xc4, `${count} bytes, trigger ${trigger}`);
    }
    assert.is(receiveSpace(), 0);
    assert.equal(receive(17), [0], "the byte stays the host's");
    for (let byte = 1; byte <= 16; byte++) assert.is(rig.read(RBR), byte);
    assert.is(rig.read(LSR), 0x60);
    assert.is(rig.read(IIR), 0xc1);
    assert.is(rig.irqLevel, 0);
  }
});

test("FIFO: a byte read below the trigger level makes an edge for the next timeout", () => {
  const { rig, receive } = createUart();
  rig.write(FCR, FIFOS | 0x80);
  rig.write(IER, 0x01);
  receive(1, 2);
  rig.takeIrqHistory();
  rig.read(RBR);
  assert.equal(rig.takeIrqHistory(), [0, 1]);
  rig.read(RBR);
  assert.equal(rig.takeIrqHistory(), [0]);
});

test("FIFO: the host hears of space when the last byte is read", () => {
  const { rig, receive } = createUart();
  rig.write(FCR, FIFOS);
  receive(1, 2);
  rig.takeEvents();
  rig.read(RBR);
  assert.is(rig.takeEvents(), 0);
  rig.read(RBR);
  assert.is(rig.takeEvents(), EVENT_CHARDEV);
});

test("FCR: receiver reset and toggling the FIFOs empty the receiver, other bits need the enable bit", () => {
  const { rig, receive, receiveSpace } = createUart();
  assert.equal(receive(1), [1]);
  assert.is(receiveSpace(), 0);
  rig.write(FCR, 0x02);
  assert.is(receiveSpace(), 0);
  rig.write(FCR, FIFOS);
  assert.is(receiveSpace(), 16);
  receive(1, 2);
  rig.write(FCR, FIFOS);
  assert.is(receiveSpace(), 14);
  rig.write(FCR, FIFOS | 0x04);
  assert.is(receiveSpace(), 14);
  rig.takeEvents();
  rig.write(FCR, FIFOS | 0x02);
  assert.is(receiveSpace(), 16);
  assert.is(rig.takeEvents(), EVENT_CHARDEV);
  receive(1, 2);
  rig.write(FCR, 0xc0);
  assert.is(receiveSpace(), 1);
  assert.is(rig.read(IIR), 0x01);
});

test("LSR: an overrun keeps the FIFO, overwrites the buffer register, and is cleared by reading", () => {
  const { rig } = createUart();
  rig.write(MCR, LOOP);
  rig.write(THR, 1);
  rig.write(THR, 2);
  assert.is(rig.read(LSR), 0x63);
  assert.is(rig.read(LSR), 0x61);
  assert.is(rig.read(RBR), 2);
  rig.write(FCR, FIFOS);
  for (let byte = 0; byte < 17; byte++) rig.write(THR, byte);
  assert.is(rig.read(LSR), 0x63);
  for (let byte = 0; byte < 16; byte++) assert.is(rig.read(RBR), byte);
  assert.is(rig.read(LSR), 0x60);
});

test("MCR: loopback wires outputs to inputs and cuts the line off", () => {
  const { rig, ring, receive, receiveSpace } = createUart();
  for (let outputs = 0; outputs < 16; outputs++) {
    rig.write(MCR, LOOP | outputs);
    const inputs = ((outputs & 2) << 3) | ((outputs & 1) << 5) | ((outputs & 4) << 4) | ((outputs & 8) << 4);
    assert.is(rig.read(MSR) & 0xf0, inputs);
  }
  assert.is(receiveSpace(), 0);
  assert.equal(receive(1), [0]);
  rig.write(THR, 0x5a);
  assert.is(rig.read(RBR), 0x5a);
  assert.equal(ring.take(), []);
  rig.takeEvents();
  rig.write(MCR, 0);
  assert.is(rig.takeEvents(), EVENT_CHARDEV);
  assert.is(receiveSpace(), 1);
});

test("MSR: deltas are set by changes, RI's by its end, and cleared by reading", () => {
  const { rig } = createUart();
  rig.write(MCR, LOOP);
  assert.is(rig.read(MSR), 0x0b);
  assert.is(rig.read(MSR), 0x00);
  rig.write(MCR, LOOP | 0x04);
  assert.is(rig.read(MSR), 0x40);
  rig.write(IER, 0x08);
  rig.write(MCR, LOOP);
  assert.is(rig.irqLevel, 1);
  assert.is(rig.read(MSR), 0x04);
  assert.is(rig.irqLevel, 0);
});

test("Linux 8250: autoconfig finds a 16550A that reasserts THRE", () => {
  const { rig } = createUart();
  const inb = (offset: number) => rig.read(offset);
  const outb = (offset: number, value: number) => rig.write(offset, value);
  outb(IER, 0);
  assert.is(inb(IER) & 0x0f, 0);
  outb(IER, 0x0f);
  assert.is(inb(IER) & 0x0f, 0x0f);
  outb(IER, 0);
  outb(MCR, LOOP | 0x0a);
  assert.is(inb(MSR) & 0xf0, 0x90, "loopback test");
  outb(MCR, 0);
  outb(LCR, 0xbf);
  outb(FCR, 0);
  outb(LCR, 0);
  outb(FCR, FIFOS);
  assert.is(inb(IIR) >> 6, 3, "16550A or better");
  for (const lcr of [0x80, 0xbf]) {
    outb(LCR, lcr);
    assert.is.not(inb(2), 0, "no EFR of a 16650");
  }
  for (const mcr of [0, LOOP]) {
    outb(LCR, 0);
    outb(MCR, mcr);
    outb(LCR, 0xe0);
    assert.is(inb(2) & LOOP, 0, "no second bank of a National Super I/O");
  }
  outb(LCR, 0);
  outb(MCR, 0);
  outb(FCR, 0);
  outb(LCR, 0x80);
  outb(FCR, FIFOS | 0x20);
  assert.is(inb(IIR) >> 5, 6, "no 64 byte FIFO of a 16750");
  outb(LCR, 0);
  outb(IER, 0x40);
  assert.is(inb(IER) & 0x40, 0, "no unit enable bit of an XScale");
  for (let time = 0; time < 2; time++) {
    outb(IER, 0x02);
    assert.is(inb(LSR) & 0x40, 0x40);
    assert.is(inb(IIR) & 1, 0, "neither UART_BUG_THRE nor UART_BUG_TXEN");
    outb(IER, 0);
  }
});

const byte = fc.integer({ min: 0, max: 0xff });
const access = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("read" as const), offset: fc.nat(7) }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("write" as const), offset: fc.nat(7), value: byte }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("receive" as const), value: byte }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("drain" as const), count: fc.nat(40) }) },
  // Random LCR values would hide THR and RBR behind DLAB half of the time.
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("write" as const), offset: fc.constant(LCR), value: fc.nat(0x7f) }),
  },
);
type Access = typeof access extends fc.Arbitrary<infer Value> ? Value : never;

/** What the guest or the host sees of an access. A writer that would have to wait does not write. */
function perform(
  { rig, ring, roomBytes, receive, outputDrained }: ReturnType<typeof createUart>,
  step: Access,
): number[] {
  switch (step.kind) {
    case "read":
      return [rig.read(step.offset)];
    case "write":
      if (step.offset !== THR || roomBytes() > 0) rig.write(step.offset, step.value);
      return [];
    case "receive":
      return receive(step.value);
    case "drain": {
      const taken = ring.take(step.count);
      outputDrained();
      return taken;
    }
  }
}

test("behaves like the model in any stream of accesses", () => {
  fc.assert(
    fc.property(fc.array(access, { maxLength: 120 }), (steps) => {
      const uart = createUart();
      uart.setRoom(24);
      const model = new UartModel(24);
      const taken: number[] = [];
      for (const step of steps) {
        const isHeldBack = step.kind === "write" && step.offset === THR && uart.roomBytes() === 0;
        const seen = perform(uart, step);
        if (step.kind === "read") assert.equal(seen, [model.read(step.offset)]);
        else if (step.kind === "receive") assert.equal(seen, [model.receive(step.value)]);
        else if (step.kind === "drain") {
          taken.push(...seen);
          model.drain(seen.length);
        } else if (!isHeldBack) model.write(step.offset, step.value);
        assert.is(uart.rig.irqLevel, model.irqLevel);
        assert.is(uart.receiveSpace(), model.receiveSpace);
        assert.is(uart.roomBytes(), model.room);
      }
      taken.push(...uart.ring.take());
      assert.equal(taken.slice(RING_CAPACITY_BYTES - layout.RING_RESERVE_BYTES - 24), model.sent);
    }),
    { numRuns: 300 },
  );
});

test("save, restore, save is byte-identical at any point, and the restored device goes on alike", () => {
  fc.assert(
    fc.property(fc.array(access, { maxLength: 60 }), fc.array(access, { maxLength: 60 }), (before, after) => {
      const source = createUart();
      source.setRoom(24);
      for (const step of before) perform(source, step);
      const target = createUart();
      target.rig.restoreFrom(source.rig);
      target.ring.copyFrom(source.ring);
      assert.equal(target.rig.save(), source.rig.save());
      for (const step of after) {
        assert.equal(perform(target, step), perform(source, step));
        assert.is(target.rig.irqLevel, source.rig.irqLevel);
      }
      assert.equal(target.rig.save(), source.rig.save());
    }),
    { numRuns: 60 },
  );
});

test.run();
