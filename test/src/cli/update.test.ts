// SPDX-License-Identifier: Apache-2.0
// `baton update` as a person or a script runs it, against real VMs.
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MigrationCapability } from "../../../src/qmp/schema/migration.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, privateRam, program, programMissing, until } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { baton } from "./support.ts";

const test = describe("baton update");

/** Fields of /proc/PID/stat from the third one on: state, parent, group, session. */
function statOf(pid: number): string[] | undefined {
  const path = `/proc/${pid}/stat`;
  return existsSync(path) ? readFileSync(path, "utf8").split(") ")[1]!.split(" ") : undefined;
}
const skip = programMissing("compiled");
const knowsHandover = (MigrationCapability.values as readonly string[]).includes("x-handover-connections");
const skipTransfer = skip ?? (knowsHandover ? undefined : "this version has no x-handover-connections");

test.skipIf(skip, "replaces the program, and says how long the guest stood still", async () => {
  await using guest = await GuestProcess.start();
  const socket = join(guest.dir, "qmp");
  const before = guest.imageIdentity();
  const { exitCode, output, error } = await baton("update", socket);
  assert.is(exitCode, 0, error);
  assert.match(
    output,
    /^By cpr-exec: nothing forbids it.*\nUpdated: the guest stood still for \d+\.\d\d ms\n {2}quiesce +\d/,
  );
  assert.match(output, /\n {2}resume +\d+\.\d\d ms\n$/);
  assert.ok(guest.imageIdentity() !== before, "the program was replaced");
  await guest.runsOn();

  const image = program("compiled")[0]!;
  const second = await baton("update", `unix:${socket}`, "--image", image, "--mode", "cpr-exec", "--json");
  assert.is(second.exitCode, 0, second.error);
  const info = JSON.parse(second.output);
  assert.equal([info.mode, info["mode-reason"]], ["cpr-exec", "as was asked for"]);
  assert.equal([info.status, info.updates, info.pid], ["completed", 2, undefined]);
  await guest.runsOn();
});

test.skipIf(skip, "has the guest guarded, unless told not to", async () => {
  const dir = temporaryDirectory();
  const [bun, run] = program("bun");
  const failing = fileURLToPath(new URL("../migration/failing-baton.ts", import.meta.url));
  const image = join(dir, "failing-baton");
  writeFileSync(image, `#!/bin/sh\nexec ${bun} ${run} ${failing} "$@"\n`, { mode: 0o755 });
  await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: "kill@restored" } });
  const socket = join(guest.dir, "qmp");
  const guarded = await baton("update", socket, "--image", image);
  assert.is(guarded.exitCode, 1);
  assert.match(guarded.error, /its guest runs on as before: The new program died before it ran the guest/);
  await guest.follow();
  await guest.runsOn();
  const unguarded = await baton("update", socket, "--image", image, "--guard-timeout", "0");
  assert.is(unguarded.exitCode, 1);
  await guest.gone();
});

test.skipIf(skip, "with --relay, --guard-timeout is what the new program has to be ready", async () => {
  const [bun, run] = program("bun");
  const failing = fileURLToPath(new URL("../migration/failing-baton.ts", import.meta.url));
  const image = join(temporaryDirectory(), "failing-baton");
  writeFileSync(image, `#!/bin/sh\nexec ${bun} ${run} ${failing} "$@"\n`, { mode: 0o755 });
  await using guest = await GuestProcess.start({ env: { BATON_TEST_FAIL: "stop@start" } });
  const options = ["--image", image, "--relay", "--guard-timeout", "900"];
  const { exitCode, error } = await baton("update", join(guest.dir, "qmp"), ...options);
  assert.is(exitCode, 1);
  assert.match(error, /did not send ACCEPTED within 900 ms/);
  await guest.follow();
  await guest.runsOn();
});

