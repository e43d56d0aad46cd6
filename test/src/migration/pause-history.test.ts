// SPDX-License-Identifier: Apache-2.0
import { correct, type PauseHistory, readHistory, remember } from "../../../src/migration/pause-history.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("src/migration/pause-history");

const past = (predictedUs: number | undefined, downtimeUs: number, mode: "cpr-exec" | "cpr-transfer" = "cpr-exec") => ({
  mode,
  "downtime-us": downtimeUs,
  ...(predictedUs === undefined ? {} : { "predicted-downtime-us": predictedUs }),
});

test("a prediction learns from those before it", () => {
  assert.is(correct([], "cpr-exec", 1000), 1000);
  assert.is(correct([past(1000, 1500)], "cpr-exec", 2000), 3000);
  assert.is(correct([past(1000, 1000), past(1000, 1200), past(1000, 9000)], "cpr-exec", 1000), 1200, "the median");
  assert.is(correct([past(undefined, 5000), past(0, 7000)], "cpr-exec", 1000), 1000, "nothing was predicted of those");
  assert.is(correct([past(1000, 1500, "cpr-transfer")], "cpr-exec", 1000), 1000, "each mode by itself");
  assert.is(correct([past(1000, 90_000)], "cpr-exec", 1000), 2000);
  assert.is(correct([past(1000, 1)], "cpr-exec", 1000), 500);
});

test("predictions come near to what happens, and stay there", () => {
  let history: PauseHistory = [];
  const [estimateUs, realUs] = [1000, 1500];
  assert.is(correct(history, "cpr-exec", estimateUs), estimateUs);
  for (let update = 0; update < 20; update++) {
    history = remember(history, past(estimateUs, realUs));
    assert.is(correct(history, "cpr-exec", estimateUs), realUs);
  }
});

test("the latest pauses are kept, in order", () => {
  let history: PauseHistory = [];
  for (let index = 0; index < 40; index++) history = remember(history, past(undefined, index));
  assert.is(history.length, 16);
  assert.is(history[0]!["downtime-us"], 24);
  assert.is(history.at(-1)!["downtime-us"], 39);
});

test("what another program says of them is taken if it makes sense", () => {
  assert.equal(readHistory([past(1, 2)]), [past(1, 2)]);
  assert.is(readHistory(Array.from({ length: 100 }, () => past(1, 2))).length, 16);
  for (const nonsense of [
    undefined,
    null,
    "x",
    [1],
    [{ mode: "cpr-exec" }],
    [{ ...past(1, 2), "downtime-us": -1 }],
    [past(1, 1e19)],
    [past(1e18, 2)],
  ]) {
    assert.equal(readHistory(nonsense), [], JSON.stringify(nonsense));
  }
});

test.run();
