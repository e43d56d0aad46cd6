// SPDX-License-Identifier: Apache-2.0
// A guest that goes from one VMM process to the next: every way to say so, and every state it may be in.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { close, read } from "../../../ffi/fd.ts";
import { sendMessage } from "../../../ffi/scm.ts";
import { AF_UNIX, unixAddress } from "../../../ffi/sockaddr.ts";
import { accept, connect, listen, socket, socketPair } from "../../../ffi/socket.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import {
  GuestProcess,
  onlyOnBun,
  programMissing,
  recordEvents,
  settled,
  thisRuntime,
  until,
  updated,
} from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import {
  ALL_RUNTIMES,
  beginTransfer,
  complaints,
  cprChannel,
  hasMoved,
  moved,
  over,
  type Sockets,
  sockets,
  stands,
  transferTo,
  waiting,
  waitingWith,
} from "./transfers.ts";

const test = describe("cpr-transfer");

const EVENTS_OF_SUCCESS = [
  "MIGRATION setup",
  "STOP",
  "MIGRATION active",
  "MIGRATION_PASS",
  "MIGRATION device",
  "MIGRATION completed",
];

const startGuest = () => GuestProcess.start({ runtime: thisRuntime });

test("hands a running guest to another process, with the events of QEMU", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  assert.equal(await nextQmp.execute("query-cpus-fast"), []);
  const nextEvents = await recordEvents(nextQmp);

  const info = await transferTo(qmp, place);
  assert.is(info.status, "completed", `${info["error-desc"]} ${complaints(old, next)}`);
  assert.is((await over(nextQmp)).status, "completed");
  await hasMoved(old, next);
  await settled();
  assert.equal(events, EVENTS_OF_SUCCESS);
  assert.equal(nextEvents.slice(-3), ["MIGRATION active", "RESUME", "MIGRATION completed"]);
  for (const each of [qmp, nextQmp]) {
    const { phases, updates, downtime } = await each.execute("query-migrate");
    assert.equal(
      phases!.map(({ phase }) => phase),
      ["quiesce", "save", "carry", "restore", "resume"],
    );
    assert.is(updates, each === qmp ? 0 : 1);
    assert.type(downtime, "number");
  }
  assert.not(existsSync(place.main) || existsSync(place.cpr), "the sockets are gone");
});

test("refuses all that would bring a fenced guest back to life", async () => {
  await using old = await startGuest();
  const place = sockets();
  await using next = waiting(place);
  await moved(old, next, place);
  await using qmp = await old.qmp();
  const fence = "The guest has moved to another process and may not run here again";
  const refusal = async (action: () => Promise<unknown>): Promise<string> => (await rejection(action)).message;
  await stands(old, async () => {
    for (let round = 0; round < 2; round++) {
      assert.is(await refusal(() => qmp.execute("cont")), fence);
      assert.is(await refusal(() => qmp.execute("system_reset")), fence);
      assert.is(await refusal(() => qmp.execute("system_powerdown")), fence);
      await qmp.execute("stop");
    }
    const again = "Can't migrate the vm that was paused due to previous migration";
    assert.is(await refusal(() => beginTransfer(qmp, sockets())), again);
    for (const mode of ["cpr-exec", "cpr-reboot", "normal"] as const) {
      await qmp.execute("migrate-set-parameters", { mode });
      assert.is(await refusal(() => qmp.execute("migrate", { uri: "file:/tmp/x" })), again, mode);
    }
    assert.equal(await qmp.execute("query-status"), { running: false, status: "postmigrate" });
    await next.runsOn();
  });
  await qmp.execute("quit");
  assert.equal(await old.ended, { exitCode: 0, signal: null });
  await next.runsOn();
});

test("takes -incoming in every form, and goes on from process to process", async () => {
  const forms: ((place: Sockets) => [main: string, cpr: string])[] = [
    ({ main, cpr }) => [`unix:${main}`, `cpr,addr.transport=socket,addr.type=unix,addr.path=${cpr}`],
    ({ main, cpr }) => [`main,addr.transport=socket,addr.type=unix,addr.path=${main}`, cprChannel(cpr)],
    ({ main, cpr }) => [
      cprChannel(cpr),
      JSON.stringify({ "channel-type": "main", addr: { transport: "socket", type: "unix", path: main } }),
    ],
    ({ main, cpr }) => [`channel-type=cpr,addr.transport=socket,addr.type=unix,addr.path=${cpr}`, `unix:${main}`],
  ];
  let old = await startGuest();
  for (const form of forms) {
    const place = sockets();
    const next = waitingWith(form(place).flatMap((value) => ["-incoming", value]));
    await moved(old, next, place);
    await old[Symbol.asyncDispose]();
    await next.runsOn();
    old = next;
  }
  await old[Symbol.asyncDispose]();
});

