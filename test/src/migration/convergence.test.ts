// SPDX-License-Identifier: Apache-2.0
// Migration of a guest that writes a lot: how far it is told, what limits it, what makes it come to an end, and what the guest
// or an operator may do meanwhile.
import type { QmpClient } from "../../../src/qmp/client.ts";
import { type GuestOptions, GuestProcess, onlyOnBun, recordEvents, settled, until, updated } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { freePath, listening, type MigrationResult, moveOn, RINGS, set, waiting } from "./streams.ts";
import { over, sockets, transferTo, waiting as waitingForTransfer } from "./transfers.ts";

const test = describe("migration of a busy guest");
const skip = onlyOnBun;

/** Writes 6 MiB again and again, as fast as KVM lets it. */
const BUSY: GuestOptions = {
  runtime: "bun",
  memory: "64M",
  payload: { touchBytes: 32 << 20, workingSetBytes: 6 << 20, workingSetStrideBytes: 4096, lostTickLimit: 1_000_000 },
};
/** Bytes per second at which it never comes to an end by itself, within a downtime limit of a few milliseconds. */
const NARROW: { "max-bandwidth": number; "downtime-limit": number } = {
  "max-bandwidth": 24 << 20,
  "downtime-limit": 5,
};

async function query(qmp: QmpClient): Promise<MigrationResult> {
  return qmp.execute("query-migrate");
}

/** Begins a migration that goes on until somebody does something, and waits until RAM moves for the second time. */
async function begin(old: GuestProcess, qmp: QmpClient, options: { deadEnd?: GuestProcess } = {}): Promise<void> {
  const next = options.deadEnd!;
  await using nextQmp = await next.qmp();
  await qmp.execute("migrate", { uri: await listening(next, nextQmp) });
  await old.until("the second round", async () => ((await query(qmp)).ram?.["dirty-sync-count"] ?? 0) >= 2);
}

function deadEnd(): GuestProcess {
  return waiting(`unix:${freePath()}`, { runtime: "bun" });
}

test.skipIf(skip, "goes round for round until the operator lets it end", async () => {
  await using old = await GuestProcess.start(BUSY);
  await using qmp = await old.qmp();
  await set(qmp, { parameters: NARROW });
  await using next = deadEnd();
  await begin(old, qmp, { deadEnd: next });
  const { ram, status, ...info } = await query(qmp);
  assert.is(status, "active");
  assert.ok(ram!.remaining <= ram!.total && ram!.transferred > 0 && ram!.normal > 0);
  assert.ok(ram!.transferred >= ram!["normal-bytes"]);
  assert.ok(info["expected-downtime"]! > NARROW["downtime-limit"], JSON.stringify(info));
  assert.ok(ram!["dirty-pages-rate"] > 0);
  assert.is(info.downtime, undefined);
  await old.runsOn();
  // Both take effect at once.
  await set(qmp, { parameters: { "max-bandwidth": 0, "downtime-limit": 2000 } });
  const done = await over(qmp);
  assert.is(done.status, "completed", done["error-desc"]);
  assert.ok(done.ram!["dirty-sync-count"] >= ram!["dirty-sync-count"]);
  assert.ok(done.ram!["downtime-bytes"] > 0);
  await next.runsOn();
});

test.skipIf(skip, "is cancelled between rounds, goes on at full speed, and can go again", async () => {
  await using old = await GuestProcess.start(BUSY);
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  await set(qmp, { parameters: NARROW });
  {
    await using next = deadEnd();
    await begin(old, qmp, { deadEnd: next });
    await qmp.execute("migrate_cancel");
    assert.is((await over(qmp)).status, "cancelled");
    assert.equal(await next.ended, { exitCode: 1, signal: null });
  }
  await settled();
  assert.not(events.includes("STOP"));
  await old.runsOn();
  await using next = await moveOn(old, { runtime: "bun", parameters: { "max-bandwidth": 0, "downtime-limit": 2000 } });
  await next.runsOn();
});

