// SPDX-License-Identifier: Apache-2.0
// Which accelerator a VM gets, the first of those that are wanted and to be had, and which CPU: its own, or the engine's.
import type { AcceleratorName } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { importEntry } from "../runtime/entry.ts";
import { KvmAcceleratedVm, type KvmVmOptions } from "./kvm/vm.ts";
import type { AcceleratedVm } from "./types.ts";

/** @throws VmmError "kvm-unavailable" when there is no other choice, and whatever the accelerator throws */
export async function createAccelerated(
  wanted: readonly AcceleratorName[],
  options: KvmVmOptions,
): Promise<AcceleratedVm> {
  const [name, ...others] = wanted;
  if (name === "wasm") {
    // An update of a VM on KVM does not load it.
    const { createEngineVm } = await importEntry<typeof import("./wasm/vm.ts")>("accel/wasm/vm.ts");
    return createEngineVm(options);
  }
  try {
    return new KvmAcceleratedVm(await withCpuOfModel(options));
  } catch (error) {
    if (others.length === 0 || !(error instanceof VmmError && error.code === "kvm-unavailable")) throw error;
    for (const worker of options.workers ?? []) worker?.terminate();
    return createAccelerated(others, { ...options, workers: [] });
  }
}

/** The engine's CPU for a new guest on KVM whose model it is: KVM refuses what the host lacks of it. */
async function withCpuOfModel(options: KvmVmOptions): Promise<KvmVmOptions> {
  const { model, topology, features } = options.cpu;
  if (options.cpuids !== undefined || model !== "baton64") return options;
  const { engineCpuids } = await importEntry<typeof import("./wasm/cpuid.ts")>("accel/wasm/cpuid.ts");
  return { ...options, cpuids: engineCpuids(topology, features), isFromElsewhere: true };
}
