// SPDX-License-Identifier: Apache-2.0
// Modules are swapped under devices without a VM: what becomes of their state, their lines, and of threads in them.
import { Worker } from "node:worker_threads";
import {
  DEVICE_BASE,
  DEVICE_STRIDE_BYTES,
  MODULE_BYTES_BASE,
  MODULE_MAX_SIZE_BYTES,
  RING_CAPACITY_BYTES,
  WASM_PAGE_SIZE_BYTES,
} from "../../../assembly/layout.ts";
import type { Chardev, ChardevFrontend } from "../../../src/backends/chardev/types.ts";
import type { DeviceExports, TimedDeviceExports, Uart16550Exports } from "../../../src/machine/device-module.ts";
import { DeviceSet } from "../../../src/machine/device-set.ts";
import type { DeviceInstance } from "../../../src/machine/device-table.ts";
import { builtInModule } from "../../../src/machine/module-candidate.ts";
import { ModuleGate } from "../../../src/machine/module-gate.ts";
import { ModuleSwapper } from "../../../src/machine/module-swap.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { StateWriter } from "../../../src/state/writer.ts";
import { until } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { moduleFile, variantOf } from "./device-variants.ts";

const test = describe("swaps of device modules");

const at = (slot: number): number => DEVICE_BASE + slot * DEVICE_STRIDE_BYTES;
const PM: DeviceInstance = { module: "acpi-pm", instance: 0, state: at(0), ioBase: 0x600, ioSizeBytes: 20, gsi: 9 };
const PORT92: DeviceInstance = { module: "port92", instance: 0, state: at(1), ioBase: 0x92, ioSizeBytes: 1 };
const COM1: DeviceInstance = {
  ...{ module: "uart16550" as const, instance: 0, state: at(2), ioBase: 0x3f8, ioSizeBytes: 8 },
  ...{ gsi: 4, ring: 0, chardev: "c" },
};
const TABLE = [PM, PORT92, COM1];
const MEMORY_PAGES = (MODULE_BYTES_BASE + TABLE.length * MODULE_MAX_SIZE_BYTES) / WASM_PAGE_SIZE_BYTES;

const UART_SCR = 7;
const UART_IER = 1;
const UART_IER_RECEIVED = 1;

/** The main thread's devices, without vCPUs. */
class Machine {
  readonly memory = new WebAssembly.Memory({ initial: MEMORY_PAGES, maximum: 65536, shared: true });
  /** What interrupt lines did. */
  readonly lines: string[] = [];
  readonly devices = new DeviceSet(this.memory, TABLE, (gsi, level) => this.lines.push(`${gsi}=${level}`));
  readonly reports: string[] = [];
  refusal: Error | undefined;
  readonly swapper = new ModuleSwapper(this.memory, this.devices, {
    report: (message) => this.reports.push(message),
    isRunning: () => false,
    vcpuThreadIds: () => [],
    refuse: () => {
      if (this.refusal !== undefined) throw this.refusal;
    },
  });
  readonly shared = new Int32Array(new SharedArrayBuffer(16));
  #worker: Worker | undefined;

  constructor() {
    this.devices.reset();
  }

  exports<Exports extends DeviceExports>(device: DeviceInstance): Exports {
    return this.devices.exportsOf(device) as Exports;
  }

  swap(device: DeviceInstance, changes: Parameters<typeof variantOf>[1] = {}): Promise<number> {
    return this.swapper.swap(device, moduleFile(variantOf(device.module, changes)));
  }

  /** A thread that does nothing but accesses: bus-worker.ts. */
  hammer(port: number, isWriter: boolean): void {
    const workerData = { memory: this.memory, devices: TABLE, port, isWriter, shared: this.shared };
    this.#worker = new Worker(new URL("./bus-worker.ts", import.meta.url), { workerData });
  }

