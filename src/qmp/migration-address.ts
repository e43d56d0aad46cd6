// SPDX-License-Identifier: Apache-2.0
// Where a migration goes: the URI form, the QAPI form (channels), and what each mode accepts.
// https://www.qemu.org/docs/master/devel/migration/main.html#transports
import type { MigrationAddress } from "../config/types.ts";
import { QmpError } from "./errors.ts";
import { type CheckOptions, check } from "./schema/check.ts";
import { MigrationChannel, type MigrationParameters } from "./schema/migration.ts";
import { arrayOf, optional, str, struct } from "./schema/types.ts";

/** Where the parts of a migration's state go. Only mode `cpr-transfer` has a `cpr` channel. */
export interface MigrationChannels {
  main: MigrationAddress;
  cpr?: MigrationAddress;
}

/**
 * Parses `tcp:HOST:PORT`, `unix:PATH`, `vsock:CID:PORT`, `fd:NAME`, `file:PATH[,offset=N]` or `exec:COMMAND`.
 *
 * @example parseMigrationUri("file:vm.state,offset=4k").offset // 4096
 */
export function parseMigrationUri(uri: string): MigrationAddress {
  const colon = uri.indexOf(":");
  const rest = uri.slice(colon + 1);
  switch (colon < 0 ? "" : uri.slice(0, colon)) {
    case "tcp":
      return parseInet(rest);
    case "unix":
      if (rest === "") throw new QmpError("invalid Unix socket address");
      return { transport: "socket", type: "unix", path: rest };
    case "vsock":
      return parseVsock(rest);
    case "fd":
      if (rest === "") throw new QmpError("invalid file descriptor address");
      return { transport: "socket", type: "fd", str: rest };
    case "file":
      return parseFile(rest);
    case "exec":
      return { transport: "exec", args: ["/bin/sh", "-c", rest] };
    default:
      throw new QmpError(`unknown migration protocol: ${uri}`);
  }
}

function parseInet(text: string): MigrationAddress {
  const [address = "", ...options] = text.split(",");
  // None of QEMU's options (`to=`, `ipv4=`, …) has a meaning here yet, and none may be taken without one.
  const option = options[0]?.split("=")[0];
  if (option !== undefined) throw new QmpError(`Invalid parameter '${option}'`);
  if (address.startsWith("[")) {
    const match = /^\[([^\]]+)\]:([^:]+)$/.exec(address);
    if (match === null) throw new QmpError(`error parsing IPv6 address '${text}'`);
    return { transport: "socket", type: "inet", host: match[1]!, port: match[2]! };
  }
  const match = /^([^:]*):([^:]+)$/.exec(address);
  if (match === null) {
    throw new QmpError(`error parsing ${address.startsWith(":") ? "port in address" : "address"} '${text}'`);
  }
  return { transport: "socket", type: "inet", host: match[1]!, port: match[2]! };
}

function parseVsock(text: string): MigrationAddress {
  const match = /^([^:]+):([^:]+)$/.exec(text);
  if (match === null) throw new QmpError(`error parsing address '${text}'`);
  return { transport: "socket", type: "vsock", cid: match[1]!, port: match[2]! };
}

const OFFSET = ",offset=";
const SIZE_SHIFTS = { "": 0, b: 0, k: 10, m: 20, g: 30, t: 40 } as const;

function parseFile(text: string): MigrationAddress {
  const at = text.indexOf(OFFSET);
  const filename = at < 0 ? text : text.slice(0, at);
  if (filename === "") throw new QmpError("file URI has no file name");
  if (at < 0) return { transport: "file", filename, offset: 0 };
  const offsetText = text.slice(at + OFFSET.length);
  const match = /^(0x[0-9a-f]+|\d+)([bkmgt]?)$/i.exec(offsetText);
  const shift = SIZE_SHIFTS[(match?.[2]?.toLowerCase() ?? "") as keyof typeof SIZE_SHIFTS];
  const offset = match === null ? Number.NaN : Number(match[1]) * 2 ** shift;
  if (!Number.isSafeInteger(offset)) throw new QmpError(`file URI has bad offset ${offsetText}`);
  return { transport: "file", filename, offset };
}

