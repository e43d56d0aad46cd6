// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { close as closeFd, isCloseOnExec, O_NONBLOCK, pipe, read, write } from "../../../../ffi/fd.ts";
import { SCM_MAX_FD, sendMessage } from "../../../../ffi/scm.ts";
import { SHUT_WR, shutdown } from "../../../../ffi/socket.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { FrameChannel } from "../../../../src/migration/channel/frames.ts";
import type { Transport } from "../../../../src/migration/channel/transport.ts";
import { bytes, openFdCount, text } from "../../../ffi/support.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { streamBytes, tick, until, warmReactor } from "../../backends/support.ts";
import { pipePair, type RawHeader, rawFrame, transportOn, transportPair } from "./support.ts";

const test = describe("src/migration/channel/frames");
const reactor = await warmReactor();
test.after(() => reactor.close());

const LIMIT = 1 << 20;
const TIMEOUT_MS = 10_000;

/** Two ends of one stream. */
function channels(pair: [Transport, Transport] = transportPair()): [FrameChannel, FrameChannel] {
  return [new FrameChannel(pair[0], reactor), new FrameChannel(pair[1], reactor)];
}

async function failure(code: string, action: () => unknown): Promise<string> {
  const error = await rejection(action);
  assert.is((error as VmmError).code, code, error.message);
  return error.message;
}

test("frames come as they were sent: types, payloads, order", async () => {
  const before = openFdCount();
  const [one, other] = channels();
  void one.send(1, bytes("first"));
  void one.send(0xffff, new Uint8Array(0));
  const last = one.send(3, bytes("third"));
  const received = [await other.receive(), await other.receive(), await other.receive()];
  await last;
  assert.equal(
    received.map((frame) => [frame!.type, text(frame!.payload), frame!.fds.length]),
    [
      [1, "first", 0],
      [0xffff, "", 0],
      [3, "third", 0],
    ],
  );
  one.close();
  assert.is(await other.receive(), undefined);
  other.close();
  assert.is(openFdCount(), before);
});

test("a frame larger than what the kernel takes at once waits for its reader, and so do those behind it", async () => {
  const [one, other] = channels();
  const payload = streamBytes(0, 3_000_000);
  let isSent = false;
  const sent = one.send(1, payload).then(() => {
    isSent = true;
  });
  const behind = one.send(2, bytes("behind"));
  await tick();
  assert.not(isSent);
  assert.equal((await other.receive())!.payload, payload);
  assert.is(text((await other.receive())!.payload), "behind");
  await Promise.all([sent, behind]);
  one.close();
  other.close();
});

test("both directions of a channel are independent of each other", async () => {
  const [one, other] = channels();
  const waiting = one.receive();
  const large = streamBytes(0, 1_000_000);
  const sent = one.send(1, large);
  await other.send(2, bytes("reply"));
  assert.is(text((await waiting)!.payload), "reply");
  assert.equal((await other.receive())!.payload, large);
  await sent;
  one.close();
  other.close();
});

test("fds travel with their frame, close-on-exec, and are the same open files", async () => {
  const before = openFdCount();
  const [one, other] = channels();
  const { readFd, writeFd } = pipe(O_NONBLOCK);
  await one.send(1, new Uint8Array(0));
  await one.send(2, streamBytes(0, 100_000), [writeFd, readFd]);
  one.sendNow(3, bytes("x"), [readFd], TIMEOUT_MS);
  assert.equal((await other.receive())!.fds, []);
  const { fds } = (await other.receive())!;
  const last = other.receiveNow(LIMIT, TIMEOUT_MS);
  assert.is(last.fds.length, 1);
  for (const fd of [...fds, ...last.fds]) assert.ok(isCloseOnExec(fd));
  write(fds[0]!, bytes("!"));
  assert.is(read(last.fds[0]!, new Uint8Array(8)), 1);
  for (const fd of [...fds, ...last.fds, readFd, writeFd]) closeFd(fd);
  one.close();
  other.close();
  assert.is(openFdCount(), before);
});

