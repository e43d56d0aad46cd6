// SPDX-License-Identifier: Apache-2.0
// Transfers that cannot be: the guest runs on where it was, and both sides say why and can do with it what they like.
import { existsSync } from "node:fs";
import { connect as connectSocket } from "node:net";
import { close, pipe } from "../../../ffi/fd.ts";
import { F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, memfdCreate } from "../../../ffi/memfd.ts";
import {
  FRAME_ACCEPTED,
  FRAME_BEGIN,
  FRAME_BURST,
  FRAME_FILLING,
  FRAME_HELLO,
  FRAME_LISTENING,
  FRAME_REFUSED,
  FRAME_REHEARSED,
  FRAME_RUNNING,
  FRAME_STATE,
} from "../../../src/migration/messages.ts";
import { text } from "../../ffi/support.ts";
import { GuestProcess, privateRam, recordEvents, settled, thisRuntime, until } from "../../guest.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { call, hearHello, listenFor, reactor } from "./transfer-peers.ts";
import {
  beginTransfer,
  complaints,
  cprChannel,
  gaveUp,
  hasMoved,
  hasStayed,
  holdsNoMore,
  moved,
  over,
  resting,
  sockets,
  transferTo,
  unix,
  untilListening,
  variant,
  waiting,
  waitingWith,
} from "./transfers.ts";

const test = describe("cpr-transfer: failures");
test.after(() => reactor.close());

const EVENTS_BEFORE_STOP = ["MIGRATION setup", "MIGRATION failing", "MIGRATION failed"];
const NOTHING = new Uint8Array(0);
const u32 = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);

const startGuest = () => GuestProcess.start({ runtime: thisRuntime });

test("refuses malformed calls with QEMU's texts, the VM untouched", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  await qmp.execute("migrate-set-parameters", { mode: "cpr-transfer" });
  const main = { "channel-type": "main" as const, addr: unix("/tmp/none.main") };
  const cpr = { "channel-type": "cpr" as const, addr: unix("/tmp/none.cpr") };
  const file = { transport: "file" as const, filename: "/tmp/x", offset: 0 };
  const inet = { transport: "socket" as const, type: "inet" as const, host: "localhost", port: "0" };
  const cases: [args: Parameters<typeof migrate>[0], message: string][] = [
    [{ uri: "unix:/tmp/none.main" }, "missing 'cpr' migration channel"],
    [{}, "need either 'uri' or 'channels' argument"],
    [{ uri: "unix:/tmp/none.main", channels: [main, cpr] }, "need either 'uri' or 'channels' argument"],
    [{ channels: [] }, "Channel list has no main entry"],
    [{ channels: [cpr] }, "Channel list has no main entry"],
    [{ channels: [main] }, "missing 'cpr' migration channel"],
    [{ channels: [main, main, cpr] }, "Channel list has more than one main entry"],
    [{ channels: [main, cpr, cpr] }, "Channel list has more than one cpr entry"],
    [{ channels: [main, { ...cpr, addr: file }] }, "bad cpr channel address; must be unix"],
    [{ channels: [main, { ...cpr, addr: inet }] }, "bad cpr channel socket type; must be unix"],
    [{ channels: [{ ...main, addr: file }, cpr] }, "Migration requires streamable transport (eg unix)"],
    [{ channels: [{ ...main, addr: inet }, cpr] }, "Migration requires a fixed port, not port 0"],
  ];
  const migrate = (args: {
    uri?: string;
    channels?: (typeof main | { "channel-type": "main" | "cpr"; addr: typeof file | typeof inet } | typeof cpr)[];
  }) => qmp.execute("migrate", args);
  for (const [args, message] of cases) {
    assert.is((await rejection(() => migrate(args))).message, message, JSON.stringify(args));
  }
  await settled();
  assert.equal(events, []);
  assert.equal(await qmp.execute("query-migrate"), {});
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  await guest.runsOn();
  const incoming = await rejection(() => qmp.execute("migrate-incoming", { uri: "unix:/tmp/none.main" }));
  assert.is(incoming.message, "'-incoming' was not specified on the command line");
});

test("refuses private RAM with QEMU's text", async () => {
  await using guest = new GuestProcess({ runtime: thisRuntime, ram: privateRam() });
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const reason =
    "Memory region ram0 is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on is required.";
  assert.is((await rejection(() => beginTransfer(qmp, sockets()))).message, reason);
  assert.equal(await qmp.execute("query-migrate"), { "blocked-reasons": [reason] });
  assert.equal(events, []);
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
});

test("refuses a main channel of the waiting side that is a file or port 0, with exit code 1", async () => {
  for (const [main, message] of [
    ["file:/tmp/vm.state", "must be a stream, not a file"],
    ["tcp:127.0.0.1:0", "needs a port other than 0"],
  ]) {
    const next = waitingWith(["-incoming", main!, "-incoming", cprChannel(sockets().cpr)]);
    const { exitCode } = await next.ended;
    assert.is.not(exitCode, 0);
    assert.match(next.error, message!);
  }
});

