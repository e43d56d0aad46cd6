// SPDX-License-Identifier: Apache-2.0
// Model-specific registers: what Linux and its like read and write. SDM volume 4; APM volume 2, appendix A; KVM's paravirtual
// ones: https://docs.kernel.org/virt/kvm/x86/msr.html. Any other is #GP, which kernels expect.
import { isCanonical } from "./access.ts";
import { readX2apic, writeX2apic } from "./apic-registers.ts";
import { readTscDeadline, writeApicBase, writeTscDeadline } from "./apic.ts";
import { CR0_PG, CR4_TSD, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE } from "./control-bits.ts";
import { writeSystemTime, writeWallClock } from "./kvmclock.ts";
import {
  CPU_APIC_BASE,
  CPU_CR0,
  CPU_CR4,
  CPU_CSTAR,
  CPU_EFER,
  CPU_FMASK,
  CPU_KERNEL_GS_BASE,
  CPU_KVM_SYSTEM_TIME,
  CPU_KVM_WALL_CLOCK,
  CPU_LSTAR,
  CPU_MISC_ENABLE,
  CPU_MTRR_DEF_TYPE,
  CPU_MTRR_FIXED,
  CPU_MTRR_VARIABLE,
  CPU_PAT,
  CPU_STAR,
  CPU_SYSENTER_CS,
  CPU_SYSENTER_EIP,
  CPU_SYSENTER_ESP,
  CPU_TSC_AUX,
  CPU_TSC_OFFSET,
  SEGMENT_FS,
  SEGMENT_GS,
} from "./layout.ts";
import { privilegeLevel, segment } from "./modes.ts";
import { RAX, RCX, RDX } from "./registers.ts";
import { flushTlb } from "./tlb.ts";
import { cpu, GP, hasFaulted, hostTsc, raiseWith } from "./vcpu.ts";

/** As the guest sees it. */
function readTsc(): u64 {
  return hostTsc() + load<u64>(cpu, CPU_TSC_OFFSET);
}

/** Where a register that is no more than its value has it in the state page; 0 for none. */
function placeOf(number: u32): usize {
  switch (number) {
    case 0x174:
      return CPU_SYSENTER_CS;
    case 0x175:
      return CPU_SYSENTER_ESP;
    case 0x176:
      return CPU_SYSENTER_EIP;
    case 0x1a0:
      return CPU_MISC_ENABLE;
    case 0x277:
      return CPU_PAT;
    case 0x2ff:
      return CPU_MTRR_DEF_TYPE;
    case 0x250:
      return CPU_MTRR_FIXED;
    case 0x258:
    case 0x259:
      return CPU_MTRR_FIXED + 8 * (number - 0x257);
    case 0xc000_0081:
      return CPU_STAR;
    case 0xc000_0082:
      return CPU_LSTAR;
    case 0xc000_0083:
      return CPU_CSTAR;
    case 0xc000_0084:
      return CPU_FMASK;
    case 0xc000_0102:
      return CPU_KERNEL_GS_BASE;
    case 0xc000_0103:
      return CPU_TSC_AUX;
    default:
      break;
  }
  if (number >= 0x200 && number < 0x210) return CPU_MTRR_VARIABLE + 8 * (number - 0x200);
  if (number >= 0x268 && number < 0x270) return CPU_MTRR_FIXED + 8 * (number - 0x268 + 3);
  return 0;
}

/** `hasFaulted` is to be asked. */
function readMsr(number: u32): u64 {
  const place = placeOf(number);
  if (place != 0) return load<u64>(cpu + place);
  if (number >= 0x800 && number < 0x840) return readX2apic(number);
  switch (number) {
    case 0x10:
      return readTsc();
    case 0x1b:
      return load<u64>(cpu, CPU_APIC_BASE);
    case 0x3b:
      return 0;
    case 0xfe:
      // IA32_MTRRCAP: eight variable ranges, fixed ones, write combining.
      return 0x508;
    case 0x6e0:
      return readTscDeadline();
    case 0xc000_0080:
      return load<u64>(cpu, CPU_EFER);
    case 0xc000_0100:
      return load<u64>(segment(SEGMENT_FS));
    case 0xc000_0101:
      return load<u64>(segment(SEGMENT_GS));
    case 0x4b56_4d00:
    case 0x11:
      return load<u64>(cpu, CPU_KVM_WALL_CLOCK);
    case 0x4b56_4d01:
    case 0x12:
      return load<u64>(cpu, CPU_KVM_SYSTEM_TIME);
    case 0xc001_0015:
      // HWCR.TscFreqSel: the TSC counts as it does when the CPU is at its fastest.
      return 0x100_0000;
    default:
      if (isZero(number)) return 0;
      raiseWith(GP, 0);
      return 0;
  }
}

