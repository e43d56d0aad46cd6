// SPDX-License-Identifier: Apache-2.0
// What a transfer with x-handover-connections leaves of everybody who is connected: all of it, in another process.
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { close, makeFifo, O_NOCTTY, O_NONBLOCK, O_RDWR, open, write } from "../../../ffi/fd.ts";
import { openPty } from "../../../ffi/pty.ts";
import { getTermios } from "../../../ffi/termios.ts";
import { FRAME_CONNECTIONS, FRAME_HELD, FRAME_STATE } from "../../../src/migration/messages.ts";
import { connect, type QmpClient } from "../../../src/qmp/client.ts";
import type { CommandResult } from "../../../src/qmp/schema.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import {
  ByteStream,
  type GuestOptions,
  GuestProcess,
  onlyOnBun,
  program,
  programMissing,
  type Runtime,
  recordEvents,
  settled,
  thisRuntime,
  until,
} from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { assertConsecutive, FdTerminal, LETTERS, splitConsole, TALKATIVE, type Terminal } from "./consoles.ts";
import { Relay } from "./relay.ts";
import { type Sockets, sockets, transferTo, waiting } from "./transfers.ts";

const test = describe("cpr-transfer: connections");

/** Of a transfer, as the clients that go along get them. */
const EVENTS_OF_SUCCESS = [
  "MIGRATION setup",
  "STOP",
  "MIGRATION active",
  "MIGRATION_PASS",
  "MIGRATION device",
  "RESUME",
  "MIGRATION completed",
];

const HANDOVER = { capabilities: [{ capability: "x-handover-connections" as const, state: true }] };

/** `migrate` by a client that goes along, and hears how it ended from wherever the guest is then. */
async function handOverTo(qmp: QmpClient, place: Sockets): Promise<CommandResult<"query-migrate">> {
  await qmp.execute("migrate-set-capabilities", HANDOVER);
  return transferTo(qmp, place);
}

/** The same to a new process, which must succeed; the process that was left ends by itself. */
async function handedOver(old: GuestProcess, qmp: QmpClient, options: GuestOptions = {}): Promise<GuestProcess> {
  const place = sockets();
  const next = waiting(place, options);
  try {
    await next.until("the socket of the cpr channel", () => existsSync(place.cpr));
    const info = await handOverTo(qmp, place);
    assert.is(info.status, "completed", `${info["error-desc"]} ${old.error} ${next.error}`);
    assert.equal(await old.ended, { exitCode: 0, signal: null }, old.error);
    assert.is(old.error + next.error, "");
    return next;
  } catch (error) {
    await next[Symbol.asyncDispose]();
    throw error;
  }
}

/** Holds a conversation with the guest while it goes from process to process, and checks every byte in both directions. */
async function converse(first: GuestProcess, terminal: Terminal, count: number, qmp: QmpClient): Promise<void> {
  const hosts = [first];
  let sent = "";
  // Typed on without regard to the transfers, so that bytes are under way whenever one comes.
  const typing = setInterval(() => {
    const piece = Array.from({ length: 11 }, (_, index) => LETTERS[(sent.length * 7 + index) % 26]).join("");
    sent += piece;
    terminal.write(piece);
  }, 15);
  try {
    try {
      for (let round = 0; round < count; round++) {
        const seen = terminal.text().length;
        hosts.push(await handedOver(hosts.at(-1)!, qmp));
        await hosts.at(-1)!.until("more from the console", () => terminal.text().length > seen + 30);
      }
    } finally {
      clearInterval(typing);
    }
    const guest = hosts.at(-1)!;
    await guest.until("the end of the echo", () => splitConsole(terminal.text()).echo.length >= sent.length);
    await qmp.execute("stop");
    const { lines } = guest.report()!;
    await guest.until("the last line", () => (splitConsole(terminal.text()).ticks.at(-1) ?? 0) >= lines - 1);
    const { ticks, echo, rest } = splitConsole(terminal.text());
    assert.is(echo, sent, "everything is echoed once");
    assert.is(rest, "", "lines are whole");
    assert.ok(ticks.length > count);
    assertConsecutive(ticks);
    // It may have been stopped after a line, before it counted it.
    assert.ok(ticks.at(-1) === lines - 1 || ticks.at(-1) === lines, `line ${ticks.at(-1)} of ${lines}`);
    guest.isClean();
  } finally {
    for (const host of hosts) await host[Symbol.asyncDispose]();
  }
}

