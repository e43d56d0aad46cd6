// SPDX-License-Identifier: Apache-2.0
// TLS on connections of a migration: who is let in, what the two sides say when it fails, and that bytes go through while
// the main thread is busy.
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { read } from "../../../../ffi/fd.ts";
import { pollFd } from "../../../../ffi/poll.ts";
import { send, socketPair } from "../../../../ffi/socket.ts";
import type { TlsEndpoint } from "../../../../src/config/types.ts";
import { describeError, VmmError } from "../../../../src/errors.ts";
import { FrameChannel } from "../../../../src/migration/channel/frames.ts";
import { TlsTunnels } from "../../../../src/migration/channel/tls.ts";
import { loadTlsCredentials } from "../../../../src/migration/channel/tls-credentials.ts";
import { connectTransport, type Transport } from "../../../../src/migration/channel/transport.ts";
import { TransportListener } from "../../../../src/migration/channel/transport-listener.ts";
import { parseMigrationUri } from "../../../../src/qmp/migration-address.ts";
import { bytes, openFdCount, temporaryDirectory, text } from "../../../ffi/support.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { until, warmReactor } from "../../backends/support.ts";
import { transportOn } from "./support.ts";

const test = describe("src/migration/channel/tls");
const fixtures = fileURLToPath(new URL("../../../fixtures/tls", import.meta.url));
const reactor = await warmReactor();
test.after(() => reactor.close());
const { signal } = new AbortController();

interface Side {
  dir?: string;
  verifyPeer?: boolean;
  hostname?: string;
}

function tunnels(endpoint: TlsEndpoint, side: Side = {}): TlsTunnels {
  const { dir = join(fixtures, "trusted"), verifyPeer = true, hostname = "vm.example" } = side;
  const spec = { qomType: "tls-creds-x509" as const, id: "tls0", endpoint, dir, verifyPeer };
  return new TlsTunnels(loadTlsCredentials([spec], "tls0", endpoint), hostname);
}

/** A directory with some of the fixtures' files: `ca-cert.pem` of the trusted ones, and others under their names. */
function directory(files: Record<string, string>): string {
  const dir = temporaryDirectory();
  for (const [to, from] of Object.entries({ "ca-cert.pem": "trusted/ca-cert.pem", ...files })) {
    cpSync(join(fixtures, from), join(dir, to));
  }
  return dir;
}

async function tcpPair(): Promise<[client: Transport, server: Transport]> {
  const listener = await TransportListener.listen(parseMigrationUri("tcp:127.0.0.1:0"), reactor);
  const { port } = listener.address as { port: string };
  const client = await connectTransport(parseMigrationUri(`tcp:127.0.0.1:${port}`), reactor);
  return [client, await listener.accept()];
}

function unixPair(): [Transport, Transport] {
  const [one, other] = socketPair();
  return [transportOn(one, "unix:one"), transportOn(other, "unix:other")];
}

async function agree(
  client: TlsTunnels,
  server: TlsTunnels,
  pair: [Transport, Transport] = unixPair(),
): Promise<[Transport, Transport]> {
  return Promise.all([client.secure(pair[0], signal), server.secure(pair[1], signal)]);
}

/** What both say when they do not agree. */
async function refusals(client: TlsTunnels, server: TlsTunnels): Promise<[client: string, server: string]> {
  const [one, other] = unixPair();
  const failure = async (tls: TlsTunnels, transport: Transport): Promise<string> => {
    const error = await rejection(() => tls.secure(transport, signal));
    assert.is((error as VmmError).code, "tls", error.message);
    return describeError(error);
  };
  return Promise.all([failure(client, one), failure(server, other)]);
}

for (const [name, pair] of Object.entries({ "tcp:": tcpPair, "unix:": async () => unixPair() })) {
  test(`${name} carries frames both ways, and leaves no fd behind`, async () => {
    const before = openFdCount();
    const [client, server] = await agree(tunnels("client"), tunnels("server"), await pair());
    const [out, into] = [new FrameChannel(client, reactor), new FrameChannel(server, reactor)];
    await out.send(1, bytes("there"));
    assert.is(text((await into.receive())!.payload), "there");
    await into.send(2, bytes("and back"));
    into.close();
    assert.is(text((await out.receive())!.payload), "and back");
    assert.is(await out.receive(), undefined);
    out.close();
    await until(() => openFdCount() <= before);
  });
}

