// SPDX-License-Identifier: Apache-2.0
// What the options of back ends say: -chardev, and -serial, -monitor, -qmp, -mon, which name or make one.
import type { Draft } from "./draft.ts";
import { Properties, type Property, parseOptionString, shorten } from "./qemu-options.ts";
import { didYouMean } from "./suggest.ts";
import type { ChardevSpec, MonitorSpec, SocketAddressSpec } from "./types.ts";

const BACKENDS: readonly ChardevSpec["backend"][] = ["stdio", "file", "pipe", "pty", "null", "socket"];
const HOST_DEVICES =
  "stdio, pty[:LINK], file:PATH, pipe:PATH, null, none, unix:PATH[,…], tcp:HOST:PORT[,…], chardev:ID";
const MAX_SERIAL_PORTS = 4;

const CHARDEV_HINTS: Readonly<Record<string, string>> = {
  logfile: "Baton does not log chardevs",
  logappend: "Baton does not log chardevs",
  fd: "name the socket by path, or by host and port",
  to: "name one port; with port=0 the kernel chooses",
  abstract: "only sockets in the file system can be named",
  tight: "only sockets in the file system can be named",
  delay: "TCP output is sent at once",
  nodelay: "TCP output always is sent at once",
  "tls-creds": "there is no TLS",
  "tls-authz": "there is no TLS",
};

/** The chardev that `properties` describe. `givenId` is for those that an option makes on the side. */
export function readChardev(properties: Properties, givenId?: string): ChardevSpec {
  const backend = properties.text("backend");
  if (backend === undefined || !BACKENDS.includes(backend as ChardevSpec["backend"])) {
    const name = backend ?? "";
    properties.fail(
      `'${shorten(name)}' is not a valid char driver name${didYouMean(name, BACKENDS)}; accepted: ${BACKENDS.join(", ")}`,
    );
  }
  const id = givenId ?? properties.identifier("id");
  if (id === undefined) properties.fail("chardev: no id specified");
  properties.mustBeOff("mux", "a chardev has one user");
  const spec = readBackend(properties, backend as ChardevSpec["backend"], id);
  properties.refuseOthers(CHARDEV_HINTS);
  return spec;
}

function readBackend(properties: Properties, backend: ChardevSpec["backend"], id: string): ChardevSpec {
  switch (backend) {
    case "stdio":
      return { backend, id, signal: properties.switch("signal") ?? true };
    case "null":
      return { backend, id };
    case "pty": {
      const path = properties.nonEmpty("path");
      return path === undefined ? { backend, id } : { backend, id, path };
    }
    case "pipe": {
      const path = properties.nonEmpty("path");
      return { backend, id, path: path ?? properties.fail("chardev: pipe: no device path given") };
    }
    case "file": {
      const path = properties.nonEmpty("path") ?? properties.fail("chardev: file: no filename given");
      const append = properties.switch("append") ?? false;
      const inputPath = properties.nonEmpty("input-path");
      return inputPath === undefined ? { backend, id, path, append } : { backend, id, path, append, inputPath };
    }
    case "socket":
      return readSocket(properties, id);
  }
}

function readSocket(properties: Properties, id: string): ChardevSpec {
  const address = readSocketAddress(properties);
  const server = properties.switch("server") ?? false;
  const wait = properties.switch("wait");
  if (wait !== undefined && !server) {
    properties.fail("'wait' option is incompatible with socket in client connect mode");
  }
  const seconds = properties.integer("reconnect", 0, 1_000_000);
  const milliseconds = properties.integer("reconnect-ms", 0, 1_000_000_000);
  if (seconds !== undefined && milliseconds !== undefined) {
    properties.fail("'reconnect' and 'reconnect-ms' are mutually exclusive");
  }
  for (const protocol of ["telnet", "tn3270", "websocket"]) {
    properties.mustBeOff(protocol, "the socket carries the plain bytes");
  }
  const reconnectMs = milliseconds ?? (seconds ?? 0) * 1000;
  if (reconnectMs > 0 && server) {
    properties.fail("'reconnect' option is incompatible with socket in server listen mode");
  }
  const spec: ChardevSpec = { backend: "socket", id, address, server, wait: server && (wait ?? true) };
  if (reconnectMs > 0) spec.reconnectMs = reconnectMs;
  return spec;
}

function readSocketAddress(properties: Properties): SocketAddressSpec {
  const path = properties.nonEmpty("path");
  const host = properties.text("host");
  if ((path === undefined) === (host === undefined)) {
    properties.fail("chardev: socket: exactly one of 'path' and 'host' is required");
  }
  if (path !== undefined) {
    // sun_path of sockaddr_un has 108 bytes with the terminating zero (unix(7)).
    if (new TextEncoder().encode(path).length > 107) {
      properties.fail(`UNIX socket path '${shorten(path)}' is too long: 107 bytes at most`);
    }
    return { type: "unix", path };
  }
  const port = properties.integer("port", 0, 65535) ?? properties.fail("chardev: socket: no port given");
  const address: SocketAddressSpec = { type: "inet", host: host ?? "", port: String(port) };
  const ipv4 = properties.switch("ipv4");
  const ipv6 = properties.switch("ipv6");
  if (ipv4 === false && ipv6 === false) properties.fail("Parameters 'ipv4' and 'ipv6' cannot both be off");
  if (ipv4 !== undefined) address.ipv4 = ipv4;
  if (ipv6 !== undefined) address.ipv6 = ipv6;
  return address;
}

