// SPDX-License-Identifier: Apache-2.0
// Where the boot protocols put their structures: all below 640 KiB, so that kernels have everything above 1 MiB.
//
// Linux borrows the two pages below the EBDA for a moment while it still runs on these page tables, and takes pages
// for its trampolines from the top of low RAM: hence from the bottom up.

export const GDT_GPA = 0x500;
/** hvm_start_info or multiboot_info, with the lists it points to: one page. */
export const START_INFO_GPA = 0x6000;
export const START_INFO_SIZE_BYTES = 0x1000;
export const ZERO_PAGE_GPA = 0x7000;
export const BOOT_SECTOR_GPA = 0x7c00;
/** Nobody promises a stack, but many a small payload pushes before it has set one. */
export const BOOT_STACK_GPA = 0x8ff0;
/** One PML4, one PDPT and four page directories. */
export const PAGE_TABLES_GPA = 0x9000;
export const COMMAND_LINE_GPA = 0x20000;
export const COMMAND_LINE_SIZE_MAX_BYTES = 0x10000;
