// SPDX-License-Identifier: Apache-2.0
// Parameters and capabilities of migrations: their defaults, and how changes to them are taken.
import { VmmError } from "../errors.ts";
import { type MigrateSetParameters, MigrationCapability, type MigrationParameters } from "../qmp/schema/migration.ts";
import { MAX_STREAMS } from "./ram/shared.ts";

export function defaultCapabilities(): Record<MigrationCapability, boolean> {
  return Object.fromEntries(MigrationCapability.values.map((name) => [name, false])) as Record<
    MigrationCapability,
    boolean
  >;
}

/** QEMU's, but for `max-bandwidth`, which is unlimited. */
export function defaultParameters(): MigrationParameters {
  return {
    mode: "normal",
    "cpr-exec-command": [],
    "cpr-exec-image": "",
    "cpr-exec-sha256": "",
    "downtime-limit": 300,
    "max-bandwidth": 0,
    "max-postcopy-bandwidth": 0,
    "multifd-channels": 2,
    "multifd-compression": "none",
    "multifd-zstd-level": 1,
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "max-cpu-throttle": 99,
    "tls-creds": "",
    "tls-hostname": "",
    "pause-limit": 0,
    "guard-timeout": 0,
    relay: false,
  };
}

/** Least and greatest value of the numbers, as QEMU has them. */
const RANGES: Partial<Record<keyof MigrationParameters, readonly [least: number, greatest: number]>> = {
  "downtime-limit": [0, 2_000_000],
  "pause-limit": [0, 3_600_000],
  "guard-timeout": [0, 3_600_000],
  "multifd-channels": [1, MAX_STREAMS],
  "multifd-zstd-level": [1, 20],
  "cpu-throttle-initial": [1, 99],
  "cpu-throttle-increment": [1, 99],
  "max-cpu-throttle": [1, 99],
};

/** All changes or none. @throws VmmError "parameter" when one of them makes no sense */
export function mergeParameters(current: MigrationParameters, changes: MigrateSetParameters): MigrationParameters {
  const merged = { ...current, ...changes };
  for (const [name, range] of Object.entries(RANGES) as [keyof MigrationParameters, readonly [number, number]][]) {
    const value = merged[name] as number;
    if (value >= range[0] && value <= range[1]) continue;
    throw new VmmError("parameter", `Parameter '${name}' expects a value between ${range[0]} and ${range[1]}`);
  }
  if (merged["max-cpu-throttle"] < merged["cpu-throttle-initial"]) {
    throw new VmmError("parameter", "Parameter 'max-cpu-throttle' expects at least cpu-throttle-initial");
  }
  if (!/^([0-9a-f]{64})?$/i.test(merged["cpr-exec-sha256"])) {
    throw new VmmError("parameter", "Parameter 'cpr-exec-sha256' expects 64 hexadecimal digits");
  }
  return { ...merged, "cpr-exec-command": [...merged["cpr-exec-command"]] };
}
