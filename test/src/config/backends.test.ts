// SPDX-License-Identifier: Apache-2.0
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveOptions } from "../../../src/config/resolve.ts";
import type { ChardevSpec, MachineSpec } from "../../../src/config/types.ts";
import type { VmmError } from "../../../src/errors.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("backends");

const resolve = (...argv: string[]): MachineSpec =>
  resolveOptions(parseArguments([...argv, "-S", "-nodefaults"]).options);

const refusals = async (cases: readonly (readonly [string[], string])[]): Promise<void> => {
  for (const [argv, message] of cases) {
    const error = await rejection(() => resolve(...argv));
    assert.is((error as VmmError).code, "usage", error.message);
    assert.is(error.message, message);
  }
};

const chardev = (text: string): ChardevSpec => resolve("-chardev", text).chardevs[0]!;
const server = { backend: "socket", server: true } as const;

test("-chardev makes every back end, with QEMU's defaults", () => {
  assert.equal(chardev("stdio,id=a"), { backend: "stdio", id: "a", signal: true });
  assert.equal(chardev("stdio,id=a,signal=off,mux=off"), { backend: "stdio", id: "a", signal: false });
  assert.equal(chardev("null,id=a"), { backend: "null", id: "a" });
  assert.equal(chardev("id=a,backend=null"), { backend: "null", id: "a" });
  assert.equal(chardev("pty,id=a"), { backend: "pty", id: "a" });
  assert.equal(chardev("pty,id=a,path=/l"), { backend: "pty", id: "a", path: "/l" });
  assert.equal(chardev("pipe,id=a,path=/p"), { backend: "pipe", id: "a", path: "/p" });
  assert.equal(chardev("file,id=a,path=/f"), { backend: "file", id: "a", path: "/f", append: false });
  assert.equal(chardev("file,id=a,path=/f,append=on,input-path=/i"), {
    backend: "file",
    id: "a",
    path: "/f",
    append: true,
    inputPath: "/i",
  });
});

test("-chardev socket listens or connects", () => {
  const unix = { type: "unix", path: "/s" } as const;
  assert.equal(chardev("socket,id=a,path=/s"), {
    backend: "socket",
    id: "a",
    address: unix,
    server: false,
    wait: false,
  });
  assert.equal(chardev("socket,id=a,path=/s,server"), { ...server, id: "a", address: unix, wait: true });
  assert.equal(chardev("socket,id=a,path=/s,server,nowait"), { ...server, id: "a", address: unix, wait: false });
  assert.equal(chardev("socket,id=a,host=h,port=0x10,server=on,wait=off,ipv4=on,ipv6=off,telnet=off"), {
    ...server,
    id: "a",
    address: { type: "inet", host: "h", port: "16", ipv4: true, ipv6: false },
    wait: false,
  });
  const reconnect = (text: string): unknown => {
    const spec = chardev(`socket,id=a,path=/s,${text}`);
    return "reconnectMs" in spec ? spec.reconnectMs : undefined;
  };
  assert.is(reconnect("reconnect-ms=250"), 250);
  assert.is(reconnect("reconnect=2"), 2000);
  assert.is(reconnect("reconnect=0"), undefined);
});

