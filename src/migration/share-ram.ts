// SPDX-License-Identifier: Apache-2.0
// What an update that hands RAM's fd on does first with a guest whose RAM has none, because nobody prepared it for updates:
// it moves to a memfd while the guest runs (memory/sharing.ts).
//
// Whatever ends this, `migrate_cancel` or the host's lack of memory, leaves RAM where it is by then; another update goes on from
// there.
import { PAGE_SIZE_BYTES } from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";
import { isGuestRequest } from "../machine/guest-request.ts";
import type { Vm } from "../machine/vm.ts";
import { movedBytes, type PageScanner, shareNextPiece } from "../memory/sharing.ts";
import type { MigrationStats } from "../qmp/schema/migration.ts";
import type { Outgoing } from "./outgoing.ts";
import { loadDirtyModule } from "./ram/dirty-module.ts";

/** Returns when RAM is shared; at once when it is. @throws VmmError; the guest runs on then */
export async function shareRam(run: Outgoing): Promise<void> {
  const { vm, progress } = run;
  const { memory, ram } = vm;
  if (ram.isShared) return;
  const scanner = loadDirtyModule(memory);
  const startMs = performance.now();
  progress.ram = () => stats(movedBytes(ram), ram.backend.sizeBytes, performance.now() - startMs);
  try {
    for (;;) {
      await vm.whenSettled();
      run.refuseToGoOn();
      sharePiece(vm, scanner);
      if (ram.isShared) break;
      await guestRuns(run);
    }
  } finally {
    progress.ram = undefined;
  }
  // Nothing else has run since it is shared.
  const memoryBackends = vm.spec.memoryBackends.map((other) => (other.id === ram.backend.id ? ram.backend : other));
  vm.assumeSpec({ ...vm.spec, memoryBackends });
}

function sharePiece(vm: Vm, scanner: PageScanner): void {
  const { memory, ram } = vm;
  try {
    shareNextPiece(memory, ram, scanner, (action) => vm.inspect(action));
  } catch (cause) {
    // What the guest asks for it gets first.
    if (isGuestRequest(cause)) return;
    const { id, sizeBytes } = ram.backend;
    const message = `RAM '${id}' could not be moved to shared memory; ${movedBytes(ram)} of ${sizeBytes} bytes are there`;
    throw new VmmError("ram-not-shared", message, { cause });
  }
}

/**
 * Lets the guest run for a millisecond, and whoever else has something to do. On a busy host a vCPU's thread gets no CPU that soon: one
 * that is told to park before it has begun to run would stand for as long as RAM takes to move.
 */
async function guestRuns({ vm, signal }: Outgoing): Promise<void> {
  const millisecond = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));
  await millisecond();
  if (!vm.isRunning || vm.accel.allRun()) return;
  while (vm.isRunning && !vm.accel.allRun()) {
    await millisecond();
    signal.throwIfAborted();
  }
  await millisecond();
}

function stats(moved: number, total: number, elapsedMs: number): MigrationStats {
  const pages = moved / PAGE_SIZE_BYTES;
  const perMs = 1 / Math.max(elapsedMs, 1);
  return {
    transferred: moved,
    remaining: total - moved,
    total,
    duplicate: 0,
    normal: pages,
    "normal-bytes": moved,
    "dirty-pages-rate": 0,
    mbps: (moved * 8 * perMs) / 1000,
    "dirty-sync-count": 1,
    "postcopy-requests": 0,
    "page-size": PAGE_SIZE_BYTES,
    "multifd-bytes": 0,
    "pages-per-second": Math.round(pages * 1000 * perMs),
    "precopy-bytes": moved,
    "downtime-bytes": 0,
    "postcopy-bytes": 0,
    "dirty-sync-missed-zero-copy": 0,
  };
}
