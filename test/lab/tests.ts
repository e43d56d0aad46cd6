// SPDX-License-Identifier: Apache-2.0
// Makes one boot of the lab a suite of tests, one for each scenario.
import { assert, describe, type TestSuite } from "../harness.ts";
import { findAssets } from "./assets.ts";
import { type Outcome, runScenarios, type Scenario, whySkipped } from "./suite.ts";

/** The runner ends a file after 30 minutes: the reason why not all scenarios share one file, and with it one boot. */
const LAB_TIMEOUT_MS = 225_000;
const SCENARIO_TIMEOUT_SECONDS = 110;
/**
 * The lab's CPU is QEMU's emulation of SVM, which loses a guest now and then, also one that runs under QEMU and is left
 * alone (`--qemu kvm`), and sometimes the lab's own kernel. A scenario that fails is run again in a lab of its own; each
 * failure is printed, and what fails every time has failed.
 */
const MAX_ATTEMPTS = 6;

/** A suite that boots the lab when its first test runs. */
export function describeLab(name: string, scenarios: Scenario[]): TestSuite {
  const suite = describe(name);
  const found = findAssets();
  let off: string | undefined;
  if (process.env.BATON_LAB === "off") off = "BATON_LAB is off";
  else if (process.versions.bun === undefined) off = "the lab is the same whoever starts it: run on Bun only";
  else if (!found.ok) off = found.reason;

  const whyNot = (scenario: Scenario) => off ?? (found.ok ? whySkipped(scenario, found.assets) : undefined);
  const specs = scenarios.filter((scenario) => whyNot(scenario) === undefined).map(({ spec }) => spec);
  let outcomes: Promise<Map<string, Outcome>> | undefined;
  for (const scenario of scenarios) {
    suite.skipIf(whyNot(scenario), scenario.spec, async () => {
      if (!found.ok) return assert.unreachable(found.reason);
      outcomes ??= runScenarios(found.assets, specs, {
        scenarioTimeoutSeconds: SCENARIO_TIMEOUT_SECONDS,
        labTimeoutMs: LAB_TIMEOUT_MS,
      });
      let outcome = (await outcomes).get(scenario.spec)!;
      for (let attempt = 2; attempt <= MAX_ATTEMPTS && outcome.verdict === "failed"; attempt++) {
        console.log(
          `NOTE ${scenario.spec}: attempt ${attempt - 1} failed: ${outcome.reason}\n${outcome.output.slice(-1500)}`,
        );
        const again = await runScenarios(found.assets, [scenario.spec], {
          scenarioTimeoutSeconds: SCENARIO_TIMEOUT_SECONDS,
          labTimeoutMs: LAB_TIMEOUT_MS,
        });
        outcome = again.get(scenario.spec)!;
      }
      const { verdict, reason, output } = outcome;
      // A scenario that finds inside the lab that it cannot run contradicts `whyNot`, so it is no skip.
      assert.ok(verdict === "passed", `${reason}\n${output.slice(-4000)}`);
      for (const line of output.split("\n"))
        if (line.includes(" updates in ")) console.log(`${scenario.spec}: ${line}`);
    });
  }
  return suite;
}
