// SPDX-License-Identifier: Apache-2.0
// Whether two VMMs agree on RAM by reference, whoever of them knows of it, and what lies between them.
import { close, pwrite, status } from "../../../ffi/fd.ts";
import type { VmmError } from "../../../src/errors.ts";
import type { Vm } from "../../../src/machine/vm.ts";
import { FrameChannel } from "../../../src/migration/channel/frames.ts";
import { expectFrame, FRAME_ACCEPTED, FRAME_HELLO } from "../../../src/migration/messages.ts";
import { acceptRam, canGiveRam, giveRam } from "../../../src/migration/ram-by-reference.ts";
import type { RamLocation } from "../../../src/migration/ram-section.ts";
import { Reactor } from "../../../src/runtime/reactor.ts";
import { assert, describe, rejection } from "../../harness.ts";
import { transportOn, transportPair } from "./channel/support.ts";
import { Ram } from "./ram/support.ts";

const test = describe("RAM by reference");

const PAGES = 16;
const NOTHING = new Uint8Array(0);
const inStream = (ram: Ram): RamLocation => ({ where: "in-stream", sizeBytes: ram.ramSizeBytes });
/** All that this looks at of a VM. */
const vmOf = (ram: Ram): Vm => ({ ram: ram.mapped, memory: ram.memory }) as unknown as Vm;
const info = (ramFile?: boolean) => ({ token: "t", generation: 1, ...(ramFile === undefined ? {} : { ramFile }) });

class Sides implements AsyncDisposable {
  readonly #reactor = new Reactor();
  readonly old: FrameChannel;
  readonly next: FrameChannel;

  constructor(transports = transportPair()) {
    this.old = new FrameChannel(transports[0], this.#reactor);
    this.next = new FrameChannel(transports[1], this.#reactor);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.old.close();
    this.next.close();
    await this.#reactor.close();
  }
}

test("both know of it: the new side has the old one's RAM", async () => {
  using from = new Ram(PAGES);
  using to = new Ram(PAGES);
  await using sides = new Sides();
  assert.ok(canGiveRam(vmOf(from), sides.old, inStream(from)));
  const [isGiven, source] = await Promise.all([
    expectFrame(sides.old, FRAME_ACCEPTED).then((accepted) => giveRam(vmOf(from), sides.old, accepted)),
    acceptRam(sides.next, info(true), inStream(to), vmOf(to)),
  ]);
  assert.ok(isGiven);
  const { inode } = status(from.fd);
  assert.is(status(source!.pages.fd).inode, inode);
  assert.throws(() => pwrite(source!.pages.fd, Uint8Array.of(1), 0), /EBADF/);
  source!.close();
});

test("a new side that does not know of it gets no fd", async () => {
  using from = new Ram(PAGES);
  await using sides = new Sides();
  await sides.next.send(FRAME_ACCEPTED, NOTHING);
  assert.not(await giveRam(vmOf(from), sides.old, await expectFrame(sides.old, FRAME_ACCEPTED)));
  await sides.old.send(FRAME_HELLO, NOTHING);
  assert.is((await sides.next.receive())!.type, FRAME_HELLO, "nothing came before it");
});

test("an old side that does not know of it is not asked", async () => {
  using to = new Ram(PAGES);
  await using sides = new Sides();
  assert.is(await acceptRam(sides.next, info(), inStream(to), vmOf(to)), undefined);
  assert.is((await expectFrame(sides.old, FRAME_ACCEPTED)).payload.length, 0);
});

test("an fd that a relay has lost: RAM is sent", async () => {
  using from = new Ram(PAGES);
  using to = new Ram(PAGES);
  await using left = new Sides();
  await using right = new Sides();
  const relay = async (from: FrameChannel, to: FrameChannel): Promise<void> => {
    const frame = (await from.receive())!;
    for (const fd of frame.fds) close(fd);
    // FLAG_FDS_OPTIONAL, and a header that announces none, which is what the reader makes of one that has lost its fd.
    await to.send(frame.type, frame.payload, [], 1);
  };
  const [isGiven, source] = await Promise.all([
    expectFrame(left.old, FRAME_ACCEPTED).then((accepted) => giveRam(vmOf(from), left.old, accepted)),
    acceptRam(right.next, info(true), inStream(to), vmOf(to)),
    (async () => {
      await relay(right.old, left.next);
      await relay(left.next, right.old);
      await relay(right.old, left.next);
    })(),
  ]);
  assert.not(isGiven);
  assert.is(source, undefined);
});

test("what is no RAM ends the migration", async () => {
  using from = new Ram(PAGES - 1);
  using to = new Ram(PAGES);
  await using sides = new Sides();
  const accepting = rejection(() => acceptRam(sides.next, info(true), inStream(to), vmOf(to)));
  const giving = expectFrame(sides.old, FRAME_ACCEPTED).then((accepted) => giveRam(vmOf(from), sides.old, accepted));
  assert.is(((await accepting) as VmmError).code, "ram-source");
  sides.next.close();
  assert.is(((await rejection(() => giving)) as VmmError).code, "peer-gone");
});

test("only RAM in a shared file goes that way, and only over a unix socket", async () => {
  using shared = new Ram(PAGES);
  const channelOn = (options: { isUnix?: boolean; isDuplex?: boolean }) => {
    const { transport } = sides.old;
    return { transport: transportOn(transport.fd, "other", options) } as FrameChannel;
  };
  await using sides = new Sides();
  assert.not(canGiveRam(vmOf(shared), channelOn({ isUnix: false }), inStream(shared)));
  assert.not(canGiveRam(vmOf(shared), channelOn({ isDuplex: false }), inStream(shared)));
  assert.not(canGiveRam(vmOf(shared), sides.old, { where: "in-place", sizeBytes: 1, path: "/x", samples: [] }));
  const isPrivate = { ram: { ...shared.mapped, isShared: false } } as unknown as Vm;
  assert.not(canGiveRam(isPrivate, sides.old, inStream(shared)));
  assert.is(
    await acceptRam(sides.next, info(true), { where: "in-place", sizeBytes: 1, path: "/x", samples: [] }, vmOf(shared)),
    undefined,
  );
  assert.is((await expectFrame(sides.old, FRAME_ACCEPTED)).payload.length, 0);
});

test.run();
