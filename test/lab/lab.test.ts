// SPDX-License-Identifier: Apache-2.0
// Every scenario is a test; the boots of the lab run side by side, from the first test on.
import { assert, describe } from "../harness.ts";
import { findAssets } from "./assets.ts";
import { writeGuestInitramfs } from "./initramfs.ts";
import { BOOTS, type Outcome, runScenarios, SCENARIO_TIMEOUT_SECONDS, type Scenario, whySkipped } from "./suite.ts";

/** The runner ends a file after 30 minutes. */
const LAB_TIMEOUT_MS = 900_000;

const suite = describe("lab");
const found = findAssets();
let off: string | undefined;
if (process.env.BATON_LAB === "off") off = "BATON_LAB is off";
else if (process.versions.bun === undefined) off = "the lab is the same whoever starts it: run on Bun only";
else if (!found.ok) off = found.reason;

const whyNot = (scenario: Scenario) => off ?? (found.ok ? whySkipped(scenario, found.assets) : undefined);
let outcomes: Promise<Map<string, Outcome>> | undefined;

async function runAll(): Promise<Map<string, Outcome>> {
  if (!found.ok) throw new Error(found.reason);
  writeGuestInitramfs(found.assets);
  const boots = await Promise.all(
    BOOTS.map((boot) => {
      const specs = boot.filter((scenario) => whyNot(scenario) === undefined).map(({ spec }) => spec);
      const options = { scenarioTimeoutSeconds: SCENARIO_TIMEOUT_SECONDS, labTimeoutMs: LAB_TIMEOUT_MS };
      return runScenarios(found.assets, specs, options);
    }),
  );
  return new Map(boots.flatMap((boot) => [...boot]));
}

for (const scenario of BOOTS.flat()) {
  suite.skipIf(whyNot(scenario), scenario.spec, async () => {
    outcomes ??= runAll();
    const { verdict, reason, output } = (await outcomes).get(scenario.spec)!;
    // A scenario that finds inside the lab that it cannot run contradicts `whyNot`, so it is no skip.
    assert.ok(verdict === "passed", `${reason}\n${output.slice(-4000)}`);
    for (const line of output.split("\n")) if (line.includes(" updates in ")) console.log(`${scenario.spec}: ${line}`);
  });
}
suite.run();
