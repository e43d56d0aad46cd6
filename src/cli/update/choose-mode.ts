// SPDX-License-Identifier: Apache-2.0
// Which mode an update uses, and why.
import type { QmpClient } from "../../qmp/client.ts";
import { blockedError } from "../migration/report.ts";

export type UpdateMode = "cpr-exec" | "cpr-transfer";

/** The mode to look at when it is only asked whether an update would work: that it is forbidden is an answer. */
export async function modeToCheck(qmp: QmpClient, wanted: UpdateMode | "auto"): Promise<UpdateMode> {
  if (wanted !== "auto") return wanted;
  const blockers = await qmp.execute("query-migrate-blockers");
  const isBlocked = (mode: UpdateMode): boolean => blockers.some((blocker) => blocker.mode === mode);
  return isBlocked("cpr-exec") && !isBlocked("cpr-transfer") ? "cpr-transfer" : "cpr-exec";
}

export interface ChosenMode {
  mode: UpdateMode;
  /** For people, and for logs of programs. */
  because: string;
}

/** @throws VmmError with the blocker's code when the mode that is wanted, or both, are forbidden */
export async function chooseMode(qmp: QmpClient, wanted: UpdateMode | "auto"): Promise<ChosenMode> {
  const blockers = await qmp.execute("query-migrate-blockers");
  const blockerOf = (mode: UpdateMode) => blockers.find((blocker) => blocker.mode === mode);
  if (wanted !== "auto") {
    const blocker = blockerOf(wanted);
    if (blocker !== undefined) throw blockedError(`The VM cannot be updated by ${wanted}`, blocker);
    return { mode: wanted, because: "as was asked for" };
  }
  const blocker = blockerOf("cpr-exec");
  if (blocker === undefined) {
    return { mode: "cpr-exec", because: "nothing forbids it, and the VM stays the same process" };
  }
  if (blockerOf("cpr-transfer") !== undefined) throw blockedError("The VM cannot be updated", blocker);
  return { mode: "cpr-transfer", because: `cpr-exec is blocked: ${blocker.reason}` };
}
