// SPDX-License-Identifier: Apache-2.0
// A short run of the chaos suite: every fault once. BATON_TEST_CHAOS=2000 for more, BATON_TEST_SEED to repeat one.
import { onlyOnBun, programMissing } from "../guest.ts";
import { describe } from "../harness.ts";
import { allFaults } from "./faults.ts";
import { runChaos } from "./run.ts";

const test = describe("chaos");
const skip = onlyOnBun ?? programMissing("compiled");
const updates = Number(process.env.BATON_TEST_CHAOS ?? allFaults({ hasSmallDisk: true, mayStepClock: false }).length);
const seed = Number(process.env.BATON_TEST_SEED ?? Date.now() % 2 ** 31);

test.skipIf(skip, `${updates} updates with faults: the guest is never lost, never run twice, and clean`, async () => {
  const { table, summary } = await runChaos({ updates, seed });
  console.log(`${table}\n${summary}`);
});

test.run();
