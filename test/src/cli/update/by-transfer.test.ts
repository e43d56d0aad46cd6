// SPDX-License-Identifier: Apache-2.0

import { updateByTransfer } from "../../../../src/cli/update/by-transfer.ts";
import { connect } from "../../../../src/qmp/client.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { FakeMonitor } from "../fake-monitor.ts";

const test = describe("update by cpr-transfer");

test("starts nothing for a VM whose connections cannot come along", async () => {
  const replies = { "query-migrate-capabilities": [{ capability: "events", state: false }] };
  await using monitor = await FakeMonitor.start(replies);
  await using qmp = await connect({ path: monitor.path });
  const options = { command: ["/no/such/program"], timeoutMs: 1000, log: undefined };
  const error = await rejection(() => updateByTransfer(qmp, options));
  assert.match(
    error.message,
    /^The VM does not know the capability x-handover-connections: update it by cpr-exec first$/,
  );
  assert.equal(
    monitor.commands.map(({ execute }) => execute),
    ["query-migrate-capabilities"],
  );
});

test("tells of a program that cannot be started, before the VM hears of anything", async () => {
  const replies = { "query-migrate-capabilities": [{ capability: "x-handover-connections", state: false }] };
  await using monitor = await FakeMonitor.start(replies);
  await using qmp = await connect({ path: monitor.path });
  const options = { command: ["/no/such/program"], timeoutMs: 10_000, log: undefined };
  const error = await rejection(() => updateByTransfer(qmp, options));
  assert.match(error.message, /^The new process of \/no\/such\/program ended at once \(.*ENOENT.*\): --log FILE keeps/);
  assert.equal(
    monitor.commands.map(({ execute }) => execute),
    ["query-migrate-capabilities", "migrate-set-capabilities"],
  );
});

test.run();
