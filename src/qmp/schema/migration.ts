// SPDX-License-Identifier: Apache-2.0
// Types of the migration commands. Names and shapes: QEMU's qapi/migration.json and qapi/sockets.json.
import { arrayOf, bool, enumOf, num, optional, type Static, str, struct, uint, union } from "./types.ts";

export const MigMode = enumOf("normal", "cpr-reboot", "cpr-transfer", "cpr-exec");
export type MigMode = Static<typeof MigMode>;

export const MigrationStatus = enumOf(
  "none",
  "setup",
  "cancelling",
  "cancelled",
  "active",
  "device",
  "postcopy-active",
  "completed",
  "failing",
  "failed",
);
export type MigrationStatus = Static<typeof MigrationStatus>;

/**
 * A capability is listed here when Baton has it, not before. `x-handover-connections` is Baton's own, for cpr-transfer: the
 * new process gets the consoles and monitors too, and the old one ends.
 */
export const MigrationCapability = enumOf(
  "events",
  "x-ignore-shared",
  "x-handover-connections",
  "auto-converge",
  "postcopy-ram",
  "multifd",
  "mapped-ram",
);
export type MigrationCapability = Static<typeof MigrationCapability>;

export const MigrationCapabilityStatus = struct({ capability: MigrationCapability, state: bool });
export type MigrationCapabilityStatus = Static<typeof MigrationCapabilityStatus>;

export const MultiFDCompression = enumOf("none", "zstd");
export type MultiFDCompression = Static<typeof MultiFDCompression>;

/** What `migrate-set-parameters` takes: any subset. */
export const MigrateSetParameters = struct({
  mode: optional(MigMode),
  "cpr-exec-command": optional(arrayOf(str)),
  "cpr-exec-image": optional(str),
  "cpr-exec-sha256": optional(str),
  "downtime-limit": optional(uint),
  "max-bandwidth": optional(uint),
  "max-postcopy-bandwidth": optional(uint),
  "multifd-channels": optional(uint),
  "multifd-compression": optional(MultiFDCompression),
  "multifd-zstd-level": optional(uint),
  "cpu-throttle-initial": optional(uint),
  "cpu-throttle-increment": optional(uint),
  "max-cpu-throttle": optional(uint),
  "tls-creds": optional(str),
  "tls-hostname": optional(str),
  "pause-limit": optional(uint),
  "guard-timeout": optional(uint),
  relay: optional(bool),
});
export type MigrateSetParameters = Static<typeof MigrateSetParameters>;

/** What `query-migrate-parameters` tells: every parameter, as it is now. */
export const MigrationParameters = struct({
  mode: MigMode,
  "cpr-exec-command": arrayOf(str),
  /**
   * Name that `getfd` has given to a sealed file in memory, which is the program of that command whatever its first word says;
   * empty: the program that this word finds. Baton's own, as is the next.
   */
  "cpr-exec-image": str,
  /** SHA-256 that the image must have, 64 hexadecimal digits. */
  "cpr-exec-sha256": str,
  /** Milliseconds that the guest may stand. */
  "downtime-limit": uint,
  /** Bytes per second, 0 for no limit. */
  "max-bandwidth": uint,
  /** The same, of the pages that nobody waits for in post-copy. */
  "max-postcopy-bandwidth": uint,
  "multifd-channels": uint,
  "multifd-compression": MultiFDCompression,
  "multifd-zstd-level": uint,
  /** Percent of the vCPUs' time. */
  "cpu-throttle-initial": uint,
  "cpu-throttle-increment": uint,
  "max-cpu-throttle": uint,
  /** Id of an `-object tls-creds-x509`; empty: no TLS. */
  "tls-creds": str,
  /** Whom the server's certificate must name; empty: the host that is connected to. */
  "tls-hostname": str,
  /** Milliseconds that the guest may stand in an update by cpr-exec or cpr-transfer, 0 for no limit. Baton's own. */
  "pause-limit": uint,
  /**
   * Milliseconds that the new program of an update by cpr-exec has to run the guest before a guard gives it back to the old
   * one; 0 for no guard. Baton's own.
   */
  "guard-timeout": uint,
  /** By cpr-exec, the guest runs in a helper while the new program starts. Baton's own. */
  relay: bool,
});
export type MigrationParameters = Static<typeof MigrationParameters>;

export const SocketAddress = union({ type: enumOf("inet", "unix", "vsock", "fd") }, "type", {
  inet: struct({ host: str, port: str }),
  unix: struct({ path: str }),
  vsock: struct({ cid: str, port: str }),
  fd: struct({ str: str }),
});
export type SocketAddress = Static<typeof SocketAddress>;

