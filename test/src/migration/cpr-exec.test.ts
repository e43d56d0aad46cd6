// SPDX-License-Identifier: Apache-2.0
// Updates by exec of whole VM processes: the guest, the process and the order of events.
import { readFileSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { KNOWN_SECTIONS } from "../../../src/migration/carried.ts";
import { StateReader } from "../../../src/state/reader.ts";
import {
  GuestProcess,
  onlyOnBun,
  program,
  programMissing,
  type Runtime,
  recordEvents,
  thisRuntime,
  update,
  updated,
} from "../../guest.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("cpr-exec");
const noBinary = programMissing("compiled");

/** What MIGRATION events come in, with what the VM does in between. */
const EVENTS_OF_SUCCESS = [
  "MIGRATION setup",
  "STOP",
  "MIGRATION active",
  "MIGRATION_PASS",
  "MIGRATION device",
  "RESUME",
  "MIGRATION completed",
];

test(`replaces Baton on ${thisRuntime} by itself under a running guest`, async () => {
  await using guest = await GuestProcess.start({ runtime: thisRuntime });
  await using qmp = await guest.qmp();
  for (let round = 0; round < 3; round++) {
    await updated(guest, qmp);
    await guest.runsOn();
  }
  assert.is((await qmp.execute("query-migrate")).updates, 3);
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
});

test.skipIf(noBinary ?? onlyOnBun, "replaces the compiled binary by itself under a running guest", async () => {
  await using guest = await GuestProcess.start({ runtime: "compiled" });
  await using qmp = await guest.qmp();
  for (let round = 0; round < 5; round++) {
    await updated(guest, qmp);
    await guest.runsOn();
  }
});

test.skipIf(noBinary ?? onlyOnBun, "goes from one runtime to any other", async () => {
  await using guest = await GuestProcess.start({ runtime: "compiled" });
  await using qmp = await guest.qmp();
  const tour: Runtime[] = ["bun", "deno", "compiled", "deno", "bun", "compiled"];
  for (const runtime of tour) {
    await updated(guest, qmp, { command: guest.command(runtime) });
    assert.is(readFileSync(`/proc/${guest.pid}/cmdline`, "utf8").split("\0")[0], program(runtime)[0]);
    await guest.runsOn();
  }
  assert.is((await qmp.execute("query-migrate")).updates, tour.length);
});

test.skipIf(noBinary ?? onlyOnBun, "carries several vCPUs, timers in deadline mode and halted vCPUs", async () => {
  const payload = { cpuCount: 3, timer: "deadline", idle: true } as const;
  await using guest = await GuestProcess.start({ payload });
  await using qmp = await guest.qmp();
  for (let round = 0; round < 5; round++) {
    await updated(guest, qmp);
    await guest.runsOn();
  }
});

test.skipIf(noBinary ?? onlyOnBun, "tells of an update in QEMU's order", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (let round = 1; round <= 3; round++) {
    await updated(guest, qmp);
    assert.equal(events.splice(0), EVENTS_OF_SUCCESS, `update ${round}`);
  }
});

test.skipIf(noBinary ?? onlyOnBun, "tells clients without capability events only of STOP and RESUME", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const seen: string[] = [];
  const events = qmp.events();
  void (async () => {
    for await (const { event } of events) seen.push(event);
  })();
  await updated(guest, qmp);
  assert.equal(seen, ["STOP", "RESUME"]);
});

test.skipIf(noBinary ?? onlyOnBun, "leaves a paused VM paused", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await qmp.execute("stop");
  for (let round = 0; round < 2; round++) {
    const before = guest.counter();
    const info = await update(qmp);
    assert.is(info.status, "completed", info["error-desc"]);
    assert.equal(await qmp.execute("query-status"), { running: false, status: "paused" });
    assert.is(guest.counter(), before, "the guest did not run");
  }
  assert.equal(
    events.filter((name) => name === "STOP" || name === "RESUME"),
    ["STOP"],
  );
  await qmp.execute("cont");
  await guest.runsOn();
  await updated(guest, qmp);
  await guest.runsOn();
});

test.skipIf(noBinary ?? onlyOnBun, "leaves a VM that never ran in its state, and it starts with cont", async () => {
  await using guest = new GuestProcess({ extra: ["-S"] });
  await using qmp = await guest.qmp();
  const info = await update(qmp);
  assert.is(info.status, "completed", info["error-desc"]);
  assert.is((await qmp.execute("query-status")).status, "prelaunch");
  await qmp.execute("cont");
  await guest.ready();
  await guest.runsOn();
});