test.skipIf(skip, "says why it failed, and the guest runs on", async () => {
  await using guest = await GuestProcess.start();
  const socket = join(guest.dir, "qmp");
  const missing = await baton("update", socket, "--image", "/no/baton");
  assert.equal([missing.exitCode, missing.output], [1, ""]);
  assert.match(missing.error, /^baton: execvp \/no\/baton failed: No such file or directory\n$/);
  // Executed in earnest it would end, and the guest with it.
  const foreign = await baton("update", socket, "--image", "/bin/false");
  assert.equal([foreign.exitCode, foreign.output], [1, ""]);
  assert.match(foreign.error, /^baton: \/bin\/false is not Baton/);
  await guest.runsOn();
});

test.skipIf(skip, "tells of RAM that cannot be handed over, and what to do", async () => {
  await using guest = new GuestProcess({ ram: privateRam() });
  await using qmp = await guest.qmp();
  for (const mode of ["auto", "cpr-exec", "cpr-transfer"]) {
    const update = await baton("update", join(guest.dir, "qmp"), "--mode", mode);
    assert.equal([update.exitCode, update.output], [1, ""]);
    const how = mode === "auto" ? "" : ` by ${mode}`;
    assert.ok(update.error.startsWith(`baton: The VM cannot be updated${how}: Memory region ram0 `), update.error);
    assert.match(update.error, / Start the VM with .*\.\n$/);
  }
  assert.is((await qmp.execute("query-status")).status, "running");
});

test.skipIf(skip, "refuses a VM that waits for its guest", async () => {
  await using guest = new GuestProcess({ bare: true, extra: ["-incoming", "defer"] });
  await using _qmp = await guest.qmp();
  const { exitCode, error } = await baton("update", join(guest.dir, "qmp"));
  assert.is(exitCode, 1);
  assert.is(error, "baton: The VM cannot be updated: It waits for its guest itself\n");
});

test.skipIf(
  skipTransfer,
  "by cpr-transfer starts the new process, and the old one ends; its socket goes on",
  async () => {
    await using guest = await GuestProcess.start();
    const socket = join(guest.dir, "qmp");
    await using qmp = await guest.qmp();
    using serial = await guest.stream("serial");
    const { exitCode, output, error } = await baton("update", socket, "--mode", "cpr-transfer");
    assert.is(exitCode, 0, error);
    const pid = Number(/\nThe VM is process (\d+) now\n$/.exec(output)![1]);
    try {
      assert.match(
        output,
        /^By cpr-transfer: as was asked for\nUpdated: the guest stood still for \d+\.\d\d ms, \d+\.\d\d ms were predicted\n {2}quiesce/,
      );
      assert.equal(await guest.ended, { exitCode: 0, signal: null }, guest.error);
      // It is nobody's child who waited for it, and in a session of its own.
      const session = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ")[3];
      assert.is(Number(session), pid);
      assert.is((await qmp.execute("query-status")).status, "running");
      assert.not(serial.hasEnded);
      const log = join(guest.dir, "log");
      const again = await baton("update", socket, "--mode", "cpr-transfer", "--json", "--log", log);
      const info = JSON.parse(again.output);
      assert.equal([info.mode, info.status, info.updates], ["cpr-transfer", "completed", 2]);
      assert.ok(info.pid > 0 && info.pid !== pid);
      assert.is(readFileSync(log, "utf8"), "");
      await until("the end of the first new process", () => (statOf(pid)?.[0] ?? "Z") === "Z");
    } finally {
      await qmp.execute("quit");
      await qmp.closed;
    }
  },
);

test.skipIf(skipTransfer, "by cpr-transfer to a program that ends at once leaves the guest where it is", async () => {
  await using guest = await GuestProcess.start();
  const image = join(temporaryDirectory(), "baton");
  writeFileSync(
    image,
    '#!/bin/sh\n[ "$1" = --version ] && echo baton 9.9.9 && exit\necho no such machine >&2; exit 3\n',
  );
  chmodSync(image, 0o700);
  const log = join(guest.dir, "log");
  const args = ["update", join(guest.dir, "qmp"), "--mode", "cpr-transfer", "--image", image, "--log", log];
  const { exitCode, error } = await baton(...args);
  assert.is(exitCode, 1);
  assert.is(error, `baton: The new process of ${image} ended at once (exit code 3): see ${log}\n`);
  assert.is(readFileSync(log, "utf8"), "no such machine\n");
  await guest.runsOn();
});

