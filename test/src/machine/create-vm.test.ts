// SPDX-License-Identifier: Apache-2.0
// A VM in this process: how it starts, how it is controlled, and all the ways in which it ends.
import { join } from "node:path";
import type { VmConfig } from "../../../src/config/vm-config.ts";
import { createVm, type VmHandle } from "../../../src/mod.ts";
import { type Report, readReport } from "../../../src/payload/report.ts";
import type { SelfCheckOptions } from "../../../src/payload/self-check.ts";
import { accelerator } from "../../accelerator.ts";
import { openFdCount, temporaryDirectory } from "../../ffi/support.ts";
import { ByteStream, payloadFile, until } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("createVm");

function config(payload: SelfCheckOptions = {}, more: VmConfig = {}): VmConfig {
  return {
    m: "16M",
    smp: payload.cpuCount ?? 1,
    kernel: payloadFile({ touchBytes: 3 << 20, ...payload }),
    nodefaults: true,
    "no-reboot": true,
    device: "isa-debug-exit,iobase=0xf4,iosize=4",
    accel: accelerator,
    ...more,
  };
}

function report(vm: VmHandle): Report | undefined {
  return readReport(vm.ram);
}

async function ready(vm: VmHandle): Promise<void> {
  await until("the guest to be ready", () => report(vm)?.ready);
}

/** Waits until the guest has counted on, and checked itself, without an error. */
async function runsOn(vm: VmHandle): Promise<void> {
  await ready(vm);
  const before = report(vm)!;
  await until("the guest to go on", () =>
    report(vm)!.checksRun.every((runs, vcpu) => runs > before.checksRun[vcpu]! + 1n),
  );
  assert.equal(report(vm)!.errors, []);
}

function standsStill(vm: VmHandle): Promise<void> {
  const { counters } = report(vm)!;
  return new Promise((resolve) => setTimeout(resolve, 30)).then(() => assert.equal(report(vm)!.counters, counters));
}

/** Collects the names of events until the VM ends. */
function recordEvents(vm: VmHandle): Promise<string[]> {
  return (async () => {
    const names: string[] = [];
    for await (const { event } of vm.events()) names.push(event);
    return names;
  })();
}

/** Tells the payload to end the VM in its way. */
function commandShutdown(vm: VmHandle): void {
  new DataView(vm.ram.buffer, vm.ram.byteOffset).setUint32(0x18_0018, 1, true);
}

test("runs a guest until its owner lets go of it", async () => {
  let handle: VmHandle;
  {
    await using vm = await createVm(config({ cpuCount: 2 }));
    handle = vm;
    assert.is(vm.status, "running");
    await runsOn(vm);
  }
  assert.is(handle.status, "shutdown");
  assert.equal(await handle.exited, { reason: "host-signal", exitCode: 0 });
});

test("stops and goes on", async () => {
  await using vm = await createVm(config());
  await ready(vm);
  for (let round = 0; round < 3; round++) {
    vm.stop();
    assert.is(vm.status, "paused");
    await standsStill(vm);
    vm.stop();
    assert.is(vm.status, "paused");
    vm.cont();
    vm.cont();
    assert.is(vm.status, "running");
    await runsOn(vm);
  }
});

test("starts paused with -S", async () => {
  await using vm = await createVm(config({}, { S: true }));
  assert.is(vm.status, "prelaunch");
  await new Promise((resolve) => setTimeout(resolve, 30));
  assert.is(report(vm), undefined);
  vm.cont();
  await runsOn(vm);
});

test("ends with the code that the guest reports through isa-debug-exit", async () => {
  await using vm = await createVm(config({ shutdown: { port: 0xf4, value: 33, sizeBytes: 4 } }));
  const events = recordEvents(vm);
  await ready(vm);
  commandShutdown(vm);
  // QEMU's rule: the value shifted left, with bit 0 set, so that success of a guest is never 0.
  assert.equal(await vm.exited, { reason: "guest-shutdown", exitCode: 67 });
  assert.equal(await events, ["SHUTDOWN"]);
  assert.is(vm.status, "shutdown");
});

test("ends when the guest powers off by ACPI", async () => {
  // PM1a_CNT: SLP_EN with SLP_TYP of \_S5.
  await using vm = await createVm(config({ shutdown: { port: 0x604, value: 1 << 13, sizeBytes: 2 } }));
  await ready(vm);
  commandShutdown(vm);
  assert.equal(await vm.exited, { reason: "guest-shutdown", exitCode: 0 });
});

const RESET_BY_KEYBOARD_CONTROLLER = { port: 0x64, value: 0xfe, sizeBytes: 1 } as const;

