// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  close,
  isCloseOnExec,
  O_NONBLOCK,
  O_RDWR,
  open,
  pipe,
  read,
  setCloseOnExec,
  setNonBlocking,
  statusFlags,
  write,
} from "../../../../ffi/fd.ts";
import { AF_INET, AF_UNIX, resolve, unixAddress } from "../../../../ffi/sockaddr.ts";
import { listen, localAddress, socket, socketPair } from "../../../../ffi/socket.ts";
import type { MigrationAddress } from "../../../../src/config/types.ts";
import { describeError, type VmmError } from "../../../../src/errors.ts";
import { FrameChannel } from "../../../../src/migration/channel/frames.ts";
import { connectTransport, type Transport } from "../../../../src/migration/channel/transport.ts";
import { TransportListener } from "../../../../src/migration/channel/transport-listener.ts";
import { parseMigrationUri } from "../../../../src/qmp/migration-address.ts";
import { bytes, openFdCount, temporaryDirectory, text } from "../../../ffi/support.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { tick, until, warmReactor } from "../../backends/support.ts";

const test = describe("src/migration/channel/transport");
const directory = temporaryDirectory();
const reactor = await warmReactor();
test.after(() => reactor.close());

let serial = 0;
function unixPath(): string {
  return join(directory, `t${serial++}`);
}

function fdAddress(str: string | number): MigrationAddress {
  return { transport: "socket", type: "fd", str: String(str) };
}

async function failure(code: string, action: () => unknown): Promise<string> {
  const error = await rejection(action);
  assert.is((error as VmmError).code, code, error.message);
  return describeError(error);
}

/** Bytes go from one end to the other. */
async function carries(from: Transport, to: Transport): Promise<void> {
  const [out, into] = [new FrameChannel(from, reactor), new FrameChannel(to, reactor)];
  await out.send(1, bytes("over"));
  assert.is(text((await into.receive())!.payload), "over");
  out.close();
  assert.is(await into.receive(), undefined);
  into.close();
}

function checkFlags({ fd }: Transport): void {
  assert.ok(isCloseOnExec(fd));
  assert.ok((statusFlags(fd) & O_NONBLOCK) !== 0);
}

test("unix: one connection, 0600, then the path is gone and nobody else gets in", async () => {
  const before = openFdCount();
  const path = unixPath();
  const address = parseMigrationUri(`unix:${path}`);
  const listener = await TransportListener.listen(address, reactor);
  assert.equal(listener.address, { type: "unix", path });
  assert.is(statSync(path).mode & 0o777, 0o600);
  // Both are in the queue before anybody is accepted.
  const client = await connectTransport(address, reactor);
  const second = await connectTransport(address, reactor);
  const server = await listener.accept();
  assert.not(existsSync(path));
  for (const transport of [client, server]) {
    checkFlags(transport);
    assert.is(transport.name, `unix:${path}`);
    assert.ok(transport.isDuplex && transport.isUnix);
    await transport.finished();
  }
  await failure("listener-closed", () => listener.accept());
  assert.is(
    await failure("connect-failed", () => connectTransport(address, reactor)),
    `Failed to connect to '${path}': No such file or directory`,
  );
  const turnedAway = new FrameChannel(second, reactor);
  await until(() => {
    try {
      return read(second.fd, new Uint8Array(1)) === 0;
    } catch {
      return true;
    }
  });
  turnedAway.close();
  await carries(client, server);
  listener.close();
  assert.is(openFdCount(), before);
});

test("unix: a file that is no socket of ours is not removed, and one in the way is an error", async () => {
  const path = unixPath();
  const address = parseMigrationUri(`unix:${path}`);
  const listener = await TransportListener.listen(address, reactor);
  unlinkSync(path);
  writeFileSync(path, "somebody else's");
  listener.close();
  assert.is(readFileSync(path, "utf8"), "somebody else's");
  assert.match(
    await failure("listen-failed", () => TransportListener.listen(address, reactor)),
    `Cannot listen on unix:${path}: bind`,
  );
  assert.is(
    await failure("connect-failed", () => connectTransport(address, reactor)),
    `Failed to connect to '${path}': Connection refused`,
  );
  const long = `/tmp/${"x".repeat(200)}`;
  assert.is(
    await failure("connect-failed", () => connectTransport(parseMigrationUri(`unix:${long}`), reactor)),
    `Failed to connect to '${long}': File name too long`,
  );
});

