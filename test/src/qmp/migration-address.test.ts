// SPDX-License-Identifier: Apache-2.0
import type { MigrationAddress } from "../../../src/config/types.ts";
import { defaultParameters } from "../../../src/migration/parameters.ts";
import { QmpError } from "../../../src/qmp/errors.ts";
import {
  formatMigrationUri,
  incomingAddress,
  outgoingChannels,
  parseMigrationChannel,
  parseMigrationChannels,
  parseMigrationUri,
} from "../../../src/qmp/migration-address.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("migration-address");

const unix = (path: string) => ({ transport: "socket", type: "unix", path }) as const;
const file = (filename: string, offset = 0) => ({ transport: "file", filename, offset }) as const;
const inet = (host: string, port: string) => ({ transport: "socket", type: "inet", host, port }) as const;

const URIS: [uri: string, address: MigrationAddress][] = [
  ["tcp:host:4444", inet("host", "4444")],
  ["tcp::4444", inet("", "4444")],
  ["tcp:[::1]:4444", inet("::1", "4444")],
  ["unix:/tmp/a b,c", unix("/tmp/a b,c")],
  ["vsock:3:1234", { transport: "socket", type: "vsock", cid: "3", port: "1234" }],
  ["fd:name", { transport: "socket", type: "fd", str: "name" }],
  ["file:vm.state", file("vm.state")],
  ["file:vm.state,offset=4096", file("vm.state", 4096)],
  ["exec:cat > 'a b'", { transport: "exec", args: ["/bin/sh", "-c", "cat > 'a b'"] }],
];

test("every URI form, both ways", () => {
  for (const [uri, address] of URIS) {
    assert.equal(parseMigrationUri(uri), address, uri);
    assert.is(formatMigrationUri(address), uri);
  }
});

test("offsets may have a suffix or be hexadecimal", () => {
  assert.equal(parseMigrationUri("file:a,offset=4k"), file("a", 4096));
  assert.equal(parseMigrationUri("file:a,offset=0x10"), file("a", 16));
  assert.equal(parseMigrationUri("file:a,offset=2M"), file("a", 2 ** 21));
});

test("what is wrong with a URI", async () => {
  const cases: [uri: string, message: string][] = [
    ["bogus", "unknown migration protocol: bogus"],
    ["", "unknown migration protocol: "],
    ["rdma:host:1", "unknown migration protocol: rdma:host:1"],
    ["tcp:a", "error parsing address 'a'"],
    ["tcp::", "error parsing port in address ':'"],
    ["tcp:[::1", "error parsing IPv6 address '[::1'"],
    ["tcp:a:1,to=5", "Invalid parameter 'to'"],
    ["unix:", "invalid Unix socket address"],
    ["fd:", "invalid file descriptor address"],
    ["vsock:3", "error parsing address '3'"],
    ["file:", "file URI has no file name"],
    ["file:a,offset=x", "file URI has bad offset x"],
    ["file:a,offset=", "file URI has bad offset "],
    ["file:a,offset=99999999999t", "file URI has bad offset 99999999999t"],
  ];
  for (const [uri, message] of cases) {
    const error = await rejection(() => parseMigrationUri(uri));
    assert.instance(error, QmpError);
    assert.is(error.message, message);
  }
});

