// SPDX-License-Identifier: Apache-2.0
// Transfers that are ended by somebody, or that nobody waits for: the guest runs on where it was, and nothing is left behind.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { FRAME_ACCEPTED, FRAME_HELLO, FRAME_LISTENING, FRAME_REFUSED } from "../../../src/migration/messages.ts";
import { text } from "../../ffi/support.ts";
import { GuestProcess, recordEvents, settled, thisRuntime } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { call, hearHello, reactor } from "./transfer-peers.ts";
import {
  beginTransfer,
  hasStayed,
  holdsNoMore,
  moved,
  over,
  resting,
  sockets,
  stands,
  untilListening,
  waiting,
} from "./transfers.ts";

const test = describe("cpr-transfer: cancelled");
test.after(() => reactor.close());

const startGuest = () => GuestProcess.start({ runtime: thisRuntime });

test("is cancelled by the old side while it waits", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  for (let round = 0; round < 2; round++) {
    await beginTransfer(qmp, place);
    await next.until("the machine to be built", async () => (await nextQmp.execute("query-cpus-fast")).length === 1);
    await qmp.execute("migrate_cancel");
    assert.is((await over(qmp)).status, "cancelled");
    await settled();
    assert.equal(events.splice(0), ["MIGRATION setup", "MIGRATION cancelling", "MIGRATION cancelled"]);
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
    await next.until("the machine to be gone", async () => (await nextQmp.execute("query-cpus-fast")).length === 0);
    assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
    assert.equal(await nextQmp.execute("query-migrate"), {});
  }
  await guest.runsOn();
  await nextQmp.execute("migrate-incoming", { uri: `unix:${place.main}` });
  await moved(guest, next, place);
});

test("is cancelled by the new side while it waits, and waits anew when it is told to", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  const events = await recordEvents(nextQmp);
  const uri = `unix:${place.main}`;
  // While nobody has said hello yet.
  await nextQmp.execute("migrate-incoming", { uri });
  await nextQmp.execute("migrate_cancel");
  assert.is((await over(nextQmp)).status, "cancelled");
  await settled();
  assert.equal(events.splice(0), ["MIGRATION setup", "MIGRATION cancelling", "MIGRATION cancelled"]);
  // While the source is about to connect: in its place the test has said hello.
  const own = sockets();
  {
    using hello = await hearHello(own.cpr, () => beginTransfer(qmp, own));
    await nextQmp.execute("migrate-incoming", { uri });
    const cpr = await call(place.cpr);
    await cpr.send(FRAME_HELLO, hello.payload, [hello.ramFd, hello.fenceFd]);
    assert.is((await cpr.receive())!.type, FRAME_ACCEPTED);
    assert.is((await cpr.receive())!.type, FRAME_LISTENING);
    await nextQmp.execute("migrate_cancel");
    const last = (await cpr.receive())!;
    assert.is(last.type, FRAME_REFUSED);
    assert.is(text(last.payload), "The incoming migration was cancelled");
    cpr.close();
    assert.is((await over(nextQmp)).status, "cancelled");
    assert.not(existsSync(place.main));
  }
  await hasStayed(guest, qmp);
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  assert.equal(await nextQmp.execute("query-cpus-fast"), []);
  await nextQmp.execute("migrate-incoming", { uri });
  await moved(guest, next, place);
});

