// SPDX-License-Identifier: Apache-2.0
// Registers of the MC146818A, with the names of its data sheet.
// Motorola MC146818A: https://www.nxp.com/docs/en/data-sheet/MC146818.pdf

/** Ports: address (write only) and data. */
export const INDEX = 0;
export const DATA = 1;
/** Bit 7 of the index port is the PC's NMI mask and no part of the address. */
export const INDEX_MASK: u8 = 0x7f;

export const SECONDS: u8 = 0x00;
export const SECONDS_ALARM: u8 = 0x01;
export const MINUTES: u8 = 0x02;
export const MINUTES_ALARM: u8 = 0x03;
export const HOURS: u8 = 0x04;
export const HOURS_ALARM: u8 = 0x05;
/** 1 is Sunday. */
export const DAY_OF_WEEK: u8 = 0x06;
export const DATE_OF_MONTH: u8 = 0x07;
export const MONTH: u8 = 0x08;
export const YEAR: u8 = 0x09;
export const REG_A: u8 = 0x0a;
export const REG_B: u8 = 0x0b;
export const REG_C: u8 = 0x0c;
export const REG_D: u8 = 0x0d;
/** A PC convention, in the format of the other time bytes. */
export const CENTURY: u8 = 0x32;

export const HOURS_PM: u8 = 0x80;
/** Alarm bytes from 0xc0 match everything. */
export const ALARM_ANY: u8 = 0xc0;

export const A_UIP: u8 = 0x80;
export const A_DIVIDER: u8 = 0x70;
/** The divider runs with any of the three time bases up to this one (32,768 Hz), and is held in reset above it. */
export const A_DIVIDER_32768_HZ: u8 = 0x20;
export const A_RATE: u8 = 0x0f;

export const B_SET: u8 = 0x80;
export const B_PIE: u8 = 0x40;
export const B_AIE: u8 = 0x20;
export const B_UIE: u8 = 0x10;
export const B_SQWE: u8 = 0x08;
export const B_DM_BINARY: u8 = 0x04;
export const B_24H: u8 = 0x02;

/** The flags lie where register B has their enable bits. */
export const C_IRQF: u8 = 0x80;
export const C_PF: u8 = 0x40;
export const C_AF: u8 = 0x20;
export const C_UF: u8 = 0x10;

export const D_VRT: u8 = 0x80;

/** 32,768 Hz time base, 1024 Hz periodic rate: what PC firmware leaves. */
export const DEFAULT_A: u8 = 0x26;
export const DEFAULT_B: u8 = B_24H;

export const CRYSTAL_HZ: i64 = 32768;
/** UIP rises this long before an update. */
export const UIP_LEAD_NS: i64 = 244_000;
/** Leaving divider reset, the first update comes half a second later. */
export const DIVIDER_RESTART_NS: i64 = 500_000_000;
