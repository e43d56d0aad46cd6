// SPDX-License-Identifier: Apache-2.0
// A guest that goes into a file, RAM included: whatever happens, there is a whole file or the guest, and what is not whole is
// not loaded.
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, onlyOnBun, recordEvents, settled, thisRuntime } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { freePath, migrate, migrated, set, waiting } from "./streams.ts";
import { over } from "./transfers.ts";

const test = describe("migration to a file");
const skipOnce = onlyOnBun;

function startGuest(options: GuestOptions = {}): Promise<GuestProcess> {
  return GuestProcess.start({ runtime: thisRuntime, ...options });
}

/** Loads a file, whose guest must be whole. */
async function loads(uri: string, options: GuestOptions = {}): Promise<void> {
  await using next = waiting(uri, options);
  await next.runsOn();
}

test("is saved while it runs, can go on, and is loaded as often as one likes", async () => {
  const uri = `file:${freePath("vm.state")}`;
  await using old = await startGuest({ payload: { cpuCount: 2 } });
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  await set(qmp, { capabilities: { multifd: true, "mapped-ram": true }, parameters: { "multifd-channels": 2 } });
  const { ram } = await migrated(qmp, uri);
  await settled();
  assert.equal(
    [...new Set(events)],
    ["MIGRATION setup", "MIGRATION active", "MIGRATION_PASS", "STOP", "MIGRATION device", "MIGRATION completed"],
  );
  assert.is(ram!.remaining, 0);
  assert.is(ram!["precopy-bytes"] + ram!["downtime-bytes"], ram!.transferred);
  const counter = old.counter();
  await qmp.execute("cont");
  await old.runsOn();
  for (const options of [{}, { extra: ["-S"] }]) {
    await using next = waiting(uri, options);
    await using nextQmp = await next.qmp();
    assert.is((await over(nextQmp)).status, "completed");
    if (options.extra) await nextQmp.execute("cont");
    await next.runsOn();
    assert.ok(next.counter() >= counter);
  }
  // The one that was saved goes on to be saved again.
  await migrated(qmp, uri);
  assert.not(existsSync(`${uri.slice(5)}.part`));
});

test("stands while it is saved with cpr-reboot, and what was paused stays paused", async () => {
  const uri = `file:${freePath("vm.state")}`;
  await using old = await startGuest({ ram: ["-object", "memory-backend-memfd,id=ram0,size=32M,share=on"] });
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  await set(qmp, { parameters: { mode: "cpr-reboot" } });
  await qmp.execute("stop");
  await settled();
  events.length = 0;
  await migrated(qmp, uri);
  await settled();
  assert.not(events.includes("STOP"));
  await using next = waiting(uri);
  await using nextQmp = await next.qmp();
  assert.is((await over(nextQmp)).status, "completed");
  assert.is((await nextQmp.execute("query-status")).status, "paused");
  await nextQmp.execute("cont");
  await next.runsOn();
});

test("RAM that no other process could take goes into the file as well", async () => {
  const uri = `file:${freePath("vm.state")}`;
  await using old = new GuestProcess({
    runtime: thisRuntime,
    ram: ["-object", "memory-backend-ram,id=ram0,size=32M"],
    serial: ["-serial", `unix:${freePath("serial")},server=on,wait=off`],
  });
  await using qmp = await old.qmp();
  await migrated(qmp, uri);
  await loads(uri, {
    extra: ["-object", "memory-backend-memfd,id=ram0,size=32M,share=on", "-machine", "memory-backend=ram0"],
  });
});

test.skipIf(skipOnce, "stands at an offset in a file, after whatever else is in it", async () => {
  const path = freePath("vm.state");
  writeFileSync(path, "a header of somebody else");
  await using old = await startGuest();
  await using qmp = await old.qmp();
  await migrated(qmp, `file:${path},offset=0x10000`);
  assert.is(readFileSync(path, "latin1").slice(0, 25), "a header of somebody else");
  await loads(`file:${path},offset=65536`);
  await using wrong = waiting(`file:${path}`);
  assert.is((await wrong.ended).exitCode, 1);
  assert.match(wrong.error, "cannot be loaded");
});

/** Runs a program of the system; undefined when it succeeds. */
function attempt(command: string, ...args: string[]): string | undefined {
  try {
    execFileSync(command, args, { stdio: "pipe" });
    return undefined;
  } catch (error) {
    return String(error).split("\n")[0];
  }
}

const skipMounts = skipOnce ?? (process.getuid?.() === 0 ? undefined : "only root can mount file systems");

test.skipIf(skipMounts, "goes to a block device", async () => {
  const image = freePath("disk");
  writeFileSync(image, "");
  truncateSync(image, 64 << 20);
  const device = execFileSync("losetup", ["--find", "--show", image], { encoding: "utf8" }).trim();
  try {
    await using old = await startGuest();
    await using qmp = await old.qmp();
    await migrated(qmp, `file:${device}`);
    await qmp.execute("quit");
    await loads(`file:${device}`);
  } finally {
    execFileSync("losetup", ["--detach", device]);
  }
});

