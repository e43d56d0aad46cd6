// SPDX-License-Identifier: Apache-2.0
// Updates by exec that cannot be: every failure before the point of no return leaves the guest running where it was.
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import {
  GuestProcess,
  onlyOnBun,
  privateRam,
  programMissing,
  recordEvents,
  settled,
  type UpdateOptions,
  until,
  update,
  updated,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("cpr-exec: failures");
const skip = programMissing("compiled") ?? onlyOnBun;

/** Longer than one argument may be, MAX_ARG_STRLEN of execve(2). */
const TOO_LONG = "x".repeat(200_000);

/** Runs an update that must fail in the process as it is, and gives its error. */
async function failedUpdate(guest: GuestProcess, qmp: QmpClient, options: UpdateOptions): Promise<string> {
  const image = guest.imageIdentity();
  const info = await update(qmp, options);
  assert.is(info.status, "failed");
  assert.is(guest.imageIdentity(), image, "the program is the same");
  await guest.runsOn();
  await settled();
  return info["error-desc"]!;
}

test.skipIf(skip, "goes on after each failure, tells why, and succeeds in the next attempt", async () => {
  await using guest = await GuestProcess.start({ payload: { ticksPerLine: 1 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  const dir = temporaryDirectory();
  const text = join(dir, "text");
  writeFileSync(text, "not a program");
  const garbage = join(dir, "garbage");
  writeFileSync(garbage, "\0\0\0\0");
  chmodSync(garbage, 0o755);
  const orphan = join(dir, "orphan");
  writeFileSync(orphan, "#!/no/such/interpreter\n");
  chmodSync(orphan, 0o755);
  mkdirSync(join(dir, "directory"));
  const missingFile = join(dir, "none/vm.state");
  const cases: [what: string, options: UpdateOptions, expected: string | RegExp][] = [
    ["a missing program", { command: ["/no/baton"] }, "execvp /no/baton failed: No such file or directory"],
    ["a name not in PATH", { command: ["no-baton"] }, "execvp no-baton failed: No such file or directory"],
    ["no permission", { command: [text] }, `execvp ${text} failed: Permission denied`],
    ["a directory", { command: [join(dir, "directory")] }, /^execvp .*directory failed: /],
    ["no format of programs", { command: [garbage] }, /ENOEXEC/],
    ["a missing interpreter", { command: [orphan] }, /ENOENT/],
    ["too long an argument", { command: [...guest.command("compiled"), TOO_LONG] }, /E2BIG/],
    [
      "a state file that cannot be",
      { uri: `file:${missingFile}` },
      new RegExp(`'${missingFile}' cannot be written.*ENOENT`),
    ],
    ["a state file that is a directory", { uri: `file:${dir}` }, new RegExp(`'${dir}' cannot be written.*EISDIR`)],
  ];
  for (const [what, options, expected] of cases) {
    const error = await failedUpdate(guest, qmp, options);
    if (typeof expected === "string") assert.is(error, expected, what);
    else assert.match(error, expected, what);
    assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
    const seen = serial.text.length;
    await serial.waitFor("tick ", seen);
  }
  await updated(guest, qmp);
  assert.is((await qmp.execute("query-migrate"))["error-desc"], undefined);
  await guest.runsOn();
});

test.skipIf(skip, "tells of a failure in QEMU's order, and of RESUME only after STOP", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await failedUpdate(guest, qmp, { command: ["/no/baton"] });
  assert.equal(events.splice(0), ["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"]);
  await failedUpdate(guest, qmp, { command: [...guest.command("compiled"), TOO_LONG] });
  assert.equal(events.splice(0), [
    "MIGRATION setup",
    "STOP",
    "MIGRATION active",
    "MIGRATION_PASS",
    "MIGRATION device",
    "MIGRATION failing",
    "RESUME",
    "MIGRATION failed",
  ]);
  await qmp.execute("stop");
  events.splice(0);
  for (const command of [["/no/baton"], [...guest.command("compiled"), TOO_LONG]]) {
    assert.is((await update(qmp, { command })).status, "failed");
    assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
  }
  assert.equal(
    events.filter((name) => !name.startsWith("MIGRATION")),
    [],
  );
  await qmp.execute("cont");
  await guest.runsOn();
});

test.skipIf(skip, "is cancelled while the guest still runs", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const image = guest.imageIdentity();
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  await Promise.all([qmp.execute("migrate", {}), qmp.execute("migrate_cancel")]);
  const info = await until("the end of the update", async () => {
    const now = await qmp.execute("query-migrate");
    return ["completed", "cancelled"].includes(now.status!) && now;
  });
  assert.is(info.status, "cancelled");
  assert.is(guest.imageIdentity(), image, "the program is the same");
  await settled();
  assert.equal(events, ["MIGRATION setup", "MIGRATION cancelling", "MIGRATION cancelled"]);
  await guest.runsOn();
  await updated(guest, qmp);
  await guest.runsOn();
});

test.skipIf(skip, "refuses file-backed RAM without share=on, with QEMU's text", async () => {
  await using guest = new GuestProcess({ ram: privateRam(), payload: { ticksPerLine: 1 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  const events = await recordEvents(qmp);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  const error = await rejection(() => qmp.execute("migrate", {}));
  const reason =
    "Memory region ram0 is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on is required.";
  assert.is(error.message, reason);
  const info = await qmp.execute("query-migrate");
  assert.equal(info, { "blocked-reasons": [reason] });
  assert.equal(events, [], "nothing has begun");
  await serial.waitFor("tick ", serial.text.length);
  assert.is((await qmp.execute("query-status")).status, "running");
});

test.skipIf(skip, "refuses a second update while one is under way", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  await using other = await guest.qmp();
  // What the VMM reads of these only when the update is over goes to the new image, which knows of none: then again.
  const busy = "There's a migration process in progress";
  let refusals: string[] = [];
  for (let attempt = 1; attempt <= 10 && refusals.join() !== [busy, busy].join(); attempt++) {
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
    const [first, ...others] = await Promise.allSettled([
      qmp.execute("migrate", {}),
      qmp.execute("migrate", {}),
      qmp.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] }),
    ]);
    assert.is(first.status, "fulfilled");
    refusals = others.map((reply) => (reply.status === "rejected" ? reply.reason.message : ""));
    await until("the end of the update", async () => (await other.execute("query-migrate")).status === "completed");
    assert.is((await qmp.execute("query-migrate")).updates, attempt);
  }
  assert.equal(refusals, [busy, busy]);
  await guest.runsOn();
});

test.skipIf(skip, "refuses wrong arguments with the VM untouched", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  for (const [uri, message] of [
    ["unix:/tmp/x", "cpr-exec hands the state over in memory"],
    ["nonsense", "unknown migration protocol: nonsense"],
    ["file:", "file URI has no file name"],
  ]) {
    assert.match((await rejection(() => qmp.execute("migrate", { uri: uri! }))).message, message!);
  }
  assert.equal(events, []);
  assert.equal(await qmp.execute("query-migrate"), {});
  assert.is((await qmp.execute("query-status")).status, "running");
});

