// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../harness.ts";
import { findAssets } from "./assets.ts";
import { encodeCpio, MODE_DIRECTORY, MODE_FILE } from "./cpio.ts";
import { type Outcome, runScenarios, SCENARIOS, whySkipped } from "./suite.ts";

/** The runner ends a file after 240 s. */
const LAB_TIMEOUT_MS = 225_000;
const SCENARIO_TIMEOUT_SECONDS = 100;

const found = findAssets();

/** Why no scenario runs here, or `undefined`. */
function whyOff(): string | undefined {
  if (process.env.BATON_LAB === "off") return "BATON_LAB is off";
  if (process.versions.bun === undefined) return "the lab is the same whoever starts it: run on Bun only";
  return found.ok ? undefined : found.reason;
}

const archive = describe("encodeCpio()");

archive("pads names and data to 4 bytes and ends with a trailer", () => {
  const bytes = encodeCpio([
    { path: "d", mode: MODE_DIRECTORY },
    { path: "d/file", mode: MODE_FILE, data: new TextEncoder().encode("12345") },
  ]);
  const text = new TextDecoder("latin1").decode(bytes);
  const headers = [...text.matchAll(/070701/g)].map((match) => match.index);
  // 110 bytes of header and "d\0" make 112; 110 and "d/file\0" make 117, so 120, and 5 bytes of data take 8.
  assert.equal(headers, [0, 112, 240]);
  assert.is(text.slice(112 + 14, 112 + 22), "000081A4");
  assert.is(text.slice(112 + 54, 112 + 62), "00000005");
  assert.is(text.slice(232, 237), "12345");
  assert.ok(text.slice(240).includes("TRAILER!!!\0"));
  assert.is(bytes.length % 4, 0);
});

archive.run();

const lab = describe("lab");
const off = whyOff();
const runnable = found.ok ? SCENARIOS.filter((scenario) => whySkipped(scenario, found.assets) === undefined) : [];

/** One boot serves all tests. */
let outcomes: Promise<Map<string, Outcome>> | undefined;

for (const scenario of SCENARIOS) {
  const reason = off ?? (found.ok ? whySkipped(scenario, found.assets) : undefined);
  lab.skipIf(reason, scenario.spec, async () => {
    if (!found.ok) return assert.unreachable(found.reason);
    outcomes ??= runScenarios(
      found.assets,
      runnable.map(({ spec }) => spec),
      { scenarioTimeoutSeconds: SCENARIO_TIMEOUT_SECONDS, labTimeoutMs: LAB_TIMEOUT_MS },
    );
    const outcome = (await outcomes).get(scenario.spec)!;
    assert.ok(outcome.verdict === "passed", `${outcome.reason}\n${outcome.output.slice(-4000)}`);
  });
}

lab.run();
