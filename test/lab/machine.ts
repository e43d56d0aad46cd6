// SPDX-License-Identifier: Apache-2.0
// The lab machine: a PC with SVM, nested paging, an IOMMU and QEMU's edu device, emulated by QEMU's TCG, so that it
// needs neither root nor KVM. It sees this machine's files read-only and runs one command among them, on every boot: its
// kernel can be replaced by kexec. What outlives that is a folder on disk and a persistent memory, /dev/dax0.0.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findProgram, type Kernel, type LabAssets } from "./assets.ts";
import { buildLabInitramfs, type LabCommand } from "./initramfs.ts";

export interface LabOptions extends LabCommand {
  /** What it boots: the first at power-on, a second by kexec. By default the lab's kernel alone. */
  kernels?: readonly Kernel[];
  /** The machine is killed after this long. */
  timeoutMs: number;
  /** Called with the console's output as it comes. Not called in interactive mode. */
  onOutput?: (chunk: string) => void;
}

export interface LabRun {
  /** The command's exit code; `undefined` when the machine ended without reporting one. */
  exitCode: number | undefined;
  timedOut: boolean;
  /** Everything the console printed. Empty in interactive mode. */
  output: string;
}

const MEMORY_MIB = 4096;

/** Kept out of Linux's hands, and called persistent: the first part of what QEMU's q35 has above the PCI hole. */
const PERSISTENT_MEMORY = "320M!4G";

/** Where the lab has the folder that it can write to and that outlives a kexec. */
export const labWorkDir = "/run/lab";
/** The lab's own initramfs, in that folder. */
export const LAB_INITRD = "initrd.gz";

function machineArguments(kernel: Kernel, workDir: string): string[] {
  // Without the TSC options Linux takes the emulated TSC for unstable, and KVM then turns every guest's back again and
  // again: no host that anybody would use for guests does that.
  const commandLine =
    "console=ttyS0 quiet panic=-1 intel_iommu=on tsc=reliable clocksource=tsc mitigations=off " +
    // Older kernels pass these two on to init, which takes no notice.
    `memmap=${PERSISTENT_MEMORY} kho=on liveupdate=on`;
  return [
    // One CPU: with more, TCG runs each in a thread of its own, and its SVM loses guests and the lab's own kernel.
    ...["-accel", "tcg", "-smp", "1", "-cpu", "max"],
    // Interrupt remapping needs the I/O APIC outside QEMU's KVM half, hence the split.
    ...["-M", "q35,kernel-irqchip=split", "-device", "intel-iommu,intremap=on", "-device", "edu"],
    ...["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"],
    ...["-virtfs", `local,path=${workDir},mount_tag=work,security_model=none`],
    ...["-m", String(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot"],
    ...["-kernel", kernel.imagePath, "-initrd", join(workDir, LAB_INITRD), "-append", commandLine],
    ...["-serial", "stdio", "-monitor", "none"],
  ];
}

/** Calls `clean` when this process ends in any way that JavaScript sees; returns the function that stops watching. */
function onProcessEnd(clean: () => void): () => void {
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  const onSignal = (signal: NodeJS.Signals) => process.exit(signal === "SIGINT" ? 130 : 143);
  process.once("exit", clean);
  for (const signal of signals) process.once(signal, onSignal);
  return () => {
    process.off("exit", clean);
    for (const signal of signals) process.off(signal, onSignal);
  };
}

/** Boots the machine, runs the command, and resolves when the machine is gone. */
export async function runLab(assets: LabAssets, options: LabOptions): Promise<LabRun> {
  const workDir = mkdtempSync(join(tmpdir(), "baton-lab-"));
  const removeWorkDir = () => rmSync(workDir, { recursive: true, force: true });
  const stopWatching = onProcessEnd(removeWorkDir);
  try {
    const kernels = options.kernels ?? [assets.labKernel];
    writeFileSync(join(workDir, LAB_INITRD), buildLabInitramfs(assets, kernels, options));
    return await runMachine(machineArguments(kernels[0]!, workDir), assets.qemuPath, options);
  } finally {
    stopWatching();
    removeWorkDir();
  }
}

async function runMachine(args: string[], qemuPath: string, options: LabOptions): Promise<LabRun> {
  // The kernel's part of the bargain: it kills QEMU even when this process is killed with SIGKILL.
  const setpriv = findProgram("setpriv");
  const [command, ...rest] = setpriv === undefined ? [qemuPath] : [setpriv, "--pdeathsig", "KILL", qemuPath];
  const child = spawn(command!, [...rest, ...args], {
    stdio: options.interactive ? "inherit" : ["ignore", "pipe", "pipe"],
  });
  const stopWatching = onProcessEnd(() => child.kill("SIGKILL"));
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill("SIGKILL");
  }, options.timeoutMs);

  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk;
      options.onOutput?.(chunk);
    });
  }
  try {
    await new Promise<void>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", () => resolve());
    });
  } finally {
    clearTimeout(timer);
    stopWatching();
  }
  const report = /^lab: exit (\d+)\r?$/m.exec(output);
  return { exitCode: report === null ? undefined : Number(report[1]), timedOut, output };
}