test.skipIf(skip, "leaves nothing behind in the process when updates fail", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const commands = [["/no/baton"], [...guest.command("compiled"), TOO_LONG]];
  for (const command of commands) await failedUpdate(guest, qmp, { command });
  const before = guest.fds().length;
  for (let round = 0; round < 5; round++) {
    for (const command of commands) await failedUpdate(guest, qmp, { command });
  }
  assert.is(guest.fds().length, before, "file descriptors");
  await guest.until("no child", () => guest.children().length === 0);
});

test.skipIf(skip, "ends with its guest, whichever comes first: the end or the update", async () => {
  for (let round = 0; round < 8; round++) {
    await using guest = await GuestProcess.start({ payload: { timerPeriodNs: 5_000_000 } });
    const qmp = await guest.qmp();
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
    guest.commandShutdown();
    await new Promise((resolve) => setTimeout(resolve, round));
    // The connection may end before the reply.
    void qmp.execute("migrate", {}).catch(() => {});
    assert.equal(await guest.ended, { exitCode: 1, signal: null });
    qmp.destroy();
  }
});

test.skipIf(skip, "quits when quit follows migrate at once", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  using raw = await guest.stream("qmp");
  await raw.waitFor("QMP");
  raw.write('{"execute":"qmp_capabilities"}{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-exec"}}');
  raw.write('{"execute":"migrate","arguments":{}}{"execute":"quit"}');
  assert.equal(await guest.ended, { exitCode: 0, signal: null });
  qmp.destroy();
});

test.skipIf(skip, "does not resume a guest that somebody stops while an update begins", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (const command of [["/no/baton"], [...guest.command("compiled"), TOO_LONG], []]) {
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": command });
    await Promise.all([qmp.execute("migrate", {}), qmp.execute("stop")]);
    await until("the end of the update", async () =>
      ["completed", "failed"].includes((await qmp.execute("query-migrate")).status!),
    );
    await settled();
    assert.is((await qmp.execute("query-status")).status, "paused", JSON.stringify(command).slice(0, 60));
    const counter = guest.counter();
    await settled();
    assert.is(guest.counter(), counter);
    assert.equal(
      events.splice(0).filter((name) => !name.startsWith("MIGRATION")),
      ["STOP"],
    );
    await qmp.execute("cont");
    await settled();
    events.splice(0);
  }
});

test.run();