test("ends when the guest resets itself with -no-reboot", async () => {
  await using vm = await createVm(config({ shutdown: RESET_BY_KEYBOARD_CONTROLLER }));
  const events = recordEvents(vm);
  await ready(vm);
  commandShutdown(vm);
  assert.equal(await vm.exited, { reason: "guest-reset", exitCode: 0 });
  assert.equal(await events, ["SHUTDOWN"]);
});

test("starts the guest anew when it resets itself, and when somebody else does", async () => {
  const payload: SelfCheckOptions = { shutdown: RESET_BY_KEYBOARD_CONTROLLER, cpuCount: 2, timer: "deadline" };
  await using vm = await createVm(config(payload, { "no-reboot": false }));
  const events = recordEvents(vm);
  await runsOn(vm);
  for (const reset of [() => commandShutdown(vm), () => vm.reset(), () => vm.reset()]) {
    const { counters } = report(vm)!;
    await reset();
    await until("the guest to start anew", () => (report(vm)?.counters[0] ?? counters[0]!) < counters[0]!);
    await runsOn(vm);
  }
  vm.stop();
  await vm.reset();
  assert.is(vm.status, "paused");
  vm.cont();
  await runsOn(vm);
  vm.quit();
  assert.equal(await events, ["RESET", "RESET", "RESET", "STOP", "RESET", "RESUME", "SHUTDOWN"]);
});

test("quits, with the event before the end", async () => {
  await using vm = await createVm(config());
  const events = recordEvents(vm);
  vm.quit();
  assert.equal(await vm.exited, { reason: "host-qmp-quit", exitCode: 0 });
  assert.equal(await events, ["SHUTDOWN"]);
});

test("quits when its signal is aborted", async () => {
  const controller = new AbortController();
  await using vm = await createVm(config(), { signal: controller.signal });
  await ready(vm);
  controller.abort();
  assert.is((await vm.exited).exitCode, 0);
});

test("does not start when its signal is aborted already", async () => {
  const error = await rejection(() => createVm(config(), { signal: AbortSignal.abort() }));
  assert.is(error.name, "AbortError");
});

test("tells of the power button", async () => {
  await using vm = await createVm(config());
  const events = recordEvents(vm);
  vm.powerdown();
  vm.quit();
  assert.equal(await events, ["POWERDOWN", "SHUTDOWN"]);
});

for (const echo of ["poll", "irq"] as const) {
  test(`gives back every byte of a serial console (${echo})`, async () => {
    const path = join(temporaryDirectory(), "serial");
    const serial = `unix:${path},server=on,wait=off`;
    const timerPeriodNs = 5_000_000;
    await using vm = await createVm(config({ echo, quitByte: undefined, timerPeriodNs }, { serial }));
    await ready(vm);
    using stream = await ByteStream.connect(path);
    const all = Array.from({ length: 256 }, (_, byte) => String.fromCharCode((byte * 101 + 7) % 256)).join("");
    stream.write(all);
    await stream.waitFor(all);
    stream.write(all + all);
    await stream.waitFor(all + all, all.length);
    // The guest may still have been saying that it is ready.
    const greeting = stream.text.slice(0, -3 * all.length);
    assert.is(stream.text, greeting + all + all + all);
    assert.ok("Baton self-check\nready\n".endsWith(greeting), JSON.stringify(greeting));
  });
}

test("refuses what cannot be, and leaves nothing behind", async () => {
  const wrong: [config: VmConfig, message: RegExp][] = [
    [config({}, { kernel: "/no/such/kernel" }), /\/no\/such\/kernel/],
    [config({}, { serial: "unix:/no/such/dir/serial,server=on,wait=off" }), /serial/],
    [config({}, { m: "64G" }), /3 GiB/],
  ];
  for (const [each] of wrong) await rejection(() => createVm(each));
  const fds = openFdCount();
  for (const [each, message] of wrong) assert.match((await rejection(() => createVm(each))).message, message);
  assert.ok(openFdCount() <= fds, "file descriptors");
});

test("leaves no fd behind when VMs end", async () => {
  const once = async (): Promise<void> => {
    await using vm = await createVm(config());
    await ready(vm);
  };
  await once();
  await once();
  const fds = openFdCount();
  for (let round = 0; round < 3; round++) await once();
  await until("the last worker's fds", () => openFdCount() <= fds);
});

test("refuses to replace the program under several VMs", async () => {
  await using vm = await createVm(config({}, { machine: "microvm,aux-ram-share=on" }));
  const other = await createVm(config());
  vm.setMigrationParameters({ mode: "cpr-exec" });
  assert.throws(() => vm.migrate(), /2 VMs/);
  assert.is(vm.migrationStatus()["blocked-reasons"]!.length, 1);
  await other.close();
  assert.is(vm.migrationStatus()["blocked-reasons"], undefined);
  await runsOn(vm);
});

test.run();
