import { GuestProcess, recordEvents, settled, thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { kvmMissing } from "../../kvm.ts";
import { over, sockets, transferTo, waiting } from "./transfers.ts";

const test = describe("cpr-transfer");
const skip = kvmMissing();

const EVENTS_OF_SUCCESS = [
  "MIGRATION setup",
  "STOP",
  "MIGRATION active",
  "MIGRATION_PASS",
  "MIGRATION device",
  "MIGRATION completed",
];

test.skipIf(skip, "hands a running guest to another process, with the events of QEMU", async () => {
  await using old = await GuestProcess.start({ runtime: thisRuntime });
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  const nextEvents = await recordEvents(nextQmp);

  const info = await transferTo(qmp, place);
  assert.is(info.status, "completed", `${info["error-desc"]} ${old.error} ${next.error}`);
  assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
  assert.is((await over(nextQmp)).status, "completed");
  assert.equal(await nextQmp.execute("query-status"), { running: true, status: "running" });
  await next.runsOn();
  await settled();
  assert.equal(events, EVENTS_OF_SUCCESS);
  assert.equal(nextEvents.slice(-3), ["MIGRATION active", "RESUME", "MIGRATION completed"]);
  const phases = (await nextQmp.execute("query-migrate")).phases!.map(({ phase }) => phase);
  assert.equal(phases, ["quiesce", "save", "carry", "restore", "resume"]);
});

test.run();