function addChardev(draft: Draft, properties: Properties, spec: ChardevSpec): void {
  const chardevs = draft.wanted.chardevs ?? [];
  if (chardevs.some(({ id }) => id === spec.id)) properties.fail(`Duplicate ID '${spec.id}' for chardev`);
  if (spec.backend === "stdio" && chardevs.some(({ backend }) => backend === "stdio")) {
    properties.fail("cannot use stdio by multiple character devices");
  }
  draft.wanted.chardevs = [...chardevs, spec];
}

export function interpretChardev(draft: Draft, properties: Properties): void {
  addChardev(draft, properties, readChardev(properties));
}

type HostDeviceValue = string | Readonly<Record<string, unknown>>;

/** Splits `unix:PATH,server=on` and its like into the properties of a chardev; `undefined` when it is none of them. */
function parseHostDevice(text: string): Property[] | undefined {
  const properties: Property[] = [];
  const add = (name: string, value: string): number => properties.push({ name, value, bare: false });
  const colon = text.indexOf(":");
  const scheme = colon < 0 ? text : text.slice(0, colon);
  const rest = colon < 0 ? undefined : text.slice(colon + 1);
  if (rest === undefined) {
    if (!["stdio", "null", "pty"].includes(scheme)) return undefined;
    add("backend", scheme);
    return properties;
  }
  switch (scheme) {
    case "pty":
    case "file":
    case "pipe":
      // As in QEMU, the path is all that follows, commas included.
      add("backend", scheme);
      add("path", rest);
      return properties;
    case "unix":
      add("backend", "socket");
      return [...properties, ...parseOptionString(rest, "path")];
    case "tcp": {
      const match = /^(?:\[([^\]]*)\]|([^:,]*)):([^,]*)(?:,(.*))?$/s.exec(rest);
      if (match === null) return undefined;
      add("backend", "socket");
      add("host", match[1] ?? match[2] ?? "");
      add("port", match[3]!);
      return [...properties, ...parseOptionString(match[4] ?? "")];
    }
    default:
      return undefined;
  }
}

/** The chardev that a `-serial`-like value names or makes, by id; null for `none`. */
function interpretHostDevice(draft: Draft, value: HostDeviceValue, origin: string, id: string): string | null {
  if (value === "none") return null;
  if (typeof value === "string" && value.startsWith("chardev:")) {
    const named = new Properties(origin, [{ name: "chardev", value: value.slice("chardev:".length), bare: false }]);
    return named.identifier("chardev")!;
  }
  const nothing: Properties = new Properties(origin, []);
  const parsed =
    typeof value === "string"
      ? parseHostDevice(value)
      : Object.entries(value).map(([name, each]) => ({ name, value: each, bare: false }));
  if (parsed !== undefined) {
    const properties = new Properties(origin, parsed);
    addChardev(draft, properties, readChardev(properties, id));
    return id;
  }
  // Objects never come here: they parse.
  const text = shorten(value as string);
  if (text.startsWith("mon:")) {
    nothing.fail("A serial port and a monitor cannot share one chardev; give -serial and -monitor each their own");
  }
  const hint = didYouMean(text, ["stdio", "null", "none", "pty"]);
  nothing.fail(`'${text}' is not a valid char driver${hint}; accepted: ${HOST_DEVICES}`);
}

export function interpretSerial(draft: Draft, value: HostDeviceValue, origin: string): void {
  const serials = draft.wanted.serials ?? [];
  if (serials.length === MAX_SERIAL_PORTS) {
    new Properties(origin, []).fail(`There are at most ${MAX_SERIAL_PORTS} serial ports`);
  }
  draft.wanted.serials = [...serials, interpretHostDevice(draft, value, origin, `serial${serials.length}`)];
}

/** `-monitor` and `-qmp`, which number their chardevs together, in the order they were given. */
export function interpretMonitor(
  draft: Draft,
  value: HostDeviceValue,
  origin: string,
  mode: MonitorSpec["mode"],
): void {
  const monitors = draft.wanted.monitors ?? [];
  const chardev = interpretHostDevice(draft, value, origin, `compat_monitor${draft.monitorCount}`);
  if (chardev !== null) draft.monitorCount++;
  draft.wanted.monitors = chardev === null ? monitors : [...monitors, { chardev, mode, pretty: false }];
}

export function interpretMon(draft: Draft, properties: Properties): void {
  const chardev = properties.identifier("chardev");
  const mode = properties.choice("mode", ["readline", "control"]) ?? "readline";
  const pretty = properties.switch("pretty");
  // Management software labels its monitors; nothing refers to the label.
  properties.identifier("id");
  properties.refuseOthers();
  if (chardev === undefined) properties.fail("Parameter 'chardev' is missing");
  if (pretty === true && mode === "readline") properties.fail("'pretty' is not compatible with HMP monitors");
  draft.wanted.monitors = [...(draft.wanted.monitors ?? []), { chardev, mode, pretty: pretty ?? false }];
}