  get accessCount(): number {
    return Atomics.load(this.shared, 1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const worker = this.#worker;
    if (worker === undefined) return;
    this.#worker = undefined;
    const ended = new Promise((resolve) => worker.once("exit", resolve));
    Atomics.store(this.shared, 0, 1);
    this.devices.freezeOutput();
    await ended;
  }

  save(): Uint8Array {
    const writer = new StateWriter();
    const bind = this.devices.planState(writer);
    writer.lay();
    bind()();
    return writer.seal();
  }
}

const KNOWN = { "device/acpi-pm": 1, "device/port92": 1, "device/uart16550": 1, "clock-origin": 1 };

test("state, line and deadline of a device are what they were", async () => {
  await using machine = new Machine();
  const uart = machine.exports<Uart16550Exports>(COM1);
  uart.write(COM1.state, UART_SCR, 1, 0x5a);
  uart.write(COM1.state, UART_IER, 1, UART_IER_RECEIVED);
  uart.receive(COM1.state, 0x41);
  const pm = machine.exports<TimedDeviceExports>(PM);
  // TMR_EN of PM1 enable: the timer's half period becomes a deadline.
  pm.write(PM.state, 2, 2, 1);
  const deadlineNs = pm.nextDeadlineNs(PM.state);
  assert.ok(deadlineNs > 0n);
  const before = machine.lines.splice(0);
  assert.is(before.at(-1), "4=1");
  for (let swap = 0; swap < 4; swap++) for (const device of TABLE) await machine.swap(device);
  assert.equal(machine.lines, [], "no line has moved");
  const next = machine.exports<Uart16550Exports>(COM1);
  assert.is.not(next, uart);
  assert.is(next.read(COM1.state, UART_SCR, 1) & 0xff, 0x5a);
  assert.is(next.read(COM1.state, 0, 1) & 0xff, 0x41);
  assert.equal(machine.lines, ["4=0"], "the interrupt ends when the byte is taken");
  assert.is(machine.exports<TimedDeviceExports>(PM).nextDeadlineNs(PM.state), deadlineNs);
  assert.equal(
    machine.swapper.list().map(({ swapCount, isBuiltIn, version }) => ({ swapCount, isBuiltIn, version })),
    TABLE.map(() => ({ swapCount: 4, isBuiltIn: false, version: 1 })),
  );
});

test("fields that the new module does not have go, and new ones begin with their value at power-on", async () => {
  await using machine = new Machine();
  const uart = machine.exports<Uart16550Exports>(COM1);
  uart.write(COM1.state, UART_SCR, 1, 0x5a);
  uart.write(COM1.state, UART_IER, 1, 0x05);
  const { fields } = builtInModule("uart16550").description;
  await machine.swap(COM1, { version: 2, fields: fields.replace("scr:", "scratch:") });
  const next = machine.exports<Uart16550Exports>(COM1);
  assert.is(next.read(COM1.state, UART_SCR, 1) & 0xff, 0);
  assert.is(next.read(COM1.state, UART_IER, 1) & 0xff, 0x05);
  next.write(COM1.state, UART_SCR, 1, 0x66);
  await machine.swap(COM1, { version: 3, fields: fields.replace("scr:", "scratch:") });
  assert.is(machine.exports(COM1).read(COM1.state, UART_SCR, 1) & 0xff, 0x66);
  const old = await rejection(() => machine.swap(COM1));
  assert.match(old.message, /state version 1, which is older than version 3/);
  await machine.swap(COM1, { version: 3 });
  assert.is(machine.exports(COM1).read(COM1.state, UART_SCR, 1) & 0xff, 0);
});

test("a state image has the fields of the module in use, and is read by any Baton", async () => {
  await using machine = new Machine();
  const { fields } = builtInModule("port92").description;
  machine.exports(PORT92).write(PORT92.state, 0, 1, 2);
  await machine.swap(PORT92, { version: 5, fields: `${fields} more:u32@4` });
  const image = machine.save();
  const reader = new StateReader(image, KNOWN);
  const section = reader.section("device/port92");
  assert.is(section.version, 1);
  assert.is(section.typeOf("fields"), `${fields} more:u32@4`);
  await using there = new Machine();
  there.devices.restoreState(reader);
  assert.is(there.exports(PORT92).read(PORT92.state, 0, 1) & 0xff, 2);
});

test("a thread in the module is waited for, and one that does not come out is not waited for for ever", async () => {
  await using machine = new Machine();
  const gate = new ModuleGate(machine.memory, PORT92.state);
  assert.is(gate.enter(), 0);
  const before = machine.exports(PORT92);
  const busy = await rejection(() => machine.swap(PORT92));
  assert.match(busy.message, /A vCPU did not leave port92 0 within 1000 ms; nothing has changed, try again/);
  assert.is(machine.exports(PORT92), before);
  gate.leave();
  await machine.swap(PORT92);
  assert.is.not(machine.exports(PORT92), before);
  assert.is(gate.enter(), 1);
  gate.leave();
});

test("what forbids a swap is asked before it, and again after the trial", async () => {
  await using machine = new Machine();
  const before = machine.exports(PORT92);
  machine.refusal = new Error("not now");
  assert.is((await rejection(() => machine.swap(PORT92))).message, "not now");
  machine.refusal = undefined;
  const swapped = rejection(() => machine.swap(PORT92));
  // The first question comes in a microtask, the trial takes longer.
  setTimeout(() => (machine.refusal = new Error("not any more")), 0);
  assert.is((await swapped).message, "not any more");
  assert.is(machine.exports(PORT92), before);
});

test("swaps that are asked for at once are done one after the other", async () => {
  await using machine = new Machine();
  await Promise.all(Array.from({ length: 5 }, () => machine.swap(PORT92)));
  assert.is(new ModuleGate(machine.memory, PORT92.state).enter(), 5);
  const { swapCount } = machine.swapper.list().find(({ device }) => device === PORT92)!;
  assert.is(swapCount, 5);
});

test("a device that this machine does not have", async () => {
  await using machine = new Machine();
  assert.is(machine.swapper.find("uart16550", 0), COM1);
  assert.throws(
    () => machine.swapper.find("uart16550", 1),
    /^This machine has no device uart16550 1; it has acpi-pm 0, port92 0, uart16550 0$/,
  );
});

test("a thread that does nothing but accesses goes on through all swaps", async () => {
  await using machine = new Machine();
  machine.exports(PORT92).write(PORT92.state, 0, 1, 2);
  machine.hammer(0x92, false);
  await until("the thread", () => machine.accessCount > 100);
  for (let swap = 0; swap < 30; swap++) {
    const before = machine.accessCount;
    await machine.swap(PORT92);
    await until("accesses", () => machine.accessCount > before + 10);
  }
  assert.equal([...machine.shared.subarray(2)], [2, 1], "and always reads the same");
});

test("a thread that waits for room in the output ring loses no byte", async () => {
  await using machine = new Machine();
  const [port] = machine.devices.serialPorts;
  const received: number[] = [];
  let frontend: ChardevFrontend | undefined;
  const chardev = {
    queuedBytes: 1 << 20,
    attach: (given: ChardevFrontend) => (frontend = given),
    write: (bytes: Uint8Array) => received.push(...bytes),
    acceptInput: () => {},
  };
  port!.attach(chardev as unknown as Chardev);
  machine.hammer(0x3f8, true);
  await until("the ring to be full", () => machine.accessCount > RING_CAPACITY_BYTES - 300);
  for (let swap = 0; swap < 30; swap++) await machine.swap(COM1);
  chardev.queuedBytes = 0;
  const before = machine.accessCount;
  await until("the thread to go on", () => {
    frontend!.drained!();
    return machine.accessCount > before + RING_CAPACITY_BYTES;
  });
  await machine[Symbol.asyncDispose]();
  port!.flush();
  assert.is(port!.droppedBytes, 0);
  assert.is(received.length, machine.accessCount);
  assert.is(
    received.findIndex((byte, index) => byte !== (index & 0xff)),
    -1,
  );
});

test.run();