test("tells a failed incoming migration, and takes another one, with exit-on-error=false", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const own = sockets();
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  const events = await recordEvents(nextQmp);
  const uri = `unix:${place.main}`;
  await nextQmp.execute("migrate-incoming", { uri, "exit-on-error": false });
  assert.match(
    (await rejection(() => nextQmp.execute("migrate-incoming", { uri }))).message,
    "The incoming migration has already been started",
  );
  {
    using hello = await hearHello(own.cpr, () => beginTransfer(qmp, own));
    const cpr = await call(place.cpr);
    await cpr.send(FRAME_HELLO, hello.payload, [hello.ramFd, hello.fenceFd]);
    assert.is((await cpr.receive())!.type, FRAME_ACCEPTED);
    assert.is((await cpr.receive())!.type, FRAME_LISTENING);
    cpr.close();
    const info = await over(nextQmp);
    assert.is(info.status, "failed");
    assert.match(info["error-desc"]!, "load of migration failed: ");
  }
  await settled();
  assert.equal(events, ["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
  await hasStayed(guest, qmp);
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  await nextQmp.execute("migrate-incoming", { uri });
  await moved(guest, next, place);
});

test("a process that waits can be quit at each moment, with exit code 0 and no sockets left", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  for (const step of ["alone", "main", "built"]) {
    const place = sockets();
    await using next = waiting(place, { defer: step !== "main" });
    await using nextQmp = await next.qmp();
    await untilListening(next, place.cpr);
    if (step === "built") {
      await beginTransfer(qmp, place);
      await next.until("the machine to be built", async () => (await nextQmp.execute("query-cpus-fast")).length === 1);
    }
    await nextQmp.execute("quit");
    assert.equal(await next.ended, { exitCode: 0, signal: null }, step);
    assert.is(next.error, "", step);
    assert.not(existsSync(place.main) || existsSync(place.cpr), step);
    if (step === "built") await hasStayed(guest, qmp);
  }
});

test("a source that quits while it waits takes its guest along, and the other side waits on", async () => {
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  {
    await using guest = await startGuest();
    await using qmp = await guest.qmp();
    await beginTransfer(qmp, place);
    await next.until("the machine to be built", async () => (await nextQmp.execute("query-cpus-fast")).length === 1);
    await qmp.execute("quit");
    assert.equal(await guest.ended, { exitCode: 0, signal: null });
  }
  await next.until("the machine to be gone", async () => (await nextQmp.execute("query-cpus-fast")).length === 0);
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  await using guest = await startGuest();
  await nextQmp.execute("migrate-incoming", { uri: `unix:${place.main}` });
  await moved(guest, next, place);
});

test("refuses a second migration, a capability and a stop that comes in between means what it says", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  await beginTransfer(qmp, place);
  const busy = "There's a migration process in progress";
  assert.is((await rejection(() => beginTransfer(qmp, place))).message, busy);
  const capabilities = [{ capability: "events" as const, state: true }];
  assert.is((await rejection(() => qmp.execute("migrate-set-capabilities", { capabilities }))).message, busy);
  const inmigrate = await rejection(() => beginTransfer(nextQmp, sockets()));
  assert.is(inmigrate.message, "Guest is waiting for an incoming migration");
  await qmp.execute("stop");
  await nextQmp.execute("migrate-incoming", { uri: `unix:${place.main}` });
  assert.is((await over(qmp)).status, "completed");
  assert.is((await over(nextQmp)).status, "completed");
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "paused" });
  await nextQmp.execute("cont");
  await next.runsOn();
});

test("leaves nothing behind on either side after 20 failed transfers in a row", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  const main = `unix:${place.main}`;
  const fail = async (round: number): Promise<void> => {
    if (round % 4 === 0) {
      await beginTransfer(qmp, { ...place, cpr: join(guest.dir, "nobody") });
    } else {
      await beginTransfer(qmp, place);
      await next.until("the machine to be built", async () => (await nextQmp.execute("query-cpus-fast")).length === 1);
      if (round % 4 === 1) await qmp.execute("migrate_cancel");
      else if (round % 4 === 2) {
        await qmp.execute("migrate_cancel");
        await nextQmp.execute("migrate-incoming", { uri: main, "exit-on-error": false });
        await nextQmp.execute("migrate_cancel");
      } else {
        await nextQmp.execute("migrate-incoming", { uri: "unix:/no/such/folder/main", "exit-on-error": false });
      }
    }
    assert.is.not((await over(qmp)).status, "completed");
    await next.until("the machine to be gone", async () => (await nextQmp.execute("query-cpus-fast")).length === 0);
    await next.until("its end", async () => (await nextQmp.execute("query-migrate")).status !== "setup");
  };
  for (let round = 0; round < 4; round++) await fail(round);
  const before = [await resting(guest), await resting(next)];
  for (let round = 0; round < 20; round++) await fail(round);
  const after = [await resting(guest), await resting(next)];
  for (const [index, side] of after.entries()) holdsNoMore(side, before[index]!, `side ${index}`);
  await guest.runsOn();
  await nextQmp.execute("migrate-incoming", { uri: main });
  await moved(guest, next, place);
  await stands(guest, () => next.runsOn());
});

test.run();
