// SPDX-License-Identifier: Apache-2.0
// Bits of CR0, CR4 and IA32_EFER that mean something here. SDM volume 3, 2.2.1 and 2.5.

export const CR0_PE: u64 = 1;
export const CR0_MP: u64 = 2;
export const CR0_EM: u64 = 4;
export const CR0_TS: u64 = 8;
export const CR0_WP: u64 = 0x1_0000;
export const CR0_PG: u64 = 0x8000_0000;
export const CR4_TSD: u64 = 4;
export const CR4_PSE: u64 = 0x10;
export const CR4_PAE: u64 = 0x20;
export const CR4_PGE: u64 = 0x80;
export const CR4_OSFXSR: u64 = 0x200;
export const CR4_OSXMMEXCPT: u64 = 0x400;
export const EFER_SCE: u64 = 1;
export const EFER_LME: u64 = 0x100;
export const EFER_LMA: u64 = 0x400;
export const EFER_NXE: u64 = 0x800;
