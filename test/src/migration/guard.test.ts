// SPDX-License-Identifier: Apache-2.0
// Guarded updates by exec to programs that die, hang or go astray: another process of the old program takes the guest back.
import { spawnSync } from "node:child_process";
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
  until,
  update,
} from "../../guest.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("guard");
const skip = programMissing("compiled") ?? onlyOnBun;

const failingBaton = fileURLToPath(new URL("failing-baton.ts", import.meta.url));
const refusingBaton = fileURLToPath(new URL("refusing-baton.ts", import.meta.url));
const GUARD_TIMEOUT_MS = 2000;

function failing(guest: GuestProcess): string[] {
  const [bun, run] = program("bun");
  return [bun!, run!, failingBaton, ...guest.args];
}

async function guarded(qmp: QmpClient, timeoutMs = GUARD_TIMEOUT_MS): Promise<void> {
  await qmp.execute("migrate-set-parameters", { "guard-timeout": timeoutMs });
}

test.skipIf(skip, "a guarded update that works leaves no guard behind", async () => {
  await using guest = await GuestProcess.start({ payload: { cpuCount: 2 } });
  await using qmp = await guest.qmp();
  const fdsBefore = guest.fds().length;
  for (let round = 0; round < 3; round++) {
    await guarded(qmp);
    const info = await update(qmp);
    assert.is(info.status, "completed", info["error-desc"]);
    await guest.runsOn();
  }
  await guest.until("the guards to be reaped", () => guest.children().length === 0);
  assert.ok(guest.fds().length <= fdsBefore + 1, `${guest.fds().join("\n")}`);
});

test.skipIf(skip, "monitors answer until the guard is awake", async () => {
  const alarm = join(temporaryDirectory(), "alarm");
  const [bun, run] = program("bun");
  const dozing = [bun!, run!, fileURLToPath(new URL("dozing-guard-baton.ts", import.meta.url))];
  await using guest = await GuestProcess.start({ program: dozing, env: { BATON_TEST_ALARM: alarm } });
  await using qmp = await guest.qmp();
  await guarded(qmp);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  await qmp.execute("migrate", {});
  const commandLineOf = (pid: string): string => readFileSync(`/proc/${pid}/cmdline`, "latin1");
  await guest.until("the guard", () => guest.children().some((pid) => commandLineOf(pid).includes("\0guard\0")));
  // Only the guard is left to be waited for: the new program has been tried.
  await guest.until("the trial of the new program", () => guest.children().length === 1);
  assert.is((await qmp.execute("query-migrate")).status, "setup");
  writeFileSync(alarm, "");
  await guest.until("the update", async () => (await qmp.execute("query-migrate")).status === "completed");
  await guest.runsOn();
});

for (const runtime of ["compiled", "bun", "deno"] satisfies Runtime[]) {
  for (const how of ["exit", "segv", "kill", "stop", "throw-away"]) {
    for (const moment of ["start", "built", "restored"]) {
      if (runtime !== "compiled" && (how !== "kill" || moment !== "restored")) continue;
      test.skipIf(skip, `takes the guest back to Baton (${runtime}): ${how} @ ${moment}`, async () => {
        const env = { BATON_TEST_FAIL: `${how}@${moment}` };
        await using guest = await GuestProcess.start({ runtime, env, payload: { ticksPerLine: 1, cpuCount: 2 } });
        await using qmp = await guest.qmp();
        using serial = await guest.stream("serial");
        await guarded(qmp, how === "stop" ? 500 : GUARD_TIMEOUT_MS);
        const info = await update(qmp, { command: failing(guest) });
        assert.is(info.status, "failed", guest.error);
        const why =
          how === "stop" ? /did not run the guest within guard-timeout \(500 ms\)/ : /died before it ran the guest/;
        assert.match(info["error-desc"]!, why);
        assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
        await guest.follow();
        await guest.runsOn();
        await serial.waitFor("tick ", serial.text.length);
      });
    }
  }
}

for (const how of ["term@built", "term@restored", "term@ran", "term-and-throw@restored"]) {
  test.skipIf(skip, `who is told to end ends, and nobody keeps the guest: ${how}`, async () => {
    await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: how } });
    await using qmp = await guest.qmp();
    await guarded(qmp, 500);
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": failing(guest) });
    await qmp.execute("migrate", {});
    assert.equal(await guest.ended, { exitCode: 0, signal: null });
    assert.not.ok(existsSync(join(guest.dir, "qmp")));
    await until("the end of all processes", () => !guest.isAnywhere());
  });
}

test.skipIf(skip, "takes a guest back that is paused, with its pidfile, and updates it again", async () => {
  const pidfile = join(temporaryDirectory(), "pid");
  const env = { BATON_TEST_FAIL: "kill@restored" };
  await using guest = await GuestProcess.start({ env, extra: ["-pidfile", pidfile] });
  await using qmp = await guest.qmp();
  await qmp.execute("stop");
  const counter = guest.counter();
  await guarded(qmp);
  assert.is((await update(qmp, { command: failing(guest) })).status, "failed");
  await guest.follow();
  assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
  assert.is(guest.counter(), counter);
  assert.is(readFileSync(pidfile, "utf8"), `${guest.pid}\n`);
  await qmp.execute("cont");
  await guest.runsOn();
  // The parameters are those of the update that failed: the next one is guarded, too.
  assert.is((await update(qmp)).status, "completed");
  await guest.runsOn();
  await qmp.execute("quit");
  await guest.gone();
  assert.not.ok(existsSync(pidfile), "who wrote it removes it");
});

