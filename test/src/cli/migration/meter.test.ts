// SPDX-License-Identifier: Apache-2.0
import { Meter } from "../../../../src/cli/migration/meter.ts";
import type { MigrationInfo, MigrationStats } from "../../../../src/qmp/schema/migration.ts";
import { assert, describe } from "../../../harness.ts";

const test = describe("migration meter");

const PAGE = 4096;
const PAGES = 2 ** 18;

function info(ram: Partial<MigrationStats>, others: MigrationInfo = {}): MigrationInfo {
  const normal = ram.normal ?? 0;
  return {
    status: "active",
    ram: {
      transferred: normal * PAGE,
      remaining: (PAGES - normal) * PAGE,
      total: PAGES * PAGE,
      duplicate: 0,
      normal,
      "normal-bytes": normal * PAGE,
      "dirty-pages-rate": 0,
      mbps: 0,
      "dirty-sync-count": 1,
      "postcopy-requests": 0,
      "page-size": PAGE,
      "multifd-bytes": 0,
      "pages-per-second": 0,
      "precopy-bytes": 0,
      "downtime-bytes": 0,
      "postcopy-bytes": 0,
      "dirty-sync-missed-zero-copy": 0,
      ...ram,
    },
    ...others,
  };
}

test("before RAM moves there is only the status", () => {
  const meter = new Meter({ downtimeLimitMs: 300, guestRuns: true });
  assert.equal(meter.add({ status: "setup" }, 0), { status: "setup", throttlePercent: 0 });
  assert.equal(meter.add(info({}, { status: "setup" }), 1), { status: "setup", throttlePercent: 0 });
  assert.equal(meter.add(info({ "dirty-sync-count": 0 }), 2), { status: "active", throttlePercent: 0 });
});

test("the first round says how long it takes at least, the later ones how long all will", () => {
  const meter = new Meter({ downtimeLimitMs: 300, guestRuns: true });
  let remainingMs = Number.POSITIVE_INFINITY;
  meter.add(info({}), 0);
  for (let ms = 100; ms <= 2000; ms += 100) {
    const { ram } = meter.add(info({ normal: ms * 100 }), ms);
    assert.is(ram!.isAtLeast, true);
    assert.is(ram!.dirtyBytesPerSecond, undefined);
    assert.ok(Math.abs(ram!.bytesPerSecond - 100_000 * PAGE) < 1, "the rate is steady");
    assert.ok(ram!.remainingMs! < remainingMs, "it comes nearer");
    remainingMs = ram!.remainingMs!;
  }
  const second = info(
    { normal: PAGES, remaining: 20_000 * PAGE, "dirty-sync-count": 2, "dirty-pages-rate": 10_000 },
    { "expected-downtime": 200, "cpu-throttle-percentage": 20 },
  );
  const { ram, throttlePercent } = meter.add(second, 2700);
  assert.is(throttlePercent, 20);
  assert.equal([ram!.round, ram!.isAtLeast, ram!.expectedPauseMs], [2, false, 200]);
  assert.is(ram!.dirtyBytesPerSecond, 10_000 * PAGE);
  assert.ok(ram!.remainingMs! > 0);
});

test("rates are those of the last seconds", () => {
  const meter = new Meter({ downtimeLimitMs: 300, guestRuns: true });
  for (let ms = 0; ms <= 10_000; ms += 500) meter.add(info({ normal: ms * 10 }), ms);
  for (let ms = 10_500; ms <= 15_500; ms += 500) meter.add(info({ normal: 90_000 + ms }), ms);
  const { ram } = meter.add(info({ normal: 106_000 }), 16_000);
  assert.is(Math.round(ram!.bytesPerSecond), 1000 * PAGE);
});

test("RAM that is packed for the wire, or zero, is nearer its end than its bytes per second say", () => {
  const meter = new Meter({ downtimeLimitMs: 300, guestRuns: false });
  meter.add(info({ transferred: 0, duplicate: PAGES / 2, remaining: (PAGES / 2) * PAGE }), 0);
  const quarter = { normal: PAGES / 4, duplicate: PAGES / 2, remaining: (PAGES / 4) * PAGE };
  const { ram } = meter.add(info({ ...quarter, transferred: 1000 * 1024 }), 1000);
  assert.equal([ram!.bytesPerSecond, ram!.remainingMs], [1000 * 1024, 1000]);
});

test("a guest that stands has one round, and no doubt about it", () => {
  const meter = new Meter({ downtimeLimitMs: 300, guestRuns: false });
  meter.add(info({}), 0);
  const { ram } = meter.add(info({ normal: PAGES / 2 }), 1000);
  assert.equal([ram!.isAtLeast, ram!.remainingMs], [false, 1000]);
});

test.run();
