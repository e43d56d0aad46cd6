// SPDX-License-Identifier: Apache-2.0
// The rest of an update, when the guest already runs: connections, events, the copy of the state, the old address space.
import { monotonicMs } from "../../ffi/clock.ts";
import { killHolder } from "../../ffi/exec.ts";
import { close, truncate } from "../../ffi/fd.ts";
import { describeError } from "../errors.ts";
import type { VmHandle } from "../machine/handle.ts";
import { writePidfile } from "../machine/pidfile.ts";
import { connectVm } from "../machine/start.ts";
import type { GuardRef } from "./carried.ts";
import { HOLDER_SECONDS, writeImage } from "./cpr-exec.ts";
import type { Resumed } from "./cpr-incoming.ts";
import { killAndReap, reapLater } from "./reaping.ts";
import { tryOut } from "./trial.ts";

/** Connects the VM with the world again, as it was, and tells everybody that the update is over. */
export function connectResumed(resumed: Resumed, { startsBaton = false } = {}): VmHandle {
  const { vm, carried, timeline, holderPid } = resumed;
  const refusal = whyRefused(resumed);
  // Of a pause that lasted, the holder has ended by itself, and its pid may be somebody else's.
  if (monotonicMs() - timeline.stamps[0]! < HOLDER_SECONDS * 1000) killHolder(holderPid);
  reapLater(holderPid);
  endGuard(carried.guard);
  const { handle, migration, connections } = connectVm(vm, { startsBaton, state: carried.connections });
  if (carried.lifelineFd !== undefined) vm.holdLifeline(carried.lifelineFd);
  vm.serve();
  for (const port of vm.devices.serialPorts) port.flush();
  if (vm.isRunning) vm.devices.armTimers();
  // Not whether it still runs: what has stopped it since may be this program.
  const isOnTrial = carried.guard !== undefined && refusal === undefined && resumed.hasRun;
  migration.assume({ ...carried.migration, timeline, refusal, isRunning: vm.isRunning, isOnTrial });
  connections.thaw();
  keepCopy(resumed);
  close(resumed.stateFd);
  // Taken back by a guard, the guest is in another process.
  if (refusal !== undefined) attempt("the pidfile", () => writePidfile(vm.spec));
  if (isOnTrial)
    void tryOut({ vm, connections, resumed })
      .catch(report)
      .then(() => migration.proven());
  else close(resumed.oldProgramFd);
  return handle;
}

/** Why the guest is in the program that was to be left; undefined when it is in the new one. */
function whyRefused({ refusal, carried: { migration } }: Resumed): string | undefined {
  const { unhealthy } = migration;
  if (unhealthy === undefined) return refusal;
  if (refusal === undefined) return `The guest was not well in the new program: ${unhealthy}; the old one has it back`;
  // The program that did not want it any more has it still.
  report(`The guest is not well (${unhealthy}), and cannot go back: ${refusal}`);
  return undefined;
}

function report(error: unknown): void {
  process.stderr.write(`baton: ${typeof error === "string" ? error : describeError(error)}\n`);
}

/** A failure is told, and costs nobody anything. */
function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    report(`${what} could not be written: ${describeError(error)}`);
  }
}

function endGuard(guard: GuardRef | undefined): void {
  if (guard === undefined) return;
  close(guard.tokenFd);
  close(guard.socketFd);
  // The guard that took the guest back is this process.
  if (guard.pid !== process.pid) killAndReap(guard.pid);
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