test("moves bytes while the main thread waits, as it does in the guest's pause", async () => {
  const [client, server] = await agree(tunnels("client"), tunnels("server"), await tcpPair());
  const [out, into] = [new FrameChannel(client, reactor), new FrameChannel(server, reactor)];
  const payload = Uint8Array.from({ length: 100_000 }, (_, index) => index * 7);
  out.sendNow(1, payload, [], 5000);
  assert.equal(into.receiveNow(payload.length, 5000).payload, payload);
  into.sendNow(2, bytes("ready"), [], 5000);
  assert.is(text(out.receiveNow(100, 5000).payload), "ready");
  out.close();
  into.close();
});

test("holds the sender back when nobody reads, and loses nothing", async () => {
  const [client, server] = await agree(tunnels("client"), tunnels("server"));
  const totalBytes = 32 << 20;
  const chunk = Uint8Array.from({ length: 1 << 20 }, (_, index) => index % 251);
  let sent = 0;
  const push = (): void => {
    while (sent < totalBytes) {
      const at = sent % chunk.length;
      const count = send(client.fd, chunk.subarray(at));
      if (count === undefined) return;
      sent += count;
    }
  };
  do push();
  while (pollFd(client.fd, { writable: true }, 300).writable && sent < totalBytes);
  assert.ok(sent < totalBytes, `${sent} bytes were taken by somebody`);
  const buffer = new Uint8Array(1 << 20);
  for (let got = 0; got < totalBytes; ) {
    push();
    if (!pollFd(server.fd, { readable: true }, 5000).readable) throw new Error(`Nothing comes after ${got} bytes`);
    const count = read(server.fd, buffer)!;
    for (let index = 0; index < count; index += 997) assert.is(buffer[index], ((got + index) % chunk.length) % 251);
    got += count;
  }
  client.close();
  server.close();
});

