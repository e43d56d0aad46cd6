// SPDX-License-Identifier: Apache-2.0
// The rest of an update, when the guest already runs: connections, events, the copy of the state, the old address space.
import { killHolder } from "../../ffi/exec.ts";
import { close, truncate } from "../../ffi/fd.ts";
import { describeError } from "../errors.ts";
import type { VmHandle } from "../machine/handle.ts";
import { writePidfile } from "../machine/pidfile.ts";
import { connectVm } from "../machine/start.ts";
import type { GuardRef } from "./carried.ts";
import { writeImage } from "./cpr-exec.ts";
import type { Resumed } from "./cpr-incoming.ts";
import { reapLater } from "./reaping.ts";

/** Connects the VM with the world again, as it was, and tells everybody that the update is over. */
export function connectResumed(resumed: Resumed, { startsBaton = false } = {}): VmHandle {
  const { vm, carried, timeline, refusal, holderPid } = resumed;
  killHolder(holderPid);
  reapLater(holderPid);
  const { handle, migration, connections } = connectVm(vm, { startsBaton, state: carried.connections });
  vm.serve();
  for (const port of vm.devices.serialPorts) port.flush();
  if (vm.isRunning) vm.devices.armTimers();
  migration.assume({ ...carried.migration, timeline, refusal, isRunning: vm.isRunning });
  connections.thaw();
  keepCopy(resumed);
  for (const fd of [resumed.stateFd, resumed.oldProgramFd]) close(fd);
  endGuard(carried.guard);
  // Taken back by a guard, the guest is in another process.
  if (refusal !== undefined) attempt("the pidfile", () => writePidfile(vm.spec));
  return handle;
}

/** A failure is told, and costs nobody anything. */
function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    process.stderr.write(`baton: ${what} could not be written: ${describeError(error)}\n`);
  }
}

function endGuard(guard: GuardRef | undefined): void {
  if (guard === undefined) return;
  close(guard.tokenFd);
  close(guard.socketFd);
  reapLater(guard.pid);
}

/** Writes the image to the file that `migrate file:…` named. */
function keepCopy({ carried: { stateFile }, image }: Resumed): void {
  if (stateFile === undefined) return;
  attempt("the copy of the state", () => {
    truncate(stateFile.fd, stateFile.offset);
    writeImage(stateFile.fd, image, stateFile.offset);
  });
  close(stateFile.fd);
}
