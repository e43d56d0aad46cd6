// SPDX-License-Identifier: Apache-2.0
// What forbids moving the VM, for each mode: QEMU's text, and beside it what a program or an operator can act on.
import { runningVmCount, type Vm } from "../machine/vm.ts";
import { canBeShared } from "../memory/sharing.ts";
import type { MigMode, MigrationBlocker } from "../qmp/schema/migration.ts";

/** Modes that leave RAM in place and hand its fd on. */
const FD_MODES: readonly MigMode[] = ["cpr-transfer", "cpr-exec"];

export function findBlockers(vm: Vm): MigrationBlocker[] {
  const blockers: MigrationBlocker[] = [];
  // Anonymous RAM is shared by the update itself.
  if (!vm.ram.isShared && !canBeShared(vm.ram)) {
    const { id } = vm.ram.backend;
    for (const mode of FD_MODES) {
      blockers.push({
        mode,
        reason: `Memory region ${id} is not compatible with CPR. share=on is required for memory-backend objects, and aux-ram-share=on is required.`,
        code: "ram-not-shared",
        device: id,
        fix: "Start the VM with -object memory-backend-memfd,id=ID,size=SIZE,share=on and -machine memory-backend=ID, or with -machine aux-ram-share=on",
      });
    }
  }
  if (runningVmCount() > 1) {
    blockers.push({
      mode: "cpr-exec",
      reason: `This process has ${runningVmCount()} VMs, and cpr-exec would replace the program under all of them.`,
      code: "several-vms",
      fix: "Run each VM in a process of its own",
    });
  }
  return blockers;
}
