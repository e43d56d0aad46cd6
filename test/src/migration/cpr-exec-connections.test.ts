// SPDX-License-Identifier: Apache-2.0
// What an update by exec leaves of everybody who is connected: all of it.

import { readFileSync, symlinkSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { O_NOCTTY, O_NONBLOCK, O_RDWR, open } from "../../../ffi/fd.ts";
import { openPty } from "../../../ffi/pty.ts";
import { KNOWN_SECTIONS } from "../../../src/migration/carried.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { GuestProcess, onlyOnBun, program, programMissing, type Runtime, until, updated } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { assertConsecutive, FdTerminal, LETTERS, splitConsole, TALKATIVE, type Terminal } from "./consoles.ts";

const test = describe("cpr-exec: connections");
const skip = programMissing("compiled") ?? onlyOnBun;

/** Holds a conversation with the guest over `count` updates, and checks every byte of it in both directions. */
async function converse(guest: GuestProcess, terminal: Terminal, count: number): Promise<void> {
  await using qmp = await guest.qmp();
  let sent = "";
  // Typed on without regard to the updates, so that bytes are under way whenever one comes.
  const type = (): void => {
    const piece = Array.from({ length: 11 }, (_, index) => LETTERS[(sent.length * 7 + index) % 26]).join("");
    sent += piece;
    terminal.write(piece);
  };
  const typing = setInterval(type, 15);
  try {
    for (let round = 0; round < count; round++) {
      const seen = terminal.text().length;
      await updated(guest, qmp);
      await guest.until("more from the console", () => terminal.text().length > seen + 30);
    }
  } finally {
    clearInterval(typing);
  }
  await guest.until("the end of the echo", () => splitConsole(terminal.text()).echo.length >= sent.length);
  await qmp.execute("stop");
  const { lines } = guest.report()!;
  await guest.until("the last line", () => (splitConsole(terminal.text()).ticks.at(-1) ?? 0) >= lines - 1);
  const { ticks, echo, rest } = splitConsole(terminal.text());
  const different = [...sent].findIndex((letter, index) => echo[index] !== letter);
  assert.is(different, -1, `of ${sent.length} the echo differs: ${echo.slice(different)} for ${sent.slice(different)}`);
  assert.is(echo.length, sent.length, "nothing is echoed twice");
  assert.is(rest, "", "lines are whole");
  assert.ok(ticks.length > count);
  assertConsecutive(ticks);
  assert.is(ticks.at(-1), lines - 1);
  guest.isClean();
}

test.skipIf(skip, "loses and doubles no byte of a serial console on a UNIX socket over 20 updates", async () => {
  await using guest = await GuestProcess.start({ payload: TALKATIVE });
  using serial = await guest.stream("serial");
  await converse(guest, { text: () => serial.text, write: (text) => serial.write(text) }, 20);
  assert.not(serial.hasEnded);
});

test.skipIf(skip, "keeps a serial console on a pseudo-terminal", async () => {
  await using guest = await GuestProcess.start({ payload: TALKATIVE, serial: ["-serial", "pty"] });
  await using qmp = await guest.qmp();
  const { filename } = (await qmp.execute("query-chardev")).find(({ filename }) => filename.startsWith("pty:"))!;
  const fd = open(filename.slice("pty:".length), O_RDWR | O_NOCTTY | O_NONBLOCK);
  const terminal = new FdTerminal(fd);
  try {
    await converse(guest, terminal, 8);
  } finally {
    terminal.close();
  }
});

test.skipIf(skip, "keeps a serial console on standard input and output", async () => {
  await using guest = await GuestProcess.start({ payload: TALKATIVE, serial: ["-serial", "stdio"] });
  await converse(guest, { text: () => guest.output, write: (text) => guest.child.stdin!.write(text) }, 8);
});

test.skipIf(skip, "keeps a serial console over updates from runtime to runtime", async () => {
  await using guest = await GuestProcess.start({ payload: TALKATIVE });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  for (const runtime of ["deno", "bun", "compiled"] satisfies Runtime[]) {
    await updated(guest, qmp, { command: guest.command(runtime) });
    await serial.waitFor("\ntick ", serial.text.length);
  }
  const { ticks, rest } = splitConsole(serial.text);
  assert.is(rest, "");
  assertConsecutive(ticks);
});

test.skipIf(skip, "keeps a console that is the client of a socket", async () => {
  const path = join(temporaryDirectory(), "console");
  let text = "";
  let connections = 0;
  const server = createServer((socket) => {
    connections++;
    socket.on("data", (bytes) => (text += bytes.toString("latin1")));
    socket.on("error", () => {});
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  try {
    const serial = ["-chardev", `socket,id=con,path=${path}`, "-serial", "chardev:con"];
    await using guest = await GuestProcess.start({ payload: TALKATIVE, serial });
    await using qmp = await guest.qmp();
    for (let round = 0; round < 3; round++) {
      const seen = text.length;
      await updated(guest, qmp);
      await guest.until("more from the console", () => text.length > seen + 30);
    }
    assert.is(connections, 1, "the connection is the same");
    const { ticks, rest } = splitConsole(text);
    assert.is(rest, "");
    assertConsecutive(ticks);
  } finally {
    server.close();
  }
});

test.skipIf(skip, "lets QMP clients stay: one that waits, one in the middle of a command, one with many", async () => {
  await using guest = await GuestProcess.start();
  await using patient = await guest.qmp();
  using partial = await guest.stream("qmp");
  using pipelined = await guest.stream("qmp");
  for (const stream of [partial, pipelined]) {
    await stream.waitFor("QMP");
    stream.write('{"execute":"qmp_capabilities"}');
    await stream.waitFor('{"return": {}}\r\n');
  }
  for (let round = 0; round < 3; round++) {
    const image = guest.imageIdentity();
    partial.write('{"execute": "query-sta');
    const seen = pipelined.text.length;
    const commands = [
      { execute: "migrate-set-parameters", arguments: { mode: "cpr-exec" }, id: `a${round}` },
      { execute: "migrate", arguments: {}, id: `b${round}` },
      { execute: "query-kvm", id: `c${round}` },
      { execute: "no-such-command", id: `d${round}` },
      { execute: "query-name", id: `e${round}` },
    ];
    pipelined.write(commands.map((command) => JSON.stringify(command)).join(""));
    await pipelined.waitFor(`"e${round}"`, seen);
    await guest.until("the new program", () => guest.imageIdentity() !== image);
    const position = partial.text.length;
    partial.write('tus", "id": "partial"}');
    await partial.waitFor('"partial"', position);
    const reply = partial.text
      .slice(position)
      .split("\r\n")
      .find((line) => line.includes('"partial"'))!;
    assert.equal(JSON.parse(reply), { return: { running: true, status: "running" }, id: "partial" });
    const ids = [...pipelined.text.slice(seen).matchAll(/"id": "([a-e])\d"/g)].map(([, id]) => id);
    assert.equal(ids, ["a", "b", "c", "d", "e"], "each is answered once, in order");
    assert.equal(JSON.parse(pipelined.text.split("\r\n").find((line) => line.includes(`"c${round}"`))!).return, {
      enabled: true,
      present: true,
    });
    assert.match(pipelined.text, "The command no-such-command has not been found");
    assert.is((await patient.execute("query-status")).status, "running");
    await until("the end of the update", async () => (await patient.execute("query-migrate")).status === "completed");
  }
  for (const stream of [partial, pipelined]) {
    assert.not(stream.hasEnded);
    assert.is(stream.text.split('{"QMP"').length, 2, "greeted once");
    // Every line of the wire is one whole message.
    for (const line of stream.text.split("\r\n").slice(0, -1)) JSON.parse(line);
  }
});

test.skipIf(skip, "answers commands that were sent during the pause", async () => {
  await using guest = await GuestProcess.start();
  await using qmp = await guest.qmp();
  for (let round = 0; round < 3; round++) {
    const image = guest.imageIdentity();
    await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
    const replies = [qmp.execute("migrate", {}).then(() => "migrate")];
    let sent = 0;
    while (guest.imageIdentity() === image) {
      const id = sent++;
      replies.push(qmp.execute("query-status").then(({ status }) => `${id} ${status}`));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const wanted = Array.from({ length: sent }, (_, id) => `${id} running`);
    assert.equal(await Promise.all(replies), ["migrate", ...wanted]);
    await until("the end of the update", async () => (await qmp.execute("query-migrate")).status === "completed");
  }
});

test.skipIf(skip, "accepts new clients after the update, and those who came during it", async () => {
  await using guest = await GuestProcess.start({ payload: TALKATIVE });
  await using qmp = await guest.qmp();
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec" });
  const update = qmp.execute("migrate", {});
  await using early = await guest.qmp();
  await update;
  assert.is((await early.execute("query-status")).status, "running");
  await until("the end of the update", async () => (await qmp.execute("query-migrate")).status === "completed");
  for (let round = 0; round < 2; round++) {
    await using late = await guest.qmp();
    assert.is((await late.execute("query-status")).status, "running");
    using serial = await guest.stream("serial");
    await serial.waitFor("tick ");
    serial.close();
    await updated(guest, qmp);
    assert.is((await late.execute("query-status")).status, "running");
  }
});

test.skipIf(skip, "works as operators type it at a monitor on a terminal", async () => {
  const bin = temporaryDirectory();
  symlinkSync(program("compiled")[0]!, join(bin, "baton"));
  const pty = openPty();
  const terminal = new FdTerminal(pty.fd);
  try {
    const options = { program: ["baton"], terminal: pty.name, env: { PATH: `${bin}:${process.env.PATH}` } };
    await using guest = new GuestProcess({ ...options, extra: ["-monitor", "stdio"] });
    await guest.ready();
    const enter = async (line: string, answer: string): Promise<void> => {
      const from = terminal.text().length;
      terminal.write(`${line}\r`);
      await guest.until(`${answer} after ${line}`, () => {
        // The terminal makes CR LF of the LF of a CR LF.
        const seen = terminal.text().slice(from).replaceAll("\r\r\n", "\r\n");
        return seen.includes(line) && seen.slice(seen.indexOf(line) + line.length).includes(answer);
      });
    };
    const prompt = "(baton) ";
    await guest.until("the prompt", () => terminal.text().includes(prompt));
    for (let round = 0; round < 2; round++) {
      const image = guest.imageIdentity();
      const command = ["baton", ...guest.args, "-incoming", "file:vm.state"].join(" ");
      await enter("info status", `VM status: running\r\n${prompt}`);
      await enter("migrate_set_parameter mode cpr-exec", `\r\n${prompt}`);
      await enter(`migrate_set_parameter cpr-exec-command ${command}`, `\r\n${prompt}`);
      await enter("migrate -d file:vm.state", `\r\n${prompt}`);
      await guest.until("the new program", () => guest.imageIdentity() !== image);
      await enter("info status", `VM status: running\r\n${prompt}`);
      await guest.runsOn();
      const state = readFileSync(join(guest.dir, "vm.state"));
      new StateReader(state, KNOWN_SECTIONS);
    }
    terminal.write("quit\r");
    assert.equal(await guest.ended, { exitCode: 0, signal: null });
  } finally {
    terminal.close();
  }
});

test.run();
