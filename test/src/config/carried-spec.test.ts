// SPDX-License-Identifier: Apache-2.0
import { incomingSpec } from "../../../src/config/carried-spec.ts";
import { interpretOptions } from "../../../src/config/interpret.ts";
import { parseArguments } from "../../../src/config/parse-arguments.ts";
import { resolve } from "../../../src/config/resolve.ts";
import type { AcceleratorName } from "../../../src/config/types.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("carried spec");

/** Accelerators, in the order in which they are tried, of a guest that comes to a VM with these options. */
function tried(carried: AcceleratorName, ...args: string[]): AcceleratorName[] {
  const guest = resolve(interpretOptions(parseArguments(["-S", "-nodefaults", "-accel", carried]).options));
  const wanted = interpretOptions(parseArguments(["-incoming", "defer", "-nodefaults", ...args]).options);
  return incomingSpec(guest, resolve(wanted), wanted, { inheritsRam: true }).accelerators;
}

test("a guest that comes stays on its accelerator, or goes where -accel says", () => {
  for (const carried of ["kvm", "wasm"] as const) {
    assert.equal(tried(carried), [carried]);
    assert.equal(tried(carried, "-accel", "kvm"), ["kvm"]);
    assert.equal(tried(carried, "-accel", "wasm"), ["wasm"]);
    assert.equal(tried(carried, "-accel", "kvm", "-accel", "wasm")[0], carried);
    assert.equal(tried(carried, "-machine", "accel=kvm:wasm").toSorted(), ["kvm", "wasm"]);
  }
});

test.run();
