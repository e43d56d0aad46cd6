// SPDX-License-Identifier: Apache-2.0
// Guest RAM from a sender to a receiver: all of it, in rounds, on several sockets, and what happens when one side fails.
import { status } from "../../../../ffi/fd.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { RamReceiver } from "../../../../src/migration/ram/ram-receiver.ts";
import { RamSender } from "../../../../src/migration/ram/ram-sender.ts";
import { until } from "../../../guest.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { BITMAP, OTHER_BITMAP, PAGE, Ram, range, Sockets } from "./support.ts";

const test = describe("RAM on streams");

const PAGES = 5000;

/** Long enough for workers to start and to fill their sockets; what is tested holds if it is not. */
const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 50));

for (const streams of [1, 3]) {
  for (const zstdLevel of [0, 1]) {
    test(`${streams} streams, zstd ${zstdLevel}: rounds make the two equal`, async () => {
      using from = new Ram(PAGES);
      using to = new Ram(PAGES);
      using sockets = new Sockets(streams);
      await using sender = new RamSender({ ...from, fds: sockets.near, zstdLevel });
      await using receiver = new RamReceiver({ ...to, fds: sockets.far });
      // Runs, single pages, zero pages between them, and pages that pack well.
      from.fill([...range(0, 700), ...range(1000, 1400).filter((page) => page % 3 === 0), PAGES - 1]);
      for (const page of range(2000, 2300)) from.page(page).fill(page);
      to.fill(range(600, 1200), 7);
      from.setBits(BITMAP, range(0, PAGES));
      const [sent, received] = await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
      assert.equal(from.differing(to), []);
      assert.equal(from.bits(BITMAP), [], "the bitmap was used up");
      // 2048 = 8 * 256: a page of the byte 0 is zero.
      const normalPages = 700 + 133 + 1 + 300 - 1;
      assert.is(sent.normalPages, normalPages);
      assert.is(sent.zeroPages, PAGES - normalPages);
      assert.is(received.normalPages, sent.normalPages);
      assert.is(received.zeroPages, sent.zeroPages);
      assert.is(received.bytes, sent.bytes);
      assert.ok(zstdLevel === 0 ? sent.bytes > normalPages * PAGE : sent.bytes < (normalPages - 250) * PAGE);
      // A second round moves what is in its bitmap and nothing else.
      from.fill([3, 4, 1500], 2);
      from.page(5).fill(0);
      from.fill([6], 2);
      from.setBits(BITMAP, [3, 4, 5, 1500]);
      const [again] = await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
      assert.equal(from.differing(to), [6]);
      assert.is(again.normalPages, 3);
      assert.is(again.zeroPages, 1);
      // The last one, from this thread.
      from.setBits(BITMAP, [6, 7]);
      const reception = receiver.receiveRound();
      const last = sender.sendRoundNow(BITMAP, 10_000);
      await reception;
      assert.is(last.normalPages, 2);
      assert.equal(from.differing(to), []);
      assert.is(sender.progress.normalPages, normalPages + 5);
      assert.equal(sender.progress, receiver.progress);
      // And the workers go on after it.
      from.setBits(BITMAP, [8]);
      await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
    });
  }
}

test("zero pages leave fresh RAM unallocated, and make written RAM zero", async () => {
  using from = new Ram(PAGES);
  using to = new Ram(PAGES);
  using sockets = new Sockets(2);
  await using sender = new RamSender({ ...from, fds: sockets.near });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far, freshBitmap: OTHER_BITMAP });
  from.fill([10, 3000]);
  from.setBits(BITMAP, range(0, PAGES));
  await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
  assert.equal(to.bits(OTHER_BITMAP), [10, 3000]);
  assert.ok(allocatedBytes(to) < 4 << 20, `${allocatedBytes(to)} bytes`);
  from.page(10).fill(0);
  from.setBits(BITMAP, [9, 10, 11]);
  await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
  assert.equal(from.differing(to), []);
});

/** st_blocks says how much of the memfd is there: /proc/self/fd gives it to stat. */
function allocatedBytes({ fd }: Ram): number {
  const { statSync } = process.getBuiltinModule("node:fs");
  assert.is(status(fd).kind, "file");
  return statSync(`/proc/self/fd/${fd}`).blocks * 512;
}

test("a round without pages is a round", async () => {
  using from = new Ram(64);
  using to = new Ram(64);
  using sockets = new Sockets(2);
  await using sender = new RamSender({ ...from, fds: sockets.near });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  const [sent, received] = await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
  assert.is(sent.normalPages + sent.zeroPages, 0);
  assert.is(sent.bytes, 64);
  assert.is(received.bytes, 64);
});