test.skipIf(skip, "--check says whether it would work, and changes nothing", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const socket = join(guest.dir, "qmp");
  const image = guest.imageIdentity();
  await qmp.execute("migrate-set-parameters", { mode: "normal", "cpr-exec-command": ["mine"] });
  for (const [mode, args] of [
    ["cpr-exec", ["--image", program("compiled")[0]!]],
    ["cpr-exec", []],
    ["cpr-transfer", ["--mode", "cpr-transfer"]],
  ] as const) {
    const { exitCode, output, error } = await baton("update", socket, "--check", ...args);
    assert.is(exitCode, 0, error);
    const pattern = `^An update by ${mode} to baton \\d.* would work: predicted pause \\d+\\.\\d\\d ms\n  quiesce +\\d`;
    assert.match(output, new RegExp(pattern));
    assert.match(output, /\nThe guest stood still for \d+\.\d\d ms while that was found out\n$/);
  }
  const { exitCode, output } = await baton("update", socket, "--check", "--json", "--image", "/bin/false");
  assert.is(exitCode, 3);
  const info = JSON.parse(output);
  assert.equal([info.status, info.problems[0].code], ["would-fail", "not-baton"]);
  const missing = await baton("update", socket, "--check", "--image", "/no/baton");
  assert.is(missing.exitCode, 3);
  assert.is(
    missing.output,
    "An update by cpr-exec would not work:\n" +
      "  execvp /no/baton failed: No such file or directory (exec-failed)\n" +
      "    Set cpr-exec-command to a program that is there\n",
  );
  const { mode, "cpr-exec-command": command } = await qmp.execute("query-migrate-parameters");
  assert.equal([mode, command], ["normal", ["mine"]], "as the operator left them");
  assert.is(guest.imageIdentity(), image);
  await guest.runsOn();
});

test.skipIf(skip, "--check of a VM whose RAM cannot be handed over names that, and exits with 3", async () => {
  await using guest = new GuestProcess({ ram: privateRam() });
  await using _qmp = await guest.qmp();
  const { exitCode, output } = await baton("update", join(guest.dir, "qmp"), "--check");
  assert.is(exitCode, 3);
  assert.match(
    output,
    /^An update by cpr-exec would not work:\n {2}Memory region ram0 .* \(ram-not-shared, ram0\)\n {4}Start/,
  );
});

test.skipIf(skip, "--pause-limit refuses an update that would take longer, and is gone afterwards", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const socket = join(guest.dir, "qmp");
  const limit = async () => (await qmp.execute("query-migrate-parameters"))["pause-limit"];
  const refused = await baton("update", socket, "--pause-limit", "1");
  assert.is(refused.exitCode, 1);
  assert.match(refused.error, /runs on as before: The guest would stand for \d+\.\d\d ms, and pause-limit is 1 ms\n$/);
  assert.is(await limit(), 0);
  const checked = await baton("update", socket, "--check", "--pause-limit", "1");
  assert.is(checked.exitCode, 3);
  assert.match(checked.output, /and the limit is 1 ms \(pause-limit\)\n/);
  const { exitCode, output, error } = await baton("update", socket, "--pause-limit", "60000");
  assert.is(exitCode, 0, error);
  assert.match(output, /the guest stood still for \d+\.\d\d ms, \d+\.\d\d ms were predicted\n/);
  assert.is(await limit(), 0);
  await guest.runsOn();
});

test("dry-run is for VMs only", async () => {
  const { exitCode, output, error } = await baton("dry-run");
  assert.equal([exitCode, output], [2, ""]);
  assert.match(error, "what you want is baton update SOCKET --check");
});

test("wrong options exit with 2", async () => {
  assert.is((await baton("update", "a", "--timeout", "soon")).exitCode, 2);
  const { exitCode, error } = await baton("update", "a", "--mode", "normal");
  assert.equal([exitCode, error], [2, "baton: update: --mode normal: give auto, cpr-exec, cpr-transfer\n"]);
});

test.run();
