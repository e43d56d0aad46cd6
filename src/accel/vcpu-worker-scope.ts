// SPDX-License-Identifier: Apache-2.0
// What the workers of vCPUs have in common: each gets one message, and from then on heeds only the shared control block.
import { VCPU_STATE_GONE } from "../../assembly/layout.ts";
import { VcpuControl } from "./vcpu-control.ts";
import type { WorkerStart } from "./vcpu-worker-handle.ts";

/** Makes the calling thread a vCPU's: `serve` is called with the message, and the thread ends when it returns. */
export function serveVcpu<Start extends WorkerStart>(serve: (start: Start, control: VcpuControl) => void): void {
  const scope = globalThis as unknown as { onmessage: (event: { data: Start }) => void; close(): void };
  scope.onmessage = ({ data }) => {
    const control = new VcpuControl(data.memory, data.index);
    try {
      serve(data, control);
    } catch (error) {
      // Nobody may wait for this vCPU to park; the main thread hears of the error itself.
      control.state = VCPU_STATE_GONE;
      throw error;
    }
    scope.close();
  };
}
