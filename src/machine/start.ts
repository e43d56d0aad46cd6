// SPDX-License-Identifier: Apache-2.0
// From a machine spec, or from a guest that an update brought here, to a VM with its monitors and consoles.
import { writeFileSync } from "node:fs";
import { modules } from "../../build/dirty.ts";
import type { MachineSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { excludeFromDumps, selfTestMapping } from "../memory/ram.ts";
import { Migration } from "../migration/migration.ts";
import { buildVm } from "./build.ts";
import { Connections, type ConnectionsState } from "./connections.ts";
import { VmHandle } from "./handle.ts";
import { VmTarget } from "./target.ts";
import type { Vm } from "./vm.ts";

/** Connects a VM with the world: monitors, consoles, migration. */
export function connectVm(
  vm: Vm,
  { startsBaton, state }: { startsBaton: boolean; state?: ConnectionsState },
): { handle: VmHandle; migration: Migration; connections: Connections } {
  excludeFromDumps(vm.memory, vm.ram);
  const migration: Migration = new Migration(vm, () => connections, { startsBaton });
  const target = new VmTarget(vm, migration, () => connections);
  const connections: Connections = new Connections(vm.spec, target, vm.devices.serialPorts, state);
  return { handle: new VmHandle(vm, target, migration, connections), migration, connections };
}

/**
 * Builds a new VM and starts its guest. `startsBaton`: see `Migration`.
 * @throws VmmError naming what cannot be had; nothing is left behind then
 */
export async function startVm(spec: MachineSpec, { startsBaton = false } = {}): Promise<VmHandle> {
  if (spec.incoming.length > 0) {
    throw new VmmError("incoming", "-incoming: this version of Baton takes over a guest only in an update by cpr-exec");
  }
  const vm = buildVm(spec);
  try {
    selfTestMapping(vm.memory, vm.ram, pageHasher(vm.memory));
    await vm.powerOn();
    const { handle, connections } = connectVm(vm, { startsBaton });
    if (spec.pidfile !== undefined) writeFileSync(spec.pidfile, `${process.pid}\n`, { mode: 0o600 });
    await connections.ready();
    vm.serve();
    if (!spec.startPaused) vm.cont();
    return handle;
  } catch (error) {
    await vm.close();
    throw error;
  }
}

/** The page hash of the dirty-page scanner, on this memory. */
function pageHasher(memory: WebAssembly.Memory): (address: number) => bigint {
  const module = new WebAssembly.Module(Uint8Array.fromBase64(modules.dirty));
  const { hashPage } = new WebAssembly.Instance(module, { env: { memory } }).exports as {
    hashPage(address: number): bigint;
  };
  return hashPage;
}
