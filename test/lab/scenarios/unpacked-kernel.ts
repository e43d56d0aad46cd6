// SPDX-License-Identifier: Apache-2.0
// Debian's kernels boot when the VMM unpacks them: 6.1 is packed with LZ4, 6.12 with Zstandard.
import { spawn } from "node:child_process";
import { findAssets, projectDir } from "../assets.ts";
import { guestInitrdPath } from "../initramfs.ts";
import { check, Skip, scenario } from "../scenario.ts";

const BOOT_TIMEOUT_MS = 120_000;

/** Seconds until the guest is ready. Throws what it said when it is not. */
async function boot(kernelPath: string): Promise<number> {
  const startedMs = performance.now();
  const vmm = spawn(
    `${projectDir}/dist/baton`,
    [
      ...["-accel", "kvm", "-machine", "microvm,x-unpack-kernel=on", "-m", "256M", "-serial", "stdio"],
      ...["-kernel", kernelPath, "-initrd", guestInitrdPath, "-append", "console=ttyS0 quiet panic=-1", "-no-reboot"],
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const timer = setTimeout(() => vmm.kill("SIGKILL"), BOOT_TIMEOUT_MS);
  let output = "";
  let readyMs: number | undefined;
  vmm.stdout.setEncoding("latin1").on("data", (text: string) => {
    output += text;
    if (readyMs !== undefined || !output.includes("guest: ready")) return;
    readyMs = performance.now() - startedMs;
    vmm.kill("SIGKILL");
  });
  await new Promise((resolve) => vmm.once("close", resolve));
  clearTimeout(timer);
  check(readyMs !== undefined, `${kernelPath} does not boot: ${output.slice(-2000)}`);
  return readyMs / 1000;
}

await scenario(async () => {
  const found = findAssets();
  if (!found.ok) throw new Skip(found.reason);
  for (const { release, imagePath } of Object.values(found.assets.guestKernels)) {
    const readySeconds = await boot(imagePath);
    console.log(`${release}: unpacked by the VMM and ready after ${readySeconds.toFixed(1)} s`);
  }
});
