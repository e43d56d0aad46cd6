// SPDX-License-Identifier: Apache-2.0
import { existsSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { close, duplicate } from "../../../ffi/fd.ts";
import { AF_INET, AF_UNIX, resolve, unixAddress } from "../../../ffi/sockaddr.ts";
import { accept, connect, listen, localAddress, SHUT_WR, shutdown, socket } from "../../../ffi/socket.ts";
import { create, restore } from "../../../src/backends/chardev/create.ts";
import { SocketListener } from "../../../src/backends/chardev/listener.ts";
import { SocketChardev, type SocketSpec } from "../../../src/backends/chardev/socket.ts";
import { bytes, openFdCount, temporaryDirectory } from "../../ffi/support.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { carry, handOver, Peer, Reports, TestFrontend, tick, until, warmReactor } from "./support.ts";

const test = describe("src/backends/chardev: socket");
const directory = temporaryDirectory();
const reactor = await warmReactor();
test.after(() => reactor.close());

let serial = 0;
function unixSpec(options: Partial<SocketSpec> = {}): SocketSpec & { address: { type: "unix"; path: string } } {
  const path = join(directory, `s${serial++}`);
  return { backend: "socket", id: "s", server: true, wait: false, ...options, address: { type: "unix", path } };
}

function unixClient(path: string): Peer & { fd: number } {
  const fd = socket(AF_UNIX);
  connect(fd, unixAddress(path));
  return Object.assign(new Peer(fd), { fd });
}

/** Accepts as soon as somebody has connected. */
async function accepted(serverFd: number): Promise<Peer & { fd: number }> {
  let fd: number | undefined;
  await until(() => {
    fd = accept(serverFd);
    return fd !== undefined;
  });
  return Object.assign(new Peer(fd!), { fd: fd! });
}

test("a server has one connection at a time; the next waits for its turn", async () => {
  const before = openFdCount();
  const spec = unixSpec();
  const device = create(spec, reactor);
  const { path } = spec.address;
  assert.is(statSync(path).mode & 0o777, 0o600);
  assert.is(device.filename, `disconnected:unix:${path},server=on`);
  const frontend = new TestFrontend();
  device.attach(frontend);
  device.write(bytes("nobody hears this"));
  const first = unixClient(path);
  const second = unixClient(path);
  second.write("second");
  first.write("first ");
  await until(() => frontend.text === "first ");
  assert.is(device.filename, `unix:${path},server=on`);
  device.write(bytes("hello first"));
  await first.expect("hello first");
  first.close();
  await until(() => frontend.text === "first second");
  device.write(bytes("hello second"));
  await second.expect("hello second");
  assert.equal(frontend.events, ["opened", "closed", "opened"]);
  device.close();
  await until(() => !second.read());
  second.close();
  assert.not(existsSync(path));
  await until(() => openFdCount() <= before);
});

test("ready() of a server with wait=on waits for the first client", async () => {
  const spec = unixSpec({ wait: true });
  const device = create(spec, reactor);
  let isReady = false;
  const ready = device.ready().then(() => (isReady = true));
  await tick();
  assert.not(isReady);
  const client = unixClient(spec.address.path);
  await ready;
  assert.ok(device.connected);
  client.close();
  device.close();
  const closedEarly = create(unixSpec({ wait: true }), reactor);
  const failure = rejection(() => closedEarly.ready());
  closedEarly.close();
  assert.is(((await failure) as Error & { code: string }).code, "chardev-closed");
});

test("a server leaves a file that somebody else has put in its place", () => {
  const spec = unixSpec();
  const device = create(spec, reactor);
  unlinkSync(spec.address.path);
  writeFileSync(spec.address.path, "precious");
  device.close();
  assert.ok(existsSync(spec.address.path));
});

test("a server on a path that is in use is refused", async () => {
  const spec = unixSpec();
  const device = create(spec, reactor);
  const before = openFdCount();
  const error = await rejection(() => create(spec, reactor));
  assert.match(String(error.cause), "EADDRINUSE");
  await until(() => openFdCount() <= before);
  device.close();
});

test("a peer that has ended its side still gets all the output", async () => {
  const spec = unixSpec();
  const device = create(spec, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  const client = unixClient(spec.address.path);
  client.write("all of it, please");
  await until(() => frontend.text === "all of it, please");
  const output = new Uint8Array(2 ** 20).fill(65);
  device.write(output);
  shutdown(client.fd, SHUT_WR);
  await until(() => !client.read());
  assert.is(client.received.byteLength, output.byteLength);
  await until(() => !device.connected);
  client.close();
  device.close();
});

test("a peer that vanishes with output on its way is survived", async () => {
  const spec = unixSpec();
  const device = create(spec, reactor);
  const frontend = new TestFrontend();
  frontend.space = 0;
  device.attach(frontend);
  for (let round = 0; round < 3; round++) {
    const client = unixClient(spec.address.path);
    client.write("unread, so that closing resets the connection");
    await until(() => device.connected);
    device.write(new Uint8Array(2 ** 20));
    assert.ok(device.queuedBytes > 0);
    client.close();
    await until(() => !device.connected);
    assert.is(device.queuedBytes, 0);
  }
  device.close();
});

test("a client without reconnect needs its server, and stays disconnected after it", async () => {
  const spec = unixSpec({ server: false });
  const before = openFdCount();
  const error = await rejection(() => create(spec, reactor));
  assert.match(String(error.cause), "ENOENT");
  await until(() => openFdCount() <= before);
  const serverFd = listen(unixAddress(spec.address.path));
  const device = create(spec, reactor);
  await device.ready();
  const frontend = new TestFrontend();
  device.attach(frontend);
  assert.is(device.filename, `unix:${spec.address.path}`);
  const peer = await accepted(serverFd);
  peer.write("hi");
  await until(() => frontend.text === "hi");
  peer.close();
  await until(() => !device.connected);
  assert.is(device.filename, `disconnected:unix:${spec.address.path}`);
  device.freeze();
  device.thaw();
  await tick();
  assert.equal(frontend.events, ["opened", "closed"]);
  close(serverFd);
  device.close();
});

test("a client with reconnect-ms finds its server whenever it is there", async () => {
  const reports = new Reports();
  const spec = unixSpec({ server: false, reconnectMs: 5 });
  let device = create(spec, reactor, reports.report);
  const frontend = new TestFrontend();
  device.attach(frontend);
  await tick();
  device = handOver(device, frontend, reactor);
  for (let round = 1; round <= 2; round++) {
    const serverFd = listen(unixAddress(spec.address.path));
    const peer = await accepted(serverFd);
    close(serverFd);
    peer.write(`round ${round}`);
    await until(() => frontend.text.endsWith(`round ${round}`));
    device.write(bytes("answer"));
    await peer.expect("answer");
    peer.close();
    await until(() => !device.connected);
  }
  assert.equal(frontend.events, ["opened", "closed", "opened", "closed"]);
  // Once for the whole time without a server, however often it was tried.
  assert.is(reports.errors.length, 1);
  device.close();
});

test("TCP: server and client, with the bound port and the peer in the filename", async () => {
  const before = openFdCount();
  const base = { backend: "socket", wait: false } as const;
  const address = { type: "inet", host: "127.0.0.1", port: "0" } as const;
  const server = create({ ...base, id: "s", server: true, address }, reactor);
  const port = /^disconnected:tcp:127\.0\.0\.1:(\d+),server=on$/.exec(server.filename)![1]!;
  const client = create({ ...base, id: "c", server: false, address: { ...address, port } }, reactor);
  const [atServer, atClient] = [new TestFrontend(), new TestFrontend()];
  server.attach(atServer);
  client.attach(atClient);
  await client.ready();
  await until(() => server.connected);
  assert.match(server.filename, /^tcp:127\.0\.0\.1:\d+,server=on <-> 127\.0\.0\.1:\d+$/);
  assert.match(client.filename, /^tcp:127\.0\.0\.1:\d+ <-> 127\.0\.0\.1:\d+$/);
  server.write(bytes("to client"));
  client.write(bytes("to server"));
  await until(() => atServer.text === "to server" && atClient.text === "to client");
  client.close();
  await until(() => !server.connected);
  server.close();
  await until(() => openFdCount() <= before);
});

test("TCP: a client whose server refuses is told so by ready()", async () => {
  const serverFd = listen(resolve("127.0.0.1", "0")[0]!);
  const { family, port } = localAddress(serverFd);
  assert.is(family, AF_INET);
  close(serverFd);
  const reports = new Reports();
  const address = { type: "inet", host: "127.0.0.1", port: String(port) } as const;
  const spec: SocketSpec = { backend: "socket", id: "c", server: false, wait: false, address };
  const error = await rejection(async () => {
    const device = create(spec, reactor, reports.report);
    try {
      await device.ready();
    } finally {
      device.close();
    }
  });
  assert.match(`${error}${error.cause}`, "ECONNREFUSED");
});

test("freeze, restore elsewhere, give up, thaw: the old process goes on as if nothing had been", async () => {
  const spec = unixSpec();
  const before = openFdCount();
  const device = create(spec, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  const client = unixClient(spec.address.path);
  await until(() => device.connected);
  device.freeze();
  device.write(bytes("during"));
  client.write("typed");
  const successor = restore(carry(device), reactor);
  const other = new TestFrontend();
  successor.attach(other);
  assert.ok(successor.connected);
  assert.is(successor.queuedBytes, 6);
  await tick();
  successor.release();
  assert.is(other.text, "");
  device.thaw();
  await until(() => frontend.text === "typed");
  await client.expect("during");
  assert.ok(existsSync(spec.address.path));
  client.close();
  device.close();
  await until(() => openFdCount() <= before);
});

test("who connects during an update is served after it", async () => {
  const spec = unixSpec();
  let device = create(spec, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  device.freeze();
  const client = unixClient(spec.address.path);
  client.write("early");
  const state = carry(device);
  device.release();
  device = restore(state, reactor);
  device.attach(frontend);
  await tick();
  assert.not(device.connected);
  device.thaw();
  await until(() => frontend.text === "early");
  assert.equal(frontend.events, ["opened"]);
  device.close();
  assert.not(existsSync(spec.address.path));
  client.close();
});

test("a file that somebody else has put in the socket's place stays, after an update too", async () => {
  const spec = unixSpec();
  const { path } = spec.address;
  const frontend = new TestFrontend();
  let device = create(spec, reactor);
  device.attach(frontend);
  unlinkSync(path);
  writeFileSync(path, "not ours");
  device = handOver(device, frontend, reactor);
  device = handOver(device, frontend, reactor);
  device.close();
  assert.ok(existsSync(path));
});

test("a listener's file is its own over an update, and one that is gone is nobody's", () => {
  for (const isGone of [false, true]) {
    const { address } = unixSpec();
    const old = SocketListener.listen(address, reactor, () => {});
    if (isGone) unlinkSync(address.path);
    const state = JSON.parse(JSON.stringify({ ...old.save(), fd: duplicate(old.fd) }));
    if (isGone) writeFileSync(address.path, "not ours");
    old.release();
    const listener = SocketListener.restore(state, reactor, () => {});
    listener.close();
    assert.is(existsSync(address.path), isGone);
  }
});

test("a socket file that cannot be looked at keeps nobody from taking over its listener", () => {
  const { address } = unixSpec();
  const old = SocketListener.listen(address, reactor, () => {});
  // Not a directory: ENOTDIR, where another user's directory would give EACCES.
  const unreachable = { ...address, path: join(address.path, "s") };
  const listener = SocketListener.restore({ fd: duplicate(old.fd), address: unreachable }, reactor, () => {});
  listener.close();
  old.close();
  assert.not(existsSync(address.path));
});

test("hanging up ends a connection with all that is queued for it, and the next one is served", async () => {
  const spec = unixSpec();
  const device = create(spec, reactor);
  const frontend = new TestFrontend();
  device.attach(frontend);
  const sleeper = unixClient(spec.address.path);
  await until(() => device.connected);
  device.write(new Uint8Array(8 << 20));
  assert.ok(device.queuedBytes > 0);
  device.hangUp!();
  assert.not(device.connected);
  assert.is(device.queuedBytes, 0);
  const next = unixClient(spec.address.path);
  await until(() => device.connected);
  assert.equal(frontend.events, ["opened", "closed", "opened"]);
  device.hangUp!();
  device.hangUp!();
  for (const client of [sleeper, next]) client.close();
  device.close();
});

test("a listener serves several clients at once and survives an update", async () => {
  const spec = unixSpec();
  const before = openFdCount();
  const devices: SocketChardev[] = [];
  const frontends: TestFrontend[] = [];
  const onConnection = (fd: number, peerName: string): void => {
    const device = SocketChardev.accepted(spec, fd, peerName, reactor, new Reports().report);
    const frontend = new TestFrontend();
    device.attach(frontend);
    devices.push(device);
    frontends.push(frontend);
  };
  let listener = SocketListener.listen(spec.address, reactor, onConnection);
  assert.is(listener.name, `unix:${spec.address.path},server=on`);
  listener.resume();
  const clients = [unixClient(spec.address.path), unixClient(spec.address.path)];
  await until(() => devices.length === 2);
  listener.pause();
  clients.push(unixClient(spec.address.path));
  const old = listener;
  listener = SocketListener.restore({ ...old.save(), fd: duplicate(old.fd) }, reactor, onConnection);
  old.release();
  await tick();
  assert.is(devices.length, 2);
  listener.resume();
  await until(() => devices.length === 3);
  for (const [index, client] of clients.entries()) client.write(`client ${index}`);
  await until(() => frontends.every((frontend) => frontend.text !== ""));
  assert.equal(
    frontends.map((frontend) => frontend.text),
    ["client 0", "client 1", "client 2"],
  );
  for (const client of clients) client.close();
  await until(() => devices.every((device) => !device.connected));
  for (const device of devices) device.close();
  listener.close();
  assert.not(existsSync(spec.address.path));
  await until(() => openFdCount() <= before);
});

test.run();
