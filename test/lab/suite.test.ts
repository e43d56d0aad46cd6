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
  assert.equal(chooseBoots("linux-cpr-exec:6.1:1:200"), [{ scenarios: [{ spec: "linux-cpr-exec:6.1:1:200" }] }]);
  const [own, ...others] = chooseBoots("kexec-cpr-reboot:--qemu:kvm");
  assert.equal(others, []);
  assert.equal(own, { kexecs: true, scenarios: [{ spec: "kexec-cpr-reboot:--qemu:kvm" }] });
});

suite.run();
