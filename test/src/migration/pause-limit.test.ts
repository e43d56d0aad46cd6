// SPDX-License-Identifier: Apache-2.0
// The parameter pause-limit, and what is remembered of earlier pauses.
import { VmmError } from "../../../src/errors.ts";
import { FRAME_REHEARSED } from "../../../src/migration/messages.ts";
import { explainTimeout, refuseLatePause, refuseLongPause } from "../../../src/migration/pause-limit.ts";
import { GuestProcess, recordEvents, settled, thisRuntime, update } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import {
  beginTransfer,
  faulty,
  hasStayed,
  over,
  sockets,
  transferTo,
  untilListening,
  untilStopped,
  waiting,
} from "./transfers.ts";

const test = describe("pause-limit");

const startGuest = (options = {}) => GuestProcess.start({ runtime: thisRuntime, ...options });

test("what would take too long is refused, what has taken too long is told", () => {
  refuseLongPause(5000, 0);
  refuseLongPause(5000, 5);
  assert.throws(() => refuseLongPause(5001, 5), "The guest would stand for 5.00 ms, and pause-limit is 5 ms");
  refuseLatePause(3, 1e9, 0);
  refuseLatePause(3, 2, 5);
  assert.throws(
    () => refuseLatePause(3, 2.5, 5),
    "had stood for 3.00 ms, and would for 2.50 ms more: pause-limit is 5 ms",
  );
  const silent = new VmmError("peer-silent", "nothing came");
  const other = new VmmError("peer-gone", "it went");
  assert.is(explainTimeout(other, 5), other);
  const explained = explainTimeout(silent, 5) as VmmError;
  assert.equal([explained.code, explained.cause], ["pause-limit", silent]);
});

test("an update by exec that cannot keep it is refused before the guest stands", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const image = guest.imageIdentity();
  await qmp.execute("migrate-set-parameters", { "pause-limit": 1 });
  const events = await recordEvents(qmp);
  const info = await update(qmp, { command: guest.command(thisRuntime) });
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, /^The guest would stand for \d+\.\d\d ms, and pause-limit is 1 ms$/);
  assert.ok(info["predicted-downtime-us"]! > 1000);
  assert.is(info["dry-run"]!.status, "would-work");
  await settled();
  assert.equal(events, ["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
  assert.is(guest.imageIdentity(), image);
  await guest.runsOn();
});

test("one that would not work at all is refused for that", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { "pause-limit": 60_000 });
  const info = await update(qmp, { command: ["/bin/false"] });
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, "/bin/false is not Baton");
  await guest.runsOn();
});

test("what was predicted and what it took goes with the guest, from update to update", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const command = guest.command(thisRuntime);
  await qmp.execute("migrate-set-parameters", { "pause-limit": 60_000 });
  const first = await update(qmp, { command });
  assert.is(first.status, "completed", first["error-desc"]);
  assert.is(first.history!.length, 1);
  const [pause] = first.history!;
  assert.equal([pause!.mode, pause!["downtime-us"]], ["cpr-exec", first["downtime-us"]]);
  assert.ok(first["predicted-downtime-us"]! > 0);
  assert.is(pause!["predicted-downtime-us"], first["predicted-downtime-us"]);
  // Without a limit nothing needs to be predicted.
  const second = await update(qmp, { command });
  assert.is(second.history!.length, 2);
  assert.is(second["predicted-downtime-us"], undefined);
  assert.is(second.history![1]!["predicted-downtime-us"], undefined);

  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  assert.is((await transferTo(qmp, place)).status, "completed");
  const third = await over(nextQmp);
  assert.equal(
    third.history!.map(({ mode }) => mode),
    ["cpr-exec", "cpr-exec", "cpr-transfer"],
  );
  assert.is(third.history![2]!["downtime-us"], third["downtime-us"]);
  assert.ok(third["predicted-downtime-us"]! > 0, "its rehearsals tell");
  assert.is(third.history![2]!["predicted-downtime-us"], third["predicted-downtime-us"]);
  await next.runsOn();
});

test("a dry run predicts the update that follows it", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const command = guest.command(thisRuntime);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": command });
  await qmp.execute("migrate", { "dry-run": true });
  const dryRun = await guest.until("the dry run", async () => {
    const { "dry-run": found } = await qmp.execute("query-migrate");
    return found!.status === "active" ? undefined : found!;
  });
  const info = await update(qmp, { command });
  assert.is(info.status, "completed", info["error-desc"]);
  assert.is(info["predicted-downtime-us"], dryRun["predicted-downtime-us"]);
});

test("a transfer whose rehearsals take longer is refused before the guest stands", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { "pause-limit": 4 });
  const events = await recordEvents(qmp);
  const place = sockets();
  await using next = waiting(place, faulty(`send ${FRAME_REHEARSED}`, "SLOW"));
  await untilListening(next, place.cpr);
  await beginTransfer(qmp, place);
  const info = await over(qmp);
  assert.is(info.status, "failed");
  assert.match(info["error-desc"]!, /^The guest would stand for \d+\.\d\d ms, and pause-limit is 4 ms$/);
  await settled();
  assert.equal(events, ["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
  await guest.runsOn();
});

test("a transfer that misses it is taken back, and never runs in both", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { "pause-limit": 100 });
  const place = sockets();
  await using next = waiting(place, faulty("restored", "SIGSTOP"));
  await untilListening(next, place.cpr);
  await beginTransfer(qmp, place);
  assert.match(
    await hasStayed(guest, qmp),
    /^The new program was not ready within pause-limit \(100 ms\), so the guest went on in the old one/,
  );
  await untilStopped(next);
  next.signal("SIGCONT");
  assert.equal(await next.ended, { exitCode: 1, signal: null });
  assert.match(next.error, "The other side has taken its guest back");
  await guest.runsOn();
});

test.run();
