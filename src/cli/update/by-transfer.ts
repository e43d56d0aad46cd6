// SPDX-License-Identifier: Apache-2.0
// An update by cpr-transfer: a new process takes the guest with all connections, and the old one ends.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { QmpClient } from "../../qmp/client.ts";
import type { MigrationInfo } from "../../qmp/schema/migration.ts";
import { setCapabilities } from "../migration/capabilities.ts";
import { untilOver } from "../migration/until-over.ts";
import { Successor } from "./successor.ts";

const POLL_MS = 20;

export interface TransferUpdateOptions {
  /** Starts the new program; what it has to wait for is added. */
  command: readonly string[];
  timeoutMs: number;
  /** File for what the new process says. */
  log: string | undefined;
}

/** What query-migrate says at the end, and the process that has the guest if that was well. @throws VmmError */
export async function updateByTransfer(
  qmp: QmpClient,
  { command, timeoutMs, log }: TransferUpdateOptions,
): Promise<{ info: MigrationInfo; pid: number }> {
  // Without it the clients, this command among them, would stay with a process that has no guest.
  await setCapabilities(qmp, { "x-handover-connections": true });
  const dir = mkdtempSync(join(tmpdir(), "baton-update-"));
  const main = join(dir, "main");
  const cpr = join(dir, "cpr");
  let successor: Successor | undefined;
  try {
    successor = await Successor.start({ command, main, cpr, log, timeoutMs });
    await qmp.execute("migrate-set-parameters", { mode: "cpr-transfer" });
    await qmp.execute("migrate", {
      channels: [
        { "channel-type": "main", addr: { transport: "socket", type: "unix", path: main } },
        { "channel-type": "cpr", addr: { transport: "socket", type: "unix", path: cpr } },
      ],
    });
  } catch (error) {
    successor?.kill();
    rmSync(dir, { recursive: true, force: true });
    throw error;
  }
  // From here on the guest may be over there, and whoever waits in vain does not know: nothing is ended or removed then.
  const info = await untilOver(qmp, { what: "update", timeoutMs, pollMs: POLL_MS });
  if (info.status !== "completed") {
    successor.kill();
    await setCapabilities(qmp, { "x-handover-connections": false });
  }
  rmSync(dir, { recursive: true, force: true });
  return { info, pid: successor.pid };
}
