// SPDX-License-Identifier: Apache-2.0
// Replaces the lab's kernel without a power-on: kexec_file_load(2), then reboot(2), which is what kexec(8) does.
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { koffi } from "../../ffi/native.ts";
import { LAB_INITRD, labWorkDir } from "./machine.ts";

/** <asm/unistd_64.h> */
const SYS_KEXEC_FILE_LOAD = 320;
/** <linux/reboot.h> LINUX_REBOOT_CMD_KEXEC */
const REBOOT_CMD_KEXEC = 0x4558_4543;

const libc = koffi.load("libc.so.6");

/**
 * Boots `kernelPath` with this kernel's command line and the lab's initramfs; the lab's command runs again there, with
 * LAB_STAGE in its environment; `more` is for the kernel. Does not return. No process is told and nothing is written back, as with `kexec -e`.
 */
export function kexec(kernelPath: string, stage: string, more = ""): never {
  const load = libc.func("long syscall(long, long kernel, long initrd, size_t length, str line, size_t flags)");
  const commandLine = `${readFileSync("/proc/cmdline", "utf8").trim()} LAB_STAGE=${stage} ${more}`.trimEnd();
  const files = [kernelPath, join(labWorkDir, LAB_INITRD)].map((path) => openSync(path, "r"));
  // The length counts the terminating NUL.
  const loaded = load(SYS_KEXEC_FILE_LOAD, files[0], files[1], Buffer.byteLength(commandLine) + 1, commandLine, 0);
  if (loaded !== 0) throw new Error(`kexec_file_load of ${kernelPath} failed: errno ${koffi.errno()}`);
  for (const file of files) closeSync(file);
  libc.func("int reboot(int command)")(REBOOT_CMD_KEXEC | 0);
  throw new Error(`The kernel refuses to kexec: errno ${koffi.errno()}`);
}