test("loses and doubles no byte of a serial console on a UNIX socket over 6 transfers", async () => {
  const guest = await GuestProcess.start({ runtime: thisRuntime, payload: TALKATIVE });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  await converse(guest, { text: () => serial.text, write: (text) => serial.write(text) }, 6, qmp);
});

test("hands over a console on a pseudo-terminal", async () => {
  const guest = await GuestProcess.start({ runtime: thisRuntime, payload: TALKATIVE, serial: ["-serial", "pty"] });
  await using qmp = await guest.qmp();
  const { filename } = (await qmp.execute("query-chardev")).find(({ filename }) => filename.startsWith("pty:"))!;
  const terminal = new FdTerminal(open(filename.slice("pty:".length), O_RDWR | O_NOCTTY | O_NONBLOCK));
  try {
    await converse(guest, terminal, 3, qmp);
  } finally {
    terminal.close();
  }
});

test("hands over a console on standard input and output, which outlives the process it was of", async () => {
  const dir = temporaryDirectory();
  const [input, output] = [join(dir, "in"), join(dir, "out")];
  for (const path of [input, output]) makeFifo(path);
  const typing = open(input, O_RDWR | O_NONBLOCK);
  const terminal = new FdTerminal(open(output, O_RDWR | O_NONBLOCK));
  try {
    const shell = ["/bin/sh", "-c", `exec "$@" <'${input}' >'${output}'`, "sh", ...program(thisRuntime)];
    const guest = await GuestProcess.start({ program: shell, payload: TALKATIVE, serial: ["-serial", "stdio"] });
    await using qmp = await guest.qmp();
    const type = (text: string): void => void write(typing, new TextEncoder().encode(text));
    await converse(guest, { text: () => terminal.text(), write: type }, 3, qmp);
  } finally {
    terminal.close();
    close(typing);
  }
});

test("goes on writing to the standard output that it took along, be it a socket or a pipe", async () => {
  await using old = await GuestProcess.start({
    runtime: thisRuntime,
    payload: TALKATIVE,
    serial: ["-serial", "stdio"],
  });
  await using qmp = await old.qmp();
  await using next = await handedOver(old, qmp);
  const seen = old.output.length;
  await next.until("more output", () => old.output.length > seen + 100);
  await using last = await handedOver(next, qmp);
  const then = old.output.length;
  await last.until("more output", () => old.output.length > then + 100);
  const { ticks, rest } = splitConsole(old.output);
  assert.is(rest, "");
  assertConsecutive(ticks);
});

test("leaves a terminal raw when it goes along, and restores it when the VM ends", async () => {
  const pty = openPty();
  const terminal = new FdTerminal(pty.fd);
  const slave = open(pty.name, O_RDWR | O_NOCTTY);
  try {
    const before = getTermios(slave);
    await using old = new GuestProcess({ runtime: thisRuntime, terminal: pty.name, extra: ["-monitor", "stdio"] });
    await old.ready();
    await using qmp = await old.qmp();
    const raw = getTermios(slave);
    assert.not.equal(raw, before);
    terminal.write("info sta");
    await old.until("the echo", () => terminal.text().includes("info sta"));
    await using next = await handedOver(old, qmp);
    assert.equal(getTermios(slave), raw, "the process that left did not touch it");
    const seen = terminal.text().length;
    terminal.write("tus\r");
    await next.until("the answer", () => terminal.text().slice(seen).includes("VM status: running"));
    terminal.write("quit\r");
    assert.equal(await next.ended, { exitCode: 0, signal: null });
    assert.equal(getTermios(slave), before);
  } finally {
    terminal.close();
    close(slave);
  }
});

