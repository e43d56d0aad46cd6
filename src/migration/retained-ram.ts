// SPDX-License-Identifier: Apache-2.0
// Mode cpr-reboot with RAM in a memfd that outlives the kexec (`memory/retention.ts`); the file has everything else.
//
//   old kernel  stop       the guest
//               retain     the next kernel is promised the memfd
//               commit     the state file, which names the session. The VMM stays, and the promise with it:
//                          `cont` takes the guest back, `quit` gives it up
//   new kernel  rehearse   the state is restored onto empty RAM: what can fail, fails here
//               retrieve   the memfd ── point of no return: there is one try ──
//               restore    onto the guest's RAM
//               finish     the memfd is one like any other
import { randomUUID } from "node:crypto";
import { close } from "../../ffi/fd.ts";
import { memfdCreate } from "../../ffi/memfd.ts";
import type { MachineSpec } from "../config/types.ts";
import { describeError, VmmError } from "../errors.ts";
import { buildParts } from "../machine/build.ts";
import { releaseParts, type VmParts } from "../machine/parts.ts";
import type { Vm } from "../machine/vm.ts";
import { type MappedRam, ramBackend } from "../memory/ram.ts";
import { findRetention, nameOfSession, type RetrievedRam, retainRam, retrieveRam } from "../memory/retention.ts";
import type { StateReader } from "../state/reader.ts";
import { planGuest } from "./guest-image.ts";
import { HeldRam } from "./held-ram.ts";
import type { Outgoing } from "./outgoing.ts";
import { checkSamples, planRam, type RamRetained } from "./ram-section.ts";
import type { FileAddress, StateFileWriter } from "./state-file.ts";

/**
 * Whether this RAM can outlive a kexec of this host; RAM that cannot goes into the file.
 * @throws VmmError "ram-not-retained" where the host has what it takes, and does not let us use it
 */
export function canRetain({ backend, isShared }: MappedRam, devicePath?: string): boolean {
  if (!isShared || backend.qomType === "memory-backend-file" || backend.hugetlb === true) return false;
  const retention = findRetention(devicePath);
  // Another VM has the device for a moment: `retainRam` waits for it.
  if (retention.ok || retention.problem.code === "luo-busy") return true;
  if (retention.problem.code === "luo-absent") return false;
  throw new VmmError(
    "ram-not-retained",
    `RAM of '${backend.id}' cannot be kept for the next kernel; without x-ignore-shared it goes into the file`,
    { cause: retention.problem },
  );
}

export async function saveRetained(
  run: Outgoing,
  file: StateFileWriter,
  { filename }: FileAddress,
  devicePath?: string,
): Promise<void> {
  const { vm, progress, signal } = run;
  progress.setupDone();
  await run.stopGuest();
  progress.enter("active");
  progress.pass(2);
  // Another name each time: no file is ever loaded with the RAM of a later save.
  const name = randomUUID();
  const retained = retainRam({ name, ramFd: vm.ram.fd!, ...(devicePath === undefined ? {} : { devicePath }) });
  run.onFailure(() => retained.close());
  const location: RamRetained = {
    where: "retained",
    sizeBytes: vm.ram.backend.sizeBytes,
    session: retained.sessionName,
    samples: [],
  };
  const image = planGuest(vm, run.guestState, vm.accel, (writer) => planRam(writer, vm, location));
  progress.enter("device");
  signal.throwIfAborted();
  file.commit(image.take());
  vm.holdRam(new HeldRam(retained, filename));
  run.commit();
}

/** A guest that is to be restored. */
export interface RetainedGuest {
  vm: Vm;
  /** The machine to build, with the guest's RAM back end. */
  spec: MachineSpec;
  cpuids: Uint8Array[];
  reader: StateReader;
  location: RamRetained;
  /** Gives `vm` its parts, with RAM that is already there. */
  build(ramFd: number): Promise<void>;
}

/** @throws VmmError; with code "ram-lost" the guest cannot be had any more, else another try may succeed */
export async function restoreRetained(guest: RetainedGuest, devicePath?: string): Promise<void> {
  const { spec, location } = guest;
  const name = nameOfSession(location.session);
  const retention = findRetention(devicePath);
  if (!retention.ok && retention.problem.code !== "luo-busy") throw notHere(location, retention.problem);
  const { share, qomType } = ramBackend(spec);
  if (!share || qomType === "memory-backend-file") {
    throw new VmmError(
      "state-refused",
      `The state has retained RAM in a ${qomType} with share=${share ? "on" : "off"}`,
    );
  }
  await rehearse(guest);
  const ram = retrieve(name, location, devicePath);
  try {
    await restoreOnto(ram, guest);
  } catch (cause) {
    if (!guest.vm.isBuilt) close(ram.ramFd);
    finish(ram);
    const message = "The guest is lost: its RAM came from the last kernel, but it could not be restored";
    throw new VmmError("ram-lost", message, { cause });
  }
  finish(ram);
}

function notHere({ session }: RamRetained, cause: VmmError): VmmError {
  return new VmmError(
    "ram-not-retained",
    `The guest's RAM was left to the next kernel in live update session '${session}', and is not to be had here`,
    { cause },
  );
}

/** Restores the guest onto RAM that is empty, which only what is wrong with the state or this host can keep from working. */
async function rehearse({ spec, cpuids, reader }: RetainedGuest): Promise<void> {
  const ramFd = memfdCreate("rehearsal", spec.memorySizeBytes);
  const failures: string[] = [];
  let parts: VmParts;
  try {
    parts = await buildParts(spec, (index, message) => failures.push(`vCPU ${index} failed: ${message}`), {
      cpuids,
      ramFd,
      isFromElsewhere: true,
    });
  } catch (error) {
    close(ramFd);
    throw error;
  }
  try {
    parts.devices.restoreState(reader);
    parts.accel.restoreState(reader);
  } finally {
    await releaseParts(parts);
  }
  if (failures.length > 0) throw new VmmError("vcpu", failures.join("; "));
}

function retrieve(name: string, location: RamRetained, devicePath: string | undefined): RetrievedRam {
  try {
    return retrieveRam({ name, ...(devicePath === undefined ? {} : { devicePath }) });
  } catch (cause) {
    if (cause instanceof VmmError && cause.code !== "ram-lost") throw notHere(location, cause);
    throw cause;
  }
}

async function restoreOnto(
  { ramFd, sizeBytes }: RetrievedRam,
  { vm, spec, reader, location, build }: RetainedGuest,
): Promise<void> {
  if (sizeBytes !== spec.memorySizeBytes) {
    throw new VmmError("ram-differs", `Session '${location.session}' has ${sizeBytes} bytes of RAM`);
  }
  await build(ramFd);
  checkSamples(vm.memory, vm.ram, location);
  vm.devices.restoreState(reader);
  vm.accel.restoreState(reader);
}

/** A session that does not end holds RAM from being retained again, and nothing else: the guest does not die of it. */
function finish(ram: RetrievedRam): void {
  try {
    ram.finish();
  } catch (error) {
    process.stderr.write(`baton: The live update session that RAM came in stays open: ${describeError(error)}\n`);
  }
}