test("unix: one who waits for the file may come a moment before its owner listens", async () => {
  const path = unixPath();
  const address = parseMigrationUri(`unix:${path}`);
  close(listen(unixAddress(path)));
  const connecting = connectTransport(address, reactor);
  await tick();
  const listener = await TransportListener.listen(address, reactor);
  const [client, server] = await Promise.all([connecting, listener.accept()]);
  await carries(client, server);
  listener.close();
});

test("tcp: the port that was bound is told, and connects", async () => {
  const before = openFdCount();
  const listener = await TransportListener.listen(parseMigrationUri("tcp:127.0.0.1:0"), reactor);
  const { address } = listener;
  assert.ok(address?.type === "inet" && address.host === "127.0.0.1" && Number(address.port) > 0);
  const uri = `tcp:127.0.0.1:${address.port}`;
  const accepted = listener.accept();
  const client = await connectTransport(parseMigrationUri(uri), reactor);
  const server = await accepted;
  for (const transport of [client, server]) {
    checkFlags(transport);
    assert.ok(transport.isDuplex && !transport.isUnix);
  }
  assert.is(client.name, uri);
  await carries(server, client);
  assert.is(
    await failure("connect-failed", () => connectTransport(parseMigrationUri(uri), reactor)),
    `Failed to connect to '127.0.0.1:${address.port}': Connection refused`,
  );
  assert.is(openFdCount(), before);
});

test("tcp: every address of a host is tried", async () => {
  // Nothing listens on ::1, which `localhost` and the empty host may mean first.
  const fd = listen(resolve("127.0.0.1", "0", { family: AF_INET })[0]!);
  const { port } = localAddress(fd);
  const transport = await connectTransport(parseMigrationUri(`tcp::${port}`), reactor);
  transport.close();
  transport.close();
  close(fd);
  assert.match(
    await failure("address-unknown", () => connectTransport(parseMigrationUri("tcp:name.invalid:1"), reactor)),
    "No address for name.invalid:1",
  );
});

test("tcp: a hang-up is noticed while nothing is received", async () => {
  const listener = await TransportListener.listen(parseMigrationUri("tcp:127.0.0.1:0"), reactor);
  const { port } = listener.address as { port: string };
  const accepted = listener.accept();
  const client = await connectTransport(parseMigrationUri(`tcp:127.0.0.1:${port}`), reactor);
  const channel = new FrameChannel(await accepted, reactor);
  const { promise, resolve: gone } = Promise.withResolvers<void>();
  channel.onHangup(gone);
  client.close();
  await promise;
  channel.close();
});

test("what is waited for can be given up", async () => {
  const before = openFdCount();
  const path = unixPath();
  const listener = await TransportListener.listen(parseMigrationUri(`unix:${path}`), reactor);
  const controller = new AbortController();
  const accepted = rejection(() => listener.accept({ signal: controller.signal }));
  assert.match((await rejection(() => listener.accept())).message, "under way");
  controller.abort(new Error("enough"));
  assert.is((await accepted).message, "enough");
  assert.is((await rejection(() => listener.accept({ signal: controller.signal }))).message, "enough");
  const client = await connectTransport(parseMigrationUri(`unix:${path}`), reactor);
  (await listener.accept()).close();
  client.close();

  const other = await TransportListener.listen(parseMigrationUri(`unix:${path}`), reactor);
  const waiting = failure("listener-closed", () => other.accept());
  await tick();
  other.close();
  await waiting;
  assert.not(existsSync(path));
  other.close();

  await rejection(() => connectTransport(parseMigrationUri(`unix:${path}`), reactor, { signal: controller.signal }));
  assert.is(openFdCount(), before);
});

