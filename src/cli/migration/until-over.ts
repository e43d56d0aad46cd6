// SPDX-License-Identifier: Apache-2.0
// Waits for the end of a migration that was started over a monitor.
import { VmmError } from "../../errors.ts";
import { type QmpClient, QmpConnectionError } from "../../qmp/client.ts";
import type { MigrationInfo } from "../../qmp/schema/migration.ts";

export interface UntilOverOptions {
  /** What it is called in messages, and its errors' codes begin with. */
  what: "update" | "migration";
  /** Absent: for ever. */
  timeoutMs?: number;
  pollMs: number;
  /** Hears what query-migrate says until then. */
  onInfo?(info: MigrationInfo): void;
  /** Ends the waiting, with its reason. */
  signal?: AbortSignal;
}

/** What query-migrate says at the end, good or bad. @throws VmmError when the end could not be waited for */
export async function untilOver(qmp: QmpClient, options: UntilOverOptions): Promise<MigrationInfo> {
  const { what, timeoutMs, pollMs, onInfo } = options;
  const signals = [
    ...(timeoutMs === undefined ? [] : [AbortSignal.timeout(timeoutMs)]),
    ...(options.signal === undefined ? [] : [options.signal]),
  ];
  const signal = AbortSignal.any(signals);
  try {
    for (;;) {
      const info = await qmp.execute("query-migrate", {}, { signal });
      if (["completed", "failed", "cancelled"].includes(info.status!)) return info;
      onInfo?.(info);
      await new Promise((wake) => setTimeout(wake, pollMs));
      signal.throwIfAborted();
    }
  } catch (cause) {
    if (cause instanceof QmpConnectionError) {
      const message = `The monitor's connection ended during the ${what}: look at the VM's process and its messages`;
      throw new VmmError(`${what}-lost`, message, { cause });
    }
    if ((cause as Error).name !== "TimeoutError") throw cause;
    const message = `The ${what} is not over after ${timeoutMs! / 1000} s, and goes on: ask again with baton status`;
    throw new VmmError(`${what}-timeout`, message);
  }
}
