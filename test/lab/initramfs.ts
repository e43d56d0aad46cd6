// SPDX-License-Identifier: Apache-2.0
// Builds the two initramfs images: the lab machine's and the one that guests boot.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { gzipSync } from "node:zlib";
import {
  type CpioEntry,
  encodeCpio,
  MODE_CHARACTER_DEVICE,
  MODE_DIRECTORY,
  MODE_FILE,
  MODE_PROGRAM,
} from "../../src/image/cpio.ts";
import { cacheDir, type Kernel, type LabAssets, projectDir } from "./assets.ts";

/** In the order they must be loaded. Those a kernel has built in are left out. */
const LAB_MODULES = [
  "virtio_ring",
  "virtio",
  "virtio_pci_modern_dev",
  "virtio_pci_legacy_dev",
  "virtio_pci",
  "netfs",
  "fscache",
  "9pnet",
  "9pnet_virtio",
  "9p",
  "ccp",
  "irqbypass",
  "kvm",
  "kvm-amd",
  "iommufd",
  "vfio",
  "vfio_virqfd",
  "vfio_iommu_type1",
  "vfio-pci-core",
  "vfio-pci",
  "tun",
  "libnvdimm",
  "nd_btt",
  "nd_pmem",
  "nd_e820",
  "device_dax",
  "dax_pmem",
];

/** Where the guest's initramfs lies, outside and inside the lab. */
export const guestInitrdPath = join(cacheDir, "guest-initrd.gz");

export interface LabCommand {
  /** Run by bash, in the project's folder. */
  command: string;
  /** Gives the command the console as its terminal. */
  interactive: boolean;
}

const text = (content: string): Uint8Array => new TextEncoder().encode(content);

/** What both images begin with: busybox, and the console that init gets as its standard streams. */
function baseEntries(assets: LabAssets): CpioEntry[] {
  return [
    { path: "bin", mode: MODE_DIRECTORY },
    { path: "dev", mode: MODE_DIRECTORY },
    { path: "dev/console", mode: MODE_CHARACTER_DEVICE, device: [5, 1] },
    { path: "bin/busybox", mode: MODE_PROGRAM, data: readFileSync(assets.busyboxPath) },
  ];
}

function readScript(path: string): Uint8Array {
  return readFileSync(new URL(path, import.meta.url));
}

/** A module's plain bytes, or `undefined` when the kernel has it built in or does not know it. */
function readModule(kernel: Kernel, names: Map<string, string>, module: string, busyboxPath: string) {
  const path = names.get(module);
  if (path === undefined) return undefined;
  const file = join(kernel.modulesDir, path);
  if (!file.endsWith(".xz")) return readFileSync(file);
  // Unpacked here, where it is quick, and with busybox, which has no need of another package.
  const unpacked = spawnSync(busyboxPath, ["unxz", "-c", file], { maxBuffer: 64 * 2 ** 20 });
  if (unpacked.status !== 0) throw new Error(`Unpacking ${file} failed: ${unpacked.stderr}`);
  return unpacked.stdout;
}

function moduleEntries(kernel: Kernel, busyboxPath: string): CpioEntry[] {
  const names = new Map<string, string>();
  for (const path of readdirSync(kernel.modulesDir, { recursive: true, encoding: "utf8" })) {
    const match = /^(.*)\.ko(\.xz)?$/.exec(basename(path));
    if (match !== null) names.set(match[1]!, path);
  }
  const folder = `modules/${kernel.release}`;
  const entries: CpioEntry[] = [{ path: folder, mode: MODE_DIRECTORY }];
  const order: string[] = [];
  for (const module of LAB_MODULES) {
    const data = readModule(kernel, names, module, busyboxPath);
    if (data === undefined) continue;
    entries.push({ path: `${folder}/${module}.ko`, mode: MODE_FILE, data });
    order.push(module);
  }
  entries.push({ path: `${folder}/order`, mode: MODE_FILE, data: text(order.map((module) => `${module}\n`).join("")) });
  return entries;
}

/** The lab machine's image, gzipped, for each of `kernels`. */
export function buildLabInitramfs(
  assets: LabAssets,
  kernels: readonly Kernel[],
  { command, interactive }: LabCommand,
): Uint8Array {
  const entries = [
    ...baseEntries(assets),
    { path: "modules", mode: MODE_DIRECTORY },
    ...kernels.flatMap((kernel) => moduleEntries(kernel, assets.busyboxPath)),
    { path: "init", mode: MODE_PROGRAM, data: readScript("init.sh") },
    { path: "command", mode: MODE_FILE, data: text(command) },
    { path: "folders", mode: MODE_FILE, data: text(`${projectDir}\n${cacheDir}\n`) },
  ];
  if (interactive) entries.push({ path: "interactive", mode: MODE_FILE });
  return gzipSync(encodeCpio(entries), { level: 1 });
}

/** Values that the guest's workload must arrive at, computed here, where nobody updates a VMM meanwhile. */
function knownValues(): string {
  const hash = createHash("sha256");
  for (let number = 1; number <= 5000; number++) hash.update(`${number}\n`);
  let series = 0;
  for (let i = 1; i < 2000; i++) series += 1 / i;
  return `known_sum=${hash.digest("hex")}\nknown_series=${series.toFixed(12)}\n`;
}

/** Writes the guests' image to `guestInitrdPath`. */
export function writeGuestInitramfs(assets: LabAssets): void {
  const archive = encodeCpio([
    ...baseEntries(assets),
    { path: "init", mode: MODE_PROGRAM, data: readScript("guest/init.sh") },
    { path: "bin/workload", mode: MODE_PROGRAM, data: readScript("guest/workload.sh") },
    { path: "bin/answer", mode: MODE_PROGRAM, data: readScript("guest/answer.sh") },
    { path: "bin/keeper", mode: MODE_PROGRAM, data: readScript("guest/keeper.sh") },
    { path: "bin/health", mode: MODE_PROGRAM, data: readScript("guest/health.sh") },
    { path: "bin/complaints", mode: MODE_PROGRAM, data: readScript("guest/complaints.sh") },
    { path: "bin/watch-kernel", mode: MODE_PROGRAM, data: readScript("guest/watch-kernel.sh") },
    { path: "known", mode: MODE_FILE, data: text(knownValues()) },
  ]);
  // Renamed into place: another lab may be reading the old one.
  const partialPath = `${guestInitrdPath}.${process.pid}`;
  writeFileSync(partialPath, gzipSync(archive, { level: 1 }));
  renameSync(partialPath, guestInitrdPath);
}
