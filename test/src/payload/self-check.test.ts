// SPDX-License-Identifier: Apache-2.0
// What can be said of the payload without a CPU: it fits, its parameters are checked. It runs in the tests of the VMM.
import { CODE_GPA, settle, touchStartGpa, workingSetGpa } from "../../../src/payload/plan.ts";
import { REPORT_GPA, REPORT_MAX_VCPUS, REPORT_SIZE_BYTES } from "../../../src/payload/report.ts";
import { assembleSelfCheck, buildSelfCheck, type SelfCheckOptions } from "../../../src/payload/self-check.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("self-check");

const variants: SelfCheckOptions[] = [
  {},
  { cpuCount: REPORT_MAX_VCPUS, avx: true, timer: "deadline", echo: "irq", ticksPerLine: 1 },
  { timer: "none", serial: false, sweepPagesPerRound: 0, workingSetBytes: 0 },
  { idle: true, echo: "poll", quitByte: undefined },
  { touchBytes: 0xc000_0000, workingSetBytes: 0x40_0000, workingSetStrideBytes: 4096 },
];

for (const options of variants) {
  const name = JSON.stringify(options);
  test(`${name} fits below its report`, () => {
    const code = assembleSelfCheck(options);
    assert.ok(code.length > 1000);
    assert.ok(CODE_GPA + code.length <= REPORT_GPA, `${code.length} bytes`);
  });
  test(`${name} is the same at every build`, () => {
    assert.equal(buildSelfCheck(options), buildSelfCheck(options));
  });
}

test("the payload starts with cli in 32-bit code", () => {
  assert.is(assembleSelfCheck()[0], 0xfa);
});

test("the ELF file claims the report and all that lies behind it", () => {
  const view = new DataView(buildSelfCheck().buffer);
  const loadGpa = Number(view.getBigUint64(64 + 24, true));
  const memorySizeBytes = Number(view.getBigUint64(64 + 40, true));
  assert.is(loadGpa, CODE_GPA);
  assert.ok(loadGpa + memorySizeBytes > REPORT_GPA + REPORT_SIZE_BYTES);
});

test("working sets are apart and lie below the touched pages", () => {
  const settings = settle({ cpuCount: 3, workingSetBytes: 5000 });
  assert.is(workingSetGpa(settings, 1) - workingSetGpa(settings, 0), 8192);
  assert.is(touchStartGpa(settings), workingSetGpa(settings, 2) + 8192);
});

test("impossible parameters are refused", () => {
  assert.throws(() => buildSelfCheck({ cpuCount: 0 }), "1 to 8 vCPUs");
  assert.throws(() => buildSelfCheck({ cpuCount: 9 }), "1 to 8 vCPUs");
  assert.throws(() => buildSelfCheck({ touchBytes: 0x10_0000 }), "do not fit");
  assert.throws(() => buildSelfCheck({ touchBytes: 0xc000_1000 }), "above 3 GiB");
  assert.throws(() => buildSelfCheck({ idle: true, timer: "none" }), "needs a timer");
  assert.throws(() => buildSelfCheck({ ticksPerLine: 1, timer: "none" }), "by timer ticks");
});

test.run();
