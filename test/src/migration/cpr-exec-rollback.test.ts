// SPDX-License-Identifier: Apache-2.0
// Updates by exec to a program that cannot take over: the old one is executed again and the guest goes on in it.
import { chmodSync, copyFileSync, readFileSync, renameSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { VERSION } from "../../../src/version.ts";
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
import { assert, describe } from "../../harness.ts";

const test = describe("cpr-exec: rollback");
const skip = programMissing("compiled") ?? onlyOnBun;

const refusingBaton = fileURLToPath(new URL("refusing-baton.ts", import.meta.url));

/** A program that does not know the vCPU's section of the state. */
function refusing(guest: GuestProcess): string[] {
  const [bun, run] = program("bun");
  return [bun!, run!, refusingBaton, ...guest.args];
}
const REFUSES_VCPU = { BATON_TEST_REFUSE: "vcpu:0" };
const REFUSAL = `State section vcpu 0 has version 1, written by baton ${VERSION}; this is baton ${VERSION}, which does not know it`;

function commandLine(guest: GuestProcess): string[] {
  return readFileSync(`/proc/${guest.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
}

/** Runs an update that the new program must refuse, and returns why it did. */
async function refusedUpdate(guest: GuestProcess, qmp: QmpClient, command: string[]): Promise<string> {
  const image = guest.imageIdentity();
  const old = commandLine(guest);
  const info = await update(qmp, { command });
  assert.is(info.status, "failed", guest.error);
  assert.ok(guest.imageIdentity() !== image, "another program was executed");
  assert.equal(commandLine(guest), old, "and then the old one again");
  await settled();
  return info["error-desc"]!;
}

for (const runtime of ["compiled", "bun", "deno"] satisfies Runtime[]) {
  test.skipIf(skip, `goes back to Baton (${runtime}) when the new one does not know a section`, async () => {
    const options = { runtime, env: REFUSES_VCPU, payload: { ticksPerLine: 1, cpuCount: 2 } };
    await using guest = await GuestProcess.start(options);
    await using qmp = await guest.qmp();
    using serial = await guest.stream("serial");
    for (let round = 0; round < 2; round++) {
      assert.is(await refusedUpdate(guest, qmp, refusing(guest)), REFUSAL);
      assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
      await guest.runsOn();
      await serial.waitFor("tick ", serial.text.length);
    }
    await updated(guest, qmp);
    assert.is((await qmp.execute("query-migrate"))["error-desc"], undefined);
    await guest.runsOn();
  });
}

test.skipIf(skip, "tells of a refusal as of any failure", async () => {
  await using guest = await GuestProcess.start({ env: REFUSES_VCPU });
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await refusedUpdate(guest, qmp, refusing(guest));
  assert.equal(events, [
    "MIGRATION setup",
    "STOP",
    "MIGRATION active",
    "MIGRATION_PASS",
    "MIGRATION device",
    "MIGRATION failing",
    "RESUME",
    "MIGRATION failed",
  ]);
});

test.skipIf(skip, "goes back with a paused guest, which stays paused", async () => {
  await using guest = await GuestProcess.start({ env: REFUSES_VCPU });
  await using qmp = await guest.qmp();
  await qmp.execute("stop");
  const counter = guest.counter();
  await refusedUpdate(guest, qmp, refusing(guest));
  assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
  assert.is(guest.counter(), counter);
  await qmp.execute("cont");
  await guest.runsOn();
});

test.skipIf(skip, "goes back when the new command line is wrong or of another machine", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const command = guest.command("compiled");
  const changed = (from: string, to: string): string[] =>
    command.map((argument) => (argument === from ? to : argument.replace(`size=${from}`, `size=${to}`)));
  const cases: [command: string[], reason: RegExp][] = [
    [changed("32M", "64M"), /command line.*machine/],
    [[...command, "-no-such-option"], /-no-such-option: Invalid option/],
    [[...command, "-smp"], /-smp: Requires an argument/],
    [[...command.filter((argument) => argument !== "-smp"), "stray"], /Unexpected argument/],
    [[...command, "-smp", "2"], /command line.*machine/],
    [[...command, "--config", "/no/such/file"], /Cannot read the file/],
  ];
  for (const [wrong, reason] of cases) {
    assert.match(await refusedUpdate(guest, qmp, wrong), reason);
    await guest.runsOn();
  }
  await updated(guest, qmp);
  await guest.runsOn();
});

test.skipIf(skip, "keeps the state from being changed by the program that gets it", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const script = join(guest.dir, "meddler");
  const text = [
    "#!/bin/sh",
    // What the shell has of the environment variable is the memfd's number.
    "state=/proc/$$/fd/$(echo $BATON_CPR_EXEC_STATE | cut -d: -f1)",
    'printf X | dd of="$state" bs=1 seek=100 conv=notrunc 2>/dev/null && echo changed >changed',
    '(: >"$state") 2>/dev/null && echo truncated >changed',
    `exec ${program("compiled")[0]} "$@"`,
  ];
  writeFileSync(script, text.join("\n"));
  chmodSync(script, 0o755);
  await updated(guest, qmp, { command: [script, ...guest.args] });
  await guest.runsOn();
  assert.throws(() => readFileSync(join(guest.dir, "changed")), /ENOENT/);
});

test.skipIf(skip, "goes back to the program that runs when its file has been replaced or removed", async () => {
  const dir = temporaryDirectory();
  const path = join(dir, "baton");
  copyFileSync(program("compiled")[0]!, path);
  await using guest = await GuestProcess.start({ program: [path], env: REFUSES_VCPU });
  await using qmp = await guest.qmp();
  const [bun, run] = program("bun");
  writeFileSync(`${path}.new`, `#!/bin/sh\nexec ${bun} ${run} ${refusingBaton} "$@"\n`);
  chmodSync(`${path}.new`, 0o755);
  renameSync(`${path}.new`, path);
  // An installation over the running one: the command line is the same, the program is not.
  assert.is(await refusedUpdate(guest, qmp, []), REFUSAL);
  await guest.runsOn();
  unlinkSync(path);
  assert.is(await refusedUpdate(guest, qmp, refusing(guest)), REFUSAL);
  await guest.runsOn();
  await updated(guest, qmp, { command: guest.command("compiled") });
  await guest.runsOn();
});

test.skipIf(skip, "leaves nothing behind in the process when it has gone back", async () => {
  await using guest = await GuestProcess.start({ env: REFUSES_VCPU });
  await using qmp = await guest.qmp();
  await refusedUpdate(guest, qmp, refusing(guest));
  await guest.until("no child", () => guest.children().length === 0);
  const before = guest.fds().sort();
  for (let round = 0; round < 3; round++) await refusedUpdate(guest, qmp, refusing(guest));
  await guest.until("no child", () => guest.children().length === 0);
  assert.is(guest.fds().length, before.length, guest.fds().join(" "));
  assert.is((await qmp.execute("query-migrate")).updates, 0);
});

test.skipIf(skip, "survives updates when it was started with SIGCHLD ignored", async () => {
  const wrapper = ["/bin/sh", "-c", 'trap "" CHLD; exec "$@"', "sh", ...program("compiled")];
  await using guest = await GuestProcess.start({ program: wrapper, env: REFUSES_VCPU });
  await using qmp = await guest.qmp();
  for (let round = 0; round < 3; round++) {
    await updated(guest, qmp);
    await guest.runsOn();
  }
  assert.is(await refusedUpdate(guest, qmp, refusing(guest)), REFUSAL);
  await guest.runsOn();
});

test.run();
