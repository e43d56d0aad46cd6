// SPDX-License-Identifier: Apache-2.0
// What has been gathered while options are being interpreted.
import type { Properties } from "./qemu-options.ts";
import type { AcceleratorName, WantedSpec } from "./types.ts";

/** The numbers of all `-smp` together. */
export interface SmpNumbers {
  cpus?: number;
  sockets?: number;
  cores?: number;
  threads?: number;
  maxcpus?: number;
}

export interface Draft {
  wanted: WantedSpec;
  /** Of `-machine accel=`, which excludes `-accel`. */
  machineAccelerators?: AcceleratorName[];
  smp?: { numbers: SmpNumbers; properties: Properties };
  /** Numbers the chardevs that `-monitor` and `-qmp` make. */
  monitorCount: number;
}
