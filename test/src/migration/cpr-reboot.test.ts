// SPDX-License-Identifier: Apache-2.0
// A guest that goes through a file from one VMM process to the next, its RAM staying where it is.
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pread } from "../../../ffi/fd.ts";
import { CPU_PVCLOCK, cpuPageGpa } from "../../../src/payload/report.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { CommandResult } from "../../../src/qmp/schema.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, recordEvents, settled, thisRuntime, until } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("cpr-reboot");

interface Place {
  ramFile: string;
  stateFile: string;
}

function place(): Place {
  const dir = temporaryDirectory();
  return { ramFile: join(dir, "ram"), stateFile: join(dir, "vm.state") };
}

function startGuest({ ramFile }: Place, options: GuestOptions = {}): Promise<GuestProcess> {
  return GuestProcess.start({ runtime: thisRuntime, ramFile, ...options });
}

function waiting({ ramFile }: Place, incoming: string, options: GuestOptions = {}): GuestProcess {
  return new GuestProcess({ runtime: thisRuntime, ramFile, ...options, extra: ["-incoming", incoming] });
}

async function choose(qmp: QmpClient): Promise<void> {
  await qmp.execute("migrate-set-parameters", { mode: "cpr-reboot" });
  await qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "x-ignore-shared", state: true }] });
}

async function over(qmp: QmpClient): Promise<CommandResult<"query-migrate">> {
  return until("the end of the migration", async () => {
    const info = await qmp.execute("query-migrate");
    return ["completed", "failed", "cancelled"].includes(info.status ?? "") ? info : undefined;
  });
}

