// SPDX-License-Identifier: Apache-2.0
// An update by cpr-exec: the VM's process executes the new program.
import type { QmpClient } from "../../qmp/client.ts";
import type { MigrationInfo } from "../../qmp/schema/migration.ts";
import { untilOver } from "../migration/until-over.ts";

import type { PassedImage } from "./pass-image.ts";

const POLL_MS = 20;
/** Many times what an update takes, and no longer than most guests can stand. */
const DEFAULT_GUARD_TIMEOUT_MS = 2000;

export interface ExecOptions {
  /** What is executed; empty: what the VM was started with. */
  command: string[];
  /** Its program, if it had to be passed. */
  passed: PassedImage | undefined;
  /** 0: no guard; undefined: one if the VM can have one. Of a relay: until the new program is ready; 0, undefined: the VM's default. */
  guardTimeoutMs: number | undefined;
  /** The guest runs in a helper meanwhile, which is its guard, too. */
  isRelayed: boolean;
  timeoutMs: number;
  /** Hears why there is no guard. */
  onUnguarded(reason: string): void;
}

/** Returns what query-migrate says at the end. */
export async function updateByExec(qmp: QmpClient, options: ExecOptions): Promise<MigrationInfo> {
  const { command, passed, guardTimeoutMs, isRelayed, timeoutMs, onUnguarded } = options;
  await qmp.execute("migrate-set-parameters", { mode: "cpr-exec", "cpr-exec-command": command, ...passed });
  const { relay } = await qmp.execute("query-migrate-parameters");
  // An older Baton does not know it.
  if (isRelayed || relay) await qmp.execute("migrate-set-parameters", { relay: isRelayed });
  if (isRelayed) await qmp.execute("migrate-set-parameters", { "guard-timeout": guardTimeoutMs ?? 0 });
  else await setGuard(qmp, guardTimeoutMs, onUnguarded);
  await qmp.execute("migrate", {});
  return untilOver(qmp, { what: "update", timeoutMs, pollMs: POLL_MS });
}

async function setGuard(
  qmp: QmpClient,
  guardTimeoutMs: number | undefined,
  onUnguarded: ExecOptions["onUnguarded"],
): Promise<void> {
  const guard = { "guard-timeout": guardTimeoutMs ?? DEFAULT_GUARD_TIMEOUT_MS };
  await qmp.execute("migrate-set-parameters", guard).catch((error: Error) => {
    if (guardTimeoutMs !== undefined) throw error;
    onUnguarded(error.message);
  });
}
