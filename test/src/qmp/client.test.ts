// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, QmpConnectionError, QmpError } from "../../../src/qmp/client.ts";
import { QmpSession } from "../../../src/qmp/session.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { FakeTarget } from "./fake-target.ts";

const directory = mkdtempSync(join(tmpdir(), "baton-qmp-"));
const path = join(directory, "qmp");
let server: Server;
let vm: FakeTarget;
let sockets: Socket[] = [];

async function listen(onSocket: (socket: Socket) => void): Promise<void> {
  server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
}

function serve(socket: Socket): void {
  const session = new QmpSession(vm, { send: (bytes) => void socket.write(bytes) });
  socket.on("data", (bytes: Uint8Array) => session.receive(bytes));
  socket.on("close", () => session.close());
  socket.on("end", () => {
    session.endInput();
    void session.idle().then(() => socket.end());
  });
}

const test = describe("qmp client");

test.before.each(() => {
  vm = new FakeTarget();
});

test.after.each(async () => {
  for (const socket of sockets) socket.destroy();
  sockets = [];
  await new Promise((resolve) => server.close(resolve));
});

test.after(() => rmSync(directory, { recursive: true }));

test("executes typed commands, overlapping ones too", async () => {
  await listen(serve);
  await using client = await connect({ path });
  assert.is((await client.greeting).version.package, "baton 0.1.0");
  const [status, name] = await Promise.all([client.execute("query-status"), client.execute("query-name")]);
  assert.equal(status, { status: "running", running: true });
  assert.is(name.name, "vm1");
  assert.equal(await client.execute("migrate-set-parameters", { mode: "cpr-reboot" }), {});
  assert.is((await client.execute("query-migrate-parameters")).mode, "cpr-reboot");
});

test("errors keep their class", async () => {
  await listen(serve);
  await using client = await connect({ path });
  const error = (await rejection(() => client.call("bogus"))) as QmpError;
  assert.instance(error, QmpError);
  assert.is(error.class, "CommandNotFound");
  assert.is(error.message, "The command bogus has not been found");
  const refusal = (await rejection(() => client.execute("migrate", { uri: "x:" }))) as QmpError;
  assert.is(refusal.class, "GenericError");
});

test("events are kept from the call on, and end with the connection", async () => {
  await listen(serve);
  const client = await connect({ path });
  const events = client.events("STOP", "RESUME");
  const all = client.events();
  await client.execute("stop");
  await client.execute("system_powerdown");
  await client.execute("cont");
  await client.close();
  const names: string[] = [];
  for await (const { event } of events) names.push(event);
  assert.equal(names, ["STOP", "RESUME"]);
  for await (const { event } of all) names.push(event);
  assert.equal(names, ["STOP", "RESUME", "STOP", "POWERDOWN", "RESUME"]);
  for await (const { event } of client.events()) assert.unreachable(event);
});

test("an event that comes later wakes the loop", async () => {
  await listen(serve);
  await using client = await connect({ path });
  const first = client.events("SHUTDOWN").next();
  await client.execute("quit");
  const { value } = await first;
  assert.is(value?.data.reason, "host-qmp-quit");
});

test("a lost connection fails what is waiting and what comes after", async () => {
  await listen(serve);
  const client = await connect({ path });
  vm.stopGate = new Promise(() => {});
  const waiting = rejection(() => client.execute("stop"));
  // Events of another command would arrive only after it, so the greeting of a second client is the sign.
  await (await connect({ path })).close();
  sockets[0]!.destroy();
  assert.instance(await waiting, QmpConnectionError);
  assert.instance(await rejection(() => client.execute("cont")), QmpConnectionError);
  await client.closed;
});

test("an aborted command is not waited for, and its reply disturbs nobody", async () => {
  await listen(serve);
  await using client = await connect({ path });
  const gate = Promise.withResolvers<void>();
  vm.stopGate = gate.promise;
  const controller = new AbortController();
  const stopped = rejection(() => client.execute("stop", {}, { signal: controller.signal }));
  controller.abort(new Error("enough"));
  assert.is((await stopped).message, "enough");
  gate.resolve();
  assert.is((await client.execute("query-name")).name, "vm1");
  const tooLate = rejection(() => client.execute("cont", {}, { signal: controller.signal }));
  assert.is((await tooLate).message, "enough");
});

test("connecting may be aborted", async () => {
  await listen(() => {});
  const controller = new AbortController();
  const connecting = rejection(() => connect({ path }, { signal: controller.signal }));
  controller.abort(new Error("enough"));
  assert.is((await connecting).message, "enough");
});

test("nobody there, or somebody else", async () => {
  await listen((socket) => void socket.write("SSH-2.0-OpenSSH\r\n"));
  const absent = await rejection(() => connect({ path: `${path}.none` }));
  assert.instance(absent, QmpConnectionError);
  assert.match(String((absent.cause as Error).message), /ENOENT/);
  const other = await rejection(() => connect({ path }));
  assert.is(other.message, "Not a QMP server: 1:1: JSON parse error, stray 'S'");
});

test.run();
