// SPDX-License-Identifier: Apache-2.0
// One side dies or hangs at each step of a transfer: exactly one process has the guest afterwards, and it runs there.
import { existsSync } from "node:fs";
import {
  FRAME_ACCEPTED,
  FRAME_LISTENING,
  FRAME_REHEARSE,
  FRAME_REHEARSED,
  FRAME_RUNNING,
  FRAME_STATE,
} from "../../../src/migration/messages.ts";
import { GuestProcess, recordEvents, settled, thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import {
  beginTransfer,
  complaints,
  faulty,
  hasMoved,
  hasStayed,
  moved,
  over,
  sockets,
  stands,
  untilListening,
  untilStopped,
  waiting,
} from "./transfers.ts";

const test = describe("cpr-transfer: dead and silent peers");

const startGuest = (options = {}) => GuestProcess.start({ runtime: thisRuntime, payload: { cpuCount: 2 }, ...options });

/** To somebody who is there to the end: nothing of the failure before has stayed with the guest. */
async function canStillMove(guest: GuestProcess): Promise<void> {
  const place = sockets();
  await using next = waiting(place);
  await untilListening(next, place.cpr);
  await moved(guest, next, place);
}

const BEFORE_TAKING: [step: string, hasStopped: boolean][] = [
  ["built", false],
  [`send ${FRAME_ACCEPTED}`, false],
  [`send ${FRAME_LISTENING}`, false],
  [`sent ${FRAME_LISTENING}`, false],
  [`send ${FRAME_REHEARSED}`, false],
  [`sent ${FRAME_REHEARSED}`, false],
  ["restored", true],
];

test("the guest stays when the new side is killed before it has taken it, at whatever step", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (const [step, hasStopped] of BEFORE_TAKING) {
    const place = sockets();
    await using next = waiting(place, faulty(step));
    await untilListening(next, place.cpr);
    events.splice(0);
    await beginTransfer(qmp, place);
    assert.is((await next.ended).signal, "SIGKILL", step);
    await hasStayed(guest, qmp);
    await settled();
    const stop = hasStopped ? ["STOP"] : [];
    const resume = hasStopped ? ["RESUME"] : [];
    assert.equal(events, ["MIGRATION setup", ...stop, "MIGRATION failing", ...resume, "MIGRATION failed"], step);
  }
  await canStillMove(guest);
});

test("the guest has gone with the new side that is killed when it has taken it", async () => {
  // Its owner was killed: what matters is that the old side does not run a guest that has run elsewhere.
  for (const step of ["taken", `send ${FRAME_RUNNING}`]) {
    await using guest = await startGuest();
    await using qmp = await guest.qmp();
    const place = sockets();
    await using next = waiting(place, faulty(step));
    await untilListening(next, place.cpr);
    await beginTransfer(qmp, place);
    assert.is((await next.ended).signal, "SIGKILL");
    assert.is((await over(qmp)).status, "completed", step);
    assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
    const counter = guest.counter();
    await stands(guest, () => new Promise((resolve) => setTimeout(resolve, 100)));
    assert.is(guest.counter(), counter);
  }
});

test("the guest stays with a new side that loses the old one after it was offered", async () => {
  await using old = await startGuest({ ...faulty(`shown ${FRAME_STATE}`) });
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  await beginTransfer(qmp, place);
  assert.is((await old.ended).signal, "SIGKILL");
  assert.is((await over(nextQmp)).status, "completed", complaints(old, next));
  assert.equal(await nextQmp.execute("query-status"), { running: true, status: "running" });
  await next.runsOn();
  await canStillMove(next);
});

test("a new side whose old one dies before that gives up, with exit code 1", async () => {
  for (const step of [`sent ${FRAME_REHEARSE}`, `shown ${FRAME_REHEARSE}`, `send ${FRAME_STATE}`, "offered"]) {
    await using old = await startGuest({ ...faulty(step) });
    await using qmp = await old.qmp();
    const place = sockets();
    await using next = waiting(place);
    await untilListening(next, place.cpr);
    await beginTransfer(qmp, place);
    assert.is((await old.ended).signal, "SIGKILL", step);
    assert.equal(await next.ended, { exitCode: 1, signal: null }, step);
    assert.match(next.error, "load of migration failed: ");
    assert.not(existsSync(place.main) || existsSync(place.cpr));
  }
});

