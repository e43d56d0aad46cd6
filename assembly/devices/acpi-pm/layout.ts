// SPDX-License-Identifier: Apache-2.0
// The register block of the ACPI fixed hardware as the FADT describes it, and its saved state.
// https://uefi.org/specs/ACPI/6.5/04_ACPI_Hardware_Specification.html
//
//   offset  size  register   FADT
//   0x00    4     PM1a_EVT   PM1a_EVT_BLK, PM1_EVT_LEN 4: status (2), enable (2)
//   0x04    2     PM1a_CNT   PM1a_CNT_BLK, PM1_CNT_LEN 2
//   0x08    4     PM_TMR     PM_TMR_BLK, PM_TMR_LEN 4, flag TMR_VAL_EXT (the timer has 32 bits)
//   0x0c    1     RESET      RESET_REG, RESET_VALUE, flag RESET_REG_SUP
//   0x10    4     GPE0       GPE0_BLK, GPE0_BLK_LEN 4: status (2), enable (2), GPE 0 to 15
//
// Also for the FADT: SMI_CMD 0 (there is no SMM, SCI_EN is always set), flag SLP_BUTTON set and FIX_RTC set (neither a
// fixed sleep button nor an RTC wake status), PWR_BUTTON clear (the power button is fixed hardware).

/** I/O ports the block takes. */
export const PM_BLOCK_SIZE_BYTES = 0x14;

export const PM1A_EVT_OFFSET = 0x00;
export const PM1A_EVT_LENGTH_BYTES = 4;
export const PM1A_CNT_OFFSET = 0x04;
export const PM1A_CNT_LENGTH_BYTES = 2;
export const PM_TMR_OFFSET = 0x08;
export const PM_TMR_LENGTH_BYTES = 4;
export const RESET_OFFSET = 0x0c;
/** What the guest writes to RESET: the value that resets a PC through port 0xcf9 (SYS_RST and RST_CPU). */
export const RESET_VALUE = 0x06;
export const GPE0_OFFSET = 0x10;
export const GPE0_LENGTH_BYTES = 4;

/** Sleep types as in QEMU's tables: with the block at 0x600, a payload's `outw 0x2000 to 0x604` powers off here too. */
export const SLP_TYP_S5 = 0;
export const SLP_TYP_S3 = 1;

export const PM_TMR_FREQUENCY_HZ = 3579545;

export const STATE_VERSION = 1;

export const FIELD_PM1_STS_U16 = 0;
export const FIELD_PM1_EN_U16 = 2;
export const FIELD_PM1_CNT_U16 = 4;
export const FIELD_GPE0_STS_U16 = 6;
export const FIELD_GPE0_EN_U16 = 8;
export const FIELD_RST_CNT_U8 = 10;
/** Level of the SCI. */
export const FIELD_IRQ_LEVEL_U8 = 11;
/** What is added to the monotonic clock to get the age of the timer. */
export const FIELD_TIMER_OFFSET_NS_I64 = 16;
/** Half periods of the timer (2^31 ticks, one toggle of its top bit each) that TMR_STS has taken note of. */
export const FIELD_TIMER_HALF_PERIODS_I64 = 24;

export const STATE_SIZE_BYTES = 32;
