// SPDX-License-Identifier: Apache-2.0
// Updates of VMs whose RAM is anonymous: nobody prepared them for it.
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { findMemoryFile } from "../../../src/meter/guest-ram.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import {
  type GuestOptions,
  GuestProcess,
  program,
  programMissing,
  type Runtime,
  recordEvents,
  settled,
  thisRuntime,
  until,
  update,
  updated,
} from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { hasMoved, moved, over, sockets, transferTo, waiting } from "./transfers.ts";

const test = describe("anonymous RAM");

const refusingBaton = fileURLToPath(new URL("refusing-baton.ts", import.meta.url));
const failingBaton = fileURLToPath(new URL("failing-baton.ts", import.meta.url));
const GUARD_TIMEOUT_MS = 5000;
const MIB = 2 ** 20;

/** A VM whose guest runs: nothing of it can be seen from outside but what it prints. */
async function startGuest({ memory = "32M", payload, ...others }: GuestOptions = {}): Promise<GuestProcess> {
  const guest = new GuestProcess({
    runtime: thisRuntime,
    memory,
    ram: ["-object", `memory-backend-ram,id=ram0,size=${memory}`],
    payload: { cpuCount: 2, touchBytes: 24 * MIB, ticksPerLine: 1, ...payload },
    ...others,
  });
  // Its sockets are there a moment before anybody listens; who answers here listens there.
  (await guest.qmp()).destroy();
  using serial = await guest.stream("serial");
  await serial.waitFor("tick ");
  return guest;
}

async function isShared(qmp: QmpClient): Promise<boolean> {
  return (await qmp.execute("query-memdev"))[0]!.share;
}

/** The first update: RAM has no file yet that `updated` could look into. */
async function firstUpdate(guest: GuestProcess, qmp: QmpClient): Promise<void> {
  const image = guest.imageIdentity();
  const info = await update(qmp);
  assert.is(info.status, "completed", `${info["error-desc"]} ${guest.error}`);
  assert.ok(guest.imageIdentity() !== image, "the program was replaced");
  await guest.runsOn();
}

/** The guest's report is in the part of RAM that moves first. */
const REPORT_MOVED_BYTES = 2 * MIB;

/** Waits until some of RAM has moved in the migration that was begun. */
async function untilUnderWay(qmp: QmpClient): Promise<void> {
  await until("RAM to be on its way", async () => {
    const { status, ram } = await qmp.execute("query-migrate");
    assert.is(status, "setup");
    return ram !== undefined && ram.transferred > REPORT_MOVED_BYTES;
  });
}

/** A line of /proc/PID/status, in KiB. */
function memoryKib(guest: GuestProcess, name: string): number {
  const status = readFileSync(`/proc/${guest.pid}/status`, "utf8");
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)![1]);
}

for (const runtime of ["compiled", "bun", "deno"] satisfies Runtime[]) {
  const missing = runtime === thisRuntime || runtime === "compiled" ? undefined : `it is run on ${runtime}`;
  test.skipIf(missing, `is updated again and again under vCPUs that write and check it (${runtime})`, async () => {
    await using guest = await startGuest({ runtime });
    await using qmp = await guest.qmp();
    const events = await recordEvents(qmp);
    assert.equal(await qmp.execute("query-migrate-blockers"), []);
    assert.is(await isShared(qmp), false);
    await firstUpdate(guest, qmp);
    await settled();
    assert.equal(events.slice(0, 3), ["MIGRATION setup", "STOP", "MIGRATION active"], "the guest did not stop for RAM");
    assert.is(await isShared(qmp), true);
    assert.is((await qmp.execute("query-migrate")).ram, undefined);
    for (let round = 0; round < 2; round++) {
      await updated(guest, qmp);
      await guest.runsOn();
    }
  });
}