test("lets monitor clients go along: one that waits, one in mid-command, one in mid-line, one with many", async () => {
  const hmpPath = "hmp";
  const extra = ["-monitor", `unix:${hmpPath},server=on,wait=off`];
  const hosts = [await GuestProcess.start({ runtime: thisRuntime, extra })];
  const first = hosts[0]!;
  try {
    await using patient = await first.qmp();
    const events = await recordEvents(patient);
    using partial = await first.stream("qmp");
    using pipelined = await first.stream("qmp");
    using person = await first.stream(hmpPath);
    for (const stream of [partial, pipelined]) {
      await stream.waitFor("QMP");
      stream.write('{"execute":"qmp_capabilities"}');
      await stream.waitFor('{"return": {}}\r\n');
    }
    await person.waitFor("(baton) ");
    for (let round = 0; round < 3; round++) {
      const place = sockets();
      const next = waiting(place);
      hosts.push(next);
      await next.until("the socket of the cpr channel", () => existsSync(place.cpr));
      const heard = events.length;
      partial.write('{"execute": "query-sta');
      const echoed = person.text.length;
      person.write("info na");
      await person.waitFor("info na", echoed);
      const seen = pipelined.text.length;
      const channel = (type: string, path: string) => ({
        "channel-type": type,
        addr: { transport: "socket", type: "unix", path },
      });
      const commands = [
        { execute: "migrate-set-parameters", arguments: { mode: "cpr-transfer" }, id: `a${round}` },
        { execute: "migrate-set-capabilities", arguments: HANDOVER, id: `b${round}` },
        {
          execute: "migrate",
          arguments: { channels: [channel("main", place.main), channel("cpr", place.cpr)] },
          id: `c${round}`,
        },
        { execute: "query-kvm", id: `d${round}` },
        { execute: "no-such-command", id: `e${round}` },
        { execute: "query-name", id: `f${round}` },
      ];
      pipelined.write(commands.map((command) => JSON.stringify(command)).join(""));
      await pipelined.waitFor(`"f${round}"`, seen);
      assert.equal(await hosts[round]!.ended, { exitCode: 0, signal: null }, hosts[round]!.error);
      const position = partial.text.length;
      partial.write('tus", "id": "partial"}');
      await partial.waitFor('"partial"', position);
      const reply = partial.text
        .slice(position)
        .split("\r\n")
        .find((line) => line.includes('"partial"'))!;
      assert.equal(JSON.parse(reply), { return: { running: true, status: "running" }, id: "partial" });
      const typed = person.text.length;
      person.write("me\r");
      await person.waitFor("(baton) ", typed);
      assert.not.match(person.text.slice(typed), "unknown command");
      const ids = [...pipelined.text.slice(seen).matchAll(/"id": "([a-f])\d"/g)].map(([, id]) => id);
      assert.equal(ids, ["a", "b", "c", "d", "e", "f"], "each is answered once, in order");
      assert.is((await patient.execute("query-status")).status, "running");
      const info = await until("the end", async () => {
        const now = await patient.execute("query-migrate");
        return now.status === "completed" && now;
      });
      assert.is(info.updates, round + 1);
      await settled();
      assert.equal(events.slice(heard), EVENTS_OF_SUCCESS);
    }
    for (const stream of [partial, pipelined]) {
      assert.not(stream.hasEnded);
      assert.is(stream.text.split('{"QMP"').length, 2, "greeted once");
      // Every line of the wire is one whole message.
      for (const line of stream.text.split("\r\n").slice(0, -1)) JSON.parse(line);
    }
    assert.is(person.text.split("Baton ").length, 2, "greeted once");
  } finally {
    for (const host of hosts) await host[Symbol.asyncDispose]();
  }
});

test("answers at the old sockets and at the new ones, with the serial port of the process that was left", async () => {
  await using old = await GuestProcess.start({ runtime: thisRuntime, payload: TALKATIVE });
  await using qmp = await old.qmp();
  await using next = await handedOver(old, qmp, { serial: ["-serial", "null"], payload: TALKATIVE });
  await using atOld = await connect({ path: join(old.dir, "qmp") });
  await using atNew = await next.qmp();
  for (const client of [qmp, atOld, atNew]) assert.is((await client.execute("query-status")).status, "running");
  const labels = (await atNew.execute("query-chardev")).map(({ label }) => label);
  assert.is(new Set(labels).size, labels.length, `each has a name of its own: ${labels}`);
  using serial = await ByteStream.connect(join(old.dir, "serial"));
  await serial.waitFor("tick ");
  // What came along goes along again, by whatever mode.
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  const image = next.imageIdentity();
  await qmp.execute("migrate", {});
  await next.until("the new program", () => next.imageIdentity() !== image);
  await serial.waitFor("tick ", serial.text.length);
  assert.is((await atOld.execute("query-status")).status, "running");
  assert.is((await atNew.execute("query-status")).status, "running");
  await atNew.execute("quit");
  assert.equal(await next.ended, { exitCode: 0, signal: null });
  for (const name of ["qmp", "serial"]) assert.not(existsSync(join(old.dir, name)), `${name} is removed at the end`);
});