test("fails before the guest stops when nobody is at the cpr socket, and can be tried again", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const place = sockets();
  await beginTransfer(qmp, place);
  assert.is(await hasStayed(guest, qmp), `Failed to connect to '${place.cpr}': No such file or directory`);
  await settled();
  assert.equal(events, EVENTS_BEFORE_STOP);
  await using next = waiting(place);
  await untilListening(next, place.cpr);
  await moved(guest, next, place);
});

test("refuses another topology in the hello, and waits for the next guest", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const place = sockets();
  await using next = waiting(place, { extra: ["-smp", "2"] });
  await using nextQmp = await next.qmp();
  await beginTransfer(qmp, place);
  assert.match(await hasStayed(guest, qmp), /^The other side refused: .*cpu/i);
  await settled();
  assert.equal(events, EVENTS_BEFORE_STOP);
  assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
  assert.equal(await nextQmp.execute("query-cpus-fast"), []);

  await using other = await GuestProcess.start({ runtime: thisRuntime, payload: { cpuCount: 2 } });
  await moved(other, next, place);
  await guest.runsOn();
});

test("refuses a section that the other side does not know, or knows an older version of", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  await using next = waiting(place, variant("refusing-baton.ts", { BATON_TEST_REFUSE: "vcpu:0" }));
  await next.qmp().then((client) => client.destroy());
  await beginTransfer(qmp, place);
  assert.match(await hasStayed(guest, qmp), /^The other side refused: .*vcpu.*version/);
});

test("takes no hello that makes no sense, and then one that does", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  const own = sockets();
  await using next = waiting(place, { defer: true });
  await using nextQmp = await next.qmp();
  using hello = await hearHello(own.cpr, () => beginTransfer(qmp, { ...own, cpr: own.cpr }));
  const { payload, ramFd, fenceFd } = hello;
  const small = memfdCreate("small", 4096, { seals: 0 });
  const sealed = memfdCreate("sealed", 8192, { seals: F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL });
  const { readFd, writeFd } = pipe();
  const damaged = payload.slice();
  damaged[damaged.length >> 1]! ^= 0xff;
  const fds = [ramFd, fenceFd];
  const cases: [what: string, type: number, payload: Uint8Array, fds: number[], reason: RegExp][] = [
    ["no RAM", FRAME_HELLO, payload, [], /0 file descriptors instead of 2/],
    ["no fence", FRAME_HELLO, payload, [ramFd], /1 file descriptors instead of 2/],
    ["too many fds", FRAME_HELLO, payload, [ramFd, fenceFd, fenceFd, fenceFd], /4 file descriptors instead of 2 or 3/],
    ["RAM that is too small", FRAME_HELLO, payload, [small, fenceFd], /RAM of the other side is 4096 bytes/],
    ["a pipe as RAM", FRAME_HELLO, payload, [readFd, fenceFd], /RAM of the other side is a fifo/],
    ["a fence that may shrink", FRAME_HELLO, payload, [ramFd, small], /not the sealed file/],
    ["a fence of another size", FRAME_HELLO, payload, [ramFd, sealed], /not the sealed file/],
    ["an empty image", FRAME_HELLO, NOTHING, fds, /./],
    ["half an image", FRAME_HELLO, payload.subarray(0, payload.length >> 1), fds, /./],
    ["a damaged image", FRAME_HELLO, damaged, fds, /./],
    ["another frame with fds", FRAME_BEGIN, NOTHING, fds, /BEGIN where HELLO was expected/],
    ["no known frame", 99, NOTHING, [], /type 99 where HELLO was expected/],
  ];
  const refuseAll = async (): Promise<void> => {
    for (const [what, type, bytes, sent, reason] of cases) {
      const channel = await call(place.cpr);
      await channel.send(type, bytes, sent);
      const answer = await channel.receive();
      assert.is(answer!.type, FRAME_REFUSED, what);
      assert.match(text(answer!.payload), reason, what);
      assert.is(await channel.receive(), undefined, what);
      channel.close();
      assert.equal(await nextQmp.execute("query-status"), { running: false, status: "inmigrate" });
    }
  };
  // The first time a runtime opens things of its own.
  await refuseAll();
  const before = await resting(next);
  await refuseAll();
  holdsNoMore(await resting(next), before, "the waiting process");
  for (const fd of [small, sealed, readFd, writeFd]) close(fd);
  hello[Symbol.dispose]();
  assert.match(await hasStayed(guest, qmp), "ended before it sent ACCEPTED");
  const going = moved(guest, next, place);
  await next.until("the machine to be built", async () => (await nextQmp.execute("query-cpus-fast")).length === 1);
  await nextQmp.execute("migrate-incoming", { uri: `unix:${place.main}` });
  await going;
});

