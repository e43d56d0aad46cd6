// SPDX-License-Identifier: Apache-2.0
// The devices' clock: the host's within a boot, and what passed in the world over to another one.
import { CONTROL_MONOTONIC_OFFSET } from "../../../assembly/layout.ts";
import { bootId } from "../../../ffi/boot-id.ts";
import { monotonicNs, realtimeNs } from "../../../ffi/clock.ts";
import {
  CLOCK_ORIGIN_SECTION,
  deviceClock,
  elapsedRealNs,
  encodeHostTime,
  isOfThisBoot,
  movedMonotonicOffset,
  planClockOrigin,
  readHostTime,
  restoreClockOrigin,
} from "../../../src/machine/clock-origin.ts";
import { StateReader } from "../../../src/state/reader.ts";
import { StateWriter } from "../../../src/state/writer.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("clock origin");
const KNOWN = { [CLOCK_ORIGIN_SECTION]: 1 };
const SECOND = 1_000_000_000n;

function createMemory(offsetNs = 0n): WebAssembly.Memory {
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
  new BigInt64Array(memory.buffer)[CONTROL_MONOTONIC_OFFSET >> 3] = offsetNs;
  return memory;
}

function offsetOf(memory: WebAssembly.Memory): bigint {
  return new BigInt64Array(memory.buffer)[CONTROL_MONOTONIC_OFFSET >> 3]!;
}

function saveImage(memory: WebAssembly.Memory): Uint8Array {
  const writer = new StateWriter();
  const bind = planClockOrigin(writer, memory);
  writer.lay();
  bind()();
  return writer.seal();
}

function save(memory: WebAssembly.Memory): StateReader {
  return new StateReader(saveImage(memory), KNOWN);
}

/** As if saved in another boot: that long ago, `uptimeNs` after its start. */
function moveToOtherBoot(reader: StateReader, agoNs: bigint, uptimeNs: bigint): void {
  const section = reader.section(CLOCK_ORIGIN_SECTION);
  section.part("boot-id")[0]! ^= 1;
  const host = section.part("host");
  const time = { monotonicNs: uptimeNs, realtimeNs: realtimeNs() - agoNs };
  encodeHostTime(time, new DataView(host.buffer, host.byteOffset));
}

test("what passed is CLOCK_REALTIME's difference, and never less than nothing", () => {
  assert.is(elapsedRealNs(5_000n, 5_700n), 700n);
  assert.is(elapsedRealNs(5_000n, 4_000n), 0n);
});

test("the devices' clock goes on from what it showed, whatever the new host's shows", () => {
  const saved = { monotonicNs: 900n, realtimeNs: 5_000n };
  for (const now of [
    { monotonicNs: 3n, realtimeNs: 5_700n },
    { monotonicNs: 1_000_000n, realtimeNs: 5_700n },
  ]) {
    assert.is(now.monotonicNs + movedMonotonicOffset(0n, saved, now), 900n + 700n);
    assert.is(now.monotonicNs + movedMonotonicOffset(-40n, saved, now), 900n - 40n + 700n);
    const setBack = { ...now, realtimeNs: 1n };
    assert.is(now.monotonicNs + movedMonotonicOffset(10n, saved, setBack), 900n + 10n, "it does not go back");
  }
});

test("both clocks are read again when somebody interrupted", () => {
  let readings = 0;
  const time = readHostTime(() => {
    const startNs = monotonicNs();
    if (++readings < 3) while (monotonicNs() - startNs < 100_000n);
  });
  assert.ok(readings >= 3);
  assert.ok(time.monotonicNs <= monotonicNs() && time.realtimeNs <= realtimeNs());
});

test("within a boot the devices' clock is the host's and its offset", () => {
  const memory = createMemory(-5n * SECOND);
  const before = monotonicNs();
  const shown = deviceClock(memory)();
  assert.ok(shown >= before - 5n * SECOND && shown <= monotonicNs() - 5n * SECOND);
  const reader = save(memory);
  assert.ok(isOfThisBoot(reader));
  const other = createMemory(99n);
  restoreClockOrigin(reader, other, true);
  assert.is(offsetOf(other), -5n * SECOND);
});

test("from another boot it goes on by what passed in the world", () => {
  const reader = save(createMemory(7n * SECOND));
  const before = monotonicNs();
  moveToOtherBoot(reader, 100n * SECOND, 3n * SECOND);
  assert.not(isOfThisBoot(reader));
  const memory = createMemory();
  restoreClockOrigin(reader, memory, false);
  const shown = deviceClock(memory)();
  const expected = (3n + 7n + 100n) * SECOND;
  assert.ok(shown >= expected && shown <= expected + (monotonicNs() - before) + SECOND / 1000n, `${shown}`);
});

test("a reader that does not know the section skips it only when the offset is 0", async () => {
  const reader = new StateReader(saveImage(createMemory()), {});
  assert.ok(isOfThisBoot(reader), "as all state was before it had this section");
  const memory = createMemory();
  restoreClockOrigin(reader, memory, true);
  assert.is(offsetOf(memory), 0n);
  const error = await rejection(() => new StateReader(saveImage(createMemory(1n)), {}));
  assert.match(error.message, /^State section clock-origin 0 has version 1, .* does not know it$/);
});

test("the boot id is the kernel's, the same each time", () => {
  const id = new TextDecoder().decode(bootId());
  assert.match(id, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
  assert.equal(bootId(), bootId());
});

test.run();
