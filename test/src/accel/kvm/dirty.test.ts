// SPDX-License-Identifier: Apache-2.0
// Dirty tracking on real KVM: what a guest writes is found, while it writes and afterwards.
import { SCRATCH_BITMAPS } from "../../../../assembly/layout.ts";
import type { VmmError } from "../../../../src/errors.ts";
import { until } from "../../../guest.ts";
import { assert, describe, rejection } from "../../../harness.ts";
import { kvmMissing } from "../../../kvm.ts";
import { COUNTER_GPA, COUNTER_PAGES, PAGE, RAM_PAGES, SCATTER_GPA, WritingGuest } from "./writing-guest.ts";

const test = describe("dirty tracking on KVM");
const skip = kvmMissing();

const BITMAP = SCRATCH_BITMAPS;
/** Small enough to overflow while somebody looks elsewhere. */
const RING_ENTRIES = 1024;

/** Takes the pages out of the bitmap. */
function take(guest: WritingGuest): number[] {
  const bits = new Uint8Array(guest.memory.buffer, BITMAP, RAM_PAGES / 8);
  const pages = Array.from({ length: RAM_PAGES }, (_, page) => page).filter(
    (page) => ((bits[page >> 3]! >> (page & 7)) & 1) === 1,
  );
  bits.fill(0);
  return pages;
}

/** What a page holds, for messages that are short. */
const differing = (guest: WritingGuest, copy: Uint8Array): number[] =>
  Array.from({ length: RAM_PAGES }, (_, page) => page).filter((page) => {
    const here = guest.page(page);
    return Buffer.compare(here, copy.subarray(page * PAGE, (page + 1) * PAGE)) !== 0;
  });

for (const [name, ringEntries] of [
  ["log", 0],
  ["ring", RING_ENTRIES],
] as const) {
  test.skipIf(skip, `${name}: finds what the guest and the VMM wrote, once, and nothing else`, async () => {
    await using guest = new WritingGuest(ringEntries);
    const tracker = await guest.accel.dirtyTracker();
    assert.is(await guest.accel.dirtyTracker(), tracker, "there is one");
    guest.accel.markDirty(0, PAGE);
    tracker.start();
    assert.is(tracker.isOn, true);
    // Of the first, which may be all of RAM, nothing is asked.
    tracker.collect(BITMAP);
    take(guest);
    tracker.collect(BITMAP);
    assert.equal(take(guest), [], "nobody has written");
    guest.accel.run();
    const scatteredPages = (): number[] =>
      Array.from({ length: RAM_PAGES }, (_, page) => page).filter(
        (page) => page >= SCATTER_GPA / PAGE && guest.page(page).some((byte) => byte !== 0),
      );
    await until("both vCPUs to write", () => guest.counter > 1 && scatteredPages().length > 0);
    guest.accel.park();
    tracker.collect(BITMAP);
    const found = take(guest);
    const counters = Array.from({ length: COUNTER_PAGES }, (_, index) => COUNTER_GPA / PAGE + index);
    assert.equal(
      found.filter((page) => page < SCATTER_GPA / PAGE),
      counters,
    );
    const scattered = scatteredPages();
    const missed = scattered.filter((page) => !found.includes(page));
    assert.equal(missed, []);
    tracker.collect(BITMAP);
    assert.equal(take(guest), [], "it was taken");
    guest.accel.markDirty(5 * PAGE - 1, 2);
    guest.accel.markDirty(63 * PAGE, 2 * PAGE);
    guest.accel.markDirty((RAM_PAGES - 1) * PAGE, 100 * PAGE);
    guest.accel.markDirty(0, 0);
    tracker.collect(BITMAP);
    assert.equal(take(guest), [4, 5, 63, 64, RAM_PAGES - 1]);
    tracker.stop();
    assert.is(tracker.isOn, false);
    assert.equal(guest.errors, []);
  });

  test.skipIf(skip, `${name}: a copy that follows a guest which never stops writing ends up equal`, async () => {
    await using guest = new WritingGuest(ringEntries);
    const tracker = await guest.accel.dirtyTracker();
    guest.accel.run();
    await until("the guest to write", () => guest.counter > 0);
    // The second time around, what the first left behind must do no harm.
    for (let round = 0; round < 2; round++) {
      tracker.start();
      const copy = guest.ram.slice();
      const update = (): void => {
        tracker.collect(BITMAP);
        for (const page of take(guest)) copy.set(guest.page(page), page * PAGE);
      };
      const [seen, exits] = [guest.counter, guest.exits];
      await until("the guest to write, and to fill its rings", () => {
        for (let time = 0; time < 10; time++) update();
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60);
        return guest.counter > seen + 10 && (ringEntries === 0 || guest.exits > exits + 3);
      });
      guest.accel.park();
      update();
      assert.equal(differing(guest, copy), [], "pages that were missed");
      guest.accel.run();
      tracker.stop();
    }
    assert.equal(guest.accel.failures(), []);
    assert.equal(guest.errors, []);
  });
}

test.skipIf(skip, "a reset is a write to all of RAM", async () => {
  await using guest = new WritingGuest(0);
  const tracker = await guest.accel.dirtyTracker();
  tracker.start();
  tracker.collect(BITMAP);
  take(guest);
  const { protectedModeState } = await import("../../../../src/machine/boot/vcpu-state.ts");
  guest.accel.reset(protectedModeState(0x9000, {}));
  tracker.collect(BITMAP);
  assert.is(take(guest).length, RAM_PAGES);
});

test.skipIf(skip, "throttles vCPUs that never leave the guest, lets them park, and lets go of them", async () => {
  await using guest = new WritingGuest(0);
  guest.accel.run();
  await until("the guest to write", () => guest.counter > 0);
  guest.accel.throttle(90);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const [startNs, startMs] = [guest.cpuTimeNs(), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, 600));
  const share = (guest.cpuTimeNs() - startNs) / 1e6 / (performance.now() - startMs);
  // Two threads at a tenth of their time each; a loaded host can only make it less.
  assert.ok(share > 0 && share < 0.6, `${share}`);
  guest.accel.throttle(99);
  for (let time = 0; time < 5; time++) {
    guest.accel.park();
    const stopped = guest.counter;
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.is(guest.counter, stopped, "parked");
    guest.accel.run();
  }
  guest.accel.throttle(0);
  const before = guest.counter;
  await until("the guest to run again", () => guest.counter > before + 20);
  assert.equal(guest.errors, []);
  for (const percent of [-1, 100, Number.NaN]) {
    assert.instance(await rejection(() => guest.accel.throttle(percent)), RangeError);
  }
});

test.skipIf(skip, "a ring that KVM does not take is refused with what it does take", async () => {
  const error = await rejection(() => new WritingGuest(1 << 20));
  assert.is((error as VmmError).code, "dirty-ring");
  assert.match(error.message, /dirty-ring-size=1048576: this host's KVM takes \d+ at most/);
});

test.run();