test.skipIf(noBinary ?? onlyOnBun, "writes a copy of the state that a reader reads", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const path = join(guest.dir, "vm.state");
  await updated(guest, qmp, { uri: `file:${path}` });
  const image = await guest.until("the copy of the state", () => {
    const bytes = readFileSync(path);
    return bytes.length > 24 && Number(bytes.readBigUInt64LE(16)) === bytes.length && bytes;
  });
  const reader = new StateReader(image, KNOWN_SECTIONS);
  assert.ok(reader.find("vcpu") !== undefined);
  assert.ok(reader.find("device/uart16550") !== undefined);
  assert.is(statSync(path).mode & 0o777, 0o600, "nobody else reads guest state");

  // Over an older and longer file, at an offset.
  truncateSync(path, 1 << 20);
  await updated(guest, qmp, { uri: `file:${path},offset=4096` });
  await guest.until("the second copy", () => readFileSync(path).subarray(4096, 4104).toString() === "BATONVM\n");
  const second = readFileSync(path).subarray(4096);
  new StateReader(second.subarray(0, Number(second.readBigUInt64LE(16))), KNOWN_SECTIONS);
  await guest.runsOn();
});

test.skipIf(noBinary ?? onlyOnBun, "takes the command line omitted, repeated, or with -incoming appended", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  const path = join(guest.dir, "vm.state");
  const same = guest.command("compiled");
  const commands = [[], same, [...same, "-incoming", `file:${path}`], [], [same[0]!]];
  for (const command of commands) {
    await updated(guest, qmp, { command, uri: `file:${path}` });
    await guest.runsOn();
  }
  // QEMU does not carry parameters over an exec: the next update is asked for in full again.
  assert.is((await qmp.execute("query-migrate-parameters")).mode, "normal");
});

test.skipIf(noBinary ?? onlyOnBun, "lets the guest reset itself first", async () => {
  // The keyboard controller's reset line.
  const payload = { shutdown: { port: 0x64, value: 0xfe, sizeBytes: 1 as const } };
  await using guest = await GuestProcess.start({ payload, noReboot: false });
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  for (let round = 1; round <= 5; round++) {
    guest.commandShutdown();
    const info = await update(qmp);
    assert.is(info.status, "completed", info["error-desc"]);
    await guest.until("the reset", () => events.filter((name) => name === "RESET").length === round);
    await guest.runsOn();
  }
});

test.skipIf(noBinary ?? onlyOnBun, "lets the guest end in the middle of an update", async () => {
  for (let round = 0; round < 4; round++) {
    const payload = { shutdown: { port: 0xf4, value: 20, sizeBytes: 4 as const } };
    await using guest = await GuestProcess.start({ payload });
    await using qmp = await guest.qmp();
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
    const isUnderWay = qmp.execute("migrate", {}).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, round * 10));
    guest.commandShutdown();
    await isUnderWay;
    assert.equal(await guest.ended, { exitCode: 41, signal: null });
    assert.is(guest.error, "");
  }
});

test.skipIf(noBinary ?? onlyOnBun, "ends with the guest's exit code after updates", async () => {
  await using guest = await GuestProcess.start({ payload: { shutdown: { port: 0xf4, value: 20, sizeBytes: 4 } } });
  await using qmp = await guest.qmp();
  await updated(guest, qmp);
  await updated(guest, qmp);
  guest.commandShutdown();
  assert.equal(await guest.ended, { exitCode: 41, signal: null });
});

test.skipIf(noBinary ?? onlyOnBun, "quits after updates, and takes its socket files with it", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  await updated(guest, qmp);
  await qmp.execute("quit");
  assert.equal(await guest.ended, { exitCode: 0, signal: null });
  assert.throws(() => statSync(join(guest.dir, "qmp")), /ENOENT/);
  assert.throws(() => statSync(join(guest.dir, "serial")), /ENOENT/);
});

test.skipIf(noBinary ?? onlyOnBun, "resets the guest after updates", async () => {
  await using guest = await GuestProcess.start({ noReboot: false });
  await using qmp = await guest.qmp();
  await updated(guest, qmp);
  const before = guest.counter();
  await qmp.execute("system_reset");
  await guest.until("the guest to start anew", () => guest.counter() < before);
  await guest.ready();
  await guest.runsOn();
  await updated(guest, qmp);
  await guest.runsOn();
});

test.run();