test("-chardev refuses what it cannot do, by name", async () => {
  const backends = "stdio, file, pipe, pty, null, socket";
  const refused = (text: string, message: string): [string[], string] => [
    ["-chardev", text],
    `-chardev ${text}: ${message}`,
  ];
  await refusals([
    refused("nul,id=x", `'nul' is not a valid char driver name (did you mean 'null'?); accepted: ${backends}`),
    refused("ringbuf,id=x", `'ringbuf' is not a valid char driver name; accepted: ${backends}`),
    refused("", `'' is not a valid char driver name; accepted: ${backends}`),
    refused("null", "chardev: no id specified"),
    refused(
      "null,id=1x",
      "Parameter 'id' expects an identifier, got '1x' (it starts with a letter and consists of letters, digits, '-', '.' and '_')",
    ),
    refused("null,id=x,foo=1", "Invalid parameter 'foo'; accepted: backend, id, mux"),
    refused("null,id=x,mux=on", "Parameter 'mux' must be off: a chardev has one user"),
    refused("null,id=x,logfile=l", "Parameter 'logfile' is not supported: Baton does not log chardevs"),
    refused("file,id=a", "chardev: file: no filename given"),
    refused("pipe,id=a", "chardev: pipe: no device path given"),
    refused("file,id=a,path", "Parameter 'path' needs a value: path=…"),
    refused("socket,id=a", "chardev: socket: exactly one of 'path' and 'host' is required"),
    refused("socket,id=a,path=b,host=c", "chardev: socket: exactly one of 'path' and 'host' is required"),
    refused("socket,id=a,host=c", "chardev: socket: no port given"),
    refused("socket,id=a,host=c,port=ssh", "Parameter 'port' expects a number from 0 to 65535, got 'ssh'"),
    refused("socket,id=a,path=b,wait=on", "'wait' option is incompatible with socket in client connect mode"),
    refused(
      "socket,id=a,path=b,server,reconnect=1",
      "'reconnect' option is incompatible with socket in server listen mode",
    ),
    refused("socket,id=a,path=b,reconnect=1,reconnect-ms=1", "'reconnect' and 'reconnect-ms' are mutually exclusive"),
    refused("socket,id=a,path=b,telnet=on", "Parameter 'telnet' must be off: the socket carries the plain bytes"),
    refused("socket,id=a,path=b,websocket", "Parameter 'websocket' must be off: the socket carries the plain bytes"),
    refused("socket,id=a,path=b,tls-creds=t", "Parameter 'tls-creds' is not supported: there is no TLS"),
    refused("socket,id=a,host=b,port=1,ipv4=off,ipv6=off", "Parameters 'ipv4' and 'ipv6' cannot both be off"),
    refused("socket,id=a,fd=3", "chardev: socket: exactly one of 'path' and 'host' is required"),
    refused("socket,id=a,path=b,fd=3", "Parameter 'fd' is not supported: name the socket by path, or by host and port"),
    refused(
      "socket,id=a,path=b,sever",
      "Invalid parameter 'sever' (did you mean 'server'?); accepted: backend, id, mux, path, host, server, wait, reconnect, reconnect-ms, telnet, tn3270, websocket",
    ),
    [["-chardev", "null,id=x", "-chardev", "pty,id=x"], "-chardev pty,id=x: Duplicate ID 'x' for chardev"],
    [
      ["-chardev", "stdio,id=x", "-chardev", "stdio,id=y"],
      "-chardev stdio,id=y: cannot use stdio by multiple character devices",
    ],
    [["-serial", "stdio", "-monitor", "stdio"], "-monitor stdio: cannot use stdio by multiple character devices"],
  ]);
  const long = `-chardev socket,id=a,path=${"p".repeat(108)}`;
  const error = await rejection(() => chardev(long.slice("-chardev ".length)));
  assert.ok(error.message.endsWith(" is too long: 107 bytes at most"), error.message);
});

test("-serial makes chardevs named after their port", () => {
  const spec = resolve(
    "-serial",
    "none",
    "-serial",
    "null",
    "-chardev",
    "pty,id=p",
    "-serial",
    "chardev:p",
    "-serial",
    "stdio",
  );
  assert.equal(spec.serials, [null, "serial1", "p", "serial3"]);
  assert.equal(
    spec.chardevs.map(({ id }) => id),
    ["serial1", "p", "serial3"],
  );
});

test("-serial takes every form of a host device", () => {
  const serial = (text: string): ChardevSpec => resolve("-serial", text).chardevs[0]!;
  const id = "serial0";
  assert.equal(serial("stdio"), { backend: "stdio", id, signal: true });
  assert.equal(serial("pty"), { backend: "pty", id });
  assert.equal(serial("pty:/l"), { backend: "pty", id, path: "/l" });
  assert.equal(serial("null"), { backend: "null", id });
  assert.equal(serial("file:/a,b=c,,d"), { backend: "file", id, path: "/a,b=c,,d", append: false });
  assert.equal(serial("pipe:/p:q"), { backend: "pipe", id, path: "/p:q" });
  assert.equal(serial("unix:/s,,1,server=on,wait=off"), {
    ...server,
    id,
    address: { type: "unix", path: "/s,1" },
    wait: false,
  });
  assert.equal(serial("tcp::4444,server"), {
    ...server,
    id,
    address: { type: "inet", host: "", port: "4444" },
    wait: true,
  });
  const client = { backend: "socket", id, server: false, wait: false } as const;
  assert.equal(serial("tcp:h:1"), { ...client, address: { type: "inet", host: "h", port: "1" } });
  assert.equal(serial("tcp:[::1]:1,reconnect=1"), {
    ...client,
    address: { type: "inet", host: "::1", port: "1" },
    reconnectMs: 1000,
  });
});

