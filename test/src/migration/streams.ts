// SPDX-License-Identifier: Apache-2.0
// Two VMM processes and a migration between them, and somebody in the middle who meddles with what they say.

import { connect as connectSocket, createServer, type Socket as NetSocket, type Server } from "node:net";
import { join } from "node:path";
import { close, read, write } from "../../../ffi/fd.ts";
import { sendMessage } from "../../../ffi/scm.ts";
import { AF_UNIX, unixAddress } from "../../../ffi/sockaddr.ts";
import { connect, socket } from "../../../ffi/socket.ts";
import { FRAME_HEADER_SIZE_BYTES, FRAME_MAGIC } from "../../../src/migration/channel/frame-format.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { MigrateSetParameters, MigrationCapability } from "../../../src/qmp/schema/migration.ts";
import type { CommandResult } from "../../../src/qmp/schema.ts";
import { accelerator } from "../../accelerator.ts";
import { temporaryDirectory } from "../../ffi/support.ts";
import { type GuestOptions, GuestProcess, thisRuntime } from "../../guest.ts";
import { assert } from "../../harness.ts";
import { over } from "./transfers.ts";

export type MigrationResult = CommandResult<"query-migrate">;

export interface Settings {
  parameters?: MigrateSetParameters;
  capabilities?: Partial<Record<MigrationCapability, boolean>>;
}

/**
 * A guest with dirty rings, where there are any, that writes little: a KVM that interprets guest code has an entry for every single write, and
 * overruns the rings of a guest that does nothing else.
 */
export const RINGS: GuestOptions = {
  payload: { idle: true, iterationsPerBurst: 32, workingSetBytes: 256, sweepPagesPerRound: 1 },
  extra: accelerator === "kvm" ? ["-accel", "kvm,dirty-ring-size=65536"] : [],
};

/** A VM that waits for its guest, whose machine comes with it. */
export function waiting(incoming: string, options: GuestOptions = {}): GuestProcess {
  const { extra = [], ...others } = options;
  return new GuestProcess({ runtime: thisRuntime, bare: true, ...others, extra: [...extra, "-incoming", incoming] });
}

/** A path for a socket or a file that is not there yet. */
export function freePath(name = "main"): string {
  return join(temporaryDirectory(), name);
}

export async function set(qmp: QmpClient, { parameters, capabilities }: Settings): Promise<void> {
  if (parameters !== undefined) await qmp.execute("migrate-set-parameters", parameters);
  if (capabilities === undefined) return;
  const list = Object.entries(capabilities).map(([capability, state]) => ({
    capability: capability as MigrationCapability,
    state,
  }));
  await qmp.execute("migrate-set-capabilities", { capabilities: list });
}

/** Waits until a VM listens, and gives the URI to connect to. */
export async function listening(next: GuestProcess, qmp: QmpClient): Promise<string> {
  const [address] = await next.until(
    "the other side to listen",
    async () => (await qmp.execute("query-migrate"))["socket-address"],
  );
  if (address?.type === "inet") return `tcp:${address.host}:${address.port}`;
  assert.is(address?.type, "unix");
  return `unix:${(address as { path: string }).path}`;
}

/** `migrate`, and what `query-migrate` says when it is over. */
export async function migrate(qmp: QmpClient, uri: string): Promise<MigrationResult> {
  await qmp.execute("migrate", { uri });
  return over(qmp);
}

/** `migrate`, which must succeed. */
export async function migrated(qmp: QmpClient, uri: string): Promise<MigrationResult> {
  const info = await migrate(qmp, uri);
  assert.is(info.status, "completed", info["error-desc"]);
  return info;
}

/** Moves a guest to a new process, which must have it whole then. The old one has ended. */
export async function moveOn(
  old: GuestProcess,
  options: GuestOptions & Settings & { incoming?: string } = {},
): Promise<GuestProcess> {
  const { parameters, capabilities, incoming = `unix:${freePath()}`, ...others } = options;
  await using qmp = await old.qmp();
  await set(qmp, { ...(parameters && { parameters }), ...(capabilities && { capabilities }) });
  const next = waiting(incoming, others);
  await using nextQmp = await next.qmp();
  await migrated(qmp, await listening(next, nextQmp));
  const arrived = await over(nextQmp);
  assert.is(arrived.status, "completed", arrived["error-desc"]);
  await qmp.execute("quit");
  await old.ended;
  return next;
}

