// SPDX-License-Identifier: Apache-2.0
// A throttled vCPU, on its own thread: it runs for a slice and then does not, for as long as makes that the wanted share.
import { VCPU_REQUEST_RUN } from "../../assembly/layout.ts";
import type { VcpuControl } from "./vcpu-control.ts";

/** How long it runs at a time; as in QEMU. */
export const THROTTLE_SLICE_MS = 10;
/** How long it sleeps before it looks whether it is still throttled. */
const LOOK_MS = 50;

/** Sleeps after a slice. A request ends it. */
export function sleepAfterSlice(control: VcpuControl): void {
  const percent = control.throttlePercent;
  const wakeMs = performance.now() + (THROTTLE_SLICE_MS * percent) / (100 - percent);
  while (control.request === VCPU_REQUEST_RUN && control.throttlePercent !== 0) {
    const leftMs = wakeMs - performance.now();
    if (leftMs <= 0) return;
    control.sleepWhileRequest(VCPU_REQUEST_RUN, Math.min(leftMs, LOOK_MS));
  }
}
