// SPDX-License-Identifier: Apache-2.0
// Waiting for updates by cpr-exec.
import { sleep } from "../src/meter/vmm-process.ts";
import type { QmpClient } from "../src/qmp/client.ts";
import type { MigrationInfo } from "../src/qmp/schema/migration.ts";

const POLL_MS = 5;

/** Of the update by cpr-exec that was begun. */
export async function updated(qmp: QmpClient): Promise<MigrationInfo> {
  for (;;) {
    const info = await qmp.execute("query-migrate");
    if (info.status === "completed") return info;
    if (info.status === "failed") throw new Error(`The update failed: ${info["error-desc"]}`);
    await sleep(POLL_MS);
  }
}
