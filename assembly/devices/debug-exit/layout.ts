// SPDX-License-Identifier: Apache-2.0
// Saved state of the debug exit port.

/** QEMU's default for iosize. */
export const DEBUG_EXIT_SIZE_BYTES = 2;

export const STATE_VERSION = 1;

/** `(value << 1) | 1` of the guest's last write; 0 when there was none. */
export const FIELD_EXIT_CODE_U32 = 0;

export const STATE_SIZE_BYTES = 8;
