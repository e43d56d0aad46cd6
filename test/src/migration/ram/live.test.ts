// SPDX-License-Identifier: Apache-2.0
// A guest that never stops writing is followed by rounds on two sockets, and ends up equal on the other side.
import { RamReceiver } from "../../../../src/migration/ram/ram-receiver.ts";
import { RamSender } from "../../../../src/migration/ram/ram-sender.ts";
import { until } from "../../../guest.ts";
import { assert, describe } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";
import { RAM_PAGES, WritingGuest } from "../../accel/kvm/writing-guest.ts";
import { BITMAP, OTHER_BITMAP, PAGE, Ram, range, Sockets } from "./support.ts";

const test = describe("RAM of a running guest");

for (const [name, ringEntries] of [
  ["log", 0],
  ["ring", 4096],
] as const) {
  test.skipIf(kvmMissing(), `${name}: the copy is the guest's RAM at the moment it was stopped`, async () => {
    await using guest = new WritingGuest(ringEntries);
    using to = new Ram(RAM_PAGES);
    using sockets = new Sockets(2);
    const { memory } = guest;
    const ramBase = guest.ram.byteOffset;
    await using sender = new RamSender({ memory, ramBase, ramSizeBytes: guest.ram.length, fds: sockets.near });
    await using receiver = new RamReceiver({ ...to, fds: sockets.far, freshBitmap: OTHER_BITMAP });
    guest.accel.run();
    await until("the guest to write", () => guest.counter > 0);
    const tracker = await guest.accel.dirtyTracker();
    tracker.start();
    tracker.collect(BITMAP);
    // The first round is all of RAM, whatever the tracker says.
    new Uint8Array(memory.buffer, BITMAP, RAM_PAGES / 8).fill(0xff);
    for (let round = 0; round < 20; round++) {
      await Promise.all([sender.sendRound(BITMAP), receiver.receiveRound()]);
      tracker.collect(BITMAP);
    }
    sender.prepareNow();
    const reception = receiver.receiveRound();
    guest.accel.park();
    tracker.collect(BITMAP);
    const last = sender.sendRoundNow(BITMAP, 10_000);
    await reception;
    const page = (index: number): Uint8Array => to.page(index);
    const missed = range(0, RAM_PAGES).filter((index) => Buffer.compare(guest.page(index), page(index)) !== 0);
    assert.equal(missed, []);
    assert.ok(last.normalPages < RAM_PAGES / 2, `${last.normalPages} of ${RAM_PAGES} pages of ${PAGE} bytes were left`);
    tracker.stop();
    assert.equal(guest.errors, []);
  });
}

test.run();
