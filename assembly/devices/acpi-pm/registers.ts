// SPDX-License-Identifier: Apache-2.0
// Bits of the ACPI fixed hardware registers, with the names of the specification (4.8.3 and 4.8.4).
// https://uefi.org/specs/ACPI/6.5/04_ACPI_Hardware_Specification.html

/** The block is handled as aligned double words; status registers are their low half, enable registers the high one. */
export const PM1A_EVT = 0x00;
export const PM1A_CNT = 0x04;
export const PM_TMR = 0x08;
export const RST_CNT = 0x0c;
export const GPE0 = 0x10;
export const ENABLE_SHIFT: u32 = 16;

export const PM1_TMR: u16 = 1 << 0;
export const PM1_GBL: u16 = 1 << 5;
export const PM1_PWRBTN: u16 = 1 << 8;
export const PM1_SLPBTN: u16 = 1 << 9;
export const PM1_RTC: u16 = 1 << 10;
/** Status only: it never interrupts. */
export const PM1_WAK_STS: u16 = 1 << 15;
/** What can be enabled. ACPICA reads back what it enables, events that never come included. */
export const PM1_EN_MASK: u16 = PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC;

export const CNT_SCI_EN: u16 = 1 << 0;
export const CNT_BM_RLD: u16 = 1 << 1;
export const CNT_SLP_TYP_SHIFT: u16 = 10;
export const CNT_SLP_TYP: u16 = 7 << CNT_SLP_TYP_SHIFT;
/** Write only. */
export const CNT_SLP_EN: u16 = 1 << 13;

/** The reset register has the bits of port 0xcf9. */
export const RST_SYS: u8 = 1 << 1;
export const RST_CPU: u8 = 1 << 2;
export const RST_FULL: u8 = 1 << 3;

export const GPE_COUNT: u32 = 16;

/** The top bit of the 32 bit timer toggles every 2^31 ticks, ten minutes. */
export const TIMER_HALF_PERIOD_SHIFT: i64 = 31;
