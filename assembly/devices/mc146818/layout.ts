// SPDX-License-Identifier: Apache-2.0
// Saved state of an MC146818A real-time clock with PC CMOS RAM.
//
// The clock is `host realtime + PHASE_NS`, in whole seconds plus OFFSET_SECONDS: seconds and phase are apart so that
// any year a guest can set fits. CMOS holds the time only while the clock stands still; a running clock is computed.

/** I/O ports the clock takes: index and data. */
export const RTC_SIZE_BYTES = 2;
export const RTC_CMOS_SIZE_BYTES = 128;
/** CMOS index of the century, for the FADT's CENTURY. */
export const RTC_CENTURY_INDEX = 0x32;

export const STATE_VERSION = 1;

export const FIELD_INDEX_U8 = 0;
export const FIELD_IRQ_LEVEL_U8 = 1;
/** 0 to 999,999,999. */
export const FIELD_PHASE_NS_U32 = 4;
export const FIELD_OFFSET_SECONDS_I64 = 8;
/** Second (of the guest's clock, since 1970) whose update and alarm the flags have taken note of. */
export const FIELD_LAST_SECOND_I64 = 16;
/** Count of 32,768 Hz cycles (of the guest's clock, since 1970) up to which the periodic flag is right. */
export const FIELD_LAST_CYCLE_I64 = 24;
export const FIELD_CMOS_U8X128 = 32;

export const STATE_SIZE_BYTES = 160;
