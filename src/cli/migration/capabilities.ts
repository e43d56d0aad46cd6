// SPDX-License-Identifier: Apache-2.0
// Capabilities of a VM that may be another version's.
import { VmmError } from "../../errors.ts";
import type { QmpClient } from "../../qmp/client.ts";

/** `query-migrate-capabilities`, with names that this version may not know. */
export async function knownCapabilities(qmp: QmpClient): Promise<ReadonlySet<string>> {
  const list = await qmp.execute("query-migrate-capabilities");
  return new Set(list.map(({ capability }) => capability));
}

/**
 * Turns capabilities on and off; one that the VM does not know is off anyway.
 * @throws VmmError "capability" when it does not know one that is wanted
 */
export async function setCapabilities(qmp: QmpClient, wanted: Readonly<Record<string, boolean>>): Promise<void> {
  const known = await knownCapabilities(qmp);
  for (const [capability, state] of Object.entries(wanted)) {
    if (!state || known.has(capability)) continue;
    throw new VmmError("capability", `The VM does not know the capability ${capability}: update it by cpr-exec first`);
  }
  const capabilities = Object.entries(wanted)
    .filter(([capability]) => known.has(capability))
    .map(([capability, state]) => ({ capability, state }));
  await qmp.call("migrate-set-capabilities", { capabilities });
}