test("a frame carries as many fds as the kernel allows, and not one more", async () => {
  const before = openFdCount();
  const [one, other] = channels();
  const fds = (count: number): number[] => Array<number>(count).fill(one.transport.fd);
  assert.match((await rejection(() => one.send(1, bytes("m"), fds(SCM_MAX_FD + 1)))).message, "at most 253");
  await one.send(1, bytes("m"), fds(SCM_MAX_FD));
  const frame = other.receiveNow(LIMIT, TIMEOUT_MS);
  assert.is(frame.fds.length, SCM_MAX_FD);
  for (const fd of frame.fds) closeFd(fd);
  one.close();
  other.close();
  assert.is(openFdCount(), before);
});

test("what is no unix socket carries frames but no fds", async () => {
  const [to, from] = channels(pipePair());
  const payload = streamBytes(0, 300_000);
  assert.match(await failure("no-fds", () => to.send(1, bytes("x"), [0])), "fd:to cannot carry");
  assert.match(await failure("no-fds", () => to.sendNow(1, bytes("x"), [0], 1)), "fd:to cannot carry");
  const sent = to.send(1, payload);
  assert.equal((await from.receive())!.payload, payload);
  await sent;
  to.sendNow(2, bytes("now"), [], TIMEOUT_MS);
  assert.is(text(from.receiveNow(LIMIT, TIMEOUT_MS).payload), "now");
  write(to.transport.fd, rawFrame(new Uint8Array(0), { fdCount: 2, sequence: 2 }));
  assert.match(await failure("stream", () => from.receive()), "no file descriptors on what is no unix socket, found 2");
  to.close();
  from.close();
});

test("sendNow() and receiveNow() go with send() and receive() in one sequence", async () => {
  const [one, other] = channels();
  await one.send(1, bytes("a"));
  one.sendNow(2, bytes("b"), [], TIMEOUT_MS);
  await one.send(3, bytes("c"));
  const buffer = new Uint8Array(1);
  const first = other.receiveNow(LIMIT, TIMEOUT_MS, buffer);
  assert.is(first.payload.buffer, buffer.buffer);
  assert.is(text(first.payload), "a");
  assert.is(text((await other.receive())!.payload), "b");
  assert.is(text(other.receiveNow(LIMIT, TIMEOUT_MS).payload), "c");
  one.sendNow(4, bytes("longer than the buffer"), [], TIMEOUT_MS);
  assert.is(text(other.receiveNow(LIMIT, TIMEOUT_MS, buffer).payload), "longer than the buffer");
  one.close();
  other.close();
});

test("the two kinds cannot be mixed at the same time", async () => {
  const [one, other] = channels();
  const pending = other.receive();
  assert.match((await rejection(() => other.receiveNow(LIMIT, 1))).message, "under way");
  assert.match((await rejection(() => other.receive())).message, "under way");
  const sent = one.send(1, new Uint8Array(2_000_000));
  assert.match((await rejection(() => one.sendNow(2, bytes("x"), [], 1))).message, "under way");
  assert.is((await pending)!.payload.byteLength, 2_000_000);
  await sent;
  one.close();
  other.close();
});

test("a silent peer is an error in time; of one that sent nothing yet more may come", async () => {
  const [one, other] = channels();
  assert.match(
    await failure("peer-silent", () => other.receiveNow(LIMIT, 5)),
    "unix:other did not send a whole frame within 5 ms",
  );
  one.sendNow(1, bytes("late"), [], TIMEOUT_MS);
  assert.is(text(other.receiveNow(LIMIT, TIMEOUT_MS).payload), "late");
  write(one.transport.fd, rawFrame(bytes("x"), { sequence: 1 }).subarray(0, 10));
  await failure("peer-silent", () => other.receiveNow(LIMIT, 5));
  await failure("peer-silent", () => other.receive());
  assert.match(await failure("peer-silent", () => one.sendNow(2, new Uint8Array(4_000_000), [], 5)), "did not take");
  await failure("peer-silent", () => one.send(2, bytes("x")));
  one.close();
  other.close();
});