test("waits with the guest running until migrate-incoming says where", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const events = await recordEvents(qmp);
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  const nextEvents = await recordEvents(nextQmp);
  await beginTransfer(qmp, place);
  await next.until("the machine to be built", async () => (await nextQmp.execute("query-cpus-fast")).length === 1);
  await old.runsOn();
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  assert.is((await qmp.execute("query-migrate")).status, "setup");
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  assert.equal(await nextQmp.execute("query-migrate"), {});
  assert.equal(events, ["MIGRATION setup"]);

  await nextQmp.execute("migrate-incoming", { uri: `unix:${place.main}` });
  assert.is((await over(qmp)).status, "completed", complaints(old, next));
  assert.is((await over(nextQmp)).status, "completed");
  await hasMoved(old, next);
  await settled();
  assert.equal(nextEvents, ["MIGRATION setup", "MIGRATION active", "RESUME", "MIGRATION completed"]);
  const again = await rejection(() => nextQmp.execute("migrate-incoming", { uri: `unix:${place.main}` }));
  assert.is(again.message, "The incoming migration has already been started");
});

test("takes a tcp main channel, by migrate-incoming in QAPI form", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  const inet = (port: string) => ({ transport: "socket" as const, type: "inet" as const, host: "127.0.0.1", port });
  const at = (port: string) => ({ channels: [{ "channel-type": "main" as const, addr: inet(port) }] });
  assert.match((await rejection(() => nextQmp.execute("migrate-incoming", at("0")))).message, "needs a port");
  const file = { uri: "file:/tmp/vm.state" };
  assert.is(
    (await rejection(() => nextQmp.execute("migrate-incoming", file))).message,
    "Migration requires streamable transport (eg unix)",
  );
  // Some port that is free: another attempt where it is not.
  const port = await until("a free port", async () => {
    const candidate = String(20000 + Math.floor(Math.random() * 10000));
    await nextQmp.execute("migrate-incoming", { ...at(candidate), "exit-on-error": false });
    await beginTransfer(qmp, { main: inet(candidate), cpr: place.cpr });
    return (await over(qmp)).status === "completed" && candidate;
  });
  const info = await over(nextQmp);
  assert.is(info.status, "completed");
  assert.equal(info["socket-address"], [{ type: "inet", host: "127.0.0.1", port }]);
  await hasMoved(old, next);
});

test("takes a main channel that both monitors were given as an fd", async () => {
  await using old = await startGuest();
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  const fd = (str: string) => ({ transport: "socket" as const, type: "fd" as const, str });
  const missing = await rejection(async () => {
    await beginTransfer(qmp, { main: fd("link"), cpr: place.cpr });
    await nextQmp.execute("migrate-incoming", { uri: "fd:link", "exit-on-error": false });
    throw new Error((await over(qmp))["error-desc"]);
  });
  assert.match(missing.message, "File descriptor named 'link' has not been found");
  const [one, other] = socketPair();
  await giveFd(old, "link", one);
  await giveFd(next, "link", other);
  await beginTransfer(qmp, { main: fd("link"), cpr: place.cpr });
  await until("its end", async () => (await nextQmp.execute("query-migrate")).status === "failed");
  await nextQmp.execute("migrate-incoming", { channels: [{ "channel-type": "main", addr: fd("link") }] });
  assert.is((await over(qmp)).status, "completed", complaints(old, next));
  assert.is((await over(nextQmp)).status, "completed");
  await hasMoved(old, next);
  assert.is((await rejection(() => qmp.execute("closefd", { fdname: "link" }))).message.includes("link"), true);
});

/** QMP's `getfd`; our own fd is closed. */
async function giveFd(guest: GuestProcess, name: string, fd: number): Promise<void> {
  const monitor = socket(AF_UNIX);
  connect(monitor, unixAddress(join(guest.dir, "qmp")));
  const commands = `{"execute":"qmp_capabilities"}{"execute":"getfd","arguments":{"fdname":"${name}"},"id":"given"}`;
  sendMessage(monitor, new TextEncoder().encode(commands), [fd]);
  close(fd);
  let replies = "";
  const buffer = new Uint8Array(4096);
  await guest.until("the reply to getfd", () => {
    const count = read(monitor, buffer);
    if (count !== undefined) replies += new TextDecoder().decode(buffer.subarray(0, count));
    return replies.includes('{"return": {}, "id": "given"}');
  });
  close(monitor);
}

test.skipIf(
  onlyOnBun,
  "takes a cpr channel that is an inherited fd: one that listens, or one that is connected",
  async () => {
    for (const kind of ["listening", "connected"]) {
      await using old = await startGuest();
      await using qmp = await old.qmp();
      const place = sockets();
      const listening = listen(unixAddress(place.cpr));
      let inherited = listening;
      if (kind === "connected") {
        await beginTransfer(qmp, place);
        inherited = await old.until("the source", () => accept(listening));
      }
      const cpr = "cpr,addr.transport=socket,addr.type=fd,addr.str=3";
      await using next = waitingWith(["-incoming", `unix:${place.main}`, "-incoming", cpr], { inheritedFd: inherited });
      close(inherited);
      if (kind === "listening") {
        await beginTransfer(qmp, place);
        assert.is((await over(qmp)).status, "completed", complaints(old, next));
      }
      await using nextQmp = await next.qmp();
      assert.is((await over(qmp)).status, "completed", complaints(old, next));
      assert.is((await over(nextQmp)).status, "completed");
      await hasMoved(old, next);
      assert.ok(existsSync(place.cpr), "whoever made the socket's file removes it");
      if (kind === "connected") close(listening);
    }
  },
);

