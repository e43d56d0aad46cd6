// SPDX-License-Identifier: Apache-2.0
import { chooseMode, modeToCheck } from "../../../../src/cli/update/choose-mode.ts";
import { VmmError } from "../../../../src/errors.ts";
import { connect } from "../../../../src/qmp/client.ts";
import type { MigrationBlocker } from "../../../../src/qmp/schema/migration.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { FakeMonitor } from "../fake-monitor.ts";

const test = describe("choose mode");

const EXEC: MigrationBlocker = { mode: "cpr-exec", reason: "Two VMs.", code: "several-vms", fix: "Run each by itself" };
const TRANSFER: MigrationBlocker = { mode: "cpr-transfer", reason: "Private", code: "ram-not-shared", device: "ram0" };

async function choose(blockers: MigrationBlocker[], wanted: Parameters<typeof chooseMode>[1]) {
  await using monitor = await FakeMonitor.start({ "query-migrate-blockers": blockers });
  await using qmp = await connect({ path: monitor.path });
  return await chooseMode(qmp, wanted);
}

test("auto prefers cpr-exec, and says why it takes what it takes", async () => {
  const exec = { mode: "cpr-exec", because: "nothing forbids it, and the VM stays the same process" };
  assert.equal(await choose([], "auto"), exec);
  assert.equal(await choose([TRANSFER], "auto"), exec);
  const transfer = { mode: "cpr-transfer", because: "cpr-exec is blocked: Two VMs." };
  assert.equal(await choose([EXEC], "auto"), transfer);
});

test("a mode that was asked for is taken, or refused with what to do", async () => {
  assert.equal(await choose([TRANSFER], "cpr-exec"), { mode: "cpr-exec", because: "as was asked for" });
  assert.equal(await choose([EXEC], "cpr-transfer"), { mode: "cpr-transfer", because: "as was asked for" });
  for (const [blockers, wanted, code, message] of [
    [[EXEC], "cpr-exec", "several-vms", "The VM cannot be updated by cpr-exec: Two VMs. Run each by itself."],
    [[TRANSFER], "cpr-transfer", "ram-not-shared", "The VM cannot be updated by cpr-transfer: Private."],
    [[EXEC, TRANSFER], "auto", "several-vms", "The VM cannot be updated: Two VMs. Run each by itself."],
  ] as const) {
    const error = await rejection(() => choose([...blockers], wanted));
    assert.instance(error, VmmError);
    assert.equal([(error as VmmError).code, error.message], [code, message]);
  }
});

test("what is checked is what would be done, or what comes nearest", async () => {
  for (const [blockers, wanted, mode] of [
    [[], "auto", "cpr-exec"],
    [[EXEC], "auto", "cpr-transfer"],
    [[EXEC, TRANSFER], "auto", "cpr-exec"],
    [[EXEC], "cpr-exec", "cpr-exec"],
  ] as const) {
    await using monitor = await FakeMonitor.start({ "query-migrate-blockers": blockers });
    await using qmp = await connect({ path: monitor.path });
    assert.is(await modeToCheck(qmp, wanted), mode);
  }
});

test.run();
