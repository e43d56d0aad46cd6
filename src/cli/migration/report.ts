// SPDX-License-Identifier: Apache-2.0
// What is said of a migration before it, when something forbids it, and after it.
import { VmmError } from "../../errors.ts";
import type { QmpClient } from "../../qmp/client.ts";
import type { MigrationBlocker, MigrationInfo } from "../../qmp/schema/migration.ts";

export function milliseconds(us: number): string {
  return `${(us / 1000).toFixed(2)} ms`;
}

/** The phases of the pause, one line each. */
export function phaseLines(info: Pick<MigrationInfo, "phases">): string[] {
  return (info.phases ?? []).map(
    ({ phase, "duration-us": us }) => `  ${phase.padEnd(8)} ${milliseconds(us).padStart(10)}`,
  );
}

/** @throws VmmError when the VM has no guest to move, in whatever mode; `what` is what cannot be done */
export async function refuseWithoutGuest(qmp: QmpClient, what: string): Promise<void> {
  const { status } = await qmp.execute("query-status");
  if (status === "postmigrate") {
    const advice =
      "end what is left here with the command quit; cont lets a guest that was saved to a file run on here";
    throw new VmmError("postmigrate", `${what}: An earlier migration has handed its guest over. Now ${advice}`);
  }
  if (status === "inmigrate") throw new VmmError("inmigrate", `${what}: It waits for its guest itself`);
}

/** The error of a mode that is forbidden, with what to do about it; `what` is what cannot be done. */
export function blockedError(what: string, { code, reason, fix }: MigrationBlocker): VmmError {
  return new VmmError(code, `${what}: ${reason.replace(/\.?$/, ".")}${fix === undefined ? "" : ` ${fix}.`}`);
}
