// SPDX-License-Identifier: Apache-2.0
import { existsSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { close, isCloseOnExec, O_NONBLOCK, read, statusFlags } from "../../ffi/fd.ts";
import { POLLIN, POLLOUT, poll } from "../../ffi/poll.ts";
import { AF_INET, AF_INET6, AF_UNIX, decodeAddress, resolve, unixAddress } from "../../ffi/sockaddr.ts";
import * as sockets from "../../ffi/socket.ts";
import { assert, describe, rejection } from "../harness.ts";
import { bytes, failsWith, temporaryDirectory, text, withoutLeak } from "./support.ts";

const directory = temporaryDirectory();
const test = describe("ffi/socket");

function assertHygiene(fd: number): void {
  assert.ok(isCloseOnExec(fd));
  assert.ok(statusFlags(fd) & O_NONBLOCK);
}

test("a unix server and client talk; the socket file is its owner's alone", () =>
  withoutLeak(() => {
    const path = join(directory, "talk");
    const server = sockets.listen(unixAddress(path));
    assert.is(statSync(path).mode & 0o777, 0o600);
    assert.is(sockets.accept(server), undefined);
    const client = sockets.socket(AF_UNIX);
    assert.is(sockets.connect(client, unixAddress(path)), "connected");
    const peer = sockets.accept(server)!;
    for (const fd of [server, client, peer]) assertHygiene(fd);
    assert.equal(sockets.localAddress(peer), { family: AF_UNIX, path });
    assert.equal(sockets.peerAddress(peer), { family: AF_UNIX, path: "" });
    assert.is(sockets.send(client, bytes("hi")), 2);
    const buffer = new Uint8Array(8);
    assert.is(read(peer, buffer), 2);
    assert.is(text(buffer.subarray(0, 2)), "hi");
    sockets.shutdown(client, sockets.SHUT_WR);
    assert.is(read(peer, buffer), 0);
    for (const fd of [server, client, peer]) close(fd);
  }));

test("listen() replaces the file of a server that has ended", () =>
  withoutLeak(() => {
    const path = join(directory, "stale");
    close(sockets.listen(unixAddress(path)));
    assert.ok(existsSync(path));
    close(sockets.listen(unixAddress(path)));
  }));

test("listen() leaves a living server and other files alone, and the living server does not notice", () =>
  withoutLeak(() => {
    const path = join(directory, "alive");
    const server = sockets.listen(unixAddress(path));
    failsWith("EADDRINUSE", "bind", () => sockets.listen(unixAddress(path)));
    assert.is(sockets.accept(server), undefined);
    const client = sockets.socket(AF_UNIX);
    assert.is(sockets.connect(client, unixAddress(path)), "connected");
    close(client);
    close(server);
    const file = join(directory, "file");
    writeFileSync(file, "precious");
    failsWith("EADDRINUSE", "bind", () => sockets.listen(unixAddress(file)));
    assert.ok(existsSync(file));
  }));

test("a TCP server and client talk over IPv4", () =>
  withoutLeak(() => {
    const server = sockets.listen(resolve("127.0.0.1", "0", { passive: true })[0]!);
    const { family, host, port } = sockets.localAddress(server);
    assert.is(family, AF_INET);
    assert.is(host, "127.0.0.1");
    const client = sockets.socket(AF_INET);
    sockets.connect(client, resolve("127.0.0.1", String(port))[0]!);
    assert.is(poll(client, POLLOUT, 5000), POLLOUT);
    assert.is(sockets.socketError(client), 0);
    assert.is(poll(server, POLLIN, 5000), POLLIN);
    const peer = sockets.accept(server)!;
    assertHygiene(peer);
    sockets.setNoDelay(peer);
    assert.equal(sockets.peerAddress(peer), sockets.localAddress(client));
    sockets.send(peer, bytes("hi"));
    assert.is(poll(client, POLLIN, 5000), POLLIN);
    assert.is(read(client, new Uint8Array(8)), 2);
    for (const fd of [server, client, peer]) close(fd);
  }));

test("connect() fails where nobody listens", () =>
  withoutLeak(() => {
    const client = sockets.socket(AF_UNIX);
    failsWith("ENOENT", "connect", () => sockets.connect(client, unixAddress(join(directory, "absent"))));
    close(client);
    const server = sockets.listen(resolve("127.0.0.1", "0")[0]!);
    const { port } = sockets.localAddress(server);
    close(server);
    const tcp = sockets.socket(AF_INET);
    const address = resolve("127.0.0.1", String(port))[0]!;
    // A refusal by the loopback comes at once or with the first look.
    failsWith("ECONNREFUSED", "connect", () => {
      if (sockets.connect(tcp, address) !== "connecting") return;
      poll(tcp, POLLOUT, 5000);
      sockets.connect(tcp, address);
    });
    close(tcp);
  }));

test("send() to a peer that has gone fails with EPIPE", () =>
  withoutLeak(() => {
    const [one, other] = sockets.socketPair();
    for (const fd of [one, other]) assertHygiene(fd);
    close(other);
    failsWith("EPIPE", "send", () => sockets.send(one, bytes("x")));
    close(one);
    failsWith("EBADF", "send", () => sockets.send(9999, bytes("x")));
  }));

test("send() to a peer that does not read is undefined when nothing fits any more", () =>
  withoutLeak(() => {
    const [one, other] = sockets.socketPair();
    while (sockets.send(one, new Uint8Array(65536)) !== undefined);
    close(one);
    close(other);
  }));

test("addresses that are too long or unknown are refused", async () => {
  failsWith("ENAMETOOLONG", "bind", () => unixAddress("x".repeat(108)));
  assert.is(decodeAddress(unixAddress("x".repeat(107))).path, "x".repeat(107));
  assert.match((await rejection(() => resolve("127.0.0.1", "no-such-service"))).message, "127.0.0.1:no-such-service");
  assert.equal(decodeAddress(resolve("::1", "80")[0]!), { family: AF_INET6, host: "::1", port: 80 });
  assert.equal(resolve("", "1", { family: AF_INET, passive: true }).map(decodeAddress), [
    { family: AF_INET, host: "0.0.0.0", port: 1 },
  ]);
});

test("calls on what is no socket fail", () => {
  failsWith("EBADF", "accept4", () => sockets.accept(9999));
  failsWith("EBADF", "getsockname", () => sockets.localAddress(9999));
  failsWith("EBADF", "getsockopt", () => sockets.socketError(9999));
  failsWith("EBADF", "setsockopt", () => sockets.setNoDelay(9999));
  failsWith("EAFNOSUPPORT", "socket", () => sockets.socket(99));
});

test.run();
