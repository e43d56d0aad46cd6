// SPDX-License-Identifier: Apache-2.0
// Parameters and capabilities of migrations: their defaults, and how changes to them are taken.
import { type MigrateSetParameters, MigrationCapability, type MigrationParameters } from "../qmp/schema/migration.ts";

export function defaultCapabilities(): Record<MigrationCapability, boolean> {
  return Object.fromEntries(MigrationCapability.values.map((name) => [name, false])) as Record<
    MigrationCapability,
    boolean
  >;
}

export function defaultParameters(): MigrationParameters {
  return { mode: "normal", "cpr-exec-command": [] };
}

/** All changes or none: throws when one of them makes no sense. */
export function mergeParameters(current: MigrationParameters, changes: MigrateSetParameters): MigrationParameters {
  const { mode = current.mode, "cpr-exec-command": command = current["cpr-exec-command"] } = changes;
  return { mode, "cpr-exec-command": [...command] };
}
