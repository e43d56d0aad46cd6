// SPDX-License-Identifier: Apache-2.0
// KVM's paravirtual clock: the guest's nanoseconds are made of its TSC by what is in a page that it has told.
// https://docs.kernel.org/virt/kvm/x86/msr.html, struct pvclock_vcpu_time_info and pvclock_wall_clock.
import { CPU_KVM_SYSTEM_TIME, CPU_KVM_WALL_CLOCK, CPU_TSC_OFFSET } from "./layout.ts";
import { cpu, hostTsc, kvmclockNs, ramBase, ramSizeBytes, tscMultiplier, tscShift, wallClockNs } from "./vcpu.ts";
import { notePageWrite } from "./write-tracking.ts";

const ENABLED: u64 = 1;
/** PVCLOCK_TSC_STABLE_BIT: all vCPUs' clocks are the same. */
const FLAG_TSC_STABLE: u8 = 1;
/** PVCLOCK_GUEST_STOPPED: the guest takes it back when it has seen it. */
const FLAG_GUEST_STOPPED: u8 = 2;
const TIME_INFO_BYTES: u64 = 32;
const WALL_CLOCK_BYTES: u64 = 12;
const NS_PER_SECOND: u64 = 1_000_000_000;

/** Both structures are to be aligned to 4 bytes, and in RAM: others are not written. */
function isPlace(gpa: u64, sizeBytes: u64): bool {
  return (gpa & 3) == 0 && gpa <= ramSizeBytes - sizeBytes;
}

function noteWrites(gpa: u64, sizeBytes: u64): void {
  notePageWrite(gpa);
  notePageWrite(gpa + sizeBytes - 1);
}

/** MSR_KVM_SYSTEM_TIME_NEW. */
export function writeSystemTime(value: u64): void {
  store<u64>(cpu, value, CPU_KVM_SYSTEM_TIME);
  updateTime();
}

/**
 * Writes the page anew: when the guest sets its place, and when its TSC or the clock has been set. Both values are of one look at the
 * host's TSC: with two, every vCPU's clock would be off by the time in between.
 */
export function updateTime(): void {
  const value = load<u64>(cpu, CPU_KVM_SYSTEM_TIME);
  const gpa = value & ~ENABLED;
  if (!(value & ENABLED) || !isPlace(gpa, TIME_INFO_BYTES)) return;
  const page = ramBase + <usize>gpa;
  const version = load<u32>(page) | 1;
  noteWrites(gpa, TIME_INFO_BYTES);
  atomic.store<u32>(page, version);
  const tsc = hostTsc();
  store<u64>(page, tsc + load<u64>(cpu, CPU_TSC_OFFSET), 8);
  store<u64>(page, kvmclockNs(tsc), 16);
  store<u32>(page, tscMultiplier(), 24);
  store<i8>(page, <i8>tscShift(), 28);
  store<u8>(page, (load<u8>(page, 29) & FLAG_GUEST_STOPPED) | FLAG_TSC_STABLE, 29);
  atomic.store<u32>(page, version + 1);
}

/** MSR_KVM_WALL_CLOCK_NEW: the time of day when kvmclock was 0. */
export function writeWallClock(value: u64): void {
  store<u64>(cpu, value, CPU_KVM_WALL_CLOCK);
  if (!isPlace(value, WALL_CLOCK_BYTES)) return;
  const place = ramBase + <usize>value;
  const bootNs = wallClockNs() - kvmclockNs(hostTsc());
  noteWrites(value, WALL_CLOCK_BYTES);
  const version = load<u32>(place) | 1;
  atomic.store<u32>(place, version);
  store<u32>(place, <u32>(bootNs / NS_PER_SECOND), 4);
  store<u32>(place, <u32>(bootNs % NS_PER_SECOND), 8);
  atomic.store<u32>(place, version + 1);
}
