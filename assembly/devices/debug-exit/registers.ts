// SPDX-License-Identifier: Apache-2.0
// QEMU's isa-debug-exit: one register, whatever the offset.
// https://gitlab.com/qemu-project/qemu/-/blob/master/hw/misc/debugexit.c

export const EXIT_SHIFT: u32 = 1;
/** Keeps every exit code of a guest apart from 0, which is the VMM's own success. */
export const EXIT_FROM_GUEST: u32 = 1;