/** The URI of `address`, so that `parseMigrationUri` gives the address back; for people and logs. */
export function formatMigrationUri(address: MigrationAddress): string {
  switch (address.transport) {
    case "exec":
      return `exec:${address.args.length === 3 ? address.args[2] : address.args.join(" ")}`;
    case "file":
      return `file:${address.filename}${address.offset === 0 ? "" : `${OFFSET}${address.offset}`}`;
    case "socket":
      switch (address.type) {
        case "unix":
          return `unix:${address.path}`;
        case "fd":
          return `fd:${address.str}`;
        case "vsock":
          return `vsock:${address.cid}:${address.port}`;
        case "inet":
          return `tcp:${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
      }
  }
}

/** Parses one QAPI `MigrationChannel`; `options.keyval` for its dotted command line form. */
export function parseMigrationChannel(value: unknown, options: CheckOptions = {}): MigrationChannel {
  return check(MigrationChannel, value, "", options);
}

/** Parses a QAPI list of channels; every type may be there once, and `main` must be. */
export function parseMigrationChannels(value: unknown, options: CheckOptions = {}): MigrationChannels {
  const { channels } = check(struct({ channels: arrayOf(MigrationChannel) }), { channels: value }, "", options);
  return indexChannels(channels);
}

function indexChannels(list: readonly MigrationChannel[]): MigrationChannels {
  const found: Partial<MigrationChannels> = {};
  for (const channel of list) {
    const type = channel["channel-type"];
    if (found[type] !== undefined) throw new QmpError(`Channel list has more than one ${type} entry`);
    found[type] = channel.addr;
  }
  if (found.main === undefined) throw new QmpError("Channel list has no main entry");
  return found as MigrationChannels;
}

/** The two ways `migrate` and `migrate-incoming` name their channels. */
export const ChannelArguments = { uri: optional(str), channels: optional(arrayOf(MigrationChannel)) };

export interface ChannelArguments {
  uri?: string;
  channels?: MigrationChannel[];
}

function chooseChannels({ uri, channels }: ChannelArguments): MigrationChannels {
  if ((uri === undefined) === (channels === undefined)) {
    throw new QmpError("need either 'uri' or 'channels' argument");
  }
  return uri === undefined ? indexChannels(channels!) : { main: parseMigrationUri(uri) };
}

/**
 * The channels of a `migrate` command, checked against the mode it will run in. Throws before anything has changed, so
 * that a wrong command leaves VM and migration status alone.
 */
export function outgoingChannels(
  args: ChannelArguments,
  parameters: MigrationParameters,
): MigrationChannels | undefined {
  // cpr-exec carries the state in memory; a channel names a file for a copy of it.
  if (parameters.mode === "cpr-exec" && args.uri === undefined && args.channels === undefined) return undefined;
  const channels = chooseChannels(args);
  const { main, cpr } = channels;
  if (parameters.mode === "cpr-transfer") {
    if (cpr === undefined) throw new QmpError("missing 'cpr' migration channel");
    if (cpr.transport !== "socket") throw new QmpError("bad cpr channel address; must be unix");
    if (cpr.type !== "unix") throw new QmpError("bad cpr channel socket type; must be unix");
    if (main.transport === "file") throw new QmpError("Migration requires streamable transport (eg unix)");
    if (main.transport === "socket" && main.type === "inet" && Number(main.port) === 0) {
      throw new QmpError("Migration requires a fixed port, not port 0");
    }
  } else if (cpr !== undefined) {
    // In any other mode the RAM would be copied, which is not what somebody who names a cpr channel expects.
    throw new QmpError(`the 'cpr' migration channel needs mode 'cpr-transfer', not '${parameters.mode}'`);
  }
  return channels;
}

/** The main channel of a `migrate-incoming` command: the cpr channel was read long before, when the VM was built. */
export function incomingAddress(args: ChannelArguments): MigrationAddress {
  if (args.uri === undefined && args.channels !== undefined) {
    if (args.channels.length !== 1 || args.channels[0]!["channel-type"] !== "main") {
      throw new QmpError("Channel list must have only one entry, for type 'main'");
    }
  }
  return chooseChannels(args).main;
}