test.skipIf(skipMounts, "a full or read-only file system leaves the guest running, and the old file", async () => {
  const dir = join(temporaryDirectory(), "small");
  mkdirSync(dir);
  const failure = attempt("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir);
  assert.is(failure, undefined);
  try {
    const path = join(dir, "vm.state");
    writeFileSync(path, "older");
    await using old = await startGuest();
    await using qmp = await old.qmp();
    for (const mode of ["normal", "cpr-reboot"] as const) {
      await set(qmp, { parameters: { mode } });
      const full = await migrate(qmp, `file:${path}`);
      assert.is(full.status, "failed");
      assert.match(full["error-desc"]!, /ENOSPC|EFBIG/);
      assert.is(readFileSync(path, "latin1"), "older");
      assert.not(existsSync(`${path}.part`));
      await old.runsOn();
    }
    execFileSync("mount", ["-o", "remount,ro", dir]);
    const readOnly = await migrate(qmp, `file:${path}`);
    assert.match(readOnly["error-desc"]!, /EROFS/);
    await old.runsOn();
  } finally {
    execFileSync("umount", [dir]);
  }
});

/** A guest whose saving takes as long as one likes: nothing is written to disk faster than it is allowed to. */
async function saving(qmp: QmpClient, guest: GuestProcess, uri: string): Promise<void> {
  await qmp.execute("migrate", { uri });
  await guest.until("RAM to move", async () => ((await qmp.execute("query-migrate")).ram?.normal ?? 0) > 0);
}

test.skipIf(skipOnce, "killed, cancelled or ended while it is saved, it leaves the old file", async () => {
  const path = freePath("vm.state");
  const uri = `file:${path}`;
  const options: GuestOptions = {
    memory: "128M",
    payload: { touchBytes: 120 << 20, sweepPagesPerRound: 64 },
  };
  {
    await using guest = await startGuest();
    await using qmp = await guest.qmp();
    await migrated(qmp, uri);
  }
  const older = statSync(path);
  await using guest = await startGuest(options);
  await using qmp = await guest.qmp();
  await saving(qmp, guest, uri);
  await qmp.execute("migrate_cancel");
  const info = await over(qmp);
  if (info.status === "cancelled") {
    assert.is(statSync(path).ino, older.ino);
    assert.not(existsSync(`${path}.part`));
    await guest.runsOn();
  }
  await saving(qmp, guest, uri).catch(() => {});
  guest.child.kill("SIGKILL");
  await guest.ended;
  // The old one or the new one: both are whole.
  await loads(uri);

  // What the killed one has left is in nobody's way.
  writeFileSync(`${path}.part`, "left over");
  await using last = await startGuest();
  await using lastQmp = await last.qmp();
  await migrated(lastQmp, uri);
  assert.not(existsSync(`${path}.part`));
  await loads(uri);
});

test("says what is in the way of the file", async () => {
  const path = freePath("vm.state");
  symlinkSync("/no/such/place", `${path}.part`);
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate", { uri: `file:${path}` });
  const { status, "error-desc": reason } = await over(qmp);
  assert.is(status, "failed");
  assert.match(reason!, `'${path}.part' is in the way: remove it`);
  await guest.runsOn();
});

test.skipIf(skipOnce, "two VMs never take each other's half of a file for theirs", async () => {
  const path = freePath("vm.state");
  await using one = await startGuest({ payload: { cpuCount: 2 } });
  await using other = await startGuest();
  await using oneQmp = await one.qmp();
  await using otherQmp = await other.qmp();
  await Promise.all([
    oneQmp.execute("migrate", { uri: `file:${path}` }),
    otherQmp.execute("migrate", { uri: `file:${path}` }),
  ]);
  const results = await Promise.all([over(oneQmp), over(otherQmp)]);
  assert.ok(
    results.some(({ status }) => status === "completed"),
    JSON.stringify(results),
  );
  for (const { status, "error-desc": reason } of results) {
    if (status === "failed") assert.match(reason!, /is being written by another VM|was removed or replaced/);
  }
  await loads(`file:${path}`);
});

test.skipIf(skipOnce, "a link stays a link", async () => {
  const dir = temporaryDirectory();
  const [target, link] = [join(dir, "target"), join(dir, "link")];
  writeFileSync(target, "older");
  symlinkSync(target, link);
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await migrated(qmp, `file:${link}`);
  assert.ok(statSync(target).size > 5);
  assert.is(statSync(target).mode & 0o777, 0o600);
  await loads(`file:${link}`);
});

test.skipIf(skipOnce, "what is cut short or damaged is refused, image and RAM, and says so", async () => {
  const path = freePath("vm.state");
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await migrated(qmp, `file:${path}`);
  await qmp.execute("quit");
  const whole = readFileSync(path);
  await using next = waiting("defer");
  await using nextQmp = await next.qmp();
  const load = async () => {
    await nextQmp.execute("migrate-incoming", { uri: `file:${path}`, "exit-on-error": false });
    return over(nextQmp);
  };
  const refused = async (reason: RegExp): Promise<void> => {
    const info = await load();
    assert.is(info.status, "failed");
    assert.match(info["error-desc"]!, reason);
    assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
    writeFileSync(path, whole);
  };
  truncateSync(path, 1000);
  await refused(/cut short/);
  truncateSync(path, whole.length - 1);
  await refused(/The file of guest RAM has \d+ bytes, and its pages need \d+/);
  for (const at of [whole.length - 10, 0x2000, 0x4100]) {
    const damaged = Uint8Array.from(whole);
    damaged[at]! ^= 1;
    writeFileSync(path, damaged);
    await refused(/CRC-32|is damaged/);
  }
  // Of a file of which only the place of the image was written, as after a kill.
  writeFileSync(path, new Uint8Array(whole.length));
  await refused(/cannot be loaded/);
  rmSync(path);
  await nextQmp.execute("migrate-incoming", { uri: `file:${path}`, "exit-on-error": false });
  assert.match((await over(nextQmp))["error-desc"]!, /ENOENT/);
  writeFileSync(path, whole);
  assert.is((await load()).status, "completed");
  await next.runsOn();
  const again = await rejection(() => nextQmp.execute("migrate-incoming", { uri: `file:${path}` }));
  assert.is(again.message, "The incoming migration has already been started");
});

test.run();
