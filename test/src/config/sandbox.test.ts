// SPDX-License-Identifier: Apache-2.0
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolveConfig, resolveOptions } from "../../../src/config/resolve.ts";
import { compareSpecs } from "../../../src/config/same-machine.ts";
import type { MachineSpec } from "../../../src/config/types.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("-sandbox");

function sandboxOf(...values: string[]): MachineSpec["sandbox"] {
  return resolveOptions(parseArguments(["-S", ...values.flatMap((value) => ["-sandbox", value])]).options).sandbox;
}

test("is off by default, and on when it is said", () => {
  assert.is(sandboxOf(), undefined);
  assert.is(sandboxOf("off"), undefined);
  assert.is(sandboxOf("on", "off"), undefined);
  assert.equal(sandboxOf("on"), { allow: [] });
  assert.equal(sandboxOf("enable=on,allow=/a:/b c:d,,e"), { allow: ["/a", "/b c", "d,e"] });
  assert.equal(resolveConfig({ S: true, sandbox: { enable: true, allow: "/a" } }).sandbox, { allow: ["/a"] });
});

test("takes what QEMU lets be denied, and says what cannot be chosen", () => {
  assert.equal(sandboxOf("on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=allow"), { allow: [] });
  const cases: [value: string, message: RegExp][] = [
    ["on,spawn=allow", /Parameter 'spawn' must be deny/],
    ["on,elevateprivileges=children", /Parameter 'elevateprivileges' must be deny/],
    ["on,obsolete=allow", /Parameter 'obsolete' must be deny/],
    ["on,resourcecontrol=deny", /Parameter 'resourcecontrol' must be allow: Baton sets the scheduling/],
    ["on,spawn=never", /does not accept value 'never'/],
    ["on,allow=", /Parameter 'allow' must not be empty/],
    ["on,allow=/a::/b", /Parameter 'allow' expects directories separated by colons/],
    ["perhaps", /Parameter 'enable' expects 'on' or 'off'/],
    ["allow=/a", /Parameter 'enable' is missing/],
    ["on,image=/a", /Invalid parameter 'image'/],
  ];
  for (const [value, message] of cases) assert.throws(() => sandboxOf(value), message);
});

test("an update's command line may not say otherwise", () => {
  const running = resolveConfig({ S: true, sandbox: "on" });
  const without = resolveConfig({ S: true });
  assert.equal(compareSpecs(running, {}), []);
  assert.equal(compareSpecs(running, { sandbox: { allow: [] } }), []);
  for (const [spec, wanted] of [[running, ["/a"]] as const, [without, []] as const]) {
    const differences = compareSpecs(spec, { sandbox: { allow: [...wanted] } });
    assert.equal(
      differences.map(({ what, kind }) => [what, kind]),
      [["sandbox", "backend"]],
    );
  }
});

test.run();