test("-serial refuses the rest", async () => {
  const devices = "stdio, pty[:LINK], file:PATH, pipe:PATH, null, none, unix:PATH[,…], tcp:HOST:PORT[,…], chardev:ID";
  const refused = (text: string, message: string): [string[], string] => [
    ["-serial", text],
    `-serial ${text}: ${message}`,
  ];
  await refusals([
    refused("vc", `'vc' is not a valid char driver; accepted: ${devices}`),
    refused("stdoi", `'stdoi' is not a valid char driver (did you mean 'stdio'?); accepted: ${devices}`),
    refused("/dev/ttyS0", `'/dev/ttyS0' is not a valid char driver; accepted: ${devices}`),
    refused("tcp:foo", `'tcp:foo' is not a valid char driver; accepted: ${devices}`),
    refused("telnet:h:1", `'telnet:h:1' is not a valid char driver; accepted: ${devices}`),
    refused(
      "mon:stdio",
      "A serial port and a monitor cannot share one chardev; give -serial and -monitor each their own",
    ),
    refused("unix:", "chardev: socket: exactly one of 'path' and 'host' is required"),
    refused(
      "unix:/s,foo=1",
      "Invalid parameter 'foo'; accepted: backend, mux, path, host, server, wait, reconnect, reconnect-ms, telnet, tn3270, websocket",
    ),
    refused("file:", "Parameter 'path' must not be empty"),
    refused(
      "chardev:",
      "Parameter 'chardev' expects an identifier, got '' (it starts with a letter and consists of letters, digits, '-', '.' and '_')",
    ),
    [["-serial", "chardev:nope"], 'chardev "nope" not found (-serial, port 0)'],
    [Array.from({ length: 5 }, () => ["-serial", "null"]).flat(), "-serial null: There are at most 4 serial ports"],
    [
      ["-chardev", "null,id=a", "-serial", "chardev:a", "-serial", "chardev:a"],
      "Device 'a' is in use (-serial, port 1)",
    ],
    [["-chardev", "null,id=a", "-serial", "chardev:a", "-mon", "a"], "Device 'a' is in use (monitor)"],
    [["-chardev", "null,id=serial0", "-serial", "null"], "-serial null: Duplicate ID 'serial0' for chardev"],
  ]);
});

test("-monitor and -qmp number their chardevs together, in their order", () => {
  const spec = resolve(
    "-monitor",
    "stdio",
    "-chardev",
    "null,id=a",
    "-qmp",
    "chardev:a",
    "-qmp",
    "null",
    "-monitor",
    "pty",
  );
  assert.equal(spec.monitors, [
    { chardev: "compat_monitor0", mode: "readline", pretty: false },
    { chardev: "a", mode: "control", pretty: false },
    { chardev: "compat_monitor2", mode: "control", pretty: false },
    { chardev: "compat_monitor3", mode: "readline", pretty: false },
  ]);
  assert.equal(resolve("-monitor", "none", "-qmp", "none").monitors, []);
  assert.equal(resolve("-qmp", "unix:a.qmp,server=on,wait=off").chardevs, [
    { ...server, id: "compat_monitor0", address: { type: "unix", path: "a.qmp" }, wait: false },
  ]);
});

test("-mon puts a monitor on a chardev", async () => {
  const mon = (text: string): unknown => resolve("-chardev", "null,id=c", "-mon", text).monitors[0];
  assert.equal(mon("c"), { chardev: "c", mode: "readline", pretty: false });
  assert.equal(mon("chardev=c,mode=control,pretty=on,id=m"), { chardev: "c", mode: "control", pretty: true });
  await refusals([
    [["-mon", "mode=control"], "-mon mode=control: Parameter 'chardev' is missing"],
    [["-mon", "foo"], 'chardev "foo" not found (monitor)'],
    [["-mon", "foo,mode=control"], 'chardev "foo" not found (QMP monitor)'],
    [
      ["-mon", "c,mode=foo"],
      "-mon c,mode=foo: Parameter 'mode' does not accept value 'foo'; accepted: readline, control",
    ],
    [["-mon", "c,pretty=on"], "-mon c,pretty=on: 'pretty' is not compatible with HMP monitors"],
    [
      ["-mon", "c,prety=on"],
      "-mon c,prety=on: Invalid parameter 'prety' (did you mean 'pretty'?); accepted: chardev, mode, pretty, id",
    ],
  ]);
});

test.run();