test("the guest runs while the new side hangs, until somebody cancels", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (const step of ["built", `send ${FRAME_ACCEPTED}`, `send ${FRAME_LISTENING}`]) {
    const place = sockets();
    await using next = waiting(place, faulty(step, "SIGSTOP"));
    await untilListening(next, place.cpr);
    events.splice(0);
    await beginTransfer(qmp, place);
    await untilStopped(next);
    await guest.runsOn();
    assert.is((await qmp.execute("query-migrate")).status, "setup", step);
    await qmp.execute("migrate_cancel");
    assert.is((await over(qmp)).status, "cancelled");
    await guest.runsOn();
    await settled();
    assert.equal(events, ["MIGRATION setup", "MIGRATION cancelling", "MIGRATION cancelled"]);
    // When it goes on, it finds nobody: a hello that comes to nothing is no reason to end, a guest that does not come is.
    next.signal("SIGCONT");
    if (step === `send ${FRAME_LISTENING}`) assert.equal(await next.ended, { exitCode: 1, signal: null }, step);
    else await next.until("the hello to be forgotten", () => next.error.includes("cpr channel of -incoming"));
  }
  await canStillMove(guest);
});

test("a new side that hangs later is given up, and finds out when it goes on", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  for (const [step, reason] of [
    [`sent ${FRAME_LISTENING}`, /did not send ACCEPTED within \d+ ms/],
    [`send ${FRAME_REHEARSED}`, /did not send a whole frame within \d+ ms/],
    ["restored", /did not send a whole frame within \d+ ms/],
  ] as const) {
    const place = sockets();
    await using next = waiting(place, faulty(step, "SIGSTOP"));
    await untilListening(next, place.cpr);
    await beginTransfer(qmp, place);
    assert.match(await hasStayed(guest, qmp), reason, step);
    await untilStopped(next);
    // It holds all of the guest in its hands, and is told to go on: but the guest has been taken back.
    next.signal("SIGCONT");
    assert.equal(await next.ended, { exitCode: 1, signal: null }, step);
    if (step === "restored") assert.match(next.error, "The other side has taken its guest back");
    await guest.runsOn();
  }
  await canStillMove(guest);
});

test("a new side that hangs when it has taken the guest has it", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  await using next = waiting(place, faulty("taken", "SIGSTOP"));
  await untilListening(next, place.cpr);
  await beginTransfer(qmp, place);
  assert.is((await over(qmp)).status, "completed");
  await untilStopped(next);
  const counter = guest.counter();
  assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
  await settled();
  assert.is(guest.counter(), counter, "it stands in both");
  next.signal("SIGCONT");
  await using nextQmp = await next.qmp();
  assert.is((await over(nextQmp)).status, "completed");
  await hasMoved(guest, next);
});

test("an old side that hangs when it has offered the guest finds it gone", async () => {
  await using old = await startGuest({ ...faulty(`shown ${FRAME_STATE}`, "SIGSTOP") });
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  await beginTransfer(qmp, place);
  await untilStopped(old);
  assert.is((await over(nextQmp)).status, "completed", complaints(old, next));
  await next.runsOn();
  old.signal("SIGCONT");
  assert.is((await over(qmp)).status, "completed");
  await hasMoved(old, next);
});

test("an old side that hangs before that has the guest when it goes on", async () => {
  // It stands for as long as the new side waits.
  const payload = { cpuCount: 2, clockJumpLimitNs: 60e9 };
  await using old = await startGuest({ payload, ...faulty("offered", "SIGSTOP") });
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place);
  await untilListening(next, place.cpr);
  await beginTransfer(qmp, place);
  assert.equal(await next.ended, { exitCode: 1, signal: null });
  assert.match(next.error, /did not send a whole frame within \d+ ms/);
  old.signal("SIGCONT");
  await hasStayed(old, qmp);
  await canStillMove(old);
});

test.run();
