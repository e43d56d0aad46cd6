// SPDX-License-Identifier: Apache-2.0
// Whether the engine can run a guest: one that has seen another CPU, and one of several vCPUs.
import { VmmError } from "../../errors.ts";
import { missingFeatures } from "../missing-features.ts";

/** @throws VmmError "cpu-features" with all that the engine lacks for a guest whose vCPUs have that CPUID */
export function refuseOtherCpus(guest: Uint8Array, engine: Uint8Array): void {
  const missing = missingFeatures(guest, engine, true);
  if (missing.length === 0) return;
  throw new VmmError(
    "cpu-features",
    `The accelerator wasm cannot run the guest, which may use what it does not have: ${missing.join(", ")}. ` +
      "Let it go on with -accel kvm; a guest that was started with -cpu baton64, or on wasm, has a CPU that both may run",
  );
}

/**
 * The guest's plain loads and stores are plain ones of the host's. x86-64 guests count on stores being seen in their order,
 * which other hosts do not promise. @throws VmmError "smp"
 */
export function refuseSmpOfOtherHosts(cpuCount: number, hostArchitecture: string = process.arch): void {
  if (cpuCount === 1 || hostArchitecture === "x64") return;
  throw new VmmError(
    "smp",
    `The accelerator wasm runs one vCPU on this host, not ${cpuCount}: a guest for x86-64 relies on the order in which other ` +
      `CPUs see what it writes, and ${hostArchitecture} has another one. Start it with -smp 1`,
  );
}
