// SPDX-License-Identifier: Apache-2.0
// Every scenario is a test; the boots of the lab run two at a time, from the first test on.
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
  const { assets } = found;
  writeGuestInitramfs(assets);
  const outcomes = new Map<string, Outcome>();
  const boots = BOOTS.values();
  const runInTurn = async () => {
    for (const { scenarios, ...boot } of boots) {
      const specs = scenarios.filter((scenario) => whyNot(scenario) === undefined).map(({ spec }) => spec);
      if (specs.length === 0) continue;
      const timeouts = { scenarioTimeoutSeconds: SCENARIO_TIMEOUT_SECONDS, labTimeoutMs: LAB_TIMEOUT_MS };
      for (const [spec, outcome] of await runScenarios(assets, specs, { ...timeouts, ...boot })) {
        outcomes.set(spec, outcome);
      }
    }
  };
  await Promise.all([runInTurn(), runInTurn()]);
  return outcomes;
}

for (const scenario of BOOTS.flatMap(({ scenarios }) => scenarios)) {
  suite.skipIf(whyNot(scenario), scenario.spec, async () => {
    outcomes ??= runAll();
    const { verdict, reason, output } = (await outcomes).get(scenario.spec)!;
    // A scenario that finds inside the lab that it cannot run contradicts `whyNot`, so it is no skip.
    assert.ok(verdict === "passed", `${reason}\n${output.slice(-4000)}`);
    const figures = output
      .split("\n")
      .filter((line) => / updates in | its uptime went | unpacked by the VMM /.test(line));
    for (const line of figures) console.log(`${scenario.spec}: ${line}`);
  });
}
suite.run();
