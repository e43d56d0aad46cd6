// SPDX-License-Identifier: Apache-2.0
// cpr-reboot to a file: the guest is stopped, its state is written, and its RAM stays where it is (capability
// x-ignore-shared) or goes into the file behind the state. Whoever loads the file has the guest.
//
//   guest runs    create    the file, under another name
//   ┌ stopped     plan      the image is laid out
//   │             RAM       synced where it is, or written
//   │             state     vCPUs, clocks and devices
//   └             commit    fsync, rename ── point of no return: the guest is the file's ──
import { status, sync } from "../../ffi/fd.ts";
import { VmmError } from "../errors.ts";
import type { Vm } from "../machine/vm.ts";
import { planGuest } from "./guest-image.ts";
import type { Outgoing } from "./outgoing.ts";
import { RAM_SECTION, RAM_SECTION_VERSION, type RamInPlace, sampleRam } from "./ram-section.ts";
import { type FileAddress, StateFileWriter } from "./state-file.ts";

export async function saveToFile(run: Outgoing, address: FileAddress): Promise<void> {
  const { vm, progress } = run;
  const file = StateFileWriter.create(address);
  run.onFailure(() => file.discard());
  progress.setupDone();
  await run.stopGuest();
  progress.enter("active");
  if (!(run.capabilities["x-ignore-shared"] && isNamedFile(vm))) {
    throw new VmmError("mode", "RAM in the state file is not in this version of Baton");
  }
  // A DAX device has nothing to write back.
  if (status(vm.ram.fd!).kind === "file") sync(vm.ram.fd!);
  const location = inPlace(vm);
  const planned = planGuest(vm, run.guestState, vm.accel, (writer) => {
    writer.addJson({ id: RAM_SECTION, version: RAM_SECTION_VERSION }, location);
    return () => () => {};
  });
  progress.pass(2);
  progress.enter("device");
  run.signal.throwIfAborted();
  file.commit(planned.take());
  run.commit(
    `The guest is in '${address.filename}' and its RAM in '${location.path}': load it with -incoming file:${address.filename}`,
  );
}

/** As in QEMU only RAM in a shared file that has a name is left where it is: a memfd ends with its last process. */
function isNamedFile(vm: Vm): boolean {
  return vm.ram.isShared && vm.ram.backend.qomType === "memory-backend-file";
}

function inPlace(vm: Vm): RamInPlace {
  const { sizeBytes, memPath } = vm.ram.backend;
  return { where: "in-place", sizeBytes, path: memPath!, samples: sampleRam(vm.memory, vm.ram) };
}
