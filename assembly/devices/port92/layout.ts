// SPDX-License-Identifier: Apache-2.0
// Saved state of system control port A.

export const PORT92_SIZE_BYTES = 1;

export const STATE_VERSION = 1;

export const FIELD_CONTROL_U8 = 0;

export const STATE_SIZE_BYTES = 8;