test("a peer that has gone is told apart; what it sent before is received", async () => {
  const [one, other] = channels();
  one.sendNow(1, bytes("last word"), [], TIMEOUT_MS);
  one.close();
  await failure("peer-gone", () => other.sendNow(1, bytes("x"), [], TIMEOUT_MS));
  await failure("peer-gone", () => other.send(1, bytes("x")));
  assert.is(text(other.receiveNow(LIMIT, TIMEOUT_MS).payload), "last word");
  assert.match(await failure("peer-gone", () => other.receiveNow(LIMIT, TIMEOUT_MS)), "unix:other ended the stream");
  other.close();

  const [two, another] = channels();
  write(two.transport.fd, rawFrame(bytes("payload")).subarray(0, 35));
  two.close();
  assert.match(
    await failure("peer-gone", () => another.receiveNow(LIMIT, TIMEOUT_MS)),
    "after 3 of 7 payload bytes of frame 0",
  );
  await failure("peer-gone", () => another.receive());
  another.close();
});

test("a connection that breaks while it is waited for fails both waits", async () => {
  const [one, other] = channels();
  const received = rejection(() => one.receive());
  const sent = rejection(() => one.send(1, new Uint8Array(2_000_000)));
  await tick();
  other.close();
  assert.is(((await sent) as VmmError).code, "peer-gone");
  // Unread data at the other end makes the kernel reset the connection, not end it.
  assert.is(((await received) as VmmError).code, "peer-gone");
  one.close();
});

const refused: [string, RawHeader, string][] = [
  ["a wrong magic", { magic: 0x12345678 }, "expected magic 0x464e5442, found 0x12345678"],
  ["another protocol version", { version: 2 }, "expected protocol version 1, found 2"],
  ["a damaged header", { crc: 0xbad }, "expected header checksum 0x"],
  ["unknown flags", { flags: 0x10 }, "expected no flags but 0x1, found 0x10"],
  ["reserved bytes in use", { reserved: 5 }, "expected zero in reserved bytes, found 0x5"],
  ["a wrong sequence number", { sequence: 1 }, "expected sequence number 0, found 1"],
  ["a payload over the limit", { sizeBytes: LIMIT + 1 }, "expected at most 1048576 payload bytes, found 1048577"],
  ["the largest size there is", { sizeBytes: 0xffff_ffff }, "found 4294967295"],
  ["fds that did not come", { fdCount: 1 }, "expected the 1 file descriptors that the header announces, found 0"],
];
test("fds that did not come are missed only where the frame says so", async () => {
  const [one, other] = transportPair();
  const channel = new FrameChannel(other, reactor);
  write(one.fd, rawFrame(bytes("payload"), { fdCount: 1, flags: 1 }));
  const frame = (await channel.receive(LIMIT))!;
  assert.equal(frame.fds, []);
  assert.is(text(frame.payload), "payload");
  one.close();
  channel.close();
});

for (const [what, header, message] of refused) {
  test(`${what} is refused, by both ways to receive, and nothing is read after it`, async () => {
    for (const receive of [
      (channel: FrameChannel) => channel.receive(LIMIT),
      (channel: FrameChannel) => channel.receiveNow(LIMIT, TIMEOUT_MS),
    ]) {
      const [one, other] = transportPair();
      const channel = new FrameChannel(other, reactor);
      write(one.fd, rawFrame(bytes("payload"), header));
      write(one.fd, rawFrame(bytes("good")));
      const said = await failure("stream", () => receive(channel));
      assert.match(said, message);
      assert.match(said, "Frame 0 from unix:other");
      assert.is(await failure("stream", () => receive(channel)), said);
      one.close();
      channel.close();
    }
  });
}

test("fds of a refused frame are closed, announced or not", async () => {
  const before = openFdCount();
  for (const header of [
    { fdCount: 1 },
    { fdCount: 3 },
    {},
    { fdCount: 2, magic: 1 },
    { fdCount: 2, sizeBytes: LIMIT + 1 },
  ]) {
    const [one, other] = transportPair();
    const channel = new FrameChannel(other, reactor);
    sendMessage(one.fd, rawFrame(bytes("x"), header), [one.fd, one.fd]);
    await failure("stream", () => channel.receive(LIMIT));
    one.close();
    channel.close();
  }
  assert.is(openFdCount(), before);
});

test("fds with every byte of a header are refused before there are many", async () => {
  const before = openFdCount();
  const [one, other] = transportPair();
  const channel = new FrameChannel(other, reactor);
  const frame = rawFrame(bytes("x"), { fdCount: 200 });
  for (let at = 0; at < 3; at++) sendMessage(one.fd, frame.subarray(at, at + 1), Array<number>(200).fill(one.fd));
  await failure("stream", () => channel.receive(LIMIT));
  one.close();
  channel.close();
  assert.is(openFdCount(), before);
});

