// SPDX-License-Identifier: Apache-2.0
// `baton migrate` as a person or a script runs it, between real VMs.
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, programMissing, until } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { FakeMonitor } from "./fake-monitor.ts";
import { baton, Verb } from "./support.ts";

const test = describe("baton migrate");
const skip = programMissing("compiled");

async function waiting(uri: string): Promise<GuestProcess> {
  const next = new GuestProcess({ bare: true, extra: ["-incoming", uri] });
  await using qmp = await next.qmp();
  await next.until("it to listen", async () => (await qmp.execute("query-migrate"))["socket-address"]);
  return next;
}

/** So slow that it does not end by itself. */
const SLOWLY = ["--limit", "64k", "--downtime", "0"];

async function underWay(qmp: QmpClient): Promise<void> {
  await until("RAM to move", async () => {
    const { status, ram } = await qmp.execute("query-migrate");
    return status === "active" && ram !== undefined && ram.transferred > 0;
  });
}

test.skipIf(skip, "moves a running guest, and says what it noticed", async () => {
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  await using old = await GuestProcess.start();
  await using next = await waiting(uri);
  const { exitCode, output, error } = await baton("migrate", join(old.dir, "qmp"), uri);
  assert.is(exitCode, 0, error);
  assert.ok(output.startsWith(`Moved to ${uri}: the guest stood still for `), output);
  assert.match(
    output,
    / \d+\.\d\d ms\n {2}quiesce +\d.*\n {2}ram +\d.*\n {2}save +\d.*\n {2}restore +\d.*\n {2}resume +\d.*\n/,
  );
  assert.match(output, /\n {2}RAM {6}32 MiB, rounds: \d+, moved: \S+ \S+ in \S+ s\n$/);
  await next.runsOn();
  const again = await baton("migrate", join(old.dir, "qmp"), uri);
  assert.is(again.exitCode, 1);
  assert.match(
    again.error,
    /^baton: The guest cannot be moved: An earlier migration has handed its guest over\. Now end /,
  );
});

test.skipIf(skip, "takes several streams, compressed, and prints JSON", async () => {
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  await using old = await GuestProcess.start();
  await using next = await waiting(uri);
  const args = ["--streams", "3", "--zstd", "--auto-converge", "--limit", "1G", "--downtime", "500", "--json"];
  const { exitCode, output, error } = await baton("migrate", join(old.dir, "qmp"), uri, ...args);
  assert.is(exitCode, 0, error);
  const info = JSON.parse(output);
  assert.equal([info.status, info.mode, info.uri], ["completed", "normal", uri]);
  assert.is(info.ram["multifd-bytes"], info.ram.transferred);
  assert.is(info["expected-downtime"], undefined, "there is the real one now");
  await using qmp = await old.qmp();
  const parameters = await qmp.execute("query-migrate-parameters");
  assert.equal(
    [parameters["multifd-channels"], parameters["max-bandwidth"], parameters["downtime-limit"]],
    [3, 2 ** 30, 500],
  );
  await next.runsOn();
});

test.skipIf(
  skip,
  "saves to a file, whose path is the caller's, and by mode cpr-reboot with RAM left in place",
  async () => {
    const dir = temporaryDirectory();
    const ramFile = join(dir, "ram");
    await using old = await GuestProcess.start({ ramFile });
    const file = join(dir, "vm.state");
    const args = ["--mode", "cpr-reboot", "--ignore-shared"];
    const { exitCode, output, error } = await baton("migrate", join(old.dir, "qmp"), `file:${file}`, ...args);
    assert.is(exitCode, 0, error);
    assert.ok(output.startsWith(`Saved to ${file}: it goes on with baton -incoming file:${file}\n`), output);
    assert.ok(existsSync(file));
  },
);

test.skipIf(skip, "--cancel ends what is under way, and the one that waits for it says so", async () => {
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  await using old = await GuestProcess.start();
  await using qmp = await old.qmp();
  await using _next = await waiting(uri);
  const socket = join(old.dir, "qmp");
  const idle = await baton("migrate", socket, "--cancel");
  assert.equal([idle.exitCode, idle.error], [1, "baton: No migration is under way\n"]);
  const mover = new Verb("migrate", socket, uri, ...SLOWLY);
  await underWay(qmp);
  const cancelled = await baton("migrate", socket, "--cancel");
  assert.equal(
    [cancelled.exitCode, cancelled.output],
    [0, "Cancelled: the guest is here as before (running)\n"],
    cancelled.error,
  );
  const { exitCode, output, error } = await mover.ended;
  assert.equal([exitCode, output], [1, ""]);
  assert.match(error, /\n?baton: The migration was cancelled, the guest is here as before: running\n$/);
  await old.runsOn();
});

