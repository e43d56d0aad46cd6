// SPDX-License-Identifier: Apache-2.0
// A TSC that goes from one host, boot or accelerator to another: the arithmetic, and reading two clocks at one moment.
import { monotonicNs, realtimeNs } from "../../../../ffi/clock.ts";
import { isOtherFrequency, moveOf, planTsc, planTscMove, ticksOfNs } from "../../../../src/accel/state/tsc.ts";
import type { StateVcpu } from "../../../../src/accel/state/types.ts";
import { encodeHostTime, planClockOrigin, readHostTime } from "../../../../src/machine/clock-origin.ts";
import { StateReader } from "../../../../src/state/reader.ts";
import { StateWriter } from "../../../../src/state/writer.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("TSC of another boot");
/** A tick is a nanosecond. */
const KHZ = 1_000_000;
/** Where the TSC is in a struct kvm_msrs of one entry. */
const TSC_DATA = 16;
const STEP_NS = 3_600_000_000_000n;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** What an image says of the clocks: the guest's TSC was 5000 when the host's were `host`. */
function imageOf(host: { monotonicNs: bigint; realtimeNs: bigint }): StateReader {
  const writer = new StateWriter();
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
  const bindTsc = planTsc(writer, KHZ, false, "host");
  const bindOrigin = planClockOrigin(writer, memory);
  writer.lay();
  const { msr, realtimeNs: saved } = bindTsc();
  const fillOrigin = bindOrigin();
  viewOf(msr).setBigUint64(TSC_DATA, 5_000n, true);
  saved.setBigUint64(0, host.realtimeNs, true);
  fillOrigin();
  const reader = new StateReader(writer.seal(), { tsc: 1, "clock-origin": 1 });
  encodeHostTime(host, viewOf(reader.section("clock-origin").part("host")));
  return reader;
}

/** Its TSC is CLOCK_MONOTONIC; after the first readings the thread is held up. */
function vcpuHeldUp(times: number): StateVcpu {
  return {
    hasTscOffset: () => true,
    getTscOffset: (value: Uint8Array) => void value.fill(0),
    getMsrs(msrs: Uint8Array) {
      const now = monotonicNs();
      viewOf(msrs).setBigUint64(TSC_DATA, now, true);
      if (times-- > 0) while (monotonicNs() < now + 20_000_000n);
      return 1;
    },
  } as Partial<StateVcpu> as StateVcpu;
}

for (const isSameBoot of [true, false]) {
  test(`the TSC and the time are of one moment, though somebody interrupts (${isSameBoot ? "same" : "other"} boot)`, () => {
    const before = readHostTime();
    const move = planTscMove(imageOf(before), vcpuHeldUp(2), 0n, isSameBoot);
    // The guest's TSC is now the host's plus this: as far from it as when it was saved.
    const strayNs = move.offsetDelta - (5_000n - before.monotonicNs);
    assert.ok(strayNs > -10_000_000n && strayNs < 10_000_000n, `${strayNs} ns`);
  });
}

test("within a boot it does not matter that somebody stepped CLOCK_REALTIME since", () => {
  const now = readHostTime();
  const beforeStep = { monotonicNs: now.monotonicNs, realtimeNs: now.realtimeNs - STEP_NS };
  assert.ok(planTscMove(imageOf(beforeStep), vcpuHeldUp(0), 0n, true).elapsedTicks < STEP_NS);
  const passed = realtimeNs() - beforeStep.realtimeNs;
  assert.ok(planTscMove(imageOf(beforeStep), vcpuHeldUp(0), 0n, false).elapsedTicks >= passed);
});

test("ticks of a time, exact for a year and more", () => {
  assert.is(ticksOfNs(1_000_000_000n, 2_596_122), 2_596_122_000n);
  assert.is(ticksOfNs(999n, 1_000), 0n, "a tick that is not over does not count");
  assert.is(ticksOfNs(400n * 86_400n * 1_000_000_000n, 3_000_000), 400n * 86_400n * 3_000_000_000n);
});

test("the guest's TSC is the saved one and the ticks that passed; every vCPU keeps its distance", () => {
  const savedTsc = 5_000_000n;
  const offsets = [-95_000_000n, -95_000_000n + 77n];
  for (const hostTsc of [10n, 95_000_000n, 1n << 60n]) {
    const move = moveOf({ savedTsc, savedOffset: offsets[0]!, elapsedTicks: 2_000n, hostTsc });
    assert.ok(move.hasOffset);
    assert.is(move.elapsedTicks, 2_000n);
    const tscs = offsets.map((offset) => BigInt.asUintN(64, hostTsc + offset + move.offsetDelta));
    assert.equal(tscs, [5_002_000n, 5_002_077n]);
  }
});

test("without offsets the sum is the TSC itself", () => {
  const move = moveOf({ savedTsc: 5_000n, savedOffset: -70n, elapsedTicks: 300n, hostTsc: undefined });
  assert.not(move.hasOffset);
  assert.equal([-70n + move.offsetDelta, -60n + move.offsetDelta], [5_300n, 5_310n]);
});

test("frequencies are the same within 250 ppm, and when one of them is not known", () => {
  assert.not(isOtherFrequency(2_000_000, 2_000_000));
  assert.not(isOtherFrequency(2_000_500, 2_000_000));
  assert.not(isOtherFrequency(1_999_500, 2_000_000));
  assert.ok(isOtherFrequency(2_000_501, 2_000_000));
  assert.ok(isOtherFrequency(1_999_499, 2_000_000));
  assert.not(isOtherFrequency(0, 2_000_000));
  assert.not(isOtherFrequency(2_000_000, 0));
});

test.run();