export const MigrationAddress = union({ transport: enumOf("socket", "exec", "file") }, "transport", {
  socket: SocketAddress,
  exec: struct({ args: arrayOf(str) }),
  file: struct({ filename: str, offset: uint }),
});

export const MigrationChannelType = enumOf("main", "cpr");
export type MigrationChannelType = Static<typeof MigrationChannelType>;

export const MigrationChannel = struct({ "channel-type": MigrationChannelType, addr: MigrationAddress });
export type MigrationChannel = Static<typeof MigrationChannel>;

export const MigrationStats = struct({
  transferred: uint,
  remaining: uint,
  total: uint,
  duplicate: uint,
  normal: uint,
  "normal-bytes": uint,
  "dirty-pages-rate": uint,
  mbps: num,
  "dirty-sync-count": uint,
  "postcopy-requests": uint,
  "page-size": uint,
  "multifd-bytes": uint,
  "pages-per-second": uint,
  "precopy-bytes": uint,
  "downtime-bytes": uint,
  "postcopy-bytes": uint,
  "dirty-sync-missed-zero-copy": uint,
});
export type MigrationStats = Static<typeof MigrationStats>;

/** One phase of the guest's pause; src/migration/timeline.ts has their order and meaning. */
export const MigrationPhase = struct({ phase: str, "duration-us": uint });
export type MigrationPhase = Static<typeof MigrationPhase>;

/** How long the guest stood in an update, and the estimate of that, before earlier updates corrected it. Baton's own. */
export const PastPause = struct({
  mode: MigMode,
  "predicted-downtime-us": optional(uint),
  "downtime-us": uint,
});
export type PastPause = Static<typeof PastPause>;

/**
 * Why an update would not work. `code` is the same for the same reason, `device` names who objects, `fix` says what to do
 * about it.
 */
export const MigrationProblem = struct({ code: str, text: str, device: optional(str), fix: optional(str) });
export type MigrationProblem = Static<typeof MigrationProblem>;

/** `failed`: it could not be found out. */
export const DryRunStatus = enumOf("active", "would-work", "would-fail", "failed", "cancelled");

/** What `migrate` with `dry-run` has found out. Baton's own. */
export const DryRunInfo = struct({
  status: DryRunStatus,
  mode: MigMode,
  /** Of `would-fail`, at least one. */
  problems: arrayOf(MigrationProblem),
  /** Who answered: `baton 0.1.0`. */
  image: optional(str),
  "error-desc": optional(str),
  /** How long the guest would stand, in µs, and what that is made of. */
  "predicted-downtime-us": optional(uint),
  phases: optional(arrayOf(MigrationPhase)),
  /** How long the guest stood while its state was read. */
  "standstill-us": optional(uint),
  /**
   * Bytes of anonymous RAM, which the update would move to shared memory first, while the guest runs. The dry run does not, and the
   * new program has seen empty RAM of that size.
   */
  "private-ram": optional(uint),
});
export type DryRunInfo = Static<typeof DryRunInfo>;

/** Times in milliseconds. Everything is absent when there never was a migration. */
export const MigrationInfo = struct({
  status: optional(MigrationStatus),
  ram: optional(MigrationStats),
  "total-time": optional(uint),
  "setup-time": optional(uint),
  downtime: optional(uint),
  "expected-downtime": optional(uint),
  /** Percent of the vCPUs' time that auto-converge takes from the guest. */
  "cpu-throttle-percentage": optional(uint),
  "error-desc": optional(str),
  "blocked-reasons": optional(arrayOf(str)),
  "socket-address": optional(arrayOf(SocketAddress)),
  /** The guest's pause in µs, and what it was made of. Baton's own. */
  "downtime-us": optional(uint),
  phases: optional(arrayOf(MigrationPhase)),
  /** When that pause began, on the host's CLOCK_MONOTONIC: to find it in other traces. */
  "pause-start-us": optional(uint),
  /** How many updates this guest has lived through. Baton's own. */
  updates: optional(uint),
  /** What was predicted of the pause: by a dry run of the same update, or for `pause-limit`. Baton's own. */
  "predicted-downtime-us": optional(uint),
  /** The pauses of this guest's last updates, the oldest first. Baton's own. */
  history: optional(arrayOf(PastPause)),
  /** Of the last dry run, if there was one. */
  "dry-run": optional(DryRunInfo),
});
export type MigrationInfo = Static<typeof MigrationInfo>;

/**
 * Why the VM cannot be moved in `mode` now. `reason` is what `migrate` would say, `code` is the same for programs,
 * `device` names who objects and `fix` what to do about it.
 */
export const MigrationBlocker = struct({
  mode: MigMode,
  reason: str,
  code: str,
  device: optional(str),
  fix: optional(str),
});
export type MigrationBlocker = Static<typeof MigrationBlocker>;
