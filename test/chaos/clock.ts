// SPDX-License-Identifier: Apache-2.0
// Steps of the host's clock, which only somebody may make who has the whole machine: see test/lab/scenarios/linux-chaos.ts.
import { realtimeNs } from "../../ffi/clock.ts";
import { check, lazyCall } from "../../ffi/libc.ts";

/** linux/time.h */
const CLOCK_REALTIME = 0;
const STEP_NS = 3_600_000_000_000n;

const cClockSettime = lazyCall("int clock_settime(int clock, const void *timespec)");

/** An hour, as somebody does who sets a clock that went wrong. */
export function stepClock(fault: string): void {
  const ns = realtimeNs() + (fault === "clock-ahead" ? STEP_NS : -STEP_NS);
  check("clock_settime", cClockSettime(CLOCK_REALTIME, BigInt64Array.of(ns / 1_000_000_000n, ns % 1_000_000_000n)));
}
