// SPDX-License-Identifier: Apache-2.0
// What the lab is made of: QEMU, a static busybox and Debian's kernels, kept in `.lab/` of the checkout.
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const projectDir = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
/** `BATON_LAB_DIR` lets several checkouts, or a CI cache, share one set of kernels. */
export const cacheDir = process.env.BATON_LAB_DIR ?? join(projectDir, ".lab");

/** An unpacked kernel package. */
export interface Kernel {
  /** Version with Debian's suffixes, as `uname -r` prints it. */
  release: string;
  imagePath: string;
  modulesDir: string;
}

/** Kernels that guests boot, by the series a scenario names. */
export type GuestSeries = "6.1" | "6.12";

export interface LabAssets {
  qemuPath: string;
  busyboxPath: string;
  labKernel: Kernel;
  /** What a host runs before its kernel is replaced. Absent where the distribution has none: Debian 13. */
  olderLabKernel?: Kernel;
  /** One with the Live Update Orchestrator. Absent unless somebody has built it: `LUO_FOLDER`. */
  luoKernel?: Kernel;
  /** A series is absent where the distribution has no such package: Debian 13 has no 6.1. */
  guestKernels: Partial<Record<GuestSeries, Kernel>>;
}

export type AssetSearch = { ok: true; assets: LabAssets } | { ok: false; reason: string };

interface KernelPackage {
  /** Folder in the cache. */
  folder: string;
  /** What `apt-cache search --names-only` is asked for. */
  namePattern: string;
}

const LAB_KERNEL: KernelPackage = {
  folder: "lab-6.12",
  namePattern: "^linux-image-6\\.12\\.[0-9]+([+][a-z0-9]+)?-amd64-unsigned$",
};

const OLDER_LAB_KERNEL: KernelPackage = {
  folder: "lab-6.1",
  namePattern: "^linux-image-6\\.1\\.[0-9]+-[0-9]+-amd64-unsigned$",
};

/**
 * Linux ≥ 6.19 with CONFIG_LIVEUPDATE=y and what the lab needs built in, as `boot/vmlinuz-RELEASE` and
 * `lib/modules/RELEASE/`. It is not fetched: Debian's kernels, 7.2 in sid too, are built without CONFIG_KEXEC_HANDOVER.
 */
const LUO_FOLDER = "lab-luo";

const GUEST_KERNELS: Record<GuestSeries, KernelPackage> = {
  "6.1": { folder: "guest-6.1", namePattern: "^linux-image-6\\.1\\.[0-9]+-[0-9]+-cloud-amd64-unsigned$" },
  "6.12": { folder: "guest-6.12", namePattern: "^linux-image-6\\.12\\.[0-9]+([+][a-z0-9]+)?-cloud-amd64-unsigned$" },
};

const FETCH_COMMAND = "npm run lab -- --fetch";