/** Saves the guest; the process that had it is gone afterwards. */
async function saveAndQuit(guest: GuestProcess, { stateFile }: Place): Promise<void> {
  await using qmp = await guest.qmp();
  await choose(qmp);
  await qmp.execute("migrate", { uri: `file:${stateFile}` });
  const info = await over(qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  await qmp.execute("quit");
  await guest.ended;
}

/** What kvmclock tells a vCPU's watchdogs: bit 1 of the flags of struct pvclock_vcpu_time_info, PVCLOCK_GUEST_STOPPED. */
function knowsOfPause(guest: GuestProcess, vcpu: number): boolean {
  const flags = new Uint8Array(1);
  assert.is(pread(guest.openRam()!, flags, cpuPageGpa(vcpu) + CPU_PVCLOCK + 29), 1);
  return (flags[0]! & 2) !== 0;
}

test("tells the guest's watchdogs that it stood still, within one boot, too", async () => {
  const files = place();
  await using guest = await startGuest(files, { payload: { cpuCount: 2 } });
  await guest.runsOn();
  assert.equal(
    [0, 1].map((vcpu) => knowsOfPause(guest, vcpu)),
    [false, false],
  );
  await saveAndQuit(guest, files);
  await using next = waiting(files, `file:${files.stateFile}`, { payload: { cpuCount: 2 } });
  await next.runsOn();
  assert.equal(
    [0, 1].map((vcpu) => knowsOfPause(next, vcpu)),
    [true, true],
  );
});

test("goes on in a new process, with the events of QEMU on both sides", async () => {
  const files = place();
  await using guest = await startGuest(files);
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await choose(qmp);
  await qmp.execute("migrate", { uri: `file:${files.stateFile}` });
  assert.is((await over(qmp)).status, "completed");
  await settled();
  const expected = ["MIGRATION setup", "STOP", "MIGRATION active", "MIGRATION_PASS", "MIGRATION device"];
  assert.equal(events, [...expected, "MIGRATION completed"]);
  assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
  const before = guest.counter();
  await qmp.execute("quit");
  await guest.ended;

  await using next = waiting(files, "defer");
  await using nextQmp = await next.qmp();
  const nextEvents = await recordEvents(nextQmp);
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  assert.equal(await nextQmp.execute("query-cpus-fast"), []);
  await choose(nextQmp);
  await nextQmp.execute("migrate-incoming", { uri: `file:${files.stateFile}` });
  assert.is((await over(nextQmp)).status, "completed");
  await settled();
  assert.equal(nextEvents, ["MIGRATION setup", "MIGRATION active", "RESUME", "MIGRATION completed"]);
  await next.runsOn();
  assert.ok(next.counter() > before);
});

test("needs nothing on the new command line but -incoming", async () => {
  const files = place();
  await using guest = await startGuest(files, { payload: { cpuCount: 2 } });
  await saveAndQuit(guest, files);
  await using next = waiting(files, `file:${files.stateFile}`, { bare: true });
  await next.runsOn();
  await using qmp = await next.qmp();
  assert.is((await qmp.execute("query-cpus-fast")).length, 2);
});

test("a guest that was paused stays so, and one that is not to run does not", async () => {
  const files = place();
  await using guest = await startGuest(files);
  {
    await using qmp = await guest.qmp();
    await qmp.execute("stop");
  }
  await saveAndQuit(guest, files);
  {
    await using next = waiting(files, `file:${files.stateFile}`);
    await using qmp = await next.qmp();
    assert.is((await over(qmp)).status, "completed");
    assert.is((await qmp.execute("query-status")).status, "paused");
    await qmp.execute("cont");
    await next.runsOn();
    await saveAndQuit(next, files);
  }
  await using last = waiting(files, "defer");
  await using qmp = await last.qmp();
  await qmp.execute("stop");
  await qmp.execute("migrate-incoming", { uri: `file:${files.stateFile}` });
  assert.is((await over(qmp)).status, "completed");
  assert.is((await qmp.execute("query-status")).status, "paused");
  await qmp.execute("cont");
  await last.runsOn();
});

test("a guest that is in a file never runs here again", async () => {
  const files = place();
  await using guest = await startGuest(files);
  await using qmp = await guest.qmp();
  await choose(qmp);
  await qmp.execute("migrate", { uri: `file:${files.stateFile}` });
  await over(qmp);
  const { counters } = guest.report()!;
  for (const command of ["cont", "system_reset"] as const) {
    const { message } = await rejection(() => qmp.execute(command));
    assert.match(message, files.stateFile);
  }
  const { message } = await rejection(() => qmp.execute("migrate", { uri: `file:${files.stateFile}` }));
  assert.is(message, "Can't migrate the vm that was paused due to previous migration");
  assert.equal(guest.report()!.counters, counters);
});

test("a guest whose state cannot be written runs on", async () => {
  const files = place();
  await using guest = await startGuest(files);
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await choose(qmp);
  for (const path of ["/nowhere/vm.state", "/dev/null", "/proc/version"]) {
    events.length = 0;
    await qmp.execute("migrate", { uri: `file:${path}` });
    const info = await over(qmp);
    assert.is(info.status, "failed");
    assert.match(info["error-desc"]!, `The state file '${path}' cannot be written`);
    await settled();
    assert.equal(events, ["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
  }
  guest.limitFiles(4096n);
  await qmp.execute("migrate", { uri: `file:${files.stateFile}` });
  assert.match((await over(qmp))["error-desc"]!, /EFBIG/);
  guest.limitFiles();
  await guest.until("it to run", async () => (await qmp.execute("query-status")).running);
  await guest.runsOn();
  await saveAndQuit(guest, files);
});

test("what does not belong together is refused, and the state stays good", async () => {
  const files = place();
  await using guest = await startGuest(files);
  await saveAndQuit(guest, files);
  const whole = readFileSync(files.stateFile);

  await using next = waiting(files, "defer");
  await using qmp = await next.qmp();
  const refused = async (reason: RegExp): Promise<void> => {
    await qmp.execute("migrate-incoming", { uri: `file:${files.stateFile}`, "exit-on-error": false });
    const info = await over(qmp);
    assert.is(info.status, "failed");
    assert.match(info["error-desc"]!, reason);
    assert.is((await qmp.execute("query-status")).status, "inmigrate");
  };
  for (const sizeBytes of [0, 40, 64, 5000, whole.length - 1]) {
    truncateSync(files.stateFile, sizeBytes);
    await refused(/cut short/);
    writeFileSync(files.stateFile, whole);
  }
  const damaged = Uint8Array.from(whole);
  damaged[whole.length >> 1]! ^= 1;
  writeFileSync(files.stateFile, damaged);
  await refused(/CRC-32/);
  rmSync(files.stateFile);
  await refused(/cannot be read: .*ENOENT/);

  writeFileSync(files.stateFile, whole);
  const ram = readFileSync(files.ramFile);
  writeFileSync(files.ramFile, new Uint8Array(ram.length));
  await refused(/The RAM in '.*' is not what the state belongs to/);
  // What would be a DAX device is not made into a file, nor is an empty one made longer.
  rmSync(files.ramFile);
  await refused(/The guest's RAM is to be in '.*ram', and that cannot be opened: .*ENOENT/);
  assert.is(existsSync(files.ramFile), false);
  writeFileSync(files.ramFile, "");
  await refused(/ram has 0 bytes, fewer than the \d+ of RAM/);
  writeFileSync(files.ramFile, ram);
  await qmp.execute("migrate-incoming", { uri: `file:${files.stateFile}` });
  assert.is((await over(qmp)).status, "completed");
  await next.runsOn();
  const again = await rejection(() => qmp.execute("migrate-incoming", { uri: `file:${files.stateFile}` }));
  assert.is(again.message, "The incoming migration has already been started");
});

/** Where a host has one, memfds stay where they are: test/lab/scenarios/luo-cpr-reboot.ts. */
const withLuo = existsSync("/dev/liveupdate") ? "this host has /dev/liveupdate" : undefined;

for (const [what, ram] of [
  ["a memfd", ["-object", "memory-backend-memfd,id=ram0,size=32M,share=on"]],
  ["a directory", ["-object", `memory-backend-file,id=ram0,size=32M,share=on,mem-path=${temporaryDirectory()}`]],
] as const) {
  test.skipIf(withLuo, `RAM in ${what} ends with its process: it goes into the file`, async () => {
    const { stateFile } = place();
    // A back end without a name is looked into over the monitor alone.
    await using guest = new GuestProcess({ runtime: thisRuntime, ram: [...ram] });
    {
      await using qmp = await guest.qmp();
      await guest.until("the guest to run", async () => (await qmp.execute("query-status")).running);
    }
    await saveAndQuit(guest, { ramFile: "", stateFile });
    assert.ok(statSync(stateFile).size > 2 ** 20);
    await using next = new GuestProcess({
      runtime: thisRuntime,
      bare: true,
      extra: ["-incoming", `file:${stateFile}`],
    });
    await using qmp = await next.qmp();
    assert.is((await over(qmp)).status, "completed");
    await next.until("the guest to run", async () => (await qmp.execute("query-status")).running);
  });
}

test("another machine on the command line is refused, and ends the process", async () => {
  const files = place();
  await using guest = await startGuest(files);
  await saveAndQuit(guest, files);
  await using next = waiting(files, `file:${files.stateFile}`, { payload: { cpuCount: 2 } });
  assert.equal(await next.ended, { exitCode: 1, signal: null });
  assert.match(next.error, "number of CPUs (running: 1, wanted: 2)");
});

test.run();
