// SPDX-License-Identifier: Apache-2.0
// A keyboard controller without a keyboard has no state.

/** Offsets from port 0x60. */
export const DATA_OFFSET = 0;
export const STATUS_OFFSET = 4;

export const STATE_VERSION = 1;

export const STATE_SIZE_BYTES = 0;
