// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";
import { cpuMsOfProcess, monotonicMs, monotonicNs, realtimeMs, realtimeNs, threadCpuMs } from "../../ffi/clock.ts";
import { assert, describe } from "../harness.ts";

const test = describe("ffi/clock");

test("the monotonic clock is the kernel's, in both units, and never goes back", () => {
  const uptimeMs = Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 1000;
  // /proc/uptime counts suspended time too, so it can only be later; it ticks in hundredths of a second.
  assert.ok(monotonicMs() > 0 && Number(monotonicNs()) / 1e6 <= uptimeMs + 60_000);
  let last = monotonicNs();
  for (let index = 0; index < 1000; index++) {
    const now = monotonicNs();
    assert.ok(now >= last);
    last = now;
  }
  assert.ok(monotonicMs() >= Number(last) / 1e6);
});

test("the realtime clock counts from 1970 in both units", () => {
  const before = BigInt(Date.now()) * 1_000_000n;
  const now = realtimeNs();
  assert.ok(now >= before);
  assert.ok(realtimeMs() * 1e6 >= Number(before));
});

test("cpuMsOfProcess has the CPU time of all threads, and none for a process that is not there", () => {
  const ownMs = threadCpuMs();
  const allMs = cpuMsOfProcess(process.pid);
  assert.ok(allMs !== undefined && allMs >= ownMs);
  // Beyond the largest number that a process can have.
  assert.is(cpuMsOfProcess(2 ** 22 + 1), undefined);
});

test.run();
