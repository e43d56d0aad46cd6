// SPDX-License-Identifier: Apache-2.0
// The interrupt controllers that all vCPUs share, and the PIT: what can be done to them, by any thread, from an instance of any module.
//
// Their state is in one page, under the lock of that page (lock.ts). Under it nobody waits for anything: messages to local APICs
// need no lock (lapic.ts). An edge or a level that a thread brings is with the local APIC when `setIrq` returns.
import { monotonicNs } from "../devices/host.ts";
import { CPU_PENDING_INTERRUPT } from "../cpu/layout.ts";
import { IRQCHIP_BASE } from "../layout.ts";
import { acquire, release } from "../lock.ts";
import {
  endIoapic,
  isIoapicAddress,
  pendingPins,
  readIoapicAt,
  resetIoapic,
  restoreIoapic,
  setIoapicPin,
  writeIoapicAt,
} from "./ioapic.ts";
import { stateOf, tscOfNs, wake } from "./lapic.ts";
import { IOAPIC_PIN_COUNT, IRQCHIP_PIC_OUTPUT_I32 } from "./layout.ts";
import { acknowledgePics, readPic, resetPics, restorePics, setPicLine, writePic } from "./pic.ts";
import { deadlineOfPit, passPit, PIT_NEVER, readPit, resetPit, restorePit, settlePit, writePit } from "./pit.ts";

const PIC_LINE_COUNT: u32 = 16;
const PIN_COUNT: u32 = IOAPIC_PIN_COUNT;
const PIT_GSI: u32 = 0;
const NEVER: u64 = u64.MAX_VALUE;
/** The PIT has no longer period than that. */
const PIT_LONGEST_NS: i64 = 1_000_000_000;

/** Power-on state of all but the local APICs. */
export function reset(): void {
  acquire(IRQCHIP_BASE);
  resetPics();
  resetIoapic();
  resetPit(monotonicNs());
  release(IRQCHIP_BASE);
}

/** An interrupt line of the board. As KVM has it, line N is the I/O APIC's pin N, and below 16 the PICs' line N, too. */
export function setIrq(gsi: u32, level: u32): void {
  acquire(IRQCHIP_BASE);
  setLine(gsi, level != 0);
  release(IRQCHIP_BASE);
}

function setLine(gsi: u32, level: bool): void {
  if (gsi < PIC_LINE_COUNT) setPicLine(gsi, level);
  if (gsi < PIN_COUNT) setIoapicPin(gsi, level);
}

// ── For vCPUs ──

/** The PIC has an interrupt for whoever has LINT0 as ExtINT. */
@inline
export function isPicRaised(): bool {
  return atomic.load<i32>(IRQCHIP_BASE, IRQCHIP_PIC_OUTPUT_I32) != 0;
}

export function acknowledgePic(): u32 {
  acquire(IRQCHIP_BASE);
  const vector = acknowledgePics();
  release(IRQCHIP_BASE);
  return vector;
}

/** EOI of a level-triggered interrupt. */
export function endOfInterrupt(vector: u32): void {
  acquire(IRQCHIP_BASE);
  endIoapic(vector);
  release(IRQCHIP_BASE);
}

export function hasPort(port: u32): bool {
  switch (port) {
    case 0x20:
    case 0x21:
    case 0x40:
    case 0x41:
    case 0x42:
    case 0x43:
    case 0x61:
    case 0xa0:
    case 0xa1:
    case 0x4d0:
    case 0x4d1:
      return true;
    default:
      return false;
  }
}

@inline
function isPit(port: u32): bool {
  return port >= 0x40 && port <= 0x61;
}

/** A byte. */
export function readPort(port: u32): u32 {
  acquire(IRQCHIP_BASE);
  const value = isPit(port) ? readPit(port, monotonicNs()) : readPic(port);
  release(IRQCHIP_BASE);
  return value;
}

export function writePort(port: u32, value: u32): void {
  acquire(IRQCHIP_BASE);
  const deadline = deadlineOfPit();
  if (isPit(port)) writePit(port, value & 0xff, monotonicNs());
  else writePic(port, value & 0xff);
  // The first vCPU may sleep for longer than that now.
  if (deadlineOfPit() < deadline) wake(stateOf(0), CPU_PENDING_INTERRUPT);
  release(IRQCHIP_BASE);
}

export function hasAddress(gpa: u64): bool {
  return isIoapicAddress(gpa);
}

/** Of the I/O APIC's registers. Their high bytes cannot be addressed. */
export function readIoapic(gpa: u64, sizeBytes: u32): u32 {
  acquire(IRQCHIP_BASE);
  const value = readIoapicAt(<u32>gpa & 0xff);
  release(IRQCHIP_BASE);
  return sizeBytes < 4 ? value & ((1 << (8 * sizeBytes)) - 1) : value;
}

export function writeIoapic(gpa: u64, sizeBytes: u32, value: u32): void {
  acquire(IRQCHIP_BASE);
  writeIoapicAt(<u32>gpa & 0xff, sizeBytes < 4 ? value & ((1 << (8 * sizeBytes)) - 1) : value);
  release(IRQCHIP_BASE);
}

// ── Time ──

/** Delivers the PIT's interrupt when it is due. Any thread may do that; the first vCPU's does. */
export function runPit(): void {
  if (deadlineOfPit() == PIT_NEVER) return;
  const now = monotonicNs();
  if (now < deadlineOfPit()) return;
  acquire(IRQCHIP_BASE);
  if (passPit(now)) {
    setLine(PIT_GSI, true);
    setLine(PIT_GSI, false);
  }
  release(IRQCHIP_BASE);
}

/** When the host's TSC will be that far; `tsc` is what it shows now. */
export function pitDeadline(tsc: u64): u64 {
  const deadline = deadlineOfPit();
  if (deadline == PIT_NEVER) return NEVER;
  const now = monotonicNs();
  return deadline <= now ? tsc : tsc + tscOfNs(min<i64>(deadline - now, PIT_LONGEST_NS));
}

// ── State in KVM's form, see src/accel/wasm/irqchip-state.ts. Nobody else is here then ──

export function savedIrr(): u32 {
  return pendingPins();
}

export function picsRestored(): void {
  restorePics();
}

/** The local APICs are restored before. */
export function ioapicRestored(): void {
  restoreIoapic();
}

export function settle(): void {
  settlePit(monotonicNs());
}

export function pitRestored(): void {
  restorePit(monotonicNs());
}
