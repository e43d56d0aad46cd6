// SPDX-License-Identifier: Apache-2.0
// Migration to a file. Whoever loads the file has the guest. RAM goes into it behind the state: while the guest runs (mode
// normal), or while it stands (mode cpr-reboot); or it stays where it is (capability x-ignore-shared), or in its memfd, for the
// next kernel (retained-ram.ts).
//
//   guest runs    create    the file, under another name
//                 rounds    RAM, then what the guest wrote meanwhile; mode normal only
//   ┌ stopped     RAM       the rest of it, or all, or it is synced where it is
//   │             state     vCPUs, clocks and devices
//   └             commit    fsync, rename ── point of no return ──
import { DIRTY_BITMAP_SIZE_BYTES } from "../../assembly/layout.ts";
import { status, sync } from "../../ffi/fd.ts";
import { VmmError } from "../errors.ts";
import type { Vm } from "../machine/vm.ts";
import { type PlannedGuest, planGuest } from "./guest-image.ts";
import type { Outgoing } from "./outgoing.ts";
import { Precopy, SPARE_BITMAP, untilAborted } from "./precopy.ts";
import { pageChecks, RamFileWriter } from "./ram/ram-file.ts";
import { type FilePages, locateRam, planRam, type RamInFile, type RamInPlace } from "./ram-section.ts";
import { canRetain, saveRetained } from "./retained-ram.ts";
import { type FileAddress, StateFileWriter } from "./state-file.ts";

/** RAM begins at a multiple of this in the file: no page of it shares a block with the image. */
const RAM_ALIGNMENT_BYTES = 2 ** 20;
/** By so much the image may grow while RAM is written: run states have names of several lengths, consoles output. */
const GROWTH_BYTES = 2 ** 19;

export async function saveToFile(
  run: Outgoing,
  address: FileAddress,
  { stopFirst }: { stopFirst: boolean },
): Promise<void> {
  const { vm, capabilities } = run;
  const file = StateFileWriter.create(address);
  run.onFailure(() => file.discard());
  const location = locateRam(vm, capabilities["x-ignore-shared"], { where: "in-file" as const, offset: 0 });
  if (location.where === "in-place") await saveWithoutRam(run, file, location, address);
  else if (stopFirst && capabilities["x-ignore-shared"] && canRetain(vm.ram)) await saveRetained(run, file, address);
  else await saveWithRam(run, file, location, stopFirst);
}

async function saveWithoutRam(
  run: Outgoing,
  file: StateFileWriter,
  location: RamInPlace,
  { filename }: FileAddress,
): Promise<void> {
  const { vm, progress } = run;
  progress.setupDone();
  await run.stopGuest();
  progress.enter("active");
  progress.pass(2);
  // A DAX device has nothing to write back.
  if (status(vm.ram.fd!).kind === "file") sync(vm.ram.fd!);
  const image = plan(vm, run, location);
  progress.enter("device");
  run.signal.throwIfAborted();
  file.commit(image.take());
  run.commit(
    `The guest is in '${filename}' and its RAM in '${location.path}': load it with -incoming file:${filename}`,
  );
}

async function saveWithRam(run: Outgoing, file: StateFileWriter, place: RamInFile, stopFirst: boolean): Promise<void> {
  const { vm, progress, signal, parameters, capabilities } = run;
  const pages: FilePages = { present: SPARE_BITMAP, checks: pageChecks(place.sizeBytes) };
  new Uint8Array(vm.memory.buffer, pages.present, DIRTY_BITMAP_SIZE_BYTES).fill(0);
  // Where RAM begins is in the image, and how large that is says where RAM may begin: more digits than it can have.
  const { sizeBytes } = plan(vm, run, { ...place, offset: Number.MAX_SAFE_INTEGER }, pages);
  const imageRoomBytes = Math.ceil((sizeBytes + GROWTH_BYTES) / RAM_ALIGNMENT_BYTES) * RAM_ALIGNMENT_BYTES;
  const location = { ...place, offset: imageRoomBytes };
  await using writer = new RamFileWriter({
    memory: vm.memory,
    ramBase: vm.ram.base,
    ramSizeBytes: vm.ram.backend.sizeBytes,
    fd: file.fd,
    fileOffset: file.offset + location.offset,
    streams: capabilities.multifd ? parameters["multifd-channels"] : 1,
    checks: pages.checks,
  });
  const sink = {
    get progress() {
      return writer.progress;
    },
    sendRound: (bitmap: number) => writer.writeRound(bitmap, pages.present),
    cancel: () => writer.cancel(),
  };
  const precopy = new Precopy(run, sink, await vm.accel.dirtyTracker());
  run.onFailure(() => precopy.end());
  progress.setupDone();
  if (stopFirst) await run.stopGuest();
  progress.enter("active");
  if (stopFirst) {
    await precopy.runStopped();
  } else {
    await precopy.run();
    // Of all that is in the file by now: what is left is written in the pause.
    await file.sync();
    await run.stopGuest();
    await untilAborted(signal, sink, () => precopy.finish(sink.sendRound));
  }
  precopy.end();
  progress.enter("device");
  signal.throwIfAborted();
  const image = plan(vm, run, location, pages).take();
  if (image.length > imageRoomBytes) {
    throw new VmmError(
      "state-file",
      `The guest's state has grown from ${sizeBytes} to ${image.length} bytes while its RAM was saved, by console output that ` +
        "nobody reads: read it, or try again",
    );
  }
  file.commit(image);
  // The file has a guest of its own: this one may go on, as in QEMU.
  run.commit();
}

function plan(vm: Vm, run: Outgoing, location: RamInFile | RamInPlace, pages?: FilePages): PlannedGuest {
  return planGuest(vm, run.guestState, vm.accel, (writer) => planRam(writer, vm, location, pages));
}