test("goes to another process by cpr-transfer, and on from there", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  const info = await transferTo(qmp, place);
  assert.is(info.status, "completed", `${info["error-desc"]} ${old.error} ${next.error}`);
  await over(nextQmp);
  await hasMoved(old, next);
  assert.is(await isShared(nextQmp), true);
  const further = sockets();
  await using last = waiting(further);
  await moved(next, last, further);
  await using lastQmp = await last.qmp();
  await updated(last, lastQmp);
  await last.runsOn();
});

/** Of the process and of RAM in its memfd. */
function usedKib(guest: GuestProcess): { total: number; ram: number } {
  const ram = (statSync(findMemoryFile(guest.pid, ["ram0"])!).blocks * 512) / 1024;
  return { total: memoryKib(guest, "RssAnon") + ram, ram };
}

test("takes no more memory than before, not even half way; pages that the guest never wrote have none", async () => {
  await using guest = await startGuest({ memory: "256M", payload: { touchBytes: 64 * MIB } });
  await using qmp = await guest.qmp();
  const before = memoryKib(guest, "RssAnon");
  assert.ok(before > 64 * 1024);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  await qmp.execute("migrate", {});
  await untilUnderWay(qmp);
  await qmp.execute("migrate_cancel");
  await over(qmp);
  const halfWay = usedKib(guest);
  assert.ok(halfWay.total < before * 1.1, `${before} KiB before, ${halfWay.total} KiB half way`);
  await firstUpdate(guest, qmp);
  const after = usedKib(guest);
  assert.ok(after.ram > 60 * 1024 && after.ram < 70 * 1024, `${after.ram} KiB`);
  assert.ok(after.total < before * 1.1, `${before} KiB before, ${after.total} KiB after it`);
});

test("migrate_cancel leaves RAM half moved under a guest that runs on, and can be saved", async () => {
  await using guest = await startGuest({ memory: "256M" });
  await using qmp = await guest.qmp();
  const image = guest.imageIdentity();
  for (const mode of ["cpr-exec", "cpr-transfer"] as const) {
    const place = sockets();
    await using next = mode === "cpr-exec" ? undefined : waiting(place);
    await next?.qmp();
    await qmp.execute("migrate-set-parameters", { mode });
    if (mode === "cpr-exec") await qmp.execute("migrate", {});
    else {
      const channel = (name: "main" | "cpr") => ({
        "channel-type": name,
        addr: { transport: "socket" as const, type: "unix" as const, path: place[name] },
      });
      await qmp.execute("migrate", { channels: [channel("main"), channel("cpr")] });
    }
    await untilUnderWay(qmp);
    await qmp.execute("migrate_cancel");
    assert.is((await over(qmp)).status, "cancelled");
    assert.is(await isShared(qmp), false);
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
    assert.is(guest.imageIdentity(), image);
    // The report lies in the part that has moved.
    await guest.runsOn();
  }
  // RAM of both kinds is saved like any other.
  const file = join(guest.dir, "state");
  await qmp.execute("migrate-set-parameters", { mode: "normal" });
  await qmp.execute("migrate", { uri: `file:${file}` });
  assert.is((await over(qmp)).status, "completed");
  await using loaded = new GuestProcess({
    runtime: thisRuntime,
    memory: "256M",
    extra: ["-incoming", `file:${file}`],
    payload: { cpuCount: 2 },
  });
  await loaded.runsOn();
});

test("the update after one that was cancelled goes on with the RAM that has moved", async () => {
  await using guest = await startGuest({ memory: "256M" });
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  await qmp.execute("migrate", {});
  await untilUnderWay(qmp);
  await qmp.execute("migrate_cancel");
  await over(qmp);
  const inode = (): number => statSync(findMemoryFile(guest.pid, ["ram0"])!).ino;
  const before = inode();
  await qmp.execute("migrate", {});
  assert.is((await over(qmp)).status, "completed");
  assert.is(inode(), before, "it is the same memfd");
  await guest.runsOn();
  assert.is(await isShared(qmp), true);
});

