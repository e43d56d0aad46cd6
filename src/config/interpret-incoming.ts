// SPDX-License-Identifier: Apache-2.0
// What -incoming says: a migration URI, `defer`, or a channel as JSON or in dotted form.
import { VmmError } from "../errors.ts";
import { parseMigrationChannel, parseMigrationUri } from "../qmp/migration-address.ts";
import type { Draft } from "./draft.ts";
import { parseJsonObject, parseOptionString, shorten } from "./qemu-options.ts";
import type { IncomingSpec } from "./types.ts";
import { UsageError } from "./usage.ts";

/** `file:…`, `unix:…`: what comes before the colon has neither comma nor equals sign, unlike the dotted form. */
const URI = /^[^,=]*:/;

export function interpretIncoming(
  draft: Draft,
  value: string | Readonly<Record<string, unknown>>,
  origin: string,
): void {
  let incoming: IncomingSpec;
  try {
    incoming = readIncoming(value, origin);
  } catch (error) {
    if (!(error instanceof VmmError) || error instanceof UsageError) throw error;
    const message = `${origin}: ${shorten(error.message, 300)}`;
    throw new UsageError(message, error.cause === undefined ? undefined : { cause: error.cause });
  }
  if (incoming.channel === "cpr" && !isCprAddress(incoming)) {
    throw new UsageError(`${origin}: Bad cpr channel address; must be a socket of type unix or fd`);
  }
  const others = (draft.wanted.incoming ?? []).filter(({ channel }) => channel !== incoming.channel);
  // The main channel stands first.
  draft.wanted.incoming = incoming.channel === "main" ? [incoming, ...others] : [...others, incoming];
}

function readIncoming(value: string | Readonly<Record<string, unknown>>, origin: string): IncomingSpec {
  if (typeof value !== "string") return readChannel(value, false);
  if (value === "defer") return { channel: "main", defer: true };
  if (value.startsWith("{")) return readChannel(parseJsonObject(value, origin), false);
  if (URI.test(value)) return { channel: "main", address: parseMigrationUri(value) };
  return readChannel(parseDotted(value, origin), true);
}

function readChannel(value: unknown, keyval: boolean): IncomingSpec {
  const channel = parseMigrationChannel(value, { keyval });
  return { channel: channel["channel-type"], address: channel.addr };
}

function isCprAddress(incoming: IncomingSpec): boolean {
  return (
    "address" in incoming &&
    incoming.address.transport === "socket" &&
    (incoming.address.type === "unix" || incoming.address.type === "fd")
  );
}

const MAX_DEPTH = 8;

type Tree = Map<string, Tree | string>;

/** Builds the object that dotted keys describe: `addr.path=P` is `{addr:{path:"P"}}`, `args.0=A` is `{args:["A"]}`. */
function parseDotted(text: string, origin: string): unknown {
  const root: Tree = new Map();
  for (const { name, value, bare } of parseOptionString(text, "channel-type")) {
    if (bare) throw new UsageError(`${origin}: Expected '=' after parameter '${shorten(name)}'`);
    const keys = name.split(".");
    if (keys.length > MAX_DEPTH) throw new UsageError(`${origin}: Parameter '${shorten(name)}' is nested too deeply`);
    const last = keys.pop()!;
    let tree = root;
    for (const key of keys) {
      let next = tree.get(key);
      if (next === undefined) {
        next = new Map();
        tree.set(key, next);
      }
      if (typeof next === "string")
        throw new UsageError(`${origin}: Parameters '${shorten(key)}' and '${shorten(name)}' conflict`);
      tree = next;
    }
    if (tree.get(last) instanceof Map) {
      throw new UsageError(`${origin}: Parameters '${shorten(name)}' and '${shorten(name)}.…' conflict`);
    }
    tree.set(last, String(value));
  }
  return toObject(root);
}

function toObject(tree: Tree | string): unknown {
  if (typeof tree === "string") return tree;
  const entries = [...tree].map(([key, value]) => [key, toObject(value)] as const);
  const isList = entries.every(([key]) => /^\d+$/.test(key));
  if (!isList) return Object.fromEntries(entries);
  return entries.toSorted(([left], [right]) => Number(left) - Number(right)).map(([, value]) => value);
}
