// SPDX-License-Identifier: Apache-2.0
import fc from "fast-check";
import { ratioOf } from "../../bench/ratio.ts";
import { median, quantile, summarize } from "../../bench/stats.ts";
import { assert, describe, rejection } from "../harness.ts";

const test = describe("stats");

test("summarize gives the figures of a known series", () => {
  assert.equal(summarize([5, 1, 4, 2, 100]), {
    count: 5,
    min: 1,
    median: 4,
    p99: 100,
    max: 100,
    mad: 2,
    spread: 24.75,
  });
  assert.equal(summarize([7]), { count: 1, min: 7, median: 7, p99: 7, max: 7, mad: 0, spread: 0 });
});

test("median lies in the middle of an even series, p99 is a sample", () => {
  assert.is(median([1, 2, 3, 10]), 2.5);
  const hundred = Array.from({ length: 100 }, (_, index) => index + 1);
  assert.is(quantile(hundred, 0.99), 99);
  assert.is(quantile([...hundred, 101], 0.99), 100);
  assert.is(quantile(hundred, 0), 1);
});

test("the figures are ordered and the samples are left alone", () => {
  fc.assert(
    fc.property(fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1, maxLength: 150 }), (samples) => {
      const before = [...samples];
      const { min, median, p99, max, mad } = summarize(samples);
      assert.equal(samples, before);
      assert.ok(min <= median && median <= max && p99 >= median && p99 <= max && mad <= max - min);
    }),
  );
});

test("no samples are an error, not a zero", async () => {
  await rejection(() => summarize([]));
  await rejection(() => median([]));
});

test("ratioOf divides medians and adds up the relative deviations", () => {
  const metric = (samples: number[]) => ({ id: "m", label: "m", unit: "ms" as const, samples });
  const ratio = ratioOf("r", "R", "lower", metric([9, 10, 11]), metric([18, 20, 22]));
  assert.is(ratio.value, 0.5);
  assert.ok(Math.abs(ratio.noise - 0.2) < 1e-12);
});

test.run();