test("fds of an incomplete frame, of a payload, and of frames that nobody receives are closed with the channel", async () => {
  const before = openFdCount();
  const [one, other] = transportPair();
  const channel = new FrameChannel(other, reactor);
  sendMessage(one.fd, rawFrame(bytes("abc")).subarray(0, 33));
  sendMessage(one.fd, bytes("bc"), [one.fd]);
  assert.equal((await channel.receive())!.fds, []);
  sendMessage(one.fd, rawFrame(bytes("x"), { fdCount: 1, sequence: 1 }).subarray(0, 20), [one.fd]);
  const pending = rejection(() => channel.receive());
  await tick();
  sendMessage(one.fd, bytes("never read"), [one.fd]);
  channel.close();
  assert.match((await pending).message, "was closed");
  one.close();
  assert.is(openFdCount(), before);
});

test("a stream that is cut anywhere is no end, but between frames it is", async () => {
  const frame = rawFrame(bytes("payload"), {});
  for (let size = 0; size <= frame.byteLength; size++) {
    const [one, other] = transportPair();
    const channel = new FrameChannel(other, reactor);
    if (size > 0) write(one.fd, frame.subarray(0, size));
    one.close();
    if (size === frame.byteLength) assert.is(text((await channel.receive())!.payload), "payload");
    if (size === 0 || size === frame.byteLength) assert.is(await channel.receive(), undefined);
    else {
      const where = size <= 31 ? `${size} of 32 header bytes` : `${size - 32} of 7 payload bytes of frame 0`;
      assert.match(await failure("stream", () => channel.receive()), where);
    }
    channel.close();
  }
});

test("random bytes are never a frame, however they are cut", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 1, maxLength: 80 }), { maxLength: 5 }), async (pieces) => {
      const [one, other] = transportPair();
      const channel = new FrameChannel(other, reactor);
      let sizeBytes = 0;
      const received = channel.receive(LIMIT).then(
        (frame) => frame,
        (error: VmmError) => error.code,
      );
      for (const piece of pieces) {
        write(one.fd, piece);
        sizeBytes += piece.byteLength;
        await Promise.resolve();
      }
      one.close();
      const result = await received;
      if (sizeBytes === 0) assert.is(result, undefined);
      // The reader hung up on what it did not want to read.
      else assert.is(result, "stream");
      channel.close();
    }),
    { numRuns: 200 },
  );
});

test("any change of one header byte is noticed", async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(31), fc.integer({ min: 1, max: 255 }), async (at, change) => {
      const [one, other] = transportPair();
      const channel = new FrameChannel(other, reactor);
      const frame = rawFrame(bytes("payload"));
      frame[at]! ^= change;
      write(one.fd, frame);
      await failure("stream", () => channel.receive(LIMIT));
      one.close();
      channel.close();
    }),
    { numRuns: 100 },
  );
});

