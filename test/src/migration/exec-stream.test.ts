// SPDX-License-Identifier: Apache-2.0
// Migration through commands that fail, hang or are given up: the guest goes on, and they end.
import { existsSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { GuestProcess, onlyOnBun, recordEvents, settled, until } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { freePath, migrate, migrated, set, waiting } from "./streams.ts";
import { over } from "./transfers.ts";

const test = describe("migration through commands");
const skip = onlyOnBun;

function isAlive(pidFile: string): boolean {
  const pid = readFileSync(pidFile, "utf8").trim();
  if (!existsSync(`/proc/${pid}/stat`)) return false;
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  return stat.slice(stat.lastIndexOf(")") + 2)[0] !== "Z";
}

test.skipIf(skip, "a command that fails has not taken the guest", async () => {
  await using guest = await GuestProcess.start({ runtime: "bun" });
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (const [command, reason] of [
    ["exit 3", /ended with exit code 3/],
    ["head -c 100000 > /dev/null; exit 4", /ended with exit code 4/],
    ["cat > /dev/null; exit 5", /ended with exit code 5/],
    ["kill -9 $$", /ended by signal SIGKILL/],
  ] as const) {
    const info = await migrate(qmp, `exec:${command}`);
    assert.is(info.status, "failed", command);
    assert.match(info["error-desc"]!, reason);
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
    await guest.runsOn();
  }
  await settled();
  assert.equal(events.slice(-4), ["MIGRATION failed", "MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
});

test.skipIf(skip, "a command that never ends can be given up, and ends with all that it started", async () => {
  await using guest = await GuestProcess.start({ runtime: "bun" });
  await using qmp = await guest.qmp();
  for (const command of ["cat > /dev/null; echo $$ > PID; sleep 1000", "echo $$ > PID; sleep 1000; cat > /dev/null"]) {
    const pidFile = freePath("pid");
    await qmp.execute("migrate", { uri: `exec:${command.replace("PID", pidFile)}` });
    await until("the command", () => existsSync(pidFile) && readFileSync(pidFile, "utf8") !== "");
    await qmp.execute("migrate_cancel");
    assert.is((await over(qmp)).status, "cancelled");
    await until("its end", () => !isAlive(pidFile));
    await guest.until("no child to be left", () => guest.children().length === 0);
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
    await guest.runsOn();
  }
});

test.skipIf(skip, "while the command is waited for the guest stands, and says so", async () => {
  await using guest = await GuestProcess.start({ runtime: "bun" });
  await using qmp = await guest.qmp();
  const go = freePath("go");
  const file = freePath("vm.state");
  await qmp.execute("migrate", { uri: `exec:cat > ${file}; while ! test -e ${go}; do sleep 0.05; done` });
  await until("the pause", async () => (await qmp.execute("query-status")).status === "finish-migrate");
  assert.is((await qmp.execute("query-migrate")).status, "device");
  writeFileSync(go, "");
  assert.is((await over(qmp)).status, "completed");
  await using next = waiting(`exec:cat ${file}`, { runtime: "bun" });
  await next.runsOn();
});

test.skipIf(skip, "a stream that was kept is loaded whole or not at all", async () => {
  await using guest = await GuestProcess.start({ runtime: "bun" });
  await using qmp = await guest.qmp();
  await set(qmp, { parameters: { mode: "cpr-reboot" } });
  const file = freePath("vm.state");
  await migrated(qmp, `exec:cat > ${file}`);
  await qmp.execute("quit");
  const whole = readFileSync(file);

  await using next = waiting("defer", { runtime: "bun" });
  await using nextQmp = await next.qmp();
  const load = async (): Promise<{ status?: string; "error-desc"?: string }> => {
    await nextQmp.execute("migrate-incoming", { uri: `exec:cat ${file}`, "exit-on-error": false });
    return over(nextQmp);
  };
  for (const size of [0, 20, 5000, whole.length >> 1, whole.length - 33, whole.length - 1]) {
    truncateSync(file, size);
    const info = await load();
    assert.is(info.status, "failed", `${size} bytes`);
    assert.match(info["error-desc"]!, /ended|closed the connection/);
    assert.is((await nextQmp.execute("query-status")).status, "inmigrate");
    writeFileSync(file, whole);
  }
  await nextQmp.execute("migrate-incoming", { uri: "exec:exit 7", "exit-on-error": false });
  assert.match((await over(nextQmp))["error-desc"]!, /exec:exit 7/);
  assert.is((await load()).status, "completed");
  await next.runsOn();
});

test.run();