test("a connection that nobody answers can be given up", async () => {
  const before = openFdCount();
  const fd = listen(resolve("127.0.0.1", "0", { family: AF_INET })[0]!, 0);
  const { port } = localAddress(fd);
  const address = parseMigrationUri(`tcp:127.0.0.1:${port}`);
  // A backlog of 0 takes one connection; the kernel drops the requests of those that come later.
  const first = await connectTransport(address, reactor);
  const controller = new AbortController();
  const pending = rejection(() => connectTransport(address, reactor, { signal: controller.signal }));
  await tick();
  controller.abort(new Error("enough"));
  assert.is((await pending).message, "enough");
  first.close();
  close(fd);
  assert.is(openFdCount(), before);
});

test("fd: an inherited socket by its number, for both directions", async () => {
  const before = openFdCount();
  const [one, other] = socketPair();
  for (const fd of [one, other]) {
    setCloseOnExec(fd, false);
    setNonBlocking(fd, false);
  }
  const client = await connectTransport(fdAddress(one), reactor);
  const listener = await TransportListener.listen(fdAddress(other), reactor);
  assert.equal(listener.address, { type: "fd", str: String(other) });
  const server = await listener.accept();
  await failure("listener-closed", () => listener.accept());
  assert.is(client.fd, one);
  for (const transport of [client, server]) {
    checkFlags(transport);
    assert.ok(transport.isDuplex && transport.isUnix);
  }
  assert.is(client.name, `fd:${one}`);
  await carries(client, server);
  listener.close();
  assert.is(openFdCount(), before);
});

test("fd: pipes go one way", async () => {
  const before = openFdCount();
  const { readFd, writeFd } = pipe();
  assert.match(
    await failure("fd-unusable", () => connectTransport(fdAddress(readFd), reactor)),
    `Migration cannot use fd:${readFd}: It is the wrong end of a pipe for outgoing migration`,
  );
  assert.match(
    await failure("fd-unusable", () => TransportListener.listen(fdAddress(writeFd), reactor)),
    "for incoming migration",
  );
  const client = await connectTransport(fdAddress(writeFd), reactor);
  const listener = await TransportListener.listen(fdAddress(readFd), reactor);
  const server = await listener.accept();
  for (const transport of [client, server]) {
    checkFlags(transport);
    assert.not(transport.isDuplex || transport.isUnix);
  }
  await carries(client, server);
  assert.is(openFdCount(), before);
});

test("fd: a transport that nobody accepted is closed with its listener", async () => {
  const before = openFdCount();
  const [one, other] = socketPair();
  const listener = await TransportListener.listen(fdAddress(one), reactor);
  listener.close();
  assert.is(read(other, new Uint8Array(1)), 0);
  close(other);
  assert.is(openFdCount(), before);
});

test("fd: what is no connected stream is refused, and stays open if it was only named by number", async () => {
  const before = openFdCount();
  const file = open("/dev/zero", O_RDWR);
  const unconnected = socket(AF_UNIX);
  const path = unixPath();
  const listening = listen(unixAddress(path));
  for (const [fd, message] of [
    [file, "It is no socket and no pipe (character)"],
    [unconnected, "getpeername"],
    [listening, "getpeername"],
  ] as const) {
    const said = await failure("fd-unusable", () => connectTransport(fdAddress(fd), reactor));
    assert.match(said, `Migration cannot use fd:${fd}: `);
    assert.ok(said.includes(message), said);
    close(fd);
  }
  assert.match(await failure("fd-unusable", () => connectTransport(fdAddress(9999), reactor)), "fd:9999: fstat");
  assert.is(openFdCount(), before);
});

