// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a TSC that goes from one host to another.
import { isOtherFrequency, moveOf, ticksOfNs } from "../../../../src/accel/state/tsc.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("TSC of another boot");

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
