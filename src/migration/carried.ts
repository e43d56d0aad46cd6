// SPDX-License-Identifier: Apache-2.0
// What an update by exec carries from one image to the next, beside the guest's own state.

import { ACCELERATOR_SECTIONS } from "../accel/state/sections.ts";
import type { MachineSpec } from "../config/types.ts";
import type { ConnectionsState } from "../machine/connections-state.ts";
import { DEVICE_SECTIONS } from "../machine/device-set.ts";
import type { Vm } from "../machine/vm.ts";
import type { RunState } from "../qmp/schema/machine.ts";
import type { MigrationParameters } from "../qmp/schema/migration.ts";
import { bindAll, StateWriter } from "../state/writer.ts";
import type { PauseHistory } from "./pause-history.ts";
import { CARRIED_STAMPS } from "./timeline.ts";

/** `STATE_FD:PROGRAM_FD:FD,FD,…`: the memfd with the image, the program to go back to, and all fds of the VM. */
export const ENV_STATE = "BATON_CPR_EXEC_STATE";
/** Command line of the program to go back to, as JSON: usable even when the image cannot be read. */
export const ENV_OLD_COMMAND = "BATON_CPR_EXEC_OLD_COMMAND";
/** Set when this exec goes back: why the new image refused. */
export const ENV_ERROR = "BATON_CPR_EXEC_ERROR";

export function formatHandover(stateFd: number, programFd: number, fds: readonly number[]): string {
  return `${stateFd}:${programFd}:${fds.join(",")}`;
}

export const MACHINE_SECTION = "machine";
export const CPR_EXEC_SECTION = "cpr-exec";
const CPR_EXEC_VERSION = 1;
/** A program that does not know of guards must not take the guest: it would run it without asking. */
const CPR_EXEC_GUARDED_VERSION = 2;

/** Every section this Baton reads, with the highest version it reads. */
export const KNOWN_SECTIONS: Readonly<Record<string, number>> = {
  ...ACCELERATOR_SECTIONS,
  ...DEVICE_SECTIONS,
  [MACHINE_SECTION]: 1,
  [CPR_EXEC_SECTION]: CPR_EXEC_GUARDED_VERSION,
};

/** Section `machine`: the topology. A receiving side builds the machine from this, not from its command line. */
export interface CarriedMachine {
  spec: MachineSpec;
  runState: RunState;
}

/** Section `cpr-exec`: what only an exec can hand over, because fd numbers and the pid stay. */
export interface Carried {
  ramFd: number;
  connections: ConnectionsState;
  /** Of the old process: the same command line needs no parsing. */
  commandLine: string[];
  /** A file that wants a copy of the image, once the guest runs. */
  stateFile: { fd: number; offset: number } | undefined;
  guard?: GuardRef;
  /** In a container whose process 1 is Baton's: see machine/lifeline.ts. */
  lifelineFd?: number;
  migration: CarriedMigration;
}

/** The guard of the update, see guard.ts. */
export interface GuardRef {
  pid: number;
  /** An eventfd: who reads its count may run the guest. */
  tokenFd: number;
  /** The guard ends when this is closed. */
  socketFd: number;
}

/** What `query-migrate` tells afterwards, and what MIGRATION events go on from. */
export interface CarriedMigration {
  /** CLOCK_MONOTONIC, ms. */
  startedMs: number;
  setupMs: number;
  /** How many updates this guest has lived through, this one included. */
  generation: number;
  /** The pauses of the updates before this one; absent from a Baton that does not keep them. */
  history?: PauseHistory;
  predictedUs?: number;
  estimateUs?: number;
  /** Why a program that had the guest already gives it back: it was not well there. */
  unhealthy?: string;
  /** Capability `events`. */
  events: boolean;
  /** Only for the image that is gone back to: after an update they are the defaults, as in QEMU. */
  parameters: MigrationParameters;
}

export interface PlannedImage {
  /** Inside the pause: takes the state of vCPUs and devices. */
  fill(): void;
  /** Adds what is known last, and gives the bytes. */
  seal(holderPid: number, stamps: readonly number[]): Uint8Array;
}

/** Lays out the image of a running VM: all that is left for the pause is filling in. */
export function planImage(vm: Vm, carried: Carried & { runState: RunState }): PlannedImage {
  const writer = new StateWriter();
  const { runState, ...rest } = carried;
  const machine: CarriedMachine = { spec: vm.spec, runState };
  writer.addJson({ id: MACHINE_SECTION, version: 1 }, machine);
  const json = new TextEncoder().encode(JSON.stringify(rest satisfies Carried));
  const version = carried.guard === undefined ? CPR_EXEC_VERSION : CPR_EXEC_GUARDED_VERSION;
  const section = writer.plan({ id: CPR_EXEC_SECTION, version }, [
    { name: "value", type: "json", sizeBytes: json.length },
    { name: "holder", type: "i32", sizeBytes: 4 },
    { name: "stamps", type: "f64 ms[]", sizeBytes: CARRIED_STAMPS * 8 },
  ]);
  const bind = bindAll([vm.accel.planState(writer), vm.devices.planState(writer)]);
  writer.lay();
  writer.view(section, "value").set(json);
  const holder = dataView(writer.view(section, "holder"));
  const times = dataView(writer.view(section, "stamps"));
  return {
    fill: bind(),
    seal: (holderPid, stamps) => {
      holder.setInt32(0, holderPid, true);
      for (const [index, stamp] of stamps.entries()) times.setFloat64(index * 8, stamp, true);
      return writer.seal();
    },
  };
}

function dataView(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
