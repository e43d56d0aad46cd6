// SPDX-License-Identifier: Apache-2.0
// Update after update in one process: nothing may pile up. BATON_TEST_UPDATES=1000 for the long run.
import { readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { GuestProcess, onlyOnBun, programMissing, type Runtime, updated } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";

const test = describe("cpr-exec: leaks");
const noGuest = onlyOnBun;
const updateCount = Number(process.env.BATON_TEST_UPDATES ?? 50);

interface Holdings {
  fds: string[];
  mappings: number;
  threads: number;
  children: string[];
  /** Private memory, so that neither guest RAM nor the program's file counts. */
  anonymousKiB: number;
  temporaryFiles: string[];
}

function holdings(guest: GuestProcess): Holdings {
  const status = readFileSync(`/proc/${guest.pid}/status`, "utf8");
  const number = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1]);
  return {
    // Numbers of sockets and pipes are left out: they say nothing.
    fds: guest
      .fds()
      .map((target) => target.replace(/\d+/g, "N"))
      .sort(),
    mappings: readFileSync(`/proc/${guest.pid}/maps`, "utf8").split("\n").length,
    threads: number("Threads"),
    children: guest.children(),
    anonymousKiB: number("RssAnon"),
    temporaryFiles: readdirSync(tmpdir()).filter((name) => name.includes(String(guest.pid))),
  };
}

/** Lets the process finish what it does after an update, and then reads its holdings. */
async function restingHoldings(guest: GuestProcess): Promise<Holdings> {
  await guest.until("no child", () => guest.children().length === 0);
  let last = holdings(guest);
  await guest.until("fds, threads and mappings to rest", async () => {
    await new Promise((resolve) => setTimeout(resolve, 200));
    const now = holdings(guest);
    const rests = now.fds.length === last.fds.length && now.threads === last.threads && now.mappings === last.mappings;
    last = now;
    return rests;
  });
  return last;
}

async function updateOften(runtime: Runtime, count: number): Promise<void> {
  await using guest = await GuestProcess.start({ runtime, payload: { cpuCount: 2, ticksPerLine: 4 } });
  await using qmp = await guest.qmp();
  using serial = await guest.stream("serial");
  // The first update is unlike the others: the process before it was started by a person.
  for (let round = 0; round < 3; round++) await updated(guest, qmp);
  const before = await restingHoldings(guest);
  for (let round = 0; round < count; round++) {
    await updated(guest, qmp);
    if (round % 10 === 0) await guest.runsOn();
  }
  await guest.runsOn();
  const after = await restingHoldings(guest);
  console.log(
    `${count} updates on ${runtime}: ${after.fds.length} fds, ${before.mappings} → ${after.mappings} mappings, ` +
      `${before.threads} → ${after.threads} threads, ${before.anonymousKiB} → ${after.anonymousKiB} KiB anonymous`,
  );
  assert.equal(after.fds, before.fds);
  assert.equal(after.children, []);
  assert.equal(after.temporaryFiles, before.temporaryFiles);
  // What a runtime's collector and its helper threads do is not the same every time, but does not grow with updates.
  assert.ok(Math.abs(after.threads - before.threads) <= 4, `threads: ${before.threads}, then ${after.threads}`);
  assert.ok(after.mappings - before.mappings < 40, `mappings: ${before.mappings}, then ${after.mappings}`);
  assert.ok(after.anonymousKiB - before.anonymousKiB < 32 * 1024, "memory");
  assert.is((await qmp.execute("query-migrate")).updates, count + 3);
  assert.not(serial.hasEnded);
}

test.skipIf(noGuest ?? programMissing("compiled"), `holds no more after ${updateCount} updates`, () =>
  updateOften("compiled", updateCount),
);
for (const runtime of ["bun", "deno"] satisfies Runtime[]) {
  test.skipIf(noGuest, `holds no more after 10 updates on ${runtime}`, () => updateOften(runtime, 10));
}

test.run();
