// SPDX-License-Identifier: Apache-2.0
// What can be told of retained RAM without a kernel that retains any: test/lab/scenarios/luo-cpr-reboot.ts has the rest.
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Chardev } from "../../../src/backends/chardev/types.ts";
import { resolveConfig } from "../../../src/config/resolve.ts";
import { describeError, VmmError } from "../../../src/errors.ts";
import { buildVm } from "../../../src/machine/build.ts";
import { Vm } from "../../../src/machine/vm.ts";
import { GUEST_SECTIONS, planGuest, readCpuids } from "../../../src/migration/guest-image.ts";
import { HeldRam } from "../../../src/migration/held-ram.ts";
import { Outgoing } from "../../../src/migration/outgoing.ts";
import { defaultCapabilities, defaultParameters } from "../../../src/migration/parameters.ts";
import { MigrationProgress } from "../../../src/migration/progress.ts";
import { planRam, type RamLocation, type RamRetained, readRamLocation } from "../../../src/migration/ram-section.ts";
import { canRetain, type RetainedGuest, restoreRetained, saveRetained } from "../../../src/migration/retained-ram.ts";
import { StateFileWriter } from "../../../src/migration/state-file.ts";
import { readReport } from "../../../src/payload/report.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { accelerator } from "../../accelerator.ts";
import { openFdCount, temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, payloadFile, thisRuntime, until } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("migration/retained-ram");
const NO_DEVICE = "/dev/no-such-liveupdate";
/** It can be opened, and refuses every call. */
const DEAF_DEVICE = "/dev/null";
/** The real device; where a host has one, its sessions are not played with. */
const withLuo = existsSync("/dev/liveupdate") ? "this host has /dev/liveupdate" : undefined;
const SIZE_BYTES = 16 << 20;
const SESSION = `baton-${crypto.randomUUID()}`;

function newVm(): Promise<Vm> {
  const kernel = payloadFile({ touchBytes: 3 << 20, serial: false });
  return buildVm(
    resolveConfig({
      accel: accelerator,
      m: "16M",
      kernel,
      nodefaults: true,
      machine: "microvm,aux-ram-share=on",
      serial: "null",
    }),
  );
}

const retained = (changes: Partial<RamRetained> = {}): RamRetained => {
  return { where: "retained", sizeBytes: SIZE_BYTES, session: SESSION, samples: [], ...changes };
};

function imageOf(vm: Vm, location: RamLocation): Uint8Array {
  return planGuest(vm, "running", vm.accel, (writer) => planRam(writer, vm, location)).take();
}

async function refusal(code: string, action: () => unknown): Promise<string> {
  const error = await rejection(action);
  assert.instance(error, VmmError);
  assert.is((error as VmmError).code, code, describeError(error));
  return describeError(error);
}

test("RAM is retained where host and back end allow it, and a host that has LUO but does not give it says so", async () => {
  const sizeBytes = 4096;
  const ram = (qomType: "memory-backend-memfd" | "memory-backend-file" | "memory-backend-ram", more = {}) => {
    return { backend: { qomType, id: "ram0", sizeBytes, share: true, ...more }, base: 0, fd: 3, isShared: true };
  };
  assert.is(canRetain(ram("memory-backend-memfd"), DEAF_DEVICE), true);
  assert.is(canRetain(ram("memory-backend-ram"), DEAF_DEVICE), true);
  assert.is(canRetain(ram("memory-backend-memfd"), NO_DEVICE), false);
  assert.is(canRetain(ram("memory-backend-memfd", { hugetlb: true }), DEAF_DEVICE), false);
  assert.is(canRetain(ram("memory-backend-file", { memPath: "/x" }), DEAF_DEVICE), false);
  assert.is(canRetain({ ...ram("memory-backend-memfd"), isShared: false }, DEAF_DEVICE), false);
  const text = await refusal("ram-not-retained", () => canRetain(ram("memory-backend-memfd"), "/dev"));
  assert.match(text, "without x-ignore-shared it goes into the file: /dev cannot be opened");
});

test("RAM that waits for the next kernel refuses to be lost once", async () => {
  let closed = 0;
  const held = new HeldRam({ sessionName: SESSION, sessionFd: -1, close: () => closed++ }, "vm.state");
  assert.match(held.reason, SESSION);
  const text = await refusal("ram-retained", () => held.refuseFirstQuit());
  assert.match(text, "kexec -e");
  assert.match(text, "-incoming file:vm.state");
  held.refuseFirstQuit();
  assert.is(closed, 0);
  held.release();
  assert.is(closed, 1);
});

test("a guest whose RAM waits is neither reset nor forgotten, and cont takes it back", async () => {
  const vm = await newVm();
  await vm.powerOn();
  vm.serve();
  vm.assumeState("postmigrate");
  let closed = 0;
  const hold = () => {
    vm.holdRam(new HeldRam({ sessionName: SESSION, sessionFd: -1, close: () => closed++ }, "vm.state"));
    vm.assumeState("postmigrate");
  };
  let printed = "";
  const [port] = vm.devices.serialPorts;
  const write = (bytes: Uint8Array) => (printed += new TextDecoder().decode(bytes));
  port!.attach({ queuedBytes: 0, attach: () => {}, acceptInput: () => {}, write } as unknown as Chardev);
  port!.restoreOutput(new TextEncoder().encode("last words"));
  hold();
  // They are in the state: whoever has the guest in the end prints them, once.
  port!.flush();
  assert.is(printed, "");
  assert.match(await refusal("ram-retained", () => vm.reset("host-qmp-system-reset", false)), "'cont' takes it back");
  await refusal("ram-retained", () => vm.refuseToLoseRam());
  vm.refuseToLoseRam();
  assert.is(closed, 0);
  vm.cont();
  assert.is(closed, 1);
  assert.is(vm.state, "running");
  assert.is(printed, "last words");
  vm.refuseToLoseRam();
  await until("the guest to count", () => (readReport(vm.ramView())?.counters[0] ?? 0n) > 0n);
  vm.stop();
  hold();
  await refusal("ram-retained", () => vm.refuseToLoseRam());
  await vm.close();
  assert.is(closed, 2);
});