test("a limit of bandwidth holds, and may be lifted", async () => {
  using from = new Ram(1024);
  using to = new Ram(1024);
  using sockets = new Sockets(2);
  // 4 MiB at this rate would take a minute.
  await using sender = new RamSender({ ...from, fds: sockets.near, bandwidth: 64 << 10 });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  from.fill(range(0, 1024));
  from.setBits(BITMAP, range(0, 1024));
  const startMs = performance.now();
  const rounds = Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const allowedBytes = ((performance.now() - startMs) / 1000) * (64 << 10) + 8 * PAGE;
  const { bytes } = sender.progress;
  assert.ok(bytes <= allowedBytes, `${bytes} bytes of ${allowedBytes}`);
  sender.bandwidth = 0;
  await rounds;
  assert.equal(from.differing(to), []);
});

test("a peer that goes away is named, on both sides, and ends all streams", async () => {
  using from = new Ram(PAGES);
  using to = new Ram(PAGES);
  using sockets = new Sockets(2);
  await using sender = new RamSender({ ...from, fds: sockets.near });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  from.fill(range(0, PAGES));
  from.setBits(BITMAP, range(0, PAGES));
  // Nobody receives: both streams fill their sockets and wait.
  const sending = rejection(() => sender.sendRound(BITMAP));
  await pause();
  assert.is(((await rejection(() => sender.sendRound(BITMAP))) as VmmError).code, "ram-busy");
  sockets.close(sockets.far[1]!);
  const error = (await sending) as VmmError;
  assert.is(error.code, "ram-peer");
  assert.match(error.message, /^The peer of stream 1 of guest RAM \(fd \d+\) closed the connection before the end/);
  assert.is(((await rejection(() => sender.sendRound(BITMAP))) as VmmError).code, "ram-peer", "it stays broken");
  sockets.close(sockets.near[0]!);
  const cut = (await rejection(() => receiver.receiveRound())) as VmmError;
  assert.ok(cut.code === "ram-peer" || cut.code === "ram-stream", cut.message);
});

test("cancelling ends a round that nobody receives, and one that nobody sends", async () => {
  using from = new Ram(PAGES);
  using to = new Ram(PAGES);
  using sockets = new Sockets(2);
  await using sender = new RamSender({ ...from, fds: sockets.near });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  const reception = rejection(() => receiver.receiveRound());
  await pause();
  receiver.cancel();
  assert.is(((await reception) as VmmError).code, "ram-cancelled");
  from.fill(range(0, PAGES));
  from.setBits(BITMAP, range(0, PAGES));
  const sending = rejection(() => sender.sendRound(BITMAP));
  await pause();
  sender.cancel();
  assert.is(((await sending) as VmmError).code, "ram-cancelled");
  assert.is(((await rejection(() => sender.sendRoundNow(BITMAP, 10))) as VmmError).code, "ram-cancelled");
});

test("closing in the middle of a round ends it", async () => {
  using from = new Ram(PAGES);
  using sockets = new Sockets(1);
  const sender = new RamSender({ ...from, fds: sockets.near });
  from.fill(range(0, PAGES));
  from.setBits(BITMAP, range(0, PAGES));
  const sending = rejection(() => sender.sendRound(BITMAP));
  await pause();
  await sender[Symbol.asyncDispose]();
  assert.is(((await sending) as VmmError).code, "ram-cancelled");
});

test("a peer that is too slow for the guest's pause is given up", async () => {
  using from = new Ram(PAGES);
  using sockets = new Sockets(1);
  await using sender = new RamSender({ ...from, fds: sockets.near });
  from.fill(range(0, PAGES));
  from.setBits(BITMAP, range(0, PAGES));
  assert.is(((await rejection(() => sender.sendRoundNow(BITMAP, 50))) as VmmError).code, "ram-timeout");
});

test("a peer that sends nothing in the guest's pause is given up", async () => {
  using to = new Ram(PAGES);
  using sockets = new Sockets(1);
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  assert.is(((await rejection(() => receiver.receiveRoundNow(50))) as VmmError).code, "ram-timeout");
});

test("no streams and too many are refused", async () => {
  using from = new Ram(1);
  assert.instance(await rejection(() => new RamSender({ ...from, fds: [] })), RangeError);
});

test("a round that is cut ends in order, and what has not gone keeps its bit", async () => {
  using from = new Ram(PAGES);
  using to = new Ram(PAGES);
  using sockets = new Sockets(2);
  // 4 MiB/s: the whole round would take five seconds.
  await using sender = new RamSender({ ...from, fds: sockets.near, bandwidth: 4 << 20 });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  from.fill(range(0, PAGES));
  from.setBits(BITMAP, range(0, PAGES));
  const rounds = Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
  await until("the first pages", () => sender.progress.normalPages > 0);
  sender.cut();
  const [sent, received] = await rounds;
  const left = from.bits(BITMAP);
  assert.ok(left.length > 0, "it was cut");
  assert.is(sent.normalPages, PAGES - left.length);
  assert.is(received.normalPages, sent.normalPages);
  assert.equal(from.differing(to), left);
  assert.throws(() => sender.sendRoundNow(BITMAP, 1000), /cut/);
});

test.run();
