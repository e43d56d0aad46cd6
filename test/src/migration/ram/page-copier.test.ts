// SPDX-License-Identifier: Apache-2.0
// Pages by reference: out of the sender's RAM file, in each of the ways that there are.
import { close, duplicate, isOpen, O_RDONLY, open } from "../../../../ffi/fd.ts";
import { memfdCreate } from "../../../../ffi/memfd.ts";
import { socketPair } from "../../../../ffi/socket.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { RamReceiver } from "../../../../src/migration/ram/ram-receiver.ts";
import { RamSender } from "../../../../src/migration/ram/ram-sender.ts";
import { RamSource } from "../../../../src/migration/ram/ram-source.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { BITMAP, OTHER_BITMAP, PAGE, Ram, range, Sockets } from "./support.ts";

const test = describe("pages by reference");

const PAGES = 5000;

const give = (from: Ram, to: Ram): RamSource => RamSource.adopt(open(`/proc/self/fd/${from.fd}`, O_RDONLY), to.mapped);

const cases = [
  { what: "into fresh RAM, then from a mapping", isMapped: true, isFresh: true },
  { what: "from a file that may shrink", seal: false, isMapped: false, isFresh: true },
  { what: "into RAM that is there already", prealloc: true, isMapped: true, isFresh: false },
  {
    what: "from a file that may shrink, into RAM that is there",
    seal: false,
    prealloc: true,
    isMapped: false,
    isFresh: false,
  },
];
for (const { what, seal, prealloc, isMapped, isFresh } of cases) {
  for (const streams of [1, 2]) {
    test(`${what}, ${streams} streams: rounds make the two equal`, async () => {
      using from = new Ram(PAGES, seal === undefined ? {} : { seal });
      using to = new Ram(PAGES, prealloc === undefined ? {} : { prealloc });
      using sockets = new Sockets(streams);
      using source = give(from, to);
      assert.is(source.pages.mapped !== undefined, isMapped);
      assert.is(source.pages.freshFd !== undefined, isFresh);
      await using sender = new RamSender({ ...from, fds: sockets.near, isByReference: true });
      const receiving = { ...to, fds: sockets.far, freshBitmap: OTHER_BITMAP, source: source.pages };
      await using receiver = new RamReceiver(receiving);
      from.fill([...range(3, 700), ...range(1000, 1400).filter((page) => page % 3 === 0), PAGES - 1]);
      from.setBits(BITMAP, range(0, PAGES));
      const [sent, received] = await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
      assert.equal(from.differing(to), []);
      assert.is(sent.normalPages, 697 + 133 + 1);
      assert.is(received.normalPages, sent.normalPages);
      assert.is(received.bytes, sent.bytes);
      assert.ok(sent.bytes >= sent.normalPages * PAGE, "what is copied counts");
      // Pages that are there, pages that are not, and one that is zero now; the rest stays as it is.
      from.fill([...range(650, 800), 4000], 2);
      from.page(10).fill(0);
      from.fill([20], 2);
      from.setBits(BITMAP, [10, ...range(650, 800), 4000]);
      await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
      assert.equal(from.differing(to), [20]);
      from.setBits(BITMAP, [20]);
      // The last one, on this thread on both sides.
      sender.sendRoundNow(BITMAP, 10_000);
      assert.is(receiver.receiveRoundNow(10_000).normalPages, 1);
      assert.equal(from.differing(to), []);
      assert.equal(sender.progress, receiver.progress);
    });
  }
}

test("no page goes over the sockets", async () => {
  using from = new Ram(PAGES);
  using sockets = new Sockets(1);
  await using sender = new RamSender({ ...from, fds: sockets.near, isByReference: true });
  from.fill(range(0, PAGES));
  from.setBits(BITMAP, range(0, PAGES));
  // 20 MB do not fit into the socket: with them in it this would wait for somebody to receive.
  await sender.sendRound(BITMAP);
});

test("a limit of bandwidth holds for them, too", async () => {
  using from = new Ram(1024);
  using to = new Ram(1024);
  using sockets = new Sockets(1);
  using source = give(from, to);
  await using sender = new RamSender({ ...from, fds: sockets.near, bandwidth: 64 << 10, isByReference: true });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far, source: source.pages });
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

test("a reference without a file is refused", async () => {
  using from = new Ram(16);
  using to = new Ram(16);
  using sockets = new Sockets(1);
  await using sender = new RamSender({ ...from, fds: sockets.near, isByReference: true });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far });
  from.fill([3]);
  from.setBits(BITMAP, [3]);
  await sender.sendRound(BITMAP);
  const error = (await rejection(() => receiver.receiveRound())) as VmmError;
  assert.is(error.code, "ram-stream");
  assert.match(error.message, /refers to a file that did not come/);
});

test("a file that shrinks is noticed", async () => {
  using from = new Ram(16, { seal: false });
  using to = new Ram(16);
  using sockets = new Sockets(1);
  using source = give(from, to);
  await using sender = new RamSender({ ...from, fds: sockets.near, isByReference: true });
  await using receiver = new RamReceiver({ ...to, fds: sockets.far, source: source.pages });
  from.fill([15]);
  from.setBits(BITMAP, [15]);
  await sender.sendRound(BITMAP);
  const { truncateSync } = process.getBuiltinModule("node:fs");
  truncateSync(`/proc/self/fd/${from.fd}`, 15 * PAGE);
  const error = (await rejection(() => receiver.receiveRound())) as VmmError;
  assert.is(error.code, "ram-stream");
  assert.match(error.message, /ends at byte 61440, within a page/);
});

test("what is no RAM file of that size is refused, and closed", async () => {
  using to = new Ram(16);
  const [near, far] = socketPair();
  close(near);
  for (const [fd, message] of [
    [memfdCreate("short", 15 * PAGE), /is a file of 61440 bytes, not a file of 65536/],
    [far, /is a socket of 0 bytes/],
    [open("/", O_RDONLY), /is a directory of/],
  ] as const) {
    const error = (await rejection(() => RamSource.adopt(fd, to.mapped))) as VmmError;
    assert.is(error.code, "ram-source");
    assert.match(error.message, message);
    assert.not(isOpen(fd));
  }
});

test("nothing of the other process's RAM is held on to", () => {
  using from = new Ram(64, { id: "lent" });
  using to = new Ram(64);
  const source = RamSource.adopt(duplicate(from.fd), to.mapped);
  const { fd, mapped } = source.pages;
  from.fill([0]);
  assert.not.equal(new Uint8Array(mapped!.buffer)[0], 0);
  const countMappings = (): number => {
    const { readFileSync } = process.getBuiltinModule("node:fs");
    return readFileSync("/proc/self/maps", "utf8").split("/memfd:lent").length - 1;
  };
  const before = countMappings();
  source.close();
  assert.not(isOpen(fd));
  assert.is(new Uint8Array(mapped!.buffer)[0], 0);
  assert.is(countMappings(), before - 1);
});

test.run();