test("channels", async () => {
  const main = { "channel-type": "main", addr: unix("m") };
  const cpr = { "channel-type": "cpr", addr: unix("c") };
  assert.equal(parseMigrationChannel(cpr), cpr);
  assert.equal(parseMigrationChannels([cpr, main]), { main: unix("m"), cpr: unix("c") });
  const cases: [value: unknown, message: string][] = [
    [7, "Invalid parameter type for 'channels', expected: array"],
    [[], "Channel list has no main entry"],
    [[cpr], "Channel list has no main entry"],
    [[main, main], "Channel list has more than one main entry"],
    [[cpr, main, cpr], "Channel list has more than one cpr entry"],
    [[7], "Invalid parameter type for 'channels[0]', expected: object"],
    [[{ "channel-type": "foo", addr: {} }], "Parameter 'channel-type' does not accept value 'foo'"],
    [[{ "channel-type": "main" }], "Parameter 'channels[0].addr' is missing"],
    [[{ "channel-type": "main", addr: {} }], "Parameter 'channels[0].addr.transport' is missing"],
    [[{ ...main, addr: { transport: "rdma" } }], "Parameter 'transport' does not accept value 'rdma'"],
    [[{ ...main, addr: { transport: "file", filename: "a" } }], "Parameter 'channels[0].addr.offset' is missing"],
    [[{ ...main, addr: file("a", -1) }], "Parameter 'channels[0].addr.offset' expects uint64"],
    [[{ ...main, addr: file("a", 1.5) }], "Invalid parameter type for 'channels[0].addr.offset', expected: integer"],
    [[{ ...main, addr: { transport: "socket" } }], "Parameter 'channels[0].addr.type' is missing"],
    [[{ ...main, addr: { ...unix("a"), zz: 1 } }], "Parameter 'channels[0].addr.zz' is unexpected"],
    [[{ ...main, zz: 1 }], "Parameter 'channels[0].zz' is unexpected"],
  ];
  for (const [value, message] of cases) {
    assert.is((await rejection(() => parseMigrationChannels(value))).message, message);
  }
});

test("the key=value form of a channel has numbers as text", () => {
  const addr = { transport: "file", filename: "a", offset: "16" };
  assert.equal(parseMigrationChannel({ "channel-type": "main", addr }, { keyval: true }).addr, file("a", 16));
});

test("what each mode accepts", async () => {
  const main = { "channel-type": "main", addr: unix("m") } as const;
  const cpr = { "channel-type": "cpr", addr: unix("c") } as const;
  const transfer = { ...defaultParameters(), mode: "cpr-transfer" } as const;
  const exec = { ...defaultParameters(), mode: "cpr-exec" } as const;
  const normal = { ...defaultParameters(), mode: "normal" } as const;
  assert.equal(outgoingChannels({ channels: [main, cpr] }, { ...transfer, "cpr-exec-command": [] }), {
    main: unix("m"),
    cpr: unix("c"),
  });
  assert.equal(outgoingChannels({ uri: "file:a" }, { ...exec, "cpr-exec-command": ["new"] }), { main: file("a") });
  assert.is(outgoingChannels({}, { ...exec, "cpr-exec-command": ["new"] }), undefined);
  const cases: [args: Parameters<typeof outgoingChannels>[0], parameters: unknown, message: string][] = [
    [{}, normal, "need either 'uri' or 'channels' argument"],
    [{ uri: "unix:a", channels: [main] }, normal, "need either 'uri' or 'channels' argument"],
    [{ uri: "unix:a" }, transfer, "missing 'cpr' migration channel"],
    [{ channels: [main] }, transfer, "missing 'cpr' migration channel"],
    [{ channels: [main, { ...cpr, addr: file("a") }] }, transfer, "bad cpr channel address; must be unix"],
    [{ channels: [main, { ...cpr, addr: inet("a", "1") }] }, transfer, "bad cpr channel socket type; must be unix"],
    [{ channels: [{ ...main, addr: file("a") }, cpr] }, transfer, "Migration requires streamable transport (eg unix)"],
    [{ channels: [{ ...main, addr: inet("a", "0") }, cpr] }, transfer, "Migration requires a fixed port, not port 0"],
    [{ channels: [main, cpr] }, normal, "the 'cpr' migration channel needs mode 'cpr-transfer', not 'normal'"],
  ];
  for (const [args, parameters, message] of cases) {
    const error = await rejection(() => outgoingChannels(args, parameters as Parameters<typeof outgoingChannels>[1]));
    assert.is(error.message, message);
  }
});

test("an incoming migration takes the main channel only", async () => {
  const main = { "channel-type": "main", addr: unix("m") } as const;
  const cpr = { "channel-type": "cpr", addr: unix("c") } as const;
  assert.equal(incomingAddress({ channels: [main] }), unix("m"));
  assert.equal(incomingAddress({ uri: "unix:m" }), unix("m"));
  for (const channels of [[], [cpr], [main, cpr], [main, main]]) {
    const error = await rejection(() => incomingAddress({ channels }));
    assert.is(error.message, "Channel list must have only one entry, for type 'main'");
  }
  assert.is((await rejection(() => incomingAddress({}))).message, "need either 'uri' or 'channels' argument");
});

test.run();
