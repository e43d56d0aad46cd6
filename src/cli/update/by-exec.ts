// SPDX-License-Identifier: Apache-2.0
// An update by cpr-exec: the VM's process executes the new program.
import type { QmpClient } from "../../qmp/client.ts";
import type { MigrationInfo } from "../../qmp/schema/migration.ts";
import { untilOver } from "../migration/until-over.ts";

const POLL_MS = 20;

/** @param command what is executed; empty: what the VM was started with. Returns what query-migrate says at the end */
export async function updateByExec(
  qmp: QmpClient,
  { command, timeoutMs }: { command: string[]; timeoutMs: number },
): Promise<MigrationInfo> {
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": command });
  await qmp.execute("migrate", {});
  return untilOver(qmp, { what: "update", timeoutMs, pollMs: POLL_MS });
}