/** QMP's `getfd` on a connection of its own: the VM has a duplicate of `fd` under that name then. */
export async function giveFd(guest: GuestProcess, name: string, fd: number): Promise<void> {
  const path = join(guest.dir, "qmp");
  // There, and listening.
  await (await guest.qmp())[Symbol.asyncDispose]();
  const client = socket(AF_UNIX);
  try {
    connect(client, unixAddress(path));
    let output = "";
    const buffer = new Uint8Array(65536);
    const lines = (count: number): Promise<unknown> =>
      guest.until("a reply", () => {
        const size = read(client, buffer);
        if (size) output += new TextDecoder().decode(buffer.subarray(0, size));
        return output.split("\r\n").length > count;
      });
    const bytes = (command: unknown): Uint8Array => new TextEncoder().encode(`${JSON.stringify(command)}\n`);
    await lines(1);
    write(client, bytes({ execute: "qmp_capabilities" }));
    sendMessage(client, bytes({ execute: "getfd", arguments: { fdname: name } }), [fd]);
    await lines(3);
    assert.not.match(output, "error");
  } finally {
    close(client);
  }
}

/** A frame of the protocol, or a record of RAM. */
export interface Message {
  from: "old" | "new";
  /** The type of a frame; undefined for a record. */
  type: number | undefined;
  /** Header and payload. */
  bytes: Uint8Array;
}

/**
 * What becomes of a message: it goes on; it and all that would follow stays (`hold`); the connections are cut instead of it,
 * or right after it; or other bytes go on in its place.
 */
export type Verdict = "pass" | "hold" | "cut" | "cut-after" | Uint8Array;

/** Frames and records have both a header of this size, with the size of the payload at the same place. */
const PAYLOAD_SIZE_OFFSET = 16;

/** Stands between two sides of a migration, on unix sockets. */
export class Meddler implements Disposable {
  readonly uri: string;
  readonly #target: string;
  readonly #judge: (message: Message) => Verdict;
  readonly #server: Server;
  readonly #sockets = new Set<NetSocket>();
  isHolding = false;

  private constructor(path: string, target: string, judge: (message: Message) => Verdict) {
    this.uri = `unix:${path}`;
    this.#target = target;
    this.#judge = judge;
    this.#server = createServer((old) => this.#connect(old));
  }

  /** Listens, and connects to `target`, a unix: URI, for whoever connects. */
  static async start(target: string, judge: (message: Message) => Verdict): Promise<Meddler> {
    const path = freePath();
    const meddler = new Meddler(path, target.slice("unix:".length), judge);
    await new Promise<void>((resolve) => meddler.#server.listen({ path }, resolve));
    return meddler;
  }

  /** Ends all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  [Symbol.dispose](): void {
    this.cut();
    this.#server.close();
  }

  /** Takes no more from anybody: who sends has to wait. */
  #hold(): void {
    this.isHolding = true;
    for (const socket of this.#sockets) socket.pause();
  }

  #connect(old: NetSocket): void {
    const next = connectSocket({ path: this.#target });
    this.#pump("old", old, next);
    this.#pump("new", next, old);
  }

  #pump(from: Message["from"], source: NetSocket, sink: NetSocket): void {
    this.#sockets.add(source);
    let pending = new Uint8Array(0);
    source.on("data", (chunk: Uint8Array) => {
      const joined = new Uint8Array(pending.length + chunk.length);
      joined.set(pending);
      joined.set(chunk, pending.length);
      pending = joined;
      for (let bytes = firstMessage(pending); bytes !== undefined; bytes = firstMessage(pending)) {
        pending = pending.slice(bytes.length);
        this.#pass({ from, type: typeOf(bytes), bytes }, sink);
      }
    });
    source.on("error", () => {
      if (!this.isHolding) sink.destroy();
    });
    source.on("close", () => {
      if (!this.isHolding) sink.end();
    });
  }

  #pass(message: Message, sink: NetSocket): void {
    if (this.isHolding || sink.destroyed) return;
    const verdict = this.#judge(message);
    if (verdict === "hold") this.#hold();
    else if (verdict === "cut") this.cut();
    else if (verdict === "cut-after") sink.write(message.bytes, () => this.cut());
    else sink.write(verdict === "pass" ? message.bytes : verdict);
  }
}

function firstMessage(bytes: Uint8Array): Uint8Array | undefined {
  if (bytes.length < FRAME_HEADER_SIZE_BYTES) return undefined;
  const size = FRAME_HEADER_SIZE_BYTES + new DataView(bytes.buffer).getUint32(PAYLOAD_SIZE_OFFSET, true);
  return bytes.length < size ? undefined : bytes.slice(0, size);
}

function typeOf(bytes: Uint8Array): number | undefined {
  const view = new DataView(bytes.buffer);
  return view.getUint32(0, true) === FRAME_MAGIC ? view.getUint16(6, true) : undefined;
}
