// SPDX-License-Identifier: Apache-2.0
// Migration of a running guest whose RAM is copied: over sockets, through commands and through files.
import { join } from "node:path";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, recordEvents, settled, thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { kvmMissing } from "../../kvm.ts";
import { over } from "./transfers.ts";

const test = describe("normal migration");
const skip = kvmMissing();

function waiting(incoming: string, options: GuestOptions = {}): GuestProcess {
  return new GuestProcess({ runtime: thisRuntime, bare: true, ...options, extra: ["-incoming", incoming] });
}

const EVENTS = [
  "MIGRATION setup",
  "MIGRATION active",
  "MIGRATION_PASS",
  "STOP",
  "MIGRATION device",
  "MIGRATION completed",
];

async function migrated(qmp: QmpClient, uri: string): Promise<void> {
  await qmp.execute("migrate", { uri });
  const info = await over(qmp);
  assert.is(info.status, "completed", info["error-desc"]);
}

test.skipIf(skip, "copies a running guest over a unix socket", async () => {
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  await using old = await GuestProcess.start({ runtime: thisRuntime });
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  await using next = waiting(uri);
  await using nextQmp = await next.qmp();
  await next.until("the other side to listen", async () => (await nextQmp.execute("query-migrate"))["socket-address"]);
  await migrated(qmp, uri);
  assert.is((await over(nextQmp)).status, "completed");
  await next.runsOn();
  await settled();
  assert.equal([...new Set(events)], EVENTS);
  assert.is((await qmp.execute("query-status")).status, "postmigrate");
});

test.skipIf(skip, "goes through a file, RAM included", async () => {
  const uri = `file:${join(temporaryDirectory(), "vm.state")}`;
  await using old = await GuestProcess.start({ runtime: thisRuntime });
  await using qmp = await old.qmp();
  await migrated(qmp, uri);
  await using next = waiting(uri);
  await next.runsOn();
});

test.run();
