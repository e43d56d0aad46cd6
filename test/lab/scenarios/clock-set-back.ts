// SPDX-License-Identifier: Apache-2.0
// The host's clock is set back by an hour, again and again, while a guest that is slowed down is migrated over a stream that is
// slowed down: vCPUs and streams sleep most of the time, and wake up when they should, by the clock that nobody sets.
import { stepClock } from "../../chaos/clock.ts";
import { GuestProcess, until } from "../../guest.ts";
import { freePath, listening, set, waiting } from "../../src/migration/streams.ts";
import { over } from "../../src/migration/transfers.ts";
import { check, scenario } from "../scenario.ts";

const STEPS = 10;

await scenario(async () => {
  // In the emulated machine nobody's timer is late because of a clock.
  await using old = await GuestProcess.start({
    memory: "64M",
    payload: { cpuCount: 2, touchBytes: 16 << 20, sweepPagesPerRound: 128, lostTickLimit: 1_000_000 },
  });
  await old.runsOn();
  await using qmp = await old.qmp();
  await set(qmp, {
    capabilities: { "auto-converge": true },
    parameters: {
      "max-bandwidth": 1 << 20,
      "downtime-limit": 1,
      "cpu-throttle-initial": 90,
      "cpu-throttle-increment": 1,
    },
  });
  await using next = waiting(`unix:${freePath()}`, { runtime: "compiled" });
  await using nextQmp = await next.qmp();
  await qmp.execute("migrate", { uri: await listening(next, nextQmp) });
  await until(
    "the guest to be slowed down",
    async () => (await qmp.execute("query-migrate"))["cpu-throttle-percentage"],
  );

  for (let step = 1; step <= STEPS; step++) {
    const sent = (await qmp.execute("query-migrate")).ram!.transferred;
    stepClock("clock-back");
    await old.runsOn();
    await until(`the stream to go on after step ${step}`, async () => {
      const { status, ram, "error-desc": reason } = await qmp.execute("query-migrate");
      check(status === "active", `The migration is ${status}: ${reason}`);
      return ram!.transferred > sent;
    });
  }
  const percent = (await qmp.execute("query-migrate"))["cpu-throttle-percentage"];
  await qmp.execute("migrate_cancel");
  check((await over(qmp)).status === "cancelled", "The migration was not cancelled");
  await old.runsOn();
  const { checksRun } = old.report()!;
  console.log(
    `The clock went back by ${STEPS} h; a guest at ${100 - percent!} % ran ${checksRun.join(" and ")} rounds of checks`,
  );
});