/** Registers of AMD CPUs, and of microcode and machine checks, that read as 0, and whose writes have no effect. */
function isZero(number: u32): bool {
  switch (number) {
    case 0x8b:
    case 0x17:
    case 0x179:
    case 0x17a:
    case 0xc001_0010:
    case 0xc001_0015:
    case 0xc001_001f:
    case 0xc001_0055:
    case 0xc001_0114:
    case 0xc001_0117:
    case 0xc001_1020:
    case 0xc001_1022:
    case 0xc001_1029:
    case 0xc001_102a:
      return true;
    default:
      return number >= 0xc001_0000 && number < 0xc001_0008;
  }
}

/** False: #GP was raised. */
function writeMsr(number: u32, value: u64): bool {
  const place = placeOf(number);
  if (place != 0) {
    const isAddress = number == 0x175 || number == 0x176 || number == 0xc000_0082 || number == 0xc000_0083 || number == 0xc000_0102;
    if (isAddress && !isCanonical(value)) return raiseWith(GP, 0);
    if (number == 0x277 && !isPat(value)) return raiseWith(GP, 0);
    store<u64>(cpu + place, value);
    return true;
  }
  if (number >= 0x800 && number < 0x840) return writeX2apic(number, value);
  switch (number) {
    case 0x10:
      store<u64>(cpu, value - hostTsc(), CPU_TSC_OFFSET);
      return true;
    case 0x1b:
      return writeApicBase(value);
    case 0x3b:
      store<u64>(cpu, load<u64>(cpu, CPU_TSC_OFFSET) + value, CPU_TSC_OFFSET);
      return true;
    case 0x6e0:
      writeTscDeadline(value);
      return true;
    case 0xc000_0080:
      return writeEfer(value);
    case 0xc000_0100:
    case 0xc000_0101:
      if (!isCanonical(value)) return raiseWith(GP, 0);
      store<u64>(segment(number == 0xc000_0100 ? SEGMENT_FS : SEGMENT_GS), value);
      return true;
    case 0x4b56_4d00:
    case 0x11:
      writeWallClock(value);
      return true;
    case 0x4b56_4d01:
    case 0x12:
      writeSystemTime(value);
      return true;
    default:
      return isZero(number) || raiseWith(GP, 0);
  }
}

/** Every byte is a memory type. */
function isPat(value: u64): bool {
  for (let byte = 0; byte < 8; byte++) {
    const type = <u32>(value >> (8 * byte)) & 0xff;
    if (type > 7 || type == 2 || type == 3) return false;
  }
  return true;
}

function writeEfer(value: u64): bool {
  const before = load<u64>(cpu, CPU_EFER);
  const known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
  if (value & ~known) return raiseWith(GP, 0);
  if ((value ^ before) & EFER_LME && load<u64>(cpu, CPU_CR0) & CR0_PG) return raiseWith(GP, 0);
  store<u64>(cpu, (value & ~EFER_LMA) | (before & EFER_LMA), CPU_EFER);
  if ((value ^ before) & EFER_NXE) flushTlb(false);
  return true;
}

// ── RDMSR, WRMSR, RDTSC and RDTSCP ──

export function execReadMsr(): bool {
  const value = readMsr(load<u32>(cpu, RCX));
  if (hasFaulted()) return false;
  setPair(value);
  return true;
}

export function execWriteMsr(): bool {
  const value = <u64>load<u32>(cpu, RAX) | (<u64>load<u32>(cpu, RDX) << 32);
  return writeMsr(load<u32>(cpu, RCX), value);
}

export function execReadTsc(): bool {
  if (load<u64>(cpu, CPU_CR4) & CR4_TSD && privilegeLevel() != 0) return raiseWith(GP, 0);
  setPair(readTsc());
  return true;
}

export function execReadTscp(): bool {
  if (!execReadTsc()) return false;
  store<u64>(cpu, load<u32>(cpu, CPU_TSC_AUX), RCX);
  return true;
}

/** EDX:EAX. */
function setPair(value: u64): void {
  store<u64>(cpu, <u32>value, RAX);
  store<u64>(cpu, value >> 32, RDX);
}