test("leaves a paused guest paused", async () => {
  await using first = await startGuest();
  await using firstQmp = await first.qmp();
  await firstQmp.execute("stop");
  const counter = first.counter();
  const events = await recordEvents(firstQmp);
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  assert.is((await transferTo(firstQmp, place)).status, "completed", complaints(first, next));
  assert.is((await over(nextQmp)).status, "completed");
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "paused" });
  assert.is(next.counter(), counter);
  assert.not(events.includes("STOP"));
  await nextQmp.execute("cont");
  await next.runsOn();
  await settled();
});

test("carries a guest that was never started, with several vCPUs", async () => {
  await using old = new GuestProcess({ runtime: thisRuntime, payload: { cpuCount: 3 }, extra: ["-S"] });
  await using qmp = await old.qmp();
  assert.is((await qmp.execute("query-status")).status, "prelaunch");
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  assert.is((await transferTo(qmp, place)).status, "completed", complaints(old, next));
  assert.is((await over(nextQmp)).status, "completed");
  assert.is((await nextQmp.execute("query-status")).status, "prelaunch");
  // Once more, without having run there either.
  const other = sockets();
  await using last = waiting(other);
  await using lastQmp = await last.qmp();
  assert.is((await transferTo(nextQmp, other)).status, "completed", complaints(next, last));
  assert.is((await over(lastQmp)).status, "completed");
  await lastQmp.execute("cont");
  await last.runsOn();
});

test("heeds -S, stop and cont of the side that waits", async () => {
  const cases: [extra: string[], commands: ("stop" | "cont")[], expected: string][] = [
    [["-S"], [], "paused"],
    [["-S"], ["cont"], "running"],
    [[], ["stop"], "paused"],
    [[], ["stop", "cont"], "running"],
  ];
  let old = await startGuest();
  for (const [extra, commands, expected] of cases) {
    await using qmp = await old.qmp();
    const place = sockets();
    const next = waiting(place, { extra });
    await using nextQmp = await next.qmp();
    for (const command of commands) await nextQmp.execute(command);
    assert.is((await transferTo(qmp, place)).status, "completed", complaints(old, next));
    assert.is((await over(nextQmp)).status, "completed");
    assert.is((await nextQmp.execute("query-status")).status, expected, JSON.stringify([extra, commands]));
    if (expected === "paused") await nextQmp.execute("cont");
    await next.runsOn();
    await old[Symbol.asyncDispose]();
    old = next;
  }
  await old[Symbol.asyncDispose]();
});

test("carries all vCPUs, and each character of the console once", async () => {
  const payload = { cpuCount: 4, ticksPerLine: 1 };
  let old = await GuestProcess.start({ runtime: thisRuntime, payload, serial: CONSOLE });
  let text = "";
  for (let round = 1; round <= 3; round++) {
    const place = sockets();
    const next = waiting(place, { extra: CONSOLE });
    await moved(old, next, place);
    text += consoleOf(old);
    await old[Symbol.asyncDispose]();
    old = next;
  }
  await old.runsOn();
  await using qmp = await old.qmp();
  await qmp.execute("quit");
  await old.ended;
  text += consoleOf(old);
  const lines = [...text.matchAll(/tick (\d+)\r?\n/g)].map(([, number]) => Number(number));
  assert.ok(lines.length > 3);
  assert.equal(
    lines,
    lines.map((_, index) => lines[0]! + index),
    text,
  );
});

const CONSOLE = ["-serial", "file:console"];

function consoleOf(guest: GuestProcess): string {
  return readFileSync(join(guest.dir, "console"), "latin1");
}

test("can be updated by exec where it came to, and be transferred again", async () => {
  await using old = await startGuest();
  const place = sockets();
  await using next = waiting(place);
  await moved(old, next, place);
  const nextQmp = await next.qmp();
  await updated(next, nextQmp);
  assert.is((await nextQmp.execute("query-migrate")).updates, 2);
  nextQmp.destroy();
  const other = sockets();
  await using last = waiting(other);
  await moved(next, last, other);
  await using lastQmp: QmpClient = await last.qmp();
  await updated(last, lastQmp);
  assert.is((await lastQmp.execute("query-migrate")).updates, 4);
});

for (const from of ALL_RUNTIMES) {
  for (const to of ALL_RUNTIMES) {
    const reason = onlyOnBun ?? programMissing(from) ?? programMissing(to);
    test.skipIf(reason, `goes from ${from} to ${to}`, async () => {
      await using old = await GuestProcess.start({ runtime: from, payload: { cpuCount: 2 } });
      const place = sockets();
      await using next = waiting(place, { runtime: to });
      await moved(old, next, place);
    });
  }
}

test.run();
