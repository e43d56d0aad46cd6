// SPDX-License-Identifier: Apache-2.0
// What the demo finds on this machine, and what to do about what is missing.
import { close } from "../../../ffi/fd.ts";
import { KvmSystem } from "../../../ffi/kvm/kvm.ts";
import { type AcceleratorChoice, hintAt } from "../../accel/choose.ts";
import { describeError } from "../../errors.ts";
import { cacheDir, readImage } from "../../image/store.ts";
import { buildSelfCheck } from "../../payload/self-check.ts";
import type { Terminal } from "../terminal.ts";
import { describeVmm } from "./vmm.ts";

const NO_KVM =
  "the kernel offers none here. Load the kernel's module (modprobe kvm_intel or kvm_amd) with virtualization " +
  "switched on in the firmware; in a virtual machine, have its host allow nested virtualization; in a container, " +
  "pass the device on (docker run --device /dev/kvm).";

const ADVICE: Record<string, string> = {
  ENOENT: NO_KVM,
  ENODEV: NO_KVM,
  ENXIO: NO_KVM,
  EACCES:
    "you may not open /dev/kvm. Join the group that owns it (sudo usermod -aG kvm $USER, then log in again), or run " +
    "Baton as root; in a container, pass the device on with its permissions (docker run --device /dev/kvm).",
  EPERM:
    "this sandbox does not allow /dev/kvm. Run Baton outside of it, or pass the device on (docker run --device /dev/kvm).",
  EBUSY: "another hypervisor holds the CPU's virtualization extensions. Stop its virtual machines and try again.",
};

/** Why KVM cannot be used, in one paragraph with what to do; undefined when it can. */
export function kvmProblem(): string | undefined {
  try {
    const system = new KvmSystem();
    try {
      close(system.createVm().fd);
    } finally {
      system.close();
    }
    return undefined;
  } catch (error) {
    const advice = ADVICE[(error as { code?: string }).code ?? ""] ?? "it does not work on this machine.";
    return `KVM cannot be used: ${advice} What the kernel says: ${describeError(error)}.`;
  }
}

/** A line for everything that the demo would take, and a paragraph on how to have KVM where that is missing. */
export function checkAll(terminal: Terminal, command: readonly string[], accelerator: AcceleratorChoice): string[] {
  const { name, reason, passedOver } = accelerator;
  const lines = [
    `accel    ${passedOver === undefined ? terminal.good(name) : name}: ${reason}${hintAt(accelerator, "--accel kvm")}`,
    `VMM      ${describeVmm(command)}`,
    `payload  ${buildSelfCheck().length} bytes, made at run time`,
    `Linux    ${readImage(cacheDir())?.kernel ?? "none yet: the demo gets one by apt, or takes this machine's, else the payload"}`,
  ];
  const problem = kvmProblem();
  return problem === undefined ? lines : [...lines, "", ...terminal.wrap(problem)];
}
