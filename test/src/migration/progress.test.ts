// SPDX-License-Identifier: Apache-2.0
import { MigrationProgress } from "../../../src/migration/progress.ts";
import { Timeline } from "../../../src/migration/timeline.ts";
import { QmpEventSource } from "../../../src/qmp/events.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("migration progress of a VM");

test("there is nothing to tell before a migration", () => {
  assert.equal(new MigrationProgress(new QmpEventSource()).info(), {});
});

test("the expected pause is told until there is the real one", () => {
  const progress = new MigrationProgress(new QmpEventSource());
  progress.start();
  progress.enter("active");
  assert.is(progress.info()["expected-downtime"], undefined);
  progress.expectedDowntimeMs = 12.6;
  assert.is(progress.info()["expected-downtime"], 13);
  progress.setTimeline(new Timeline([1, 2.5]));
  progress.enter("completed");
  const { downtime, "downtime-us": downtimeUs, "expected-downtime": expected } = progress.info();
  assert.equal([downtime, downtimeUs, expected], [2, 1500, undefined]);
});

test("throttling is told while there is any", () => {
  const progress = new MigrationProgress(new QmpEventSource());
  progress.start();
  progress.enter("active");
  assert.is(progress.info()["cpu-throttle-percentage"], undefined);
  progress.throttlePercent = 30;
  assert.is(progress.info()["cpu-throttle-percentage"], 30);
  progress.start();
  assert.is(progress.info()["cpu-throttle-percentage"], undefined);
});

test.run();
