// SPDX-License-Identifier: Apache-2.0
// From a machine spec, or from a guest that an update brought here, to a VM with its monitors and consoles.
import { ignoreFileSizeSignal } from "../../ffi/signal.ts";
import { withChosenAccelerator } from "../accel/choose.ts";
import type { MachineSpec, MigrationAddress, WantedSpec } from "../config/types.ts";
import { VmmError } from "../errors.ts";
import { excludeFromDumps, selfTestMapping } from "../memory/ram.ts";
import type { ReceivedConnections } from "../migration/connection-handover.ts";
import { Incoming } from "../migration/incoming.ts";
import { Migration } from "../migration/migration.ts";
import type { GuestPast } from "../migration/pause-history.ts";
import { loadDirtyModule } from "../migration/ram/dirty-module.ts";
import type { RelayTask } from "../migration/relay.ts";
import { isSandboxed } from "../sandbox/state.ts";
import { buildVm } from "./build.ts";
import { Connections } from "./connections.ts";
import type { ConnectionsState } from "./connections-state.ts";
import { VmHandle } from "./handle.ts";
import { writePidfile } from "./pidfile.ts";
import { VmTarget } from "./target.ts";
import { Vm } from "./vm.ts";

/** Connects a VM with the world: monitors, consoles, migration. */
export function connectVm(
  vm: Vm,
  { startsBaton, state }: { startsBaton: boolean; state?: ConnectionsState },
): { handle: VmHandle; migration: Migration; connections: Connections } {
  // RAM, state and logs are files, and a limit on their size shall be an error, not the end of the guest.
  ignoreFileSizeSignal();
  const migration: Migration = new Migration(vm, () => connections, { startsBaton });
  const target = new VmTarget(vm, migration, () => connections);
  const connections: Connections = new Connections(vm.spec, target, state);
  if (vm.isBuilt) connectParts(vm, connections);
  return { handle: new VmHandle(vm, target, migration, connections), migration, connections };
}

function connectParts(vm: Vm, connections: Connections): void {
  excludeFromDumps(vm.memory, vm.ram);
  connections.attachPorts(vm.devices.serialPorts);
}

/** What a VM is started from: the machine with all defaults, and what was said of it. */
export interface StartOptions {
  wanted: WantedSpec;
  /** See `Migration`. */
  startsBaton?: boolean;
  /** See lifeline.ts: the VM's from then on. */
  lifelineFd?: number | undefined;
  /** This process is the helper of a relay. */
  relayTask?: RelayTask | undefined;
}

/**
 * Builds a new VM and starts its guest, or with `-incoming` waits for one from elsewhere.
 * @throws VmmError naming what cannot be had; nothing is left behind then
 */
export async function startVm(spec: MachineSpec, options: StartOptions): Promise<VmHandle> {
  const { startsBaton = false } = options;
  if (spec.sandbox !== undefined && !isSandboxed()) {
    throw new VmmError("sandbox", "-sandbox on is for the program baton: a process that embeds it is not only Baton's");
  }
  const main = spec.incoming.find(({ channel }) => channel === "main");
  if (main !== undefined) return awaitGuest(spec, options, "address" in main ? main.address : undefined);
  const vm = await buildVm(withChosenAccelerator(spec));
  if (options.lifelineFd !== undefined) vm.holdLifeline(options.lifelineFd);
  try {
    selfTestMapping(vm.memory, vm.ram, loadDirtyModule(vm.memory).hashPage);
    await vm.powerOn();
    const { handle, connections } = connectVm(vm, { startsBaton });
    writePidfile(spec);
    await connections.ready();
    vm.serve();
    if (!spec.startPaused) vm.cont();
    return handle;
  } catch (error) {
    await vm.close();
    throw error;
  }
}

/** `-incoming`: monitors answer at once, the guest comes through `address`, or when `migrate-incoming` says where. */
async function awaitGuest(
  own: MachineSpec,
  { wanted, startsBaton = false, lifelineFd, relayTask }: StartOptions,
  address: MigrationAddress | undefined,
): Promise<VmHandle> {
  const vm = new Vm(own);
  if (lifelineFd !== undefined) vm.holdLifeline(lifelineFd);
  try {
    const { handle, migration, connections } = connectVm(vm, { startsBaton });
    const onBuilt = (): void => connectParts(vm, connections);
    const onArrived = (past: GuestPast, events: boolean): void => migration.arrived(past, events);
    const adopt = ({ state, serials }: ReceivedConnections): { thaw(): void } => {
      const ports = vm.devices.serialPorts;
      vm.assumeSpec(connections.adopt(state, serials, { spec: vm.spec, ports }));
      for (const port of ports) port.release();
      return connections;
    };
    const passOn = relayTask === undefined ? undefined : (): void => migration.passOn(relayTask);
    const incoming = new Incoming({ vm, progress: migration.progress, own, wanted, onBuilt, onArrived, adopt, passOn });
    migration.await(incoming);
    await incoming.listen();
    writePidfile(own);
    await connections.ready();
    if (address !== undefined) incoming.begin(address, { exitOnError: true });
    return handle;
  } catch (error) {
    await vm.close();
    throw error;
  }
}
