// SPDX-License-Identifier: Apache-2.0
// Which MSRs a vCPU of the engine keeps, and where in its state page. As assembly/cpu/msr.ts has them for the guest.
import * as layout from "../../../assembly/cpu/layout.ts";

export const MSR_TSC = 0x10;
export const MSR_TSC_DEADLINE = 0x6e0;

const range = (first: number, count: number, place: number): [number, number][] =>
  Array.from({ length: count }, (_, index) => [first + index, place + 8 * index]);

/** By number: the register's place in the state page. */
export const MSR_PLACES: ReadonlyMap<number, number> = new Map([
  [0x11, layout.CPU_KVM_WALL_CLOCK],
  [0x12, layout.CPU_KVM_SYSTEM_TIME],
  [0x174, layout.CPU_SYSENTER_CS],
  [0x175, layout.CPU_SYSENTER_ESP],
  [0x176, layout.CPU_SYSENTER_EIP],
  [0x1a0, layout.CPU_MISC_ENABLE],
  ...range(0x200, 16, layout.CPU_MTRR_VARIABLE),
  [0x250, layout.CPU_MTRR_FIXED],
  ...range(0x258, 2, layout.CPU_MTRR_FIXED + 8),
  ...range(0x268, 8, layout.CPU_MTRR_FIXED + 24),
  [0x277, layout.CPU_PAT],
  [0x2ff, layout.CPU_MTRR_DEF_TYPE],
  [MSR_TSC_DEADLINE, layout.CPU_TSC_DEADLINE],
  [0x4b56_4d00, layout.CPU_KVM_WALL_CLOCK],
  [0x4b56_4d01, layout.CPU_KVM_SYSTEM_TIME],
  [0xc000_0081, layout.CPU_STAR],
  [0xc000_0082, layout.CPU_LSTAR],
  [0xc000_0083, layout.CPU_CSTAR],
  [0xc000_0084, layout.CPU_FMASK],
  [0xc000_0102, layout.CPU_KERNEL_GS_BASE],
  [0xc000_0103, layout.CPU_TSC_AUX],
]);

/**
 * Registers that KVM gives values to by itself, and that mean nothing to a guest that uses what the engine has:
 * microcode's and the CPU's models', TSC ratio and SVM, machine check, polling before HLT; where SMM begins; Hyper-V's index of a
 * vCPU, its run time, its clock and frequencies.
 */
const MEANINGLESS: ReadonlySet<number> = new Set([
  ...[0x17, 0x34, 0x8b, 0x9e, 0xce, 0xfe, 0x10a, 0x122, 0x140, 0x17a, 0x17b, 0x345, 0x4b56_4d05],
  ...[
    0xc000_0104, 0xc001_0010, 0xc001_0015, 0xc001_001f, 0xc001_0055, 0xc001_0114, 0xc001_0117, 0xc001_0140, 0xc001_0141,
  ],
  ...[0x4000_0002, 0x4000_0010, 0x4000_0020, 0x4000_0022, 0x4000_0023],
  ...[0xc001_1020, 0xc001_1022, 0xc001_1029, 0xc001_102a],
]);

/** Setting it to anything may be left out. */
export function isMeaningless(number: number): boolean {
  const isMachineCheckBank = number >= 0x400 && number < 0x480;
  const isVmxCapability = number >= 0x480 && number <= 0x492;
  return isMachineCheckBank || isVmxCapability || MEANINGLESS.has(number);
}
