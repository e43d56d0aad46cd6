// SPDX-License-Identifier: Apache-2.0
// Types of the commands and events about the machine itself. Names and shapes: QEMU's qapi/run-state.json,
// qapi/machine.json, qapi/char.json.
import { arrayOf, bool, enumOf, int, optional, type Static, str, struct, uint } from "./types.ts";

export const RunState = enumOf(
  "debug",
  "inmigrate",
  "internal-error",
  "io-error",
  "paused",
  "postmigrate",
  "prelaunch",
  "finish-migrate",
  "restore-vm",
  "running",
  "save-vm",
  "shutdown",
  "suspended",
  "watchdog",
  "guest-panicked",
  "colo",
);
export type RunState = Static<typeof RunState>;

export const StatusInfo = struct({ running: bool, status: RunState });

export const ShutdownCause = enumOf(
  "none",
  "host-error",
  "host-qmp-quit",
  "host-qmp-system-reset",
  "host-signal",
  "host-ui",
  "guest-shutdown",
  "guest-reset",
  "guest-panic",
  "subsystem-reset",
  "snapshot-load",
);
export type ShutdownCause = Static<typeof ShutdownCause>;

export const NameInfo = struct({ name: optional(str) });
export const UuidInfo = struct({ UUID: str });
export const KvmInfo = struct({ enabled: bool, present: bool });
export type KvmInfo = Static<typeof KvmInfo>;
/** QEMU's, with other names. `present`: those that this Baton has, whether or not they are good for anything here. */
export const Accelerator = enumOf("kvm", "wasm");
export const AcceleratorInfo = struct({ enabled: Accelerator, present: arrayOf(Accelerator) });
export type AcceleratorInfo = Static<typeof AcceleratorInfo>;
export const TargetInfo = struct({ arch: enumOf("x86_64") });

export const CpuInfoFast = struct({
  "cpu-index": int,
  "qom-path": str,
  "thread-id": int,
  props: optional(
    struct({
      "socket-id": optional(int),
      "die-id": optional(int),
      "core-id": optional(int),
      "thread-id": optional(int),
    }),
  ),
  target: enumOf("x86_64"),
});
export type CpuInfoFast = Static<typeof CpuInfoFast>;

export const ChardevInfo = struct({ label: str, filename: str, "frontend-open": bool });
export type ChardevInfo = Static<typeof ChardevInfo>;

export const Memdev = struct({
  id: optional(str),
  size: uint,
  merge: bool,
  dump: bool,
  prealloc: bool,
  share: bool,
  reserve: optional(bool),
  "host-nodes": arrayOf(int),
  policy: enumOf("default", "preferred", "bind", "interleave"),
});
export type Memdev = Static<typeof Memdev>;

export const MemoryInfo = struct({ "base-memory": uint, "plugged-memory": optional(uint) });
export type MemoryInfo = Static<typeof MemoryInfo>;

/** Of Baton's own: which Wasm module models a device. */
export const DeviceModuleInfo = struct({
  device: str,
  instance: uint,
  /** Version of the state that the module saves. */
  version: uint,
  /** Of the module's file. */
  sha256: str,
  "built-in": bool,
  swaps: uint,
  "taken-back": uint,
});
export type DeviceModuleInfo = Static<typeof DeviceModuleInfo>;

export const DeviceModuleSwap = struct({ device: str, instance: optional(uint), filename: str });
export type DeviceModuleSwap = Static<typeof DeviceModuleSwap>;

/** `closed-us`: how long accesses to the device had to wait. */
export const DeviceModuleSwapped = struct({ "closed-us": uint });
export type DeviceModuleSwapped = Static<typeof DeviceModuleSwapped>;

/** How the VMM itself is restricted. Baton's own. */
export const SandboxInfo = struct({
  /** `-sandbox on` is in force. */
  enabled: bool,
  /** As /proc/PID/status has it: another sandbox around Baton shows here, too. */
  seccomp: enumOf("none", "strict", "filter"),
  "no-new-privs": bool,
  /** SHA-256 of the program that runs, of which there is a sealed copy in a sandbox. */
  "image-sha256": optional(str),
});
export type SandboxInfo = Static<typeof SandboxInfo>;

export const GuestPanicAction = enumOf("pause", "poweroff", "run");