test("leaves clients and old process alone when the capability is off", async () => {
  await using old = await GuestProcess.start({ runtime: thisRuntime, payload: TALKATIVE });
  await using qmp = await old.qmp();
  const place = sockets();
  await using next = waiting(place);
  await next.until("the socket of the cpr channel", () => existsSync(place.cpr));
  assert.is((await transferTo(qmp, place)).status, "completed");
  assert.is((await qmp.execute("query-status")).status, "postmigrate");
  await qmp.execute("quit");
  assert.equal(await old.ended, { exitCode: 0, signal: null });
});

for (const [frame, type] of Object.entries({ CONNECTIONS: FRAME_CONNECTIONS, HELD: FRAME_HELD, STATE: FRAME_STATE })) {
  test(`goes on with all connections in the old process when all is cut at ${frame}`, async () => {
    await using old = await GuestProcess.start({ runtime: thisRuntime, payload: TALKATIVE });
    await using qmp = await old.qmp();
    using serial = await old.stream("serial");
    await serial.waitFor("tick ");
    const events = await recordEvents(qmp);
    const counts: number[] = [];
    for (let round = 0; round < 3; round++) {
      const [front, back] = [sockets(), sockets()];
      await using next = waiting(back, { defer: true });
      await using nextQmp = await next.qmp();
      await using relay = await Relay.start(front, back, type);
      await nextQmp.execute("migrate-incoming", { uri: `unix:${back.main}`, "exit-on-error": false });
      const heard = events.length;
      const info = await handOverTo(qmp, front);
      assert.is(info.status, "failed");
      assert.ok(relay.hasCut, info["error-desc"]);
      await settled();
      const told = ["MIGRATION setup", "STOP", "MIGRATION active", "MIGRATION_PASS", "MIGRATION device"];
      assert.equal(events.slice(heard), [...told, "MIGRATION failing", "RESUME", "MIGRATION failed"]);
      await until("the end over there", async () => (await nextQmp.execute("query-migrate")).status === "failed");
      const shared = next.fds().filter((target) => target.startsWith("socket:") && old.fds().includes(target));
      assert.equal(shared, [], "the new side has closed what it got");
      const seen = serial.text.length;
      serial.write(LETTERS[round]!);
      await serial.waitFor(LETTERS[round]!, seen);
      await serial.waitFor("tick ", serial.text.length);
      // Of a worker that has ended, Deno keeps the epoll and eventfd.
      counts.push(old.fds().filter((target) => !target.startsWith("anon_inode:[event")).length);
    }
    assert.is(counts[2], counts[1], "no fd is left behind");
    await using late = await old.qmp();
    assert.is((await late.execute("query-status")).status, "running");
    for (const name of ["qmp", "serial"]) assert.ok(statSync(join(old.dir, name)).isSocket());
    const { ticks, rest } = splitConsole(serial.text);
    assert.is(rest, "");
    assertConsecutive(ticks);
    // Nothing of this is in the way of one that succeeds.
    await using after = await handedOver(old, qmp);
    await serial.waitFor("tick ", serial.text.length);
    assertConsecutive(splitConsole(serial.text).ticks);
    await after.runsOn();
  });
}

test("keeps no more fds than there are connections, over transfers", async () => {
  const hosts = [await GuestProcess.start({ runtime: thisRuntime })];
  try {
    await using qmp = await hosts[0]!.qmp();
    using serial = await hosts[0]!.stream("serial");
    const counts: number[] = [];
    for (let round = 0; round < 4; round++) {
      const next = await handedOver(hosts.at(-1)!, qmp);
      hosts.push(next);
      await next.runsOn();
      counts.push(next.fds().length);
    }
    assert.not(serial.hasEnded);
    // Each process adds its own monitor, and that is all.
    assert.equal(
      counts.map((count) => count - counts[0]!),
      [0, 1, 2, 3],
    );
  } finally {
    for (const host of hosts) await host[Symbol.asyncDispose]();
  }
});

const missing = programMissing("compiled") ?? onlyOnBun;
test.skipIf(missing, "hands connections over from runtime to runtime", async () => {
  const hosts = [await GuestProcess.start({ payload: TALKATIVE })];
  try {
    await using qmp = await hosts[0]!.qmp();
    using serial = await hosts[0]!.stream("serial");
    for (const runtime of ["deno", "bun", "compiled"] satisfies Runtime[]) {
      hosts.push(await handedOver(hosts.at(-1)!, qmp, { runtime }));
      await serial.waitFor("\ntick ", serial.text.length);
    }
    const { ticks, rest } = splitConsole(serial.text);
    assert.is(rest, "");
    assertConsecutive(ticks);
  } finally {
    for (const host of hosts) await host[Symbol.asyncDispose]();
  }
});

test.run();
