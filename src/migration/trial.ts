// SPDX-License-Identifier: Apache-2.0
// The first moments of a guest in the new program of a guarded update: it is looked at twice, and when it is not well the old
// program gets it back, as it is now.
//
// What the old program has saved is not the guest's state any more: it has run since, and has written RAM. So it goes back as it
// came, by another exec with another state. A new program that cannot save it cannot give it back; then the update is over,
// and what is wrong is said.
import { cpuNsOfThread, monotonicMs } from "../../ffi/clock.ts";
import { close } from "../../ffi/fd.ts";
import { findStandstills, type VcpuLook } from "../accel/state/vcpu-health.ts";
import { VmmError } from "../errors.ts";
import type { Connections } from "../machine/connections.ts";
import { isGuestRequest } from "../machine/guest-request.ts";
import type { Vm } from "../machine/vm.ts";
import { StateReader } from "../state/reader.ts";
import { KNOWN_SECTIONS } from "./carried.ts";
import { commitCprExec, prepareCprExec } from "./cpr-exec.ts";
import type { Resumed } from "./cpr-incoming.ts";
import { GUEST_SECTIONS, planGuest } from "./guest-image.ts";
import { allReaped } from "./reaping.ts";

/** After the update, in ms: when everything that was to start has started, and when the guest is looked at. */
const STARTED_MS = 100;
const LOOKS_MS = [250, 500] as const;
/**
 * A vCPU leaves the guest within microseconds, unless its thread gets no CPU. The others stand meanwhile, so that it is not waited
 * for: it is looked at again later.
 */
const LOOK_TIMEOUT_MS = 5;
const RETRY_MS = 50;
const MAX_STARVED = 5;
/** In the timeline of an update: when the state had been read. */
const SAVED_STAMP = 2;

/** What to look after, and whom to give it back to. */
export interface Trial {
  vm: Vm;
  connections: Connections;
  resumed: Resumed;
}

/**
 * Waits until the guest has shown that it is well. Does not return when the old program has got it back.
 * @throws VmmError "unhealthy" when it is not well, and has to stay; "starved" when it cannot be looked at, and stays
 */
export async function tryOut({ vm, connections, resumed }: Trial): Promise<void> {
  const { oldProgramFd, timeline, image } = resumed;
  try {
    const beginMs = monotonicMs();
    await until(beginMs + STARTED_MS);
    const state = new StateReader(image, KNOWN_SECTIONS);
    const start = { state, atMs: timeline.stamps[SAVED_STAMP]!, cpuNs: cpuTimes(vm), isStart: true };
    const illness = await findIllness(vm, beginMs, start);
    if (illness === undefined) return;
    await giveBack({ vm, connections, resumed }, illness).catch((cause: unknown) => {
      throw new VmmError("unhealthy", `The guest is not well (${illness}), and cannot go back`, { cause });
    });
  } finally {
    close(oldProgramFd);
  }
}

/** What is wrong with the guest, which has just begun to run here; undefined when it is well, or nothing can be said. */
async function findIllness(vm: Vm, beginMs: number, start: VcpuLook): Promise<string | undefined> {
  const { cpuCount } = vm.spec;
  const { lives } = vm;
  let before = start;
  let starved = 0;
  for (let looks = 0; looks < LOOKS_MS.length; ) {
    await until(beginMs + LOOKS_MS[looks]! + starved * RETRY_MS);
    if (vm.state === "internal-error") return vm.failure;
    // Somebody has stopped it, it has ended, or has begun anew.
    if (!vm.isRunning || vm.lives !== lives) return undefined;
    const look = lookAt(vm);
    if (look === undefined) return undefined;
    if (look === "starved") {
      if (++starved < MAX_STARVED) continue;
      throw new VmmError(
        "starved",
        `The guest could not be looked at, and stays: a vCPU did not stop within ${LOOK_TIMEOUT_MS} ms, ${starved} times`,
      );
    }
    looks++;
    const problems = findStandstills(before, look, cpuCount);
    if (problems.length > 0) return problems.join("; ");
    // On a busy host a vCPU may get no CPU for a while: in all of that time it should.
    before = { ...look, cpuNs: start.cpuNs };
  }
  return undefined;
}

/** Undefined of a guest that is being reset, say, right now: it is alive. */
function lookAt(vm: Vm): VcpuLook | "starved" | undefined {
  const planned = planGuest(vm, vm.state, vm.accel, () => () => () => {});
  // A look may help one on its way that had stopped.
  const cpuNs = cpuTimes(vm);
  try {
    const [image, atMs] = vm.inspect(() => [planned.take(), monotonicMs()] as const, {
      parkTimeoutMs: LOOK_TIMEOUT_MS,
    });
    return { state: new StateReader(image, GUEST_SECTIONS), atMs, cpuNs };
  } catch (error) {
    if (isGuestRequest(error)) return undefined;
    if ((error as { code?: unknown }).code === "vcpu-stuck") return "starved";
    throw error;
  }
}

function until(timeMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, timeMs - monotonicMs()));
}

function cpuTimes(vm: Vm): number[] {
  return vm.accel.vcpuThreadIds().map((tid) => cpuNsOfThread(tid) ?? 0);
}

async function giveBack({ vm, connections, resumed }: Trial, illness: string): Promise<never> {
  const { carried, oldCommand, oldProgramFd } = resumed;
  const prepared = prepareCprExec({ command: oldCommand, programFd: oldProgramFd });
  let isStopped = false;
  let before = vm.state;
  try {
    await connections.freeze();
    await allReaped();
    await vm.whenSettled();
    // Read last: somebody may have stopped or ended it meanwhile, and that stays.
    before = vm.state;
    // What made it fail was this program, and the other one may do better.
    if (before === "internal-error") vm.assumeState("running");
    return commitCprExec(vm, connections, prepared, {
      beforePause: () => {
        isStopped = true;
        if (before === "running") vm.events.emit("STOP");
      },
      afterSave: () => {},
      guard: undefined,
      migration: { ...carried.migration, unhealthy: illness },
    });
  } catch (error) {
    prepared.discard();
    if (before !== "running") vm.assumeState(before);
    else if (isStopped) vm.resumeFrom();
    throw error;
  } finally {
    connections.thaw();
  }
}
