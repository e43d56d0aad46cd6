// SPDX-License-Identifier: Apache-2.0
import * as layout from "../../../src/payload/report.ts";
import { assert, describe } from "../../harness.ts";

const { counterGpa, cpuPageGpa, REPORT_GPA, readReport } = layout;

const test = describe("report");

function guestRam(cpuCount: number): DataView {
  const view = new DataView(new ArrayBuffer(0x20_0000));
  view.setBigUint64(REPORT_GPA + layout.HEADER_MAGIC_U64, layout.REPORT_MAGIC, true);
  view.setUint32(REPORT_GPA + layout.HEADER_VERSION_U32, layout.REPORT_VERSION, true);
  view.setUint32(REPORT_GPA + layout.HEADER_CPU_COUNT_U32, cpuCount, true);
  return view;
}

test("readReport() finds nothing before the payload has started", () => {
  assert.is(readReport(new Uint8Array(0x20_0000)), undefined);
  assert.is(readReport(new Uint8Array(0x1000)), undefined);
});

test("readReport() reads counters, ticks and rounds of each vCPU", () => {
  const view = guestRam(2);
  view.setUint32(REPORT_GPA + layout.HEADER_READY_U32, 1, true);
  view.setUint32(REPORT_GPA + layout.HEADER_ONLINE_U32, 0b10, true);
  view.setBigUint64(counterGpa(1), 123n, true);
  view.setBigUint64(cpuPageGpa(1) + layout.CPU_TICKS_U64, 7n, true);
  view.setBigUint64(cpuPageGpa(1) + layout.CPU_ROUNDS_U64, 5n, true);
  view.setUint32(cpuPageGpa(1) + layout.CPU_CHECKS_U32, (1 << layout.ERROR_XMM) | (1 << layout.ERROR_PAGE), true);
  const report = readReport(view);
  assert.equal(report?.counters, [0n, 123n]);
  assert.equal(report?.ticks, [0n, 7n]);
  assert.equal(report?.checksRun, [0n, 5n]);
  assert.equal(
    report?.vcpus.map((vcpu) => vcpu.online),
    [false, true],
  );
  assert.equal(report?.vcpus[1]?.checks, ["xmm", "page"]);
  assert.is(report?.ready, true);
  assert.is(report?.errorCount, 0);
});

test("readReport() decodes errors and tells how many were not kept", () => {
  const view = guestRam(1);
  const page = cpuPageGpa(0);
  const error = page + layout.CPU_ERRORS + layout.ERROR_STRIDE_BYTES;
  view.setUint32(page + layout.CPU_ERROR_COUNT_U32, 40, true);
  view.setUint32(error + layout.ERROR_CODE_U32, layout.ERROR_MSR, true);
  view.setBigUint64(error + layout.ERROR_WHERE_U64, 0xc000_0082n, true);
  view.setBigUint64(error + layout.ERROR_EXPECTED_U64, 1n, true);
  view.setBigUint64(error + layout.ERROR_FOUND_U64, 2n, true);
  view.setBigUint64(error + layout.ERROR_ROUND_U64, 3n, true);
  view.setBigUint64(error + layout.ERROR_COUNTER_U64, 4n, true);
  const report = readReport(new Uint8Array(view.buffer));
  assert.is(report?.errorCount, 40);
  assert.is(report?.errors.length, layout.MAX_ERRORS_KEPT);
  assert.equal(report?.errors[1], {
    vcpu: 0,
    code: layout.ERROR_MSR,
    name: "msr",
    text: "MSR 0xc0000082 lost its value",
    where: 0xc000_0082n,
    expected: 1n,
    found: 2n,
    round: 3n,
    counter: 4n,
  });
  assert.is(report?.errors[0]?.name, "error-0");
});

test("readReport() refuses another version", () => {
  const view = guestRam(1);
  view.setUint32(REPORT_GPA + layout.HEADER_VERSION_U32, 99, true);
  assert.throws(() => readReport(view), "version 99");
});

test("every vCPU's counter has a cache line and its page ends before the next", () => {
  assert.is(counterGpa(1) - counterGpa(0), 64);
  assert.ok(counterGpa(layout.REPORT_MAX_VCPUS) <= cpuPageGpa(0));
  const errorsEnd = layout.CPU_ERRORS + layout.MAX_ERRORS_KEPT * layout.ERROR_STRIDE_BYTES;
  assert.ok(errorsEnd <= layout.CPU_REGISTERS_U64X16);
  assert.ok(layout.CPU_REGISTERS_U64X16 + 16 * 8 <= layout.CPU_VECTORS);
  assert.ok(layout.CPU_VECTORS + 16 * 32 <= 0x1000);
  assert.ok(layout.CPU_PVCLOCK + 32 <= layout.CPU_ERRORS);
  assert.ok(layout.CPU_CONTROL_U64X4 + 32 <= layout.CPU_FLAGS_U64);
});

test.run();