test("frames of any size arrive whole, in order, whichever way they are sent and received", async () => {
  const op = fc.record({ now: fc.boolean(), size: fc.nat(150_000), receiveNow: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(fc.array(op, { maxLength: 6 }), async (ops) => {
      const [one, other] = channels();
      for (const [index, { now, size, receiveNow }] of ops.entries()) {
        const payload = streamBytes(index, size);
        if (now) one.sendNow(index, payload, [], TIMEOUT_MS);
        else await one.send(index, payload);
        const frame = receiveNow ? other.receiveNow(LIMIT, TIMEOUT_MS) : (await other.receive())!;
        assert.is(frame.type, index);
        assert.equal(frame.payload, payload);
      }
      one.close();
      other.close();
    }),
    { numRuns: 30 },
  );
});

test("a peer that hangs up is noticed while nothing is received, once", async () => {
  const [one, other] = channels();
  let calls = 0;
  one.onHangup(() => calls++);
  await other.send(1, bytes("not the end"));
  await tick();
  await tick();
  assert.is(calls, 0);
  assert.is(text((await one.receive())!.payload), "not the end");
  await other.send(2, bytes("waits"));
  assert.is(text(one.receiveNow(LIMIT, TIMEOUT_MS).payload), "waits");
  other.close();
  await until(() => calls > 0);
  await tick();
  assert.is(calls, 1);
  assert.is(await one.receive(), undefined);
  one.close();
});

test("a hang-up is noticed with data in the way, at the end of one side, and on both ends of a pipe", async () => {
  const [one, other] = channels();
  const gone: string[] = [];
  await other.send(1, bytes("unread"));
  one.onHangup(() => gone.push("unread"));
  await tick();
  other.close();
  await until(() => gone.includes("unread"));
  assert.is(text((await one.receive())!.payload), "unread");
  one.close();

  const [half, halfPeer] = channels();
  half.onHangup(() => gone.push("half"));
  shutdown(halfPeer.transport.fd, SHUT_WR);
  await until(() => gone.includes("half"));
  half.close();
  halfPeer.close();

  for (const index of [0, 1]) {
    const pair = channels(pipePair());
    pair[index]!.onHangup(() => gone.push(`pipe ${index}`));
    await tick();
    assert.not(gone.includes(`pipe ${index}`));
    pair[1 - index]!.close();
    await until(() => gone.includes(`pipe ${index}`));
    pair[index]!.close();
  }
});

test("frames that come and go while the peer is watched are no hang-up", async () => {
  for (const pair of [transportPair(), pipePair()]) {
    const [to, from] = channels(pair);
    let calls = 0;
    for (let index = 0; index < 100; index++) {
      from.onHangup(() => calls++);
      const early = index % 3 === 0 ? from.receive() : undefined;
      await to.send(1, bytes("a"));
      from.onHangup(() => calls++);
      await to.send(2, bytes("b"));
      if (index % 2 === 0) await tick();
      assert.is((early === undefined ? from.receiveNow(LIMIT, TIMEOUT_MS) : await early)!.type, 1);
      from.onHangup(() => calls++);
      assert.is((await from.receive())!.type, 2);
    }
    await tick();
    assert.is(calls, 0);
    to.close();
    await until(() => calls === 1);
    from.close();
  }
});

test("a channel that is closed between a report and what follows it does not touch its fd again", async () => {
  const [one, other] = channels();
  const failures = [rejection(() => one.receive()), rejection(() => one.send(1, new Uint8Array(2_000_000)))];
  await other.send(1, bytes("x"));
  one.close();
  for (const failed of await Promise.all(failures)) assert.match(failed.message, "was closed");
  other.close();
});

test("nobody is told of a hang-up after onHangup(undefined), during a receive, or after close", async () => {
  const [one, other] = channels();
  one.onHangup(() => assert.unreachable("taken back"));
  one.onHangup(undefined);
  const [two, another] = channels();
  const pending = two.receive();
  let calls = 0;
  two.onHangup(() => calls++);
  other.close();
  await tick();
  await another.send(1, bytes("x"));
  assert.is(text((await pending)!.payload), "x");
  assert.is(calls, 0);
  two.close();
  another.close();
  await tick();
  assert.is(calls, 0);
  one.close();
  one.close();
});

test("a type or a payload that no frame can have is refused before anything is sent", async () => {
  const [one, other] = channels();
  for (const type of [-1, 0x10000, Number.NaN])
    assert.instance(await rejection(() => one.send(type, bytes("x"))), RangeError);
  await one.send(1, bytes("still in order"));
  assert.is(text((await other.receive())!.payload), "still in order");
  one.close();
  assert.match(await failure("stream", () => one.send(1, bytes("x"))), "was closed");
  other.close();
});

test("a transport that is no unix socket by its own word gets no fds, even if one comes", async () => {
  const before = openFdCount();
  const [one, other] = transportPair();
  const channel = new FrameChannel(transportOn(other.fd, "tcp:host:1", { isUnix: false }), reactor);
  sendMessage(one.fd, rawFrame(bytes("x")), [one.fd]);
  assert.equal((await channel.receive())!.fds, []);
  sendMessage(one.fd, rawFrame(bytes("x"), { fdCount: 1, sequence: 1 }), [one.fd]);
  await failure("stream", () => channel.receive());
  one.close();
  channel.close();
  assert.is(openFdCount(), before);
});

test.run();