test("a guest whose RAM the kernel does not retain runs on, and leaves no file", async () => {
  const vm = await newVm();
  await vm.powerOn();
  vm.serve();
  vm.cont();
  const filename = join(temporaryDirectory(), "vm.state");
  const progress = new MigrationProgress(vm.events);
  const run = new Outgoing({
    vm,
    connections: undefined as never,
    progress,
    parameters: () => ({ ...defaultParameters(), mode: "cpr-reboot" }),
    capabilities: { ...defaultCapabilities(), "x-ignore-shared": true },
    refuseBlocked: () => {},
    allowsPostcopy: false,
  });
  const fdCount = openFdCount();
  progress.start();
  await run.run(async (run) => {
    const address = { transport: "file", filename, offset: 0 } as const;
    const file = StateFileWriter.create(address);
    run.onFailure(() => file.discard());
    await saveRetained(run, file, address, DEAF_DEVICE);
  });
  assert.is(progress.status, "failed");
  assert.match(progress.info()["error-desc"]!, /session 'baton-[\da-f-]{36}' cannot be created: CREATE_SESSION/);
  // A runtime may close some of its own meanwhile.
  assert.ok(openFdCount() <= fdCount, "file descriptors leak");
  for (const path of [filename, `${filename}.part`]) assert.is(existsSync(path), false);
  assert.is(vm.state, "running");
  vm.refuseToLoseRam();
  const before = readReport(vm.ramView())?.counters[0] ?? 0n;
  await until("the guest to go on", () => (readReport(vm.ramView())?.counters[0] ?? 0n) > before);
  vm.stop();
  await vm.close();
});

test("the section is read back, and one that makes no sense is refused", async () => {
  const vm = await newVm();
  await vm.powerOn();
  const reread = (location: RamLocation) =>
    readRamLocation(new StateReader(imageOf(vm, location), GUEST_SECTIONS), SIZE_BYTES);
  const location = reread(retained()) as RamRetained;
  assert.is(location.where, "retained");
  assert.is(location.session, SESSION);
  assert.is(location.samples.length, 64);
  const text = await refusal("state-refused", () => reread(retained({ session: 7 as unknown as string })));
  assert.match(text, "RAM in no live update session");
  await refusal("state-refused", () => reread(retained({ sizeBytes: 4096 })));
  await vm.close();
});

test("nothing is retrieved until all that can be checked has been, and a failure before that loses nothing", async () => {
  const source = await newVm();
  await source.powerOn();
  const reader = new StateReader(imageOf(source, retained()), GUEST_SECTIONS);
  const location = readRamLocation(reader, SIZE_BYTES) as RamRetained;
  const { spec } = source;
  const vm = new Vm(spec);
  const guest: RetainedGuest = {
    vm,
    spec,
    cpuids: readCpuids(reader, 1),
    reader,
    location,
    build: async () => assert.unreachable("RAM was retrieved"),
  };
  const fails = (code: string, device: string, changes: Partial<RetainedGuest>) =>
    refusal(code, () => restoreRetained({ ...guest, ...changes }, device));
  const foreign = { location: { ...location, session: "other-vm" } };
  assert.match(await fails("session-name", DEAF_DEVICE, foreign), "'other-vm' is not Baton's");
  const absent = await fails("ram-not-retained", NO_DEVICE, {});
  assert.match(
    absent,
    `in live update session '${SESSION}', and is not to be had here: RAM in a memfd does not survive`,
  );
  const memoryBackends = spec.memoryBackends.map((backend) => ({ ...backend, share: false }));
  const unshared = await fails("state-refused", DEAF_DEVICE, { spec: { ...spec, memoryBackends } });
  assert.match(unshared, "memory-backend-memfd with share=off");
  // A machine with a vCPU that the state does not have fails before the device is asked for the session.
  const twoCpus = { spec: { ...spec, cpuCount: 2 }, cpuids: [...guest.cpuids, ...guest.cpuids] };
  assert.match(await fails("state-refused", DEAF_DEVICE, twoCpus), "cpu");

  await fails("ram-not-retained", DEAF_DEVICE, {});
  const fdCount = openFdCount();
  assert.match(await fails("ram-not-retained", DEAF_DEVICE, {}), /cannot be retrieved: RETRIEVE_SESSION\(baton-/);
  assert.ok(openFdCount() <= fdCount, "file descriptors leak");
  assert.is(vm.isBuilt, false);
  await vm.close();
  await source.close();
});

test.skipIf(withLuo, "a state file whose RAM was retained is refused by name where there is no LUO", async () => {
  const source = await newVm();
  await source.powerOn();
  const path = join(temporaryDirectory(), "vm.state");
  writeFileSync(path, imageOf(source, retained()));
  await source.close();
  await using next = new GuestProcess({ runtime: thisRuntime, bare: true, extra: ["-incoming", "defer"] });
  await using qmp = await next.qmp();
  await qmp.execute("migrate-incoming", { uri: `file:${path}`, "exit-on-error": false });
  const info = await until("the end of the migration", async () => {
    const info = await qmp.execute("query-migrate");
    return info.status === "failed" ? info : undefined;
  });
  assert.match(info["error-desc"]!, `session '${SESSION}', and is not to be had here`);
  assert.match(info["error-desc"]!, "no /dev/liveupdate");
  assert.is((await qmp.execute("query-status")).status, "inmigrate");
});

test.run();