test.skipIf(skip, "Ctrl-C cancels; one that is given up waiting for goes on", async () => {
  const uri = `unix:${join(temporaryDirectory(), "main")}`;
  await using old = await GuestProcess.start();
  await using qmp = await old.qmp();
  await using _next = await waiting(uri);
  const socket = join(old.dir, "qmp");
  const late = await baton("migrate", socket, uri, ...SLOWLY, "--timeout", "0.5");
  assert.is(late.exitCode, 1);
  assert.match(
    late.error,
    /baton: The migration is not over after 0\.5 s, and goes on: ask again with baton status\n$/,
  );
  await underWay(qmp);
  assert.match((await baton("status", socket)).output, /\nlast one {5}active, round 1: .* of 32 MiB left\n/);
  await baton("migrate", socket, "--cancel");

  const place = `unix:${join(temporaryDirectory(), "main")}`;
  await using _another = await waiting(place);
  const mover = new Verb("migrate", socket, place, ...SLOWLY);
  await underWay(qmp);
  mover.interrupt();
  const { exitCode, error } = await mover.ended;
  assert.is(exitCode, 1);
  assert.match(
    error,
    /Cancelling; press Ctrl-C again .*\n(.*\n)*baton: The migration was cancelled, the guest is here/,
  );
  await old.runsOn();
});

test("a second Ctrl-C leaves a migration to itself that cannot be cancelled", async () => {
  await using monitor = await FakeMonitor.start({
    "query-status": { running: true, status: "running" },
    "query-migrate-blockers": [],
    "query-migrate-capabilities": [],
    "query-migrate-parameters": { "downtime-limit": 300 },
    "query-migrate": { status: "device" },
  });
  const mover = new Verb("migrate", monitor.path, "unix:x");
  const asked = (what: string) => monitor.commands.some(({ execute }) => execute === what);
  await until("it to ask", () => asked("query-migrate"));
  mover.interrupt();
  await until("it to cancel", () => asked("migrate_cancel"));
  mover.interrupt();
  const { exitCode, error } = await mover.ended;
  assert.is(exitCode, 1);
  assert.match(
    error,
    /baton: The migration was left to itself: see baton status, and end it with baton migrate --cancel\n$/,
  );
});

test.skipIf(skip, "says why the guest was not moved", async () => {
  await using old = await GuestProcess.start();
  const nobody = `unix:${join(temporaryDirectory(), "nobody")}`;
  const { exitCode, output, error } = await baton("migrate", join(old.dir, "qmp"), nobody);
  assert.equal([exitCode, output], [1, ""]);
  assert.match(error, /^baton: The guest was not moved, it is here as before \(running\): .*nobody/);
  await old.runsOn();
});

test("a VM of another version is asked only for what it knows", async () => {
  await using monitor = await FakeMonitor.start({
    "query-status": { running: true, status: "running" },
    "query-migrate-blockers": [],
    "query-migrate-capabilities": [{ capability: "multifd", state: true }],
    "query-migrate-parameters": { "downtime-limit": 300 },
    "query-migrate": { status: "completed" },
  });
  const refused = await baton("migrate", monitor.path, "unix:x", "--auto-converge");
  assert.is(refused.exitCode, 1);
  assert.match(refused.error, /does not know the capability auto-converge/);
  monitor.commands.length = 0;
  assert.is((await baton("migrate", monitor.path, "unix:/x")).exitCode, 0);
  const find = (name: string) => monitor.commands.find(({ execute }) => execute === name)?.arguments;
  assert.equal(find("migrate-set-capabilities"), { capabilities: [{ capability: "multifd", state: false }] });
  assert.equal(find("migrate-set-parameters"), { mode: "normal" });
  assert.equal(find("migrate"), { uri: "unix:/x" });
});

test("wrong options exit with 2 and say what is right", async () => {
  for (const [args, message] of [
    [["a"], "migrate: Say where to: baton migrate SOCKET URI"],
    [["a", "bogus"], "migrate: unknown migration protocol: bogus"],
    [
      ["a", "unix:b", "--mode", "cpr-exec"],
      "migrate: --mode cpr-exec: the guest stays on this host then: use baton update --mode cpr-exec",
    ],
    [["a", "unix:b", "--mode", "fast"], "migrate: --mode fast: give normal or cpr-reboot"],
    [["a", "unix:b", "--limit", "fast"], "migrate: --limit fast: not a number of bytes per second, such as 100M"],
    [["a", "unix:b", "--streams", "9"], "migrate: --streams 9: not a whole number from 1 to 8"],
    [["a", "unix:b", "--downtime", "-1"], undefined],
    [["a", "file:b", "--zstd"], "migrate: --zstd: a file is written as it is, and as fast as the disk takes it"],
    [["a", "unix:b", "--timeout", "0"], "migrate: --timeout 0: not a number of seconds up to 86400"],
    [["a", "unix:b", "--cancel"], "migrate: Unexpected argument 'unix:b'"],
  ] as [string[], string | undefined][]) {
    const { exitCode, output, error } = await baton("migrate", ...args);
    assert.equal([exitCode, output], [2, ""], error);
    if (message !== undefined) assert.is(error, `baton: ${message}\n`);
  }
});

test.run();