/** The path of a program on PATH, or `undefined`. */
export function findProgram(name: string): string | undefined {
  // Debian keeps some of these in sbin, which the PATH of an ordinary user lacks.
  const folders = [...(process.env.PATH ?? "").split(":"), "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
  return folders
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function findKernel(folder: string): Kernel | undefined {
  const bootDir = join(cacheDir, folder, "boot");
  if (!existsSync(bootDir)) return undefined;
  const image = readdirSync(bootDir).find((name) => name.startsWith("vmlinuz-"));
  if (image === undefined) return undefined;
  const release = image.slice("vmlinuz-".length);
  // Since Debian 13 packages hold their modules below /usr.
  const modulesDir = ["lib/modules", "usr/lib/modules"]
    .map((path) => join(cacheDir, folder, path, release))
    .find((path) => existsSync(path));
  return modulesDir === undefined ? undefined : { release, imagePath: join(bootDir, image), modulesDir };
}

/** The busybox of the lab has no libraries beside it, so a dynamically linked one is no use. */
function isStatic(path: string): boolean {
  const { status, stdout } = spawnSync("ldd", [path], { encoding: "utf8" });
  return status !== 0 || stdout.includes("statically linked");
}

/** 7.2, which is Debian 12's, hangs the lab or loses guests in it; 10.0, of its backports, does neither. */
const MINIMUM_QEMU_MAJOR = 10;

function qemuMajor(path: string): number {
  const { stdout } = spawnSync(path, ["--version"], { encoding: "utf8" });
  return Number(/version (\d+)\./.exec(stdout ?? "")?.[1] ?? 0);
}

/** A kernel for guests; undefined when the cache has none of this series. */
export function findGuestKernel(series: GuestSeries): Kernel | undefined {
  return findKernel(GUEST_KERNELS[series].folder);
}

/** Looks for everything without fetching anything; `reason` names what is missing and the command that gets it. */
export function findAssets(): AssetSearch {
  const missingPackages: string[] = [];
  const qemuPath = findProgram("qemu-system-x86_64");
  if (qemuPath === undefined) missingPackages.push("qemu-system-x86");
  const busyboxPath = findProgram("busybox");
  if (busyboxPath === undefined || !isStatic(busyboxPath)) missingPackages.push("busybox-static");
  const labKernel = findKernel(LAB_KERNEL.folder);

  const remedies: string[] = [];
  if (missingPackages.length > 0) {
    remedies.push(`${missingPackages.join(" and ")} not installed (apt-get install ${missingPackages.join(" ")})`);
  }
  if (qemuPath !== undefined && qemuMajor(qemuPath) < MINIMUM_QEMU_MAJOR) {
    remedies.push(
      `${qemuPath} is version ${qemuMajor(qemuPath)}, the lab needs ${MINIMUM_QEMU_MAJOR} (on Debian 12: qemu-system-x86 of bookworm-backports)`,
    );
  }
  if (labKernel === undefined) remedies.push(`no kernel for the lab in ${cacheDir} (${FETCH_COMMAND})`);
  if (qemuPath === undefined || busyboxPath === undefined || labKernel === undefined || remedies.length > 0) {
    return { ok: false, reason: remedies.join("; ") };
  }

  const olderLabKernel = findKernel(OLDER_LAB_KERNEL.folder);
  const luoKernel = findKernel(LUO_FOLDER);
  const guestKernels: LabAssets["guestKernels"] = {};
  for (const series of Object.keys(GUEST_KERNELS) as GuestSeries[]) {
    const kernel = findKernel(GUEST_KERNELS[series].folder);
    if (kernel !== undefined) guestKernels[series] = kernel;
  }
  const kernels = {
    labKernel,
    ...(olderLabKernel === undefined ? {} : { olderLabKernel }),
    ...(luoKernel === undefined ? {} : { luoKernel }),
    guestKernels,
  };
  return { ok: true, assets: { qemuPath, busyboxPath, ...kernels } };
}

/** Why guests cannot boot this series, or `undefined` when they can. */
export function missingGuestKernel(assets: LabAssets, series: GuestSeries): string | undefined {
  return assets.guestKernels[series] === undefined
    ? `no Debian cloud kernel ${series} in ${cacheDir} (${FETCH_COMMAND})`
    : undefined;
}

/** Why no lab can have a Live Update Orchestrator, or `undefined` when one can. */
export function missingLuoKernel(assets: LabAssets): string | undefined {
  return assets.luoKernel === undefined
    ? `no kernel with CONFIG_LIVEUPDATE in ${join(cacheDir, LUO_FOLDER)} (Debian has none)`
    : undefined;
}

/** The newest package that matches, by Debian's own list, or `undefined` when apt knows none. */
function newestPackage(namePattern: string): string | undefined {
  const { stdout } = spawnSync("apt-cache", ["search", "--names-only", namePattern], { encoding: "utf8" });
  const natural = new Intl.Collator("en", { numeric: true });
  return (stdout ?? "")
    .split("\n")
    .map((line) => line.split(" ")[0]!)
    .filter((name) => name !== "")
    .sort(natural.compare)
    .at(-1);
}

/**
 * Downloads and unpacks one package. `flock` makes two runs wait for each other, the download folder is kept so that
 * apt resumes a broken download, and the rename at the end means that a folder that exists is complete.
 */
const FETCH_SCRIPT = `
  package=$1 target=$2
  test ! -e "$target" || exit 0
  mkdir -p download/"$package"
  (cd download/"$package" && apt-get download -q "$package")
  rm -rf "$target.partial"
  dpkg-deb --extract download/"$package"/*.deb "$target.partial"
  mv "$target.partial" "$target"
  rm -rf download
`;

/** Fetches the kernels that the cache lacks. Needs Debian's apt and a network, not root. Throws with apt's own words. */
export function fetchKernels(log: (line: string) => void): void {
  mkdirSync(cacheDir, { recursive: true });
  const packages = [LAB_KERNEL, OLDER_LAB_KERNEL, ...Object.values(GUEST_KERNELS)];
  for (const { folder, namePattern } of packages) {
    if (findKernel(folder) !== undefined) continue;
    const name = newestPackage(namePattern);
    if (name === undefined) {
      log(`lab: apt knows no package ${namePattern} (apt-get update helps where it is in the archive)`);
      continue;
    }
    log(`lab: fetching ${name}`);
    const fetch = spawnSync("flock", ["lock", "sh", "-ec", FETCH_SCRIPT, "fetch", name, folder], {
      cwd: cacheDir,
      encoding: "utf8",
    });
    if (fetch.status !== 0) {
      throw new Error(`Fetching ${name} failed: ${fetch.error?.message ?? `${fetch.stdout}${fetch.stderr}`}`);
    }
  }
}
