// SPDX-License-Identifier: Apache-2.0
// Debian's kernels as they are shipped, on the engine (the lab has them on KVM), from their first instruction to a shell; and updates under what the shell runs.
import { join } from "node:path";
import { program, thisRuntime } from "../guest.ts";
import { assert, describe } from "../harness.ts";
import type { GuestSeries } from "../lab/assets.ts";
import { until } from "../lab/scenario.ts";
import { linuxMissing } from "./assets.ts";
import { LinuxGuest } from "./guest.ts";

const test = describe("Linux");

/** Checks itself, again and again, and says how often and how often it failed. */
const WORK = `(while :; do s=$(head -c 300000 /dev/zero | sha256sum); n=$((n+1)); [ "$s" = "$w" ] || bad=$((bad+1)); echo $((n+0)) $((bad+0)) > /tmp/work; done) & true`;
const UPDATE_LIMIT_MS = 120_000;

async function work(guest: LinuxGuest): Promise<{ rounds: number; errors: number }> {
  const [rounds, errors] = (await guest.run("cat /tmp/work")).split(" ").map(Number);
  return { rounds: rounds!, errors: errors! };
}

async function migrated(guest: LinuxGuest): Promise<void> {
  await until(
    async () => {
      const { status, "error-desc": error } = await guest.qmp.execute("query-migrate");
      assert.ok(status !== "failed", String(error));
      return status === "completed" ? status : undefined;
    },
    UPDATE_LIMIT_MS,
    "The update did not complete",
  );
}

const updates: Record<string, (guest: LinuxGuest) => Promise<void>> = {
  async "cpr-exec"(guest) {
    await guest.qmp.execute("migrate-set-parameters", {
      mode: "cpr-exec",
      "cpr-exec-command": [...program(thisRuntime), "-incoming", "defer"],
    });
    await guest.qmp.execute("migrate", { uri: `file:${join(guest.directory, "state")}` });
    await migrated(guest);
  },
};

for (const series of ["6.1", "6.12"] satisfies GuestSeries[]) {
  for (const cpuCount of [1, 2]) {
    test.skipIf(
      linuxMissing(series),
      `${series}, ${cpuCount} CPUs: boots, is updated at work, and powers off`,
      async () => {
        using guest = await LinuxGuest.start({ series, cpuCount });
        await guest.waitForShell();
        assert.is(await guest.run("echo $((6 * 7))"), "42");
        assert.is(await guest.run("nproc"), String(cpuCount));
        assert.is(await guest.run("dmesg | grep -cE 'BUG: |Oops|Call Trace'"), "0");
        await guest.run("w=$(head -c 300000 /dev/zero | sha256sum); echo 0 0 > /tmp/work");
        assert.is(await guest.run(`echo "$w"`), "886715e4051e827f4fe215df3053af3f85ad0d352db2c829c7487af6d78efe30  -");
        await guest.run(WORK);
        const before = await work(guest);
        await updates["cpr-exec"]!(guest);
        const after = await until(
          async () => {
            const now = await work(guest);
            return now.rounds > before.rounds + 2 ? now : undefined;
          },
          UPDATE_LIMIT_MS,
          "The guest does not work on",
        );
        assert.is(after.errors, 0);
        guest.console.type("poweroff -f\n");
        assert.is(await guest.waitForEnd(), 0);
      },
    );
  }
}

test.run();
