// SPDX-License-Identifier: Apache-2.0
// What must hold of a machine as a whole, wherever its parts came from.
import { RAM_MAX_SIZE_BYTES } from "../../assembly/layout.ts";
import { VmmError } from "../errors.ts";
import { formatSize, shorten } from "./qemu-options.ts";
import type { MachineSpec } from "./types.ts";
import { UsageError } from "./usage.ts";

/** The BIOS data, the ROM area and a boot sector must fit; below 1 MiB there is no PC. */
const RAM_MIN_SIZE_BYTES = 1024 * 1024;

/** Throws when `spec` is no machine Baton can build: a `UsageError`, or a `VmmError` of code `"ram-too-large"`. */
export function checkSpec(spec: MachineSpec): void {
  checkMemory(spec);
  checkChardevs(spec);
  checkIncoming(spec);
  if (spec.kernel !== undefined && spec.bios !== undefined) {
    throw new UsageError("-kernel and -bios exclude each other: the guest starts from the one or the other");
  }
}

function checkMemory(spec: MachineSpec): void {
  const id = spec.machine.memoryBackend;
  const backend = spec.memoryBackends.find((candidate) => candidate.id === id);
  if (backend === undefined) throw new UsageError(`Memory backend '${shorten(id ?? "")}' not found; -object makes one`);
  if (backend.sizeBytes !== spec.memorySizeBytes) {
    throw new UsageError(
      "Machine memory size does not match the size of the memory backend: " +
        `-m is ${formatSize(spec.memorySizeBytes)}, '${id}' has ${formatSize(backend.sizeBytes)}`,
    );
  }
  if (spec.memorySizeBytes < RAM_MIN_SIZE_BYTES) {
    throw new UsageError(`RAM of ${formatSize(spec.memorySizeBytes)} is too small: a guest needs at least 1 MiB`);
  }
  if (spec.memorySizeBytes > RAM_MAX_SIZE_BYTES) {
    throw new VmmError(
      "ram-too-large",
      `RAM of ${formatSize(spec.memorySizeBytes)} is too large: Baton maps all of it below the PCI hole, ` +
        `${formatSize(RAM_MAX_SIZE_BYTES)} at most`,
    );
  }
}

function checkChardevs(spec: MachineSpec): void {
  const [first, second] = spec.chardevs.filter(({ backend }) => backend === "stdio");
  if (first !== undefined && second !== undefined) {
    throw new UsageError(
      `Chardev '${second.id}': cannot use stdio by multiple character devices: '${first.id}' has it already`,
    );
  }
  const used = new Set<string>();
  const users = [
    ...spec.serials.map((chardev, index) => [chardev, `-serial, port ${index}`] as const),
    ...spec.monitors.map(({ chardev, mode }) => [chardev, mode === "control" ? "QMP monitor" : "monitor"] as const),
  ];
  for (const [chardev, user] of users) {
    if (chardev === null) continue;
    if (!spec.chardevs.some(({ id }) => id === chardev)) {
      throw new UsageError(`chardev "${shorten(chardev)}" not found (${user})`);
    }
    if (used.has(chardev)) throw new UsageError(`Device '${chardev}' is in use (${user})`);
    used.add(chardev);
  }
}

function checkIncoming(spec: MachineSpec): void {
  const main = spec.incoming.find(({ channel }) => channel === "main");
  if (!spec.incoming.some(({ channel }) => channel === "cpr")) return;
  if (main === undefined) {
    throw new UsageError("-incoming with a cpr channel needs a main channel too: -incoming URI or -incoming defer");
  }
  if (!("address" in main)) return;
  const { address } = main;
  if (address.transport === "file") {
    throw new UsageError("With a cpr channel the main channel of -incoming must be a stream, not a file");
  }
  if (address.transport === "socket" && address.type === "inet" && Number(address.port) === 0) {
    throw new UsageError("With a cpr channel the main channel of -incoming needs a port other than 0");
  }
}

/** Throws when a new VM would have nothing to run: a `UsageError`, or a `VmmError` of code `"no-guest"`. */
export function checkBoot(spec: MachineSpec): void {
  // A guest that is taken over brings its kernel with it.
  if (spec.kernel !== undefined || spec.incoming.length > 0) return;
  if (spec.initrd !== undefined) throw new UsageError("-initrd only allowed with -kernel option");
  if (spec.append !== undefined) throw new UsageError("-append only allowed with -kernel option");
  if (spec.bios === undefined && !spec.startPaused) {
    throw new VmmError("no-guest", "There is nothing to run: give -kernel FILE, -bios FILE or -incoming SOURCE");
  }
}