test("a host that takes no more of the file is an error, and the guest runs on; then it is updated", async () => {
  await using guest = await startGuest({ memory: "256M", payload: { touchBytes: 240 * MIB } });
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  await qmp.execute("migrate", {});
  await untilUnderWay(qmp);
  guest.limitFiles(4096n);
  const info = await over(qmp);
  assert.is(info.status, "failed");
  assert.match(
    info["error-desc"]!,
    /^RAM 'ram0' could not be moved to shared memory; \d+ of 268435456 bytes are there: pwrite.* failed: EFBIG/,
  );
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  await guest.runsOn();
  // From the beginning on, too: a memfd of that size cannot even be made.
  await using other = await startGuest();
  await using otherQmp = await other.qmp();
  other.limitFiles(4096n);
  const refused = await update(otherQmp);
  assert.match(refused["error-desc"]!, /0 of 33554432 bytes are there: ftruncate.* failed: EFBIG/);
  guest.limitFiles();
  await firstUpdate(guest, qmp);
});

test("goes to the helper of a relay, and back", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { relay: true });
  await firstUpdate(guest, qmp);
  assert.ok(await isShared(qmp));
});

test("a guest that is paused is updated, and goes on when it is told to", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("stop");
  const info = await update(qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
  await qmp.execute("cont");
  await guest.runsOn();
});

test("a guest that resets itself all the time while RAM moves gets what it wants", async () => {
  await using guest = await startGuest({ memory: "128M", noReboot: false });
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  await qmp.execute("migrate", {});
  for (let round = 0; round < 3; round++) await qmp.execute("system_reset");
  const info = await over(qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  await guest.runsOn();
});

test.skipIf(
  programMissing("bun"),
  "a new program that refuses the guest, or dies of it, gives it back with all of its RAM",
  async () => {
    const env = { BATON_TEST_REFUSE: "vcpu:0", BATON_TEST_FAIL: "kill@restored" };
    for (const wrong of [refusingBaton, failingBaton]) {
      await using guest = await startGuest({ env });
      await using qmp = await guest.qmp();
      await qmp.execute("migrate-set-parameters", { "guard-timeout": GUARD_TIMEOUT_MS });
      const [bun, run] = program("bun");
      const info = await update(qmp, { command: [bun!, run!, wrong, ...guest.args] });
      assert.is(info.status, "failed");
      if (wrong === failingBaton) await guest.follow();
      assert.is(await isShared(qmp), true);
      await guest.runsOn();
      await qmp.execute("migrate-set-parameters", { "guard-timeout": 0 });
      await updated(guest, qmp);
      await guest.runsOn();
    }
  },
);

test("RAM that no -object describes is updated, too, and a new command line may still call it private", async () => {
  await using guest = await startGuest({
    ram: ["-object", "memory-backend-ram,id=ram0,size=32M,prealloc=on,share=off"],
  });
  await using qmp = await guest.qmp();
  await firstUpdate(guest, qmp);
  const command = [...guest.command(thisRuntime), "-name", "renamed"];
  const info = await update(qmp, { command });
  assert.is(info.status, "failed");
  assert.match(
    info["error-desc"]!,
    /differs from the running machine: name is none, the new command line says renamed$/,
  );
  await guest.runsOn();
});

test("a dry run says what it does not try", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  for (const mode of ["cpr-exec", "cpr-transfer"] as const) {
    await qmp.execute("migrate-set-parameters", { mode, "cpr-exec-command": [] });
    await qmp.execute("migrate", { "dry-run": true });
    const info = await until("the end of the dry run", async () => {
      const { "dry-run": found } = await qmp.execute("query-migrate");
      return found!.status === "active" ? undefined : found!;
    });
    assert.equal([info.status, info["private-ram"]], ["would-work", 32 * MIB], JSON.stringify(info));
  }
  assert.is(await isShared(qmp), false, "nothing has moved");
  await firstUpdate(guest, qmp);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": [] });
  await qmp.execute("migrate", { "dry-run": true });
  const after = await until("the end of the dry run", async () => {
    const { "dry-run": found } = await qmp.execute("query-migrate");
    return found!.status === "active" ? undefined : found!;
  });
  assert.equal([after.status, after["private-ram"]], ["would-work", undefined]);
});

test.run();
