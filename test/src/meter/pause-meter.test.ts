// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { monotonicNs } from "../../../ffi/clock.ts";
import { type MeterWindow, PauseMeter } from "../../../src/meter/pause-meter.ts";
import { assert, describe, rejection } from "../../harness.ts";

const test = describe("meter");

const PAUSE_MS = 50;
const COUNTER_OFFSETS = [0x1000, 0x5008];
const runtimeArguments = process.versions.bun === undefined ? ["run", "-A", "--quiet"] : ["run"];

interface FakeGuest extends AsyncDisposable {
  pid: number;
  fd: number;
}

async function startGuest(env: Record<string, string>): Promise<FakeGuest> {
  const program = fileURLToPath(new URL("./fake-guest.ts", import.meta.url));
  const child: ChildProcess = spawn(process.execPath, [...runtimeArguments, program], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  const line = String((await once(child.stdout!, "data"))[0]);
  const [pid, fd] = line.trim().split(" ").map(Number);
  return {
    pid: pid!,
    fd: fd!,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function measure(meter: PauseMeter, ms: number): Promise<MeterWindow> {
  await meter.arm();
  await sleep(ms);
  return await meter.disarm();
}

/**
 * Measures until a window is good enough. On a busy machine the meter is descheduled too, and then a window bounds the
 * pause loosely: that is its contract, and `hold` checks it on every window.
 */
async function measureUntil(
  meter: PauseMeter,
  ms: number,
  isGood: (window: MeterWindow) => boolean,
): Promise<MeterWindow> {
  for (let attempt = 1; ; attempt++) {
    const window = await measure(meter, ms);
    hold(window);
    if (isGood(window)) return window;
    assert.ok(attempt < 40, `No window was good enough, the last: ${JSON.stringify(window)}`);
  }
}

/** What is true of every window, however busy the machine was. */
function hold(window: MeterWindow): void {
  assert.ok(window.samples > 0 && window.meterGapNs > 0 && window.endNs > window.startNs);
  assert.ok(window.longestPossibleNs >= window.meterGapNs, "what the meter missed counts as possible");
  // Each end of a standstill is known to within two samples. 1 µs for rounding.
  assert.ok(window.longestPossibleNs - window.longestStandstillNs <= 4 * window.meterGapNs + 1000);
  assert.is(window.longestStandstillNs, Math.max(...window.perCounter.map((counter) => counter.longest.atLeastNs)));
}

const isPauseProven = (window: MeterWindow): boolean =>
  window.perCounter[0]!.changes > 0 && window.perCounter[0]!.longest.atLeastNs >= (PAUSE_MS - 1) * 1e6;

test("PauseMeter finds the pause of one counter while another counts on", async () => {
  await using guest = await startGuest({ FAKE_PAUSE_MS: String(PAUSE_MS) });
  await using meter = await PauseMeter.open({ pid: guest.pid, fd: guest.fd, counterOffsets: COUNTER_OFFSETS });
  const window = await measureUntil(meter, 5 * PAUSE_MS, (candidate) => {
    assert.ok(candidate.perCounter[0]!.longestPossibleNs >= PAUSE_MS * 1e6, "a pause is never missed");
    return isPauseProven(candidate) && candidate.perCounter[1]!.changes > candidate.perCounter[0]!.changes;
  });
  assert.equal(
    window.perCounter.map((counter) => counter.offset),
    COUNTER_OFFSETS,
  );
});

test("PauseMeter lists standstills with times on CLOCK_MONOTONIC, in order", async () => {
  await using guest = await startGuest({ FAKE_PAUSE_MS: String(PAUSE_MS) });
  const thresholdNs = (PAUSE_MS - 10) * 1e6;
  await using meter = await PauseMeter.open({ ...guest, counterOffsets: [COUNTER_OFFSETS[0]!], thresholdNs });
  const earlierNs = Number(monotonicNs());
  const window = await measureUntil(meter, 6 * PAUSE_MS, ({ perCounter }) => perCounter[0]!.standstills.length >= 2);
  assert.ok(window.startNs >= earlierNs && window.endNs <= Number(monotonicNs()), "CLOCK_MONOTONIC");
  let previousNs = window.startNs;
  for (const { startNs, endNs, atLeastNs, atMostNs } of window.perCounter[0]!.standstills) {
    assert.ok(startNs >= previousNs && endNs <= window.endNs);
    assert.ok(Math.abs(endNs - startNs - atLeastNs) <= 1000 && atMostNs >= atLeastNs && atLeastNs >= thresholdNs);
    previousNs = endNs;
  }
});

test("PauseMeter measures window after window", async () => {
  await using guest = await startGuest({ FAKE_PAUSE_MS: String(PAUSE_MS) });
  await using meter = await PauseMeter.open({ ...guest, counterOffsets: COUNTER_OFFSETS });
  const first = await measureUntil(meter, 3 * PAUSE_MS, isPauseProven);
  const second = await measureUntil(meter, 3 * PAUSE_MS, isPauseProven);
  assert.ok(second.startNs >= first.endNs);
});

test("PauseMeter keeps measuring when the observed process execs", async () => {
  await using guest = await startGuest({ FAKE_PAUSE_MS: "0", FAKE_EXEC: "1" });
  const counterOffsets = [COUNTER_OFFSETS[0]!];
  await using meter = await PauseMeter.open({ ...guest, counterOffsets, thresholdNs: 1e6 });
  await measureUntil(meter, 500, ({ perCounter, endNs }) => {
    const { standstills, changes } = perCounter[0]!;
    // The counter moved on after the exec: it lies inside the window.
    return changes > 0 && standstills.some((standstill) => standstill.endNs < endNs - 20e6);
  });
});

test("PauseMeter reports a dead counter as one standstill of the whole window", async () => {
  await using guest = await startGuest({ FAKE_PAUSE_MS: "0" });
  await using meter = await PauseMeter.open({ ...guest, counterOffsets: [0x2000] });
  const window = await measure(meter, 30);
  assert.is(window.perCounter[0]!.changes, 0);
  hold(window);
  assert.ok(window.longestPossibleNs >= window.endNs - window.startNs - 1000);
});

test("PauseMeter.open says what it cannot map", async () => {
  const error = await rejection(() => PauseMeter.open({ path: "/nonexistent/ram", counterOffsets: [0] }));
  assert.match(error.message, "/nonexistent/ram");
  await rejection(() => PauseMeter.open({ fd: 0, counterOffsets: [4] }));
  await rejection(() => PauseMeter.open({ fd: 0, counterOffsets: [] }));
});

test.run();
