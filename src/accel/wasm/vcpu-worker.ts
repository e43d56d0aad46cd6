// SPDX-License-Identifier: Apache-2.0
// Worker of one vCPU on the engine: it gets one message, and from then on heeds only the shared control block.
import { VCPU_STATE_GONE } from "../../../assembly/layout.ts";
import { deviceClock } from "../../machine/clock-origin.ts";
import type { DeviceInstance } from "../../machine/device-table.ts";
import { IoBus } from "../../machine/io-bus.ts";
import { VcpuControl } from "../vcpu-control.ts";
import { compileCpu, instantiateCpu } from "./cpu-module.ts";
import { instantiateIrqchip } from "./irqchip-state.ts";
import { EngineRunner } from "./run-loop.ts";
import { warmUp } from "./warm-up.ts";

export interface EngineWorkerStart {
  memory: WebAssembly.Memory;
  index: number;
  ramBase: number;
  ramSizeBytes: number;
  devices: readonly DeviceInstance[];
  /** The guest runs elsewhere still, and there is time to get warm. */
  hasTime: boolean;
}

function serve({ memory, index, ramBase, ramSizeBytes, devices, hasTime }: EngineWorkerStart): void {
  const control = new VcpuControl(memory, index);
  try {
    const irqchip = instantiateIrqchip(memory, deviceClock(memory));
    let bus: IoBus | undefined;
    const cpu = instantiateCpu(memory, {
      irqchip,
      bus: () => {
        bus ??= new IoBus(memory, devices, (gsi, level) => irqchip.setIrq(gsi, level));
        return bus;
      },
      onAccess: () => control.countExit(),
    });
    cpu.select(index, ramBase, BigInt(ramSizeBytes));
    cpu.prepare();
    if (hasTime) warmUp(control);
    new EngineRunner(memory, index, { cpu, irqchip, control }).serve();
  } catch (error) {
    // Nobody may wait for this vCPU to park; the main thread hears of the error itself.
    control.state = VCPU_STATE_GONE;
    throw error;
  }
}

// The main thread has much to do before it sends its message.
compileCpu();
const scope = globalThis as unknown as { onmessage: (event: { data: EngineWorkerStart }) => void; close(): void };
scope.onmessage = ({ data }) => {
  serve(data);
  scope.close();
};
