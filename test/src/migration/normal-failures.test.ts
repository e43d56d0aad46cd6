// SPDX-License-Identifier: Apache-2.0
// Migrations that do not succeed: whatever the peer or the connection does, there is one guest, and it is told where.
import { readdirSync } from "node:fs";
import { connect, type Socket } from "node:net";
import {
  FRAME_ACCEPTED,
  FRAME_BURST,
  FRAME_COMMIT,
  FRAME_FINAL,
  FRAME_HELLO,
  FRAME_JOIN,
  FRAME_READY,
  FRAME_REHEARSE,
  FRAME_REHEARSED,
  FRAME_ROUND,
  FRAME_RUNNING,
  FRAME_STATE,
} from "../../../src/migration/messages.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { type GuestOptions, GuestProcess, onlyOnBun, recordEvents, settled } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import {
  freePath,
  listening,
  Meddler,
  type Message,
  type MigrationResult,
  migrated,
  set,
  type Verdict,
  waiting,
} from "./streams.ts";
import { over } from "./transfers.ts";

const test = describe("normal migration: failures");
const skip = onlyOnBun;

/** Two VMMs, between which one attempt after the other is made. */
class Pair implements AsyncDisposable {
  readonly old: GuestProcess;
  readonly next: GuestProcess;
  readonly qmp: QmpClient;
  readonly nextQmp: QmpClient;

  private constructor(old: GuestProcess, next: GuestProcess, qmp: QmpClient, nextQmp: QmpClient) {
    this.old = old;
    this.next = next;
    this.qmp = qmp;
    this.nextQmp = nextQmp;
  }

  static async start(options: GuestOptions = {}, nextOptions: GuestOptions = {}): Promise<Pair> {
    const old = await GuestProcess.start({ runtime: "bun", ...options });
    const next = waiting("defer", { runtime: "bun", ...nextOptions });
    return new Pair(old, next, await old.qmp(), await next.qmp());
  }

  /** Has the new side wait, and gives where. */
  async listen(): Promise<string> {
    await this.nextQmp.execute("migrate-incoming", { uri: `unix:${freePath()}`, "exit-on-error": false });
    return listening(this.next, this.nextQmp);
  }

  /** An attempt that `judge` spoils: what both sides say of it. */
  async spoiled(judge: (message: Message) => Verdict): Promise<{ here: MigrationResult; there: MigrationResult }> {
    using meddler = await Meddler.start(await this.listen(), judge);
    await this.qmp.execute("migrate", { uri: meddler.uri });
    const here = await over(this.qmp);
    meddler.cut();
    return { here, there: await over(this.nextQmp) };
  }