test("lets nobody else on its channels take the guest's place", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const place = sockets();
  await using next = waiting(place);
  await using nextQmp = await next.qmp();
  await untilListening(next, place.cpr);
  // One says nothing, one nonsense, one hangs up.
  const strangers = await pester(place.cpr);
  await using other = waiting(sockets(), { defer: true });
  await other.qmp().then((client) => client.destroy());
  let pestering: Promise<() => void> | undefined;
  let isOver = false;
  // It is there for a tenth of a second or less. The next test is sure to come in time, alone.
  const watch = until("the main socket", () => isOver || existsSync(place.main)).then(() => {
    if (!isOver) pestering = pester(place.main);
  });
  assert.is((await transferTo(qmp, place)).status, "completed", complaints(guest, next));
  assert.is((await over(nextQmp)).status, "completed");
  isOver = true;
  strangers();
  await hasMoved(guest, next);
  await Promise.allSettled([watch, pestering]);
});

async function pester(path: string): Promise<() => void> {
  const clients = ["", "GET / HTTP/1.1\r\nHost: nobody\r\nAccept: everything\r\n\r\n"].map((words) => {
    const client = connectSocket({ path });
    client.on("error", () => {});
    client.write(words);
    return client;
  });
  const brief = connectSocket({ path });
  brief.on("error", () => {});
  brief.once("connect", () => brief.destroy());
  await settled();
  return () => {
    for (const client of clients) client.destroy();
  };
}

test("takes nobody on the main channel who does not know the token", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const own = sockets();
  const place = sockets();
  await using next = waiting(place);
  await untilListening(next, place.cpr);
  // In between stands the test: it passes the hello on, and listens where the source will connect.
  using hello = await hearHello(own.cpr, () => beginTransfer(qmp, own));
  const cpr = await call(place.cpr);
  await cpr.send(FRAME_HELLO, hello.payload, [hello.ramFd, hello.fenceFd]);
  assert.is((await cpr.receive())!.type, FRAME_ACCEPTED);
  assert.is((await cpr.receive())!.type, FRAME_LISTENING);
  for (const [type, payload] of [
    [FRAME_BEGIN, new TextEncoder().encode("0".repeat(36))],
    [FRAME_STATE, hello.payload],
    [FRAME_BURST, u32(1)],
  ] as const) {
    const channel = await call(place.main);
    await channel.send(type, payload);
    assert.is((await channel.receive())!.type, FRAME_REFUSED);
    channel.close();
  }
  await using nextQmp = await next.qmp();
  assert.is((await nextQmp.execute("query-migrate")).status, "setup");
  // And the source, meanwhile, has not stopped its guest.
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  cpr.close();
  await gaveUp(next, place);
  hello.channel.close();
  await hasStayed(guest, qmp);
});

test("does not believe a peer that says it has the guest, and has not", async () => {
  await using guest = await startGuest();
  await using qmp = await guest.qmp();
  const events = await recordEvents(qmp);
  const lies: [what: string, type: number, payload: Uint8Array, reason: RegExp][] = [
    ["RUNNING", FRAME_RUNNING, new Uint8Array(24), /says that the guest runs there: it does not/],
    ["RUNNING without times", FRAME_RUNNING, NOTHING, /times that make no sense/],
    ["another frame", FRAME_LISTENING, NOTHING, /LISTENING where RUNNING was expected/],
    ["a refusal", FRAME_REFUSED, new TextEncoder().encode("no"), /^The other side refused: no$/],
  ];
  for (const [what, type, payload, reason] of lies) {
    const place = sockets();
    using hello = await hearHello(place.cpr, () => beginTransfer(qmp, place));
    const { called } = await listenFor(place.main);
    await hello.channel.send(FRAME_ACCEPTED, NOTHING);
    await hello.channel.send(FRAME_LISTENING, NOTHING);
    const main = await called;
    assert.is((await main.receive())!.type, FRAME_BEGIN);
    await main.send(FRAME_ACCEPTED, NOTHING);
    for (;;) {
      const { type: asked } = (await main.receive())!;
      if (asked === FRAME_BURST || asked === FRAME_FILLING) continue;
      if (asked === FRAME_STATE) break;
      await main.send(FRAME_REHEARSED, NOTHING);
    }
    events.splice(0);
    await main.send(type, payload);
    assert.match(await hasStayed(guest, qmp), reason, what);
    main.close();
    await settled();
    assert.equal(events, ["STOP", "MIGRATION failing", "RESUME", "MIGRATION failed"], what);
  }
  const place = sockets();
  await using next = waiting(place);
  await untilListening(next, place.cpr);
  await moved(guest, next, place);
});

test.run();