test.skipIf(skip, "auto-converge slows the guest down until it can be moved", async () => {
  await using old = await GuestProcess.start(BUSY);
  await using qmp = await old.qmp();
  await set(qmp, {
    capabilities: { "auto-converge": true },
    parameters: {
      "max-bandwidth": 24 << 20,
      "downtime-limit": 150,
      "cpu-throttle-initial": 70,
      "cpu-throttle-increment": 20,
    },
  });
  await using next = deadEnd();
  await using nextQmp = await next.qmp();
  await qmp.execute("migrate", { uri: await listening(next, nextQmp) });
  let throttled = 0;
  const info = await until("the end of the migration", async () => {
    const seen = await qmp.execute("query-migrate");
    throttled = Math.max(throttled, seen["cpu-throttle-percentage"] ?? 0);
    return ["completed", "failed"].includes(seen.status ?? "") ? seen : undefined;
  });
  assert.is(info.status, "completed", info["error-desc"]);
  assert.ok(throttled >= 70, `${throttled} percent`);
  await next.runsOn();
});

test.skipIf(skip, "a guest that resets itself meanwhile is moved as it is after that", async () => {
  await using old = await GuestProcess.start({ ...BUSY, noReboot: false });
  await using qmp = await old.qmp();
  await set(qmp, { parameters: NARROW });
  await using next = deadEnd();
  await begin(old, qmp, { deadEnd: next });
  await qmp.execute("system_reset");
  await set(qmp, { parameters: { "max-bandwidth": 0, "downtime-limit": 2000 } });
  const info = await over(qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  await next.runsOn();
});

test.skipIf(skip, "a guest that is stopped meanwhile arrives stopped", async () => {
  await using old = await GuestProcess.start(BUSY);
  await using qmp = await old.qmp();
  await set(qmp, { parameters: NARROW });
  await using next = deadEnd();
  await begin(old, qmp, { deadEnd: next });
  await qmp.execute("stop");
  assert.is((await over(qmp)).status, "completed");
  await using nextQmp = await next.qmp();
  assert.is((await over(nextQmp)).status, "completed");
  assert.is((await nextQmp.execute("query-status")).status, "paused");
  await nextQmp.execute("cont");
  await next.runsOn();
});

for (const end of ["quit", "shutdown"] as const) {
  test.skipIf(skip, `${end} in the middle ends both sides, each in its way`, async () => {
    await using old = await GuestProcess.start(BUSY);
    const qmp = await old.qmp();
    await set(qmp, { parameters: NARROW });
    await using next = deadEnd();
    await begin(old, qmp, { deadEnd: next });
    if (end === "quit") await qmp.execute("quit");
    else old.commandShutdown();
    assert.equal(await old.ended, { exitCode: end === "quit" ? 0 : 1, signal: null });
    assert.is(old.error, "");
    assert.equal(await next.ended, { exitCode: 1, signal: null });
    assert.match(next.error, "load of migration failed");
    await qmp[Symbol.asyncDispose]();
  });
}

test.skipIf(skip, "updates and migrations follow each other in any order", async () => {
  await using first = await GuestProcess.start({ runtime: "bun", ...RINGS });
  {
    await using qmp = await first.qmp();
    await updated(first, qmp, { command: [] });
  }
  await using second = await moveOn(first, { runtime: "bun" });
  await second.runsOn();
  {
    await using qmp = await second.qmp();
    await updated(second, qmp, { command: [] });
    await second.runsOn();
  }
  const place = sockets();
  await using third = waitingForTransfer(place, { runtime: "bun" });
  {
    await using qmp = await second.qmp();
    await third.qmp().then((client) => client[Symbol.asyncDispose]());
    const info = await transferTo(qmp, place);
    assert.is(info.status, "completed", info["error-desc"]);
    await third.runsOn();
    await qmp.execute("quit");
  }
  await using fourth = await moveOn(third, { runtime: "bun" });
  await fourth.runsOn();
});

test.run();