test("fd: a named one is taken from its table, and closed when it is of no use", async () => {
  const before = openFdCount();
  const [one, other] = socketPair();
  const table = new Map([
    ["good", one],
    ["bad", open("/dev/zero", O_RDWR)],
  ]);
  const findFd = (name: string): number | undefined => {
    const fd = table.get(name);
    table.delete(name);
    return fd;
  };
  const transport = await connectTransport(fdAddress("good"), reactor, { findFd });
  assert.is(transport.name, "fd:good");
  assert.is(transport.fd, one);
  write(other, bytes("x"));
  assert.is(read(transport.fd, new Uint8Array(2)), 1);
  transport.close();
  const missing = "File descriptor named 'good' has not been found";
  assert.is(await failure("fd-unusable", () => connectTransport(fdAddress("good"), reactor, { findFd })), missing);
  assert.is(await failure("fd-unusable", () => connectTransport(fdAddress("good"), reactor)), missing);
  await failure("fd-unusable", () => TransportListener.listen(fdAddress("bad"), reactor, { findFd }));
  close(other);
  assert.is(openFdCount(), before);
});

test("exec: a command gets the stream as its standard input", async () => {
  const file = unixPath();
  const address = parseMigrationUri(`exec:cat > ${file}`);
  const transport = await connectTransport(address, reactor);
  checkFlags(transport);
  assert.not(transport.isDuplex || transport.isUnix);
  assert.is(transport.name, `exec:cat > ${file}`);
  write(transport.fd, bytes("to a file"));
  transport.close();
  await transport.finished();
  assert.is(readFileSync(file, "utf8"), "to a file");
});

test("exec: a command's standard output is an incoming stream", async () => {
  const listener = await TransportListener.listen(parseMigrationUri("exec:printf from-a-command"), reactor);
  assert.is(listener.address, undefined);
  const transport = await listener.accept();
  await transport.finished();
  const buffer = new Uint8Array(64);
  assert.is(text(buffer.subarray(0, read(transport.fd, buffer))), "from-a-command");
  assert.is(read(transport.fd, buffer), 0);
  transport.close();
});

test("exec: how a command failed is told", async () => {
  const failing = await connectTransport(parseMigrationUri("exec:exit 3"), reactor);
  assert.is(await failure("command-failed", () => failing.finished()), "Command /bin/sh ended with exit code 3");
  failing.close();
  const killed = await connectTransport(parseMigrationUri("exec:kill -9 $$"), reactor);
  assert.is(await failure("command-failed", () => killed.finished()), "Command /bin/sh ended by signal SIGKILL");
  killed.close();
  const absent: MigrationAddress = { transport: "exec", args: ["/nonexistent/command"] };
  assert.match(
    await failure("command-failed", () => connectTransport(absent, reactor)),
    "Cannot start command /nonexistent/command",
  );
  const empty: MigrationAddress = { transport: "exec", args: [] };
  assert.match(await failure("command-failed", () => connectTransport(empty, reactor)), "is empty");
});

test("exec: a command that dies early is noticed by who sends to it", async () => {
  const channel = new FrameChannel(await connectTransport(parseMigrationUri("exec:exit 0"), reactor), reactor);
  const { promise, resolve: gone } = Promise.withResolvers<void>();
  channel.onHangup(gone);
  await promise;
  await failure("peer-gone", () => channel.send(1, new Uint8Array(1_000_000)));
  channel.close();
});

test("exec: a command that could not be started leaves no fds", async () => {
  const absent: MigrationAddress = { transport: "exec", args: ["/nonexistent/command"] };
  await rejection(() => connectTransport(absent, reactor));
  const before = openFdCount();
  await rejection(() => connectTransport(absent, reactor));
  await until(() => openFdCount() <= before);
});

test("vsock and files are no streams of Baton's", async () => {
  assert.match(
    await failure("transport-unsupported", () => connectTransport(parseMigrationUri("vsock:2:1234"), reactor)),
    "vsock:2:1234: Baton does not support vsock migration",
  );
  for (const open of [connectTransport, TransportListener.listen]) {
    assert.match(
      await failure("transport-unsupported", () => open(parseMigrationUri("file:/tmp/x"), reactor)),
      "Migration requires streamable transport",
    );
  }
});

test.run();