test.skipIf(skip, "a program that refuses goes back by itself, in the same process", async () => {
  const env = { BATON_TEST_REFUSE: "vcpu:0" };
  await using guest = await GuestProcess.start({ env });
  await using qmp = await guest.qmp();
  await guarded(qmp);
  const [bun, run] = program("bun");
  const info = await update(qmp, { command: [bun!, run!, refusingBaton, ...guest.args] });
  assert.is(info.status, "failed", guest.error);
  assert.match(info["error-desc"]!, /which does not know it/);
  assert.not.ok(guest.hasEnded);
  await guest.runsOn();
  await guest.until("the guard to be reaped", () => guest.children().length === 0);
});

test.skipIf(skip, "stands down when the program cannot be executed, and guards the next one", async () => {
  const script = join(temporaryDirectory(), "script");
  writeFileSync(script, "#!/no/such/interpreter\n", { mode: 0o755 });
  await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: "kill@built" } });
  await using qmp = await guest.qmp();
  await guarded(qmp);
  const info = await update(qmp, { command: [script] });
  assert.is(info.status, "failed", guest.error);
  assert.match(info["error-desc"]!, /execveat.*ENOENT/);
  await guest.runsOn();
  await guest.until("the guard to be reaped", () => guest.children().length === 0);
  assert.is((await update(qmp, { command: failing(guest) })).status, "failed");
  await guest.follow();
  await guest.runsOn();
});

test.skipIf(skip, "lets a program be that is slow only once the guest runs", async () => {
  await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: "nap@ran" } });
  await using qmp = await guest.qmp();
  await guarded(qmp, 900);
  const info = await update(qmp, { command: failing(guest) });
  assert.is(info.status, "completed", info["error-desc"]);
  await guest.runsOn();
  assert.not.ok(guest.hasEnded);
});

test.skipIf(skip, "the guest is on trial for a while, and goes back as it is when it is not well", async () => {
  await using guest = await GuestProcess.start({
    env: { BATON_TEST_FAIL: "vcpu-error@ran" },
    payload: { cpuCount: 2 },
  });
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (let round = 0; round < 2; round++) {
    await guarded(qmp);
    const counter = guest.counter();
    const info = await update(qmp, { command: failing(guest) });
    assert.is(info.status, "failed", guest.error);
    assert.is(
      info["error-desc"],
      "The guest was not well in the new program: vCPU 1 failed: KVM exit reason 9, detail 0; the old one has it back",
    );
    assert.is(info.updates, 0);
    assert.ok(guest.counter() > counter, "what it has done meanwhile stays");
    await guest.runsOn();
  }
  assert.not.ok(guest.hasEnded, "the process is the same");
  const once = ["MIGRATION setup", "STOP", "MIGRATION active", "MIGRATION_PASS", "MIGRATION device"];
  const failed = ["MIGRATION failing", "RESUME", "MIGRATION failed"];
  // A vCPU that fails before the monitors are there again has nobody to be told of its run.
  const told = events.join().replaceAll("device,RESUME,STOP,", "device,");
  assert.is(told, [...once, ...failed, ...once, ...failed].join());
  await guarded(qmp);
  assert.is((await update(qmp)).status, "completed");
});

test.skipIf(skip, "an ill guest stays where the old program does not take it back", async () => {
  // The old program is the one that refuses: it is gone back to like a new one.
  const env = { BATON_TEST_FAIL: "vcpu-error@ran", BATON_TEST_REFUSE: "vcpu:0" };
  const [bun, run] = program("bun");
  await using guest = await GuestProcess.start({ env, program: [bun!, run!, refusingBaton], payload: { cpuCount: 2 } });
  await using qmp = await guest.qmp();
  await guarded(qmp);
  const info = await update(qmp, { command: failing(guest) });
  assert.is(info.status, "completed", guest.error);
  await guest.until("the reason", () =>
    guest.error.includes("baton: The guest is not well (vCPU 1 failed: KVM exit reason 9, detail 0)"),
  );
  assert.match(guest.error, /cannot go back: State section vcpu 0 has version 1/);
});

test.skipIf(skip, "a vCPU that gets no CPU is not ill: the guest stays, and nobody waits for it", async () => {
  await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: "starve@ran" }, payload: { cpuCount: 2 } });
  await using qmp = await guest.qmp();
  await guarded(qmp);
  const info = await update(qmp, { command: failing(guest) });
  assert.is(info.status, "completed", info["error-desc"]);
  await guest.until("the reason", () => guest.error.includes("baton: The guest could not be looked at, and stays"));
  await guest.runsOn();
});

test.skipIf(skip, "never runs a guest from a state that is not its own any more", async () => {
  await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: "kill@ran" } });
  await using qmp = await guest.qmp();
  await guarded(qmp);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": failing(guest) });
  await qmp.execute("migrate", {}).catch(() => {});
  assert.equal(await guest.ended, { exitCode: null, signal: "SIGKILL" });
  const lost = `baton: The guest is lost: it ran in the new program already when process ${guest.pid} died with it`;
  await until("the guard to say so", () => guest.error.includes(lost));
});

test.skipIf(skip, "is nothing that people start", async () => {
  const { status, stderr } = spawnSync(program("compiled")[0]!, ["guard"], { encoding: "utf8" });
  assert.is(status, 2);
  assert.match(stderr, /what you want is baton update SOCKET/);
});

test.run();
