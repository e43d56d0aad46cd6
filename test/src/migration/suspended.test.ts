// SPDX-License-Identifier: Apache-2.0
// A guest that sleeps (S3) when it is moved sleeps on, and is woken where it is then.
import { PM1A_CNT_OFFSET, SLP_TYP_S3 } from "../../../assembly/devices/acpi-pm/layout.ts";
import { close, O_RDWR, open, pwrite } from "../../../ffi/fd.ts";
import { FACS_FIRMWARE_WAKING_VECTOR, FACS_GPA } from "../../../src/machine/acpi/tables.ts";
import { ACPI_PM_IO_BASE } from "../../../src/machine/board.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import { GuestProcess, recordEvents, settled, thisRuntime } from "../../guest.ts";
import { assert, describe } from "../../harness.ts";
import { freePath, listening, migrated, type Settings, set, waiting } from "./streams.ts";
import { over } from "./transfers.ts";

const test = describe("a sleeping guest");

const SLP_TYP_SHIFT = 10;
const SLP_EN = 1 << 13;
/** Where this guest wants to be woken: two instructions of real mode, `hlt` and a jump to it. */
const WAKING_VECTOR = 0x7000;
const WAKING_CODE = Uint8Array.of(0xf4, 0xeb, 0xfd);

/** A guest that sleeps. */
async function asleep(ramFile: string): Promise<GuestProcess> {
  const guest = await GuestProcess.start({
    runtime: thisRuntime,
    ramFile,
    payload: {
      shutdown: {
        port: ACPI_PM_IO_BASE + PM1A_CNT_OFFSET,
        value: (SLP_TYP_S3 << SLP_TYP_SHIFT) | SLP_EN,
        sizeBytes: 2,
      },
    },
  });
  const ram = open(ramFile, O_RDWR);
  pwrite(ram, WAKING_CODE, WAKING_VECTOR);
  pwrite(ram, new Uint8Array(Uint32Array.of(WAKING_VECTOR).buffer), FACS_GPA + FACS_FIRMWARE_WAKING_VECTOR);
  close(ram);
  await using qmp = await guest.qmp();
  guest.commandShutdown();
  await guest.until("its sleep", async () => (await qmp.execute("query-status")).status === "suspended");
  return guest;
}

async function wakes(qmp: QmpClient): Promise<void> {
  assert.is((await over(qmp)).status, "completed");
  assert.equal(await qmp.execute("query-status"), { running: false, status: "suspended" });
  const events = await recordEvents(qmp);
  await qmp.execute("cont");
  assert.is((await qmp.execute("query-status")).status, "suspended");
  await qmp.execute("system_wakeup");
  assert.equal(await qmp.execute("query-status"), { running: true, status: "running" });
  await settled();
  assert.ok(events.includes("WAKEUP"));
}

const WAYS: [what: string, settings: Settings, keepsRam: boolean][] = [
  ["cpr-reboot, RAM in place", { parameters: { mode: "cpr-reboot" }, capabilities: { "x-ignore-shared": true } }, true],
  ["cpr-reboot, RAM in the file", { parameters: { mode: "cpr-reboot" } }, false],
  ["mode normal, to a file", {}, false],
];

for (const [what, settings, keepsRam] of WAYS) {
  test(`sleeps on after ${what}`, async () => {
    const [ramFile, uri] = [freePath("ram"), `file:${freePath("vm.state")}`];
    await using old = await asleep(ramFile);
    await using qmp = await old.qmp();
    await set(qmp, settings);
    const events = await recordEvents(qmp);
    await migrated(qmp, uri);
    await settled();
    assert.not(events.includes("STOP"), "it stood already");
    await qmp.execute("quit");
    await old.ended;
    const extra = keepsRam ? ["-m", "32M"] : [];
    await using next = waiting(uri, { extra });
    await using nextQmp = await next.qmp();
    await wakes(nextQmp);
  });
}

test("sleeps on after mode normal, over a socket", async () => {
  await using old = await asleep(freePath("ram"));
  await using qmp = await old.qmp();
  const memory = ["-object", "memory-backend-memfd,id=ram0,size=32M,share=on", "-machine", "memory-backend=ram0"];
  await using next = waiting(`unix:${freePath()}`, { extra: memory });
  await using nextQmp = await next.qmp();
  await migrated(qmp, await listening(next, nextQmp));
  await wakes(nextQmp);
});

test.run();
