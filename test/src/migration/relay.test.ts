// SPDX-License-Identifier: Apache-2.0
// Updates by exec with a relay: the guest is in a helper meanwhile, and comes back to the same process.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import {
  GuestProcess,
  onlyOnBun,
  program,
  programMissing,
  type Runtime,
  recordEvents,
  settled,
  update,
  updated,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("relay");
const skip = programMissing("compiled") ?? onlyOnBun;

const failingBaton = fileURLToPath(new URL("failing-baton.ts", import.meta.url));

function failing(): string[] {
  const [bun, run] = program("bun");
  return [bun!, run!, failingBaton];
}

async function relayed(qmp: QmpClient): Promise<void> {
  await qmp.execute("migrate-set-parameters", { relay: true });
}

/** What a client is told of a guest that goes from one process to another. */
const LEG = ["MIGRATION setup", "STOP", "MIGRATION active", "MIGRATION_PASS", "MIGRATION device", "RESUME"];

for (const runtime of ["compiled", "bun", "deno"] satisfies Runtime[]) {
  test.skipIf(skip, `replaces Baton (${runtime}) in the same process, without an exec in the pause`, async () => {
    const pidfile = join(temporaryDirectory(), "pid");
    const payload = { ticksPerLine: 1, cpuCount: 2 };
    await using guest = await GuestProcess.start({ runtime, payload, extra: ["-pidfile", pidfile] });
    await using qmp = await guest.qmp();
    using serial = await guest.stream("serial");
    const events = await recordEvents(qmp);
    for (let round = 1; round <= 3; round++) {
      await relayed(qmp);
      await updated(guest, qmp, { command: program(runtime) });
      assert.not.ok(guest.hasEnded);
      await guest.runsOn();
      await serial.waitFor("tick ", serial.text.length);
      const { updates, history, phases } = await qmp.execute("query-migrate");
      assert.is(updates, round);
      assert.equal(
        history!.slice(-2).map(({ mode }) => mode),
        ["cpr-transfer", "cpr-transfer"],
      );
      assert.not.ok(phases!.some(({ phase }) => phase === "exec"));
      assert.is(readFileSync(pidfile, "utf8"), `${guest.pid}\n`);
      await guest.until("the helper to be reaped", () => guest.children().length === 0);
    }
    await settled();
    const round = [...LEG, ...LEG, "MIGRATION completed"];
    assert.equal(events, [...round, ...round, ...round]);
    await updated(guest, qmp);
    await qmp.execute("quit");
    assert.equal(await guest.ended, { exitCode: 0, signal: null });
    assert.not.ok(existsSync(pidfile));
  });
}

test.skipIf(skip, "a paused guest goes there and back, and stays paused", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  await qmp.execute("stop");
  const counter = guest.counter();
  await relayed(qmp);
  await updated(guest, qmp);
  assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
  assert.is(guest.counter(), counter);
  await qmp.execute("cont");
  await guest.runsOn();
});

for (const how of ["exit@start", "kill@start", "kill@built", "segv@built", "stop@built", "throw-away@start"]) {
  test.skipIf(skip, `the helper keeps the guest when the new program fails: ${how}`, async () => {
    const pidfile = join(temporaryDirectory(), "pid");
    const env = { BATON_TEST_FAIL: how };
    const payload = { ticksPerLine: 1, cpuCount: 2 };
    await using guest = await GuestProcess.start({ env, payload, extra: ["-pidfile", pidfile] });
    await using qmp = await guest.qmp();
    using serial = await guest.stream("serial");
    await relayed(qmp);
    const info = await update(qmp, { command: failing() });
    assert.is(info.status, "failed", guest.error);
    await guest.follow();
    const kept = `The new program did not take the guest: process ${guest.pid} keeps it`;
    assert.ok(info["error-desc"]!.startsWith(kept), info["error-desc"]);
    assert.is(info.updates, 0);
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
    assert.is(readFileSync(pidfile, "utf8"), `${guest.pid}\n`);
    await guest.runsOn();
    await serial.waitFor("tick ", serial.text.length);
    // It is as good a VMM as any: the next update is its own.
    await updated(guest, qmp, { command: program("compiled") });
    await guest.runsOn();
    await qmp.execute("quit");
    await guest.gone();
  });
}

test.skipIf(skip, "the helper keeps the guest when the new program cannot be executed", async () => {
  const script = join(temporaryDirectory(), "script");
  writeFileSync(script, "#!/no/such/interpreter\n", { mode: 0o755 });
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  await relayed(qmp);
  const info = await update(qmp, { command: [script] });
  assert.is(info.status, "failed");
  await guest.follow();
  assert.match(guest.error, /relay: execveat.*ENOENT/);
  await guest.runsOn();
});

test.skipIf(skip, "TLS credentials go along", async () => {
  const dir = temporaryDirectory();
  const extra = ["-object", `tls-creds-x509,id=tls0,endpoint=client,dir=${dir}`];
  await using guest = await GuestProcess.start({ extra });
  await using qmp = await guest.qmp();
  await relayed(qmp);
  await updated(guest, qmp);
  await qmp.execute("migrate-set-parameters", { "tls-creds": "tls0", mode: "normal", relay: false });
  const error = await rejection(() => qmp.execute("migrate", { uri: "tcp:localhost:1" }));
  assert.match(error.message, new RegExp(`${dir}/ca-cert.pem`));
  await guest.runsOn();
});

test.skipIf(skip, "refuses what cannot be before anything has moved", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  await relayed(qmp);
  const toFile = await rejection(() => update(qmp, { uri: `file:${join(guest.dir, "state")}` }));
  assert.match(toFile.message, /With relay the guest's state goes to no file/);
  const missing = await update(qmp, { command: ["/no/such/baton"] });
  assert.is(missing["error-desc"], "execvp /no/such/baton failed: No such file or directory");
  const other = await update(qmp, { command: [...program("compiled"), "-smp", "2"] });
  assert.match(other["error-desc"]!, /differs from the running machine: number of CPUs is 1/);
  await guest.until("nobody else to be there", () => guest.children().length === 0);
  await guest.runsOn();
  await updated(guest, qmp);
});

test.run();