test("a server of another authority is not trusted", async () => {
  const [client] = await refusals(tunnels("client"), tunnels("server", { dir: join(fixtures, "stranger") }));
  assert.match(client, /TLS with unix:one failed: The server's certificate is not trusted.*trusted\/ca-cert\.pem/);
});

test("a server with a certificate for another host is not trusted", async () => {
  const [client] = await refusals(tunnels("client", { hostname: "other.example" }), tunnels("server"));
  assert.match(client, /certificate is for another host: set tls-hostname .*other\.example.*vm\.example/);
});

test("an address is compared with the certificate too", async () => {
  for (const transport of await agree(tunnels("client", { hostname: "127.0.0.1" }), tunnels("server")))
    transport.close();
  const [client] = await refusals(tunnels("client", { hostname: "127.0.0.2" }), tunnels("server"));
  assert.match(client, /certificate is for another host.*127\.0\.0\.2/);
});

test("a client without certificate is sent away and told so", async () => {
  const [client, server] = await refusals(tunnels("client", { dir: directory({}) }), tunnels("server"));
  assert.match(client, /The other side refused: the client has sent no certificate/);
  assert.match(server, /TLS with unix:other failed: the client has sent no certificate/);
});

test("a client of another authority is sent away and told so", async () => {
  const dir = directory({ "client-cert.pem": "stranger/client-cert.pem", "client-key.pem": "stranger/client-key.pem" });
  const [client, server] = await refusals(tunnels("client", { dir }), tunnels("server"));
  assert.match(client, /The other side refused: the client's certificate is not trusted/);
  assert.match(server, /the client's certificate is not trusted/);
});

test("a server's certificate is none for a client", async () => {
  const dir = directory({ "client-cert.pem": "trusted/server-cert.pem", "client-key.pem": "trusted/server-key.pem" });
  for (const message of await refusals(tunnels("client", { dir }), tunnels("server"))) {
    assert.match(message, /TLS with .* failed: ./);
  }
});

test("verify-peer=off asks for no certificate, on either side", async () => {
  const client = tunnels("client", { dir: directory({}) });
  for (const each of await agree(client, tunnels("server", { verifyPeer: false }))) each.close();
  const trusting = tunnels("client", { verifyPeer: false, hostname: "other.example" });
  for (const each of await agree(trusting, tunnels("server", { dir: serverOfStranger() }))) each.close();
});

/** A server that trusts the client, but whose own certificate is a stranger's. */
function serverOfStranger(): string {
  return directory({ "server-cert.pem": "stranger/server-cert.pem", "server-key.pem": "stranger/server-key.pem" });
}

test("a peer without TLS is told from one with it", async () => {
  for (const endpoint of ["client", "server"] as const) {
    const [ours, theirs] = unixPair();
    const failed = rejection(() => tunnels(endpoint).secure(ours, signal));
    send(theirs.fd, bytes("a frame of a migration, which is no TLS at all"));
    assert.match(describeError(await failed), /The other side does not speak TLS: set tls-creds there too/);
    theirs.close();
  }
});

test("a peer that ends the connection is told from one that refuses", async () => {
  for (const endpoint of ["client", "server"] as const) {
    const [ours, theirs] = unixPair();
    const failed = rejection(() => tunnels(endpoint).secure(ours, signal));
    theirs.close();
    assert.match(describeError(await failed), /The other side ended the connection/);
  }
});

test("an abort ends the attempt and closes the connection", async () => {
  const before = openFdCount();
  const [ours, theirs] = unixPair();
  const abort = new AbortController();
  const failed = rejection(() => tunnels("client").secure(ours, abort.signal));
  abort.abort(new VmmError("cancelled", "The migration was cancelled"));
  assert.is(((await failed) as VmmError).code, "cancelled");
  theirs.close();
  await until(() => openFdCount() <= before);
});

/** Carries what comes on either fd to the other one until `stop` is called. */
function relay(one: number, other: number): { stop(): void } {
  const buffer = new Uint8Array(1 << 16);
  const carry = (from: number, to: number): void => {
    const count = pollFd(from, { readable: true }, 0).readable ? read(from, buffer) : 0;
    if (count) send(to, buffer.subarray(0, count));
  };
  const timer = setInterval(() => {
    carry(one, other);
    carry(other, one);
  }, 1);
  return { stop: () => clearInterval(timer) };
}

test("what broke the tunnel is the reason of the error that it caused", async () => {
  const [[ours, attacker], [victim, theirs]] = [unixPair(), unixPair()];
  const between = relay(attacker.fd, victim.fd);
  const client = tunnels("client");
  const [mine, other] = await agree(client, tunnels("server"), [ours, theirs]);
  between.stop();
  const fine = await rejection(() => client.explain(() => Promise.reject(new VmmError("peer-gone", "It has gone"))));
  assert.is(fine.message, "It has gone");
  const channel = new FrameChannel(mine, reactor);
  // A record of application data that no key of this connection has sealed.
  send(attacker.fd, Uint8Array.of(23, 3, 3, 0, 32, ...new Uint8Array(32)));
  const receive = async (): Promise<void> => {
    if ((await channel.receive()) === undefined) throw new VmmError("peer-gone", "It has gone");
  };
  const error = await rejection(() => client.explain(receive));
  assert.is((error as VmmError).code, "tls");
  assert.match(error.message, /^TLS with unix:one failed: ./);
  channel.close();
  for (const each of [other, attacker, victim]) each.close();
});

test("names the file that is wrong", async () => {
  const load = (dir: string, endpoint: TlsEndpoint = "server"): string => {
    const spec = { qomType: "tls-creds-x509" as const, id: "tls0", endpoint, dir, verifyPeer: true };
    let message = "";
    try {
      loadTlsCredentials([spec], "tls0", "server");
    } catch (error) {
      assert.is((error as VmmError).code, "tls-credentials");
      message = describeError(error);
    }
    return message;
  };
  assert.match(load("/nowhere"), /Unable to access credentials \/nowhere\/ca-cert\.pem: ENOENT/);
  assert.match(load(directory({})), /Unable to access credentials .*server-cert\.pem/);
  assert.match(load(join(fixtures, "trusted"), "client"), /Expected TLS credentials for a server endpoint/);
  const mixed = directory({
    "server-cert.pem": "trusted/server-cert.pem",
    "server-key.pem": "stranger/server-key.pem",
  });
  assert.match(load(mixed), /The key in .*server-key\.pem is not that of the certificate in .*server-cert\.pem/);
  writeFileSync(join(mixed, "server-key.pem"), "nothing");
  assert.match(load(mixed), /server-key\.pem is no private key/);
  writeFileSync(join(mixed, "ca-cert.pem"), "nothing");
  assert.match(load(mixed), /ca-cert\.pem is no certificate/);
  writeFileSync(join(mixed, "ca-cert.pem"), new Uint8Array((1 << 20) + 1));
  assert.match(load(mixed), /It has 1048577 bytes/);
  assert.is(load(join(fixtures, "trusted")), "");
});

test.run();
