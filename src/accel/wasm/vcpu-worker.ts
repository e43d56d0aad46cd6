// SPDX-License-Identifier: Apache-2.0
// Worker of one vCPU on the engine.
import { deviceClock } from "../../machine/clock-origin.ts";
import type { DeviceInstance } from "../../machine/device-table.ts";
import { busOnDemand } from "../../machine/io-bus.ts";
import { serveVcpu } from "../vcpu-worker-scope.ts";
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

// The main thread has much to do before it sends its message.
compileCpu();
serveVcpu<EngineWorkerStart>(({ memory, index, ramBase, ramSizeBytes, devices, hasTime }, control) => {
  const irqchip = instantiateIrqchip(memory, deviceClock(memory));
  const bus = busOnDemand(memory, devices, (gsi, level) => irqchip.setIrq(gsi, level));
  const cpu = instantiateCpu(memory, { irqchip, bus, onAccess: () => control.countExit() });
  cpu.select(index, ramBase, BigInt(ramSizeBytes));
  cpu.prepare();
  if (hasTime) warmUp(control);
  new EngineRunner(memory, index, { cpu, irqchip, control }).serve();
});