  /** The guest is here, as it was, and only here. */
  async isHere(): Promise<void> {
    assert.equal(await this.qmp.execute("query-status"), { running: true, status: "running" });
    assert.equal(await this.nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
    assert.equal(await this.nextQmp.execute("query-cpus-fast"), []);
    await this.old.runsOn();
  }

  /** In spite of all that happened before. */
  async succeeds(): Promise<void> {
    await migrated(this.qmp, await this.listen());
    assert.is((await over(this.nextQmp)).status, "completed");
    await this.next.runsOn();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.qmp[Symbol.asyncDispose]();
    await this.nextQmp[Symbol.asyncDispose]();
    await this.old[Symbol.asyncDispose]();
    await this.next[Symbol.asyncDispose]();
  }
}

/** The `count`th message that fits. */
function nth(count: number, fits: (message: Message) => boolean, verdict: Verdict): (message: Message) => Verdict {
  let seen = 0;
  return (message) => (fits(message) && ++seen === count ? verdict : "pass");
}

const is =
  (type: number) =>
  (message: Message): boolean =>
    message.type === type;
const isRecord = (message: Message): boolean => message.type === undefined;

function afterFinal(verdict: Verdict): (message: Message) => Verdict {
  let isFinal = false;
  return (message) => {
    isFinal ||= message.type === FRAME_FINAL;
    return isFinal && isRecord(message) ? verdict : "pass";
  };
}

function threadCount({ pid }: GuestProcess): number {
  return readdirSync(`/proc/${pid}/task`).length;
}

test.skipIf(
  skip,
  "a connection that is cut, wherever that is before the commit, leaves the guest where it is",
  async () => {
    await using pair = await Pair.start({ payload: { cpuCount: 2 } });
    const cuts: [what: string, judge: (message: Message) => Verdict][] = [
      ["instead of the hello", nth(1, is(FRAME_HELLO), "cut")],
      ["after the hello", nth(1, is(FRAME_HELLO), "cut-after")],
      ["instead of accepted", nth(1, is(FRAME_ACCEPTED), "cut")],
      ["after the announcement of a round", nth(1, is(FRAME_ROUND), "cut-after")],
      ["within a round", nth(3, isRecord, "cut-after")],
      ["before a rehearsal", nth(1, is(FRAME_BURST), "cut-after")],
      ["in a rehearsal", nth(2, is(FRAME_REHEARSE), "cut")],
      ["in the answer to a rehearsal", nth(3, is(FRAME_REHEARSED), "cut")],
      ["before the last round", nth(1, is(FRAME_FINAL), "cut-after")],
      ["in the last round", afterFinal("cut")],
      ["instead of the state", nth(1, is(FRAME_STATE), "cut")],
      ["after the state", nth(1, is(FRAME_STATE), "cut-after")],
      ["instead of ready", nth(1, is(FRAME_READY), "cut")],
    ];
    const counts: [fds: number, threads: number][] = [];
    for (const [what, judge] of cuts) {
      const { here, there } = await pair.spoiled(judge);
      assert.is(here.status, "failed", what);
      assert.is(there.status, "failed", what);
      assert.ok(here["error-desc"] && there["error-desc"], what);
      await pair.isHere();
      counts.push([pair.next.fds().length, threadCount(pair.next)]);
    }
    // The runtime makes a few threads and descriptors of its own, once.
    assert.ok(counts.at(-1)![0] <= counts[2]![0] + 2, `descriptors: ${counts}`);
    assert.ok(counts.at(-1)![1] <= counts[2]![1] + 4, `threads: ${counts}`);
    await pair.succeeds();
  },
);

test.skipIf(skip, "with several connections, too, and whichever of them is cut", async () => {
  await using pair = await Pair.start();
  await set(pair.qmp, { capabilities: { multifd: true }, parameters: { "multifd-channels": 3 } });
  for (const judge of [
    nth(1, is(FRAME_JOIN), "cut-after"),
    nth(3, is(FRAME_JOIN), "cut"),
    nth(2, isRecord, "cut"),
    afterFinal("cut"),
    nth(1, is(FRAME_READY), "cut"),
  ]) {
    const { here, there } = await pair.spoiled(judge);
    assert.is(here.status, "failed");
    assert.is(there.status, "failed");
    await pair.isHere();
  }
  await pair.succeeds();
});

test.skipIf(skip, "the failure is told in QEMU's order", async () => {
  await using pair = await Pair.start();
  const events = await recordEvents(pair.qmp);
  await pair.spoiled(nth(3, isRecord, "cut-after"));
  await settled();
  assert.equal(
    [...new Set(events.splice(0))],
    ["MIGRATION setup", "MIGRATION active", "MIGRATION_PASS", "MIGRATION failing", "MIGRATION failed"],
  );
  await pair.spoiled(nth(1, is(FRAME_READY), "cut"));
  await settled();
  assert.equal(events.splice(0).slice(-4), ["STOP", "MIGRATION failing", "RESUME", "MIGRATION failed"]);
  await pair.qmp.execute("stop");
  await settled();
  events.length = 0;
  await pair.spoiled(nth(1, is(FRAME_READY), "cut"));
  await settled();
  assert.equal(
    events.filter((name) => !name.startsWith("MIGRATION")),
    [],
  );
  assert.is((await pair.qmp.execute("query-status")).status, "paused");
});

test.skipIf(skip, "what is no migration, or not what was agreed on, is refused with what was wrong", async () => {
  await using pair = await Pair.start();
  const damaged = (fits: (message: Message) => boolean, change: (bytes: DataView) => void) => {
    let isDone = false;
    return (message: Message): Verdict => {
      if (isDone || !fits(message)) return "pass";
      isDone = true;
      const bytes = message.bytes.slice();
      change(new DataView(bytes.buffer));
      return bytes;
    };
  };
  const flip = (at: number) => (view: DataView) => view.setUint8(at, view.getUint8(at) ^ 0x40);
  const cases: [judge: (message: Message) => Verdict, reason: RegExp][] = [
    [damaged(is(FRAME_HELLO), flip(0)), /expected magic/],
    [damaged(is(FRAME_HELLO), flip(4)), /expected protocol version 1, found 65/],
    [damaged(is(FRAME_HELLO), flip(28)), /header checksum/],
    [damaged(is(FRAME_HELLO), flip(500)), /CRC-32/],
    [damaged(isRecord, flip(0)), /a record starts with/],
    [damaged(isRecord, flip(9)), /check of a record's header/],
    [damaged(is(FRAME_STATE), flip(5000)), /CRC-32/],
    [nth(1, is(FRAME_ROUND), new Uint8Array(64)), /expected magic/],
  ];
  for (const [judge, reason] of cases) {
    const { here, there } = await pair.spoiled(judge);
    assert.is(here.status, "failed");
    assert.match(there["error-desc"]!, reason);
    // The old side passes on what the new one said of it, unless the one in the middle fell silent before that.
    assert.match(here["error-desc"]!, new RegExp(`${reason.source}|closed the connection|has gone|ended the stream`));
    await pair.isHere();
  }
  const { here } = await pair.spoiled(damaged(is(FRAME_ACCEPTED), flip(28)));
  assert.match(here["error-desc"]!, /header checksum/);
  await pair.isHere();
  await pair.succeeds();
});

test.skipIf(skip, "after the commit the guest is over there, and never again here", async () => {
  await using pair = await Pair.start();
  const { here } = await pair.spoiled(nth(1, is(FRAME_RUNNING), "cut"));
  assert.is(here.status, "failed");
  assert.match(here["error-desc"]!, /was told to run it, but did not confirm/);
  assert.equal(await pair.qmp.execute("query-status"), { running: false, status: "postmigrate" });
  for (const command of ["cont", "system_reset"] as const) {
    assert.match((await rejection(() => pair.qmp.execute(command))).message, /has moved to another VMM/);
  }
  assert.is((await over(pair.nextQmp)).status, "completed");
  await pair.next.runsOn();
});

test.skipIf(skip, "a commit that gets lost leaves the guest standing, and not on both sides", async () => {
  await using pair = await Pair.start();
  const { here, there } = await pair.spoiled(nth(1, is(FRAME_COMMIT), "cut"));
  assert.is(here.status, "failed");
  assert.is(there.status, "failed");
  assert.match((await rejection(() => pair.qmp.execute("cont"))).message, /has moved to another VMM/);
  assert.is((await pair.nextQmp.execute("query-status")).status, "inmigrate");
});

test.skipIf(skip, "a side that is killed leaves the guest with the other", async () => {
  await using pair = await Pair.start();
  for (const judgeOf of [
    (kill: () => void) => nthCalls(1, is(FRAME_HELLO), kill),
    (kill: () => void) => nthCalls(5, isRecord, kill),
    (kill: () => void) => nthCalls(4, is(FRAME_REHEARSE), kill),
    (kill: () => void) => nthCalls(1, is(FRAME_STATE), kill),
    (kill: () => void) => nthCalls(1, is(FRAME_READY), kill),
  ]) {
    const next = waiting(`unix:${freePath()}`, { runtime: "bun" });
    await using _ = next;
    await using nextQmp = await next.qmp();
    const judge = judgeOf(() => next.child.kill("SIGKILL"));
    using meddler = await Meddler.start(await listening(next, nextQmp), judge);
    await pair.qmp.execute("migrate", { uri: meddler.uri });
    await next.ended;
    meddler.cut();
    assert.is((await over(pair.qmp)).status, "failed");
    await pair.isHere();
  }
  // The old side: the new one gives up, and has no guest.
  using meddler = await Meddler.start(
    await pair.listen(),
    nthCalls(1, is(FRAME_READY), () => pair.old.child.kill("SIGKILL")),
  );
  await pair.qmp.execute("migrate", { uri: meddler.uri });
  await pair.old.ended;
  meddler.cut();
  assert.is((await over(pair.nextQmp)).status, "failed");
  assert.is((await pair.nextQmp.execute("query-status")).status, "inmigrate");
});

/** Holds everything back from the `count`th message on that fits, and calls `action`. */
function nthCalls(count: number, fits: (message: Message) => boolean, action: () => void) {
  let seen = 0;
  return (message: Message): Verdict => {
    if (!fits(message) || ++seen !== count) return "pass";
    action();
    return "hold";
  };
}

test.skipIf(skip, "migrate_cancel is heeded on both sides, whatever is waited for", async () => {
  await using pair = await Pair.start();
  const events = await recordEvents(pair.qmp);
  const nextEvents = await recordEvents(pair.nextQmp);
  // So that the first round takes seconds.
  await set(pair.qmp, { parameters: { "max-bandwidth": 1 << 20 } });
  for (const [phase, fits] of [
    ["setup", is(FRAME_HELLO)],
    ["rounds", nth2(5, isRecord)],
  ] as const) {
    const held = Promise.withResolvers<void>();
    using meddler = await Meddler.start(await pair.listen(), nthCalls(1, fits, held.resolve));
    events.length = 0;
    nextEvents.length = 0;
    await pair.qmp.execute("migrate", { uri: meddler.uri });
    await held.promise;
    await pair.qmp.execute("migrate_cancel");
    const here = await over(pair.qmp);
    assert.is(here.status, "cancelled", `${phase}: ${here["error-desc"]}`);
    assert.is(here["error-desc"], undefined);
    assert.is((await pair.nextQmp.execute("query-migrate")).status, phase === "setup" ? "setup" : "active");
    await pair.nextQmp.execute("migrate_cancel");
    assert.is((await over(pair.nextQmp)).status, "cancelled", phase);
    await settled();
    assert.equal(events.slice(-2), ["MIGRATION cancelling", "MIGRATION cancelled"]);
    assert.equal(nextEvents.slice(-2), ["MIGRATION cancelling", "MIGRATION cancelled"]);
    assert.not(events.includes("STOP"));
    await pair.isHere();
  }
  // Nobody has come yet.
  await pair.listen();
  await pair.nextQmp.execute("migrate_cancel");
  assert.is((await over(pair.nextQmp)).status, "cancelled");
  await pair.qmp.execute("migrate_cancel");
  await set(pair.qmp, { parameters: { "max-bandwidth": 0 } });
  await pair.succeeds();
});

function nth2(count: number, fits: (message: Message) => boolean): (message: Message) => boolean {
  let seen = 0;
  return (message) => fits(message) && ++seen === count;
}

test.skipIf(skip, "a stranger on one of several connections is sent away, and holds nothing up", async () => {
  await using pair = await Pair.start();
  await set(pair.qmp, { capabilities: { multifd: true }, parameters: { "multifd-channels": 2 } });
  const uri = await pair.listen();
  const strangers: Socket[] = [];
  const knock = (bytes?: Uint8Array): void => {
    const stranger = connect({ path: uri.slice("unix:".length) });
    if (bytes !== undefined) stranger.write(bytes);
    stranger.on("error", () => {});
    strangers.push(stranger);
  };
  using meddler = await Meddler.start(uri, ({ type, bytes }) => {
    if (type === FRAME_ACCEPTED) {
      // One that says nothing, and one that says nonsense.
      knock();
      knock(new Uint8Array(40).fill(7));
    } else if (type === FRAME_JOIN && strangers.length === 2) {
      knock(bytes.map((byte, at) => (at < 40 ? byte : byte ^ 1)));
    }
    return "pass";
  });
  await migrated(pair.qmp, meddler.uri);
  for (const stranger of strangers) stranger.destroy();
  await pair.next.runsOn();
});

test.skipIf(skip, "the machine that comes must be the one that is expected", async () => {
  await using old = await GuestProcess.start({ runtime: "bun" });
  await using qmp = await old.qmp();
  for (const [extra, reason] of [
    [["-smp", "2"], /number of CPUs \(running: 1, wanted: 2\)/],
    [["-m", "16M"], /RAM/],
    [
      ["-object", "memory-backend-memfd,id=small,size=16M", "-machine", "memory-backend=small", "-m", "16M"],
      /16777216|RAM/,
    ],
  ] as const) {
    await using next = waiting(`unix:${freePath()}`, { runtime: "bun", extra: [...extra] });
    await using nextQmp = await next.qmp();
    await qmp.execute("migrate", { uri: await listening(next, nextQmp) });
    const info = await over(qmp);
    assert.is(info.status, "failed");
    assert.match(info["error-desc"]!, /^The other side refused: /);
    assert.match(info["error-desc"]!, reason);
    assert.equal(await next.ended, { exitCode: 1, signal: null });
    assert.match(next.error, /load of migration failed/);
    await old.runsOn();
  }
  await qmp.execute("migrate", { uri: `unix:${freePath("nobody")}` });
  assert.match((await over(qmp))["error-desc"]!, /^Failed to connect to '.*nobody': No such file or directory$/);
  await old.runsOn();
});

test.run();
