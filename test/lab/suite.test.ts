// SPDX-License-Identifier: Apache-2.0
import { assert, describe } from "../harness.ts";
import { chooseBoots } from "./suite.ts";

const suite = describe("lab suite");
const specsOf = (wanted: string) => chooseBoots(wanted).map(({ scenarios }) => scenarios.map(({ spec }) => spec));

suite("chooseBoots() takes every scenario whose name begins so, or whose first words are these", () => {
  assert.equal(specsOf("kvm"), [["kvm-present"]]);
  assert.equal(specsOf("linux-cpr-exec:6.1"), [["linux-cpr-exec:6.1:2"], ["linux-cpr-exec:6.1:1"]]);
});

suite("chooseBoots() takes a scenario with other arguments, in a boot of its kind", () => {
  // Who asks for that may ask for any number of updates.
  const scenarioTimeoutSeconds = 24 * 3600;
  const many = "linux-cpr-exec:6.1:1:200";
  assert.equal(chooseBoots(many), [{ scenarios: [{ spec: many }], scenarioTimeoutSeconds }]);
  const spec = "kexec-cpr-reboot:--qemu:kvm";
  assert.equal(chooseBoots(spec), [{ kexecs: true, scenarios: [{ spec }], scenarioTimeoutSeconds }]);
});

suite.run();
