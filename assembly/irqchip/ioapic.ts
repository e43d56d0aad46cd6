// SPDX-License-Identifier: Apache-2.0
// The I/O APIC: 24 pins, from which interrupt messages go to local APICs. Everything here is called with the lock.
// Intel 82093AA data sheet (order number 290566).
//
// As with KVM, whose state form this is: polarity makes no difference, a line that is "up" asserts; IRR tells which lines are up, but for
// edges that were delivered, and which edges came in vain so far. An edge at a masked pin is lost.
import { IRQCHIP_BASE } from "../layout.ts";
import { deliver, widen } from "./lapic.ts";
import {
  IOAPIC_BASE_ADDRESS_U64,
  IOAPIC_ID_U32,
  IOAPIC_IOREGSEL_U32,
  IOAPIC_IRR_U32,
  IOAPIC_PIN_COUNT,
  IOAPIC_REDIRTBL,
  IOAPIC_SIZE_BYTES,
  IRQCHIP_IOAPIC,
  IRQCHIP_IOAPIC_DELIVERED_U32,
} from "./layout.ts";

const IOAPIC: usize = IRQCHIP_BASE + IRQCHIP_IOAPIC;
const PIN_COUNT: u32 = IOAPIC_PIN_COUNT;
const BASE_ADDRESS: u64 = 0xfec0_0000;
const REGISTERS_SIZE_BYTES: u64 = 0x100;

// Offsets from the base.
const IOREGSEL: u32 = 0x00;
const IOWIN: u32 = 0x10;

// Registers behind IOWIN.
const IOAPICID: u32 = 0;
const IOAPICVER: u32 = 1;
const IOAPICARB: u32 = 2;
const IOREDTBL: u32 = 0x10;
const VERSION: u32 = ((IOAPIC_PIN_COUNT - 1) << 16) | 0x11;

// An entry of the redirection table.
const VECTOR: u64 = 0xff;
const MODE_SHIFT: u64 = 8;
const LOGICAL: u64 = 0x800;
const DELIVERY_STATUS: u64 = 0x1000;
const REMOTE_IRR: u64 = 0x4000;
const LEVEL: u64 = 0x8000;
const MASKED: u64 = 0x1_0000;
const DESTINATION_SHIFT: u64 = 56;
const READ_ONLY: u64 = REMOTE_IRR | DELIVERY_STATUS;

@inline
function getEntry(pin: u32): u64 {
  return load<u64>(IOAPIC + ((<usize>pin) << 3), IOAPIC_REDIRTBL);
}

@inline
function setEntry(pin: u32, entry: u64): void {
  store<u64>(IOAPIC + ((<usize>pin) << 3), entry, IOAPIC_REDIRTBL);
}

@inline
function setDelivered(pins: u32): void {
  store<u32>(IRQCHIP_BASE, pins, IRQCHIP_IOAPIC_DELIVERED_U32);
}

@inline
function delivered(): u32 {
  return load<u32>(IRQCHIP_BASE, IRQCHIP_IOAPIC_DELIVERED_U32);
}

export function resetIoapic(): void {
  memory.fill(IOAPIC, 0, IOAPIC_SIZE_BYTES);
  store<u64>(IOAPIC, BASE_ADDRESS, IOAPIC_BASE_ADDRESS_U64);
  for (let pin: u32 = 0; pin < PIN_COUNT; pin++) setEntry(pin, MASKED);
  setDelivered(0);
}

export function setIoapicPin(pin: u32, level: bool): void {
  const bit: u32 = 1 << pin;
  const irr = load<u32>(IOAPIC, IOAPIC_IRR_U32);
  store<u32>(IOAPIC, level ? irr | bit : irr & ~bit, IOAPIC_IRR_U32);
  if (!level) return;
  if (!(getEntry(pin) & LEVEL)) {
    if (irr & bit) return;
    setDelivered(delivered() & ~bit);
  }
  service(pin);
}

/** Sends the message of a pin that is up. A level is not sent again before its EOI. */
function service(pin: u32): void {
  const entry = getEntry(pin);
  const isLevel = (entry & LEVEL) != 0;
  if (entry & MASKED || (isLevel && entry & REMOTE_IRR)) return;
  if (!isLevel) setDelivered(delivered() | (1 << pin));
  const destination = widen(<u32>(entry >> DESTINATION_SHIFT));
  const mode = <u32>(entry >> MODE_SHIFT) & 7;
  const isAccepted = deliver(destination, (entry & LOGICAL) != 0, mode, <u32>(entry & VECTOR), isLevel);
  if (isLevel && isAccepted) setEntry(pin, entry | REMOTE_IRR);
}

/** A local APIC has had the EOI of a level-triggered interrupt. */
export function endIoapic(vector: u32): void {
  for (let pin: u32 = 0; pin < PIN_COUNT; pin++) {
    const entry = getEntry(pin);
    if (!(entry & LEVEL) || <u32>(entry & VECTOR) != vector) continue;
    setEntry(pin, entry & ~REMOTE_IRR);
    if (load<u32>(IOAPIC, IOAPIC_IRR_U32) & (1 << pin)) service(pin);
  }
}

/** Before the state is read from outside: what was delivered is not to be delivered by who restores it. */
export function pendingPins(): u32 {
  return load<u32>(IOAPIC, IOAPIC_IRR_U32) & ~delivered();
}

/** After the state was set from outside, local APICs included: what is up comes up. */
export function restoreIoapic(): void {
  const irr = load<u32>(IOAPIC, IOAPIC_IRR_U32);
  store<u32>(IOAPIC, 0, IOAPIC_IRR_U32);
  setDelivered(0);
  for (let pin: u32 = 0; pin < PIN_COUNT; pin++) if (irr & (1 << pin)) setIoapicPin(pin, true);
}

export function isIoapicAddress(gpa: u64): bool {
  return gpa - load<u64>(IOAPIC, IOAPIC_BASE_ADDRESS_U64) < REGISTERS_SIZE_BYTES;
}

export function readIoapicAt(offset: u32): u32 {
  const selected = load<u32>(IOAPIC, IOAPIC_IOREGSEL_U32);
  if (offset == IOREGSEL) return selected;
  return offset == IOWIN ? readRegister(selected) : 0;
}

export function writeIoapicAt(offset: u32, value: u32): void {
  if (offset == IOREGSEL) store<u32>(IOAPIC, value & 0xff, IOAPIC_IOREGSEL_U32);
  else if (offset == IOWIN) writeRegister(load<u32>(IOAPIC, IOAPIC_IOREGSEL_U32), value);
}

function readRegister(register: u32): u32 {
  switch (register) {
    // The arbitration ID is taken from the ID.
    case IOAPICID:
    case IOAPICARB:
      return load<u32>(IOAPIC, IOAPIC_ID_U32) << 24;
    case IOAPICVER:
      return VERSION;
    default: {
      const pin = (register - IOREDTBL) >> 1;
      if (register < IOREDTBL || pin >= PIN_COUNT) return 0xffff_ffff;
      return <u32>(getEntry(pin) >> (register & 1 ? 32 : 0));
    }
  }
}

function writeRegister(register: u32, value: u32): void {
  if (register == IOAPICID) {
    store<u32>(IOAPIC, (value >> 24) & 15, IOAPIC_ID_U32);
    return;
  }
  const pin = (register - IOREDTBL) >> 1;
  if (register < IOREDTBL || pin >= PIN_COUNT) return;
  const old = getEntry(pin);
  let entry: u64;
  if (register & 1) entry = (old & 0xffff_ffff) | (<u64>value << 32);
  else {
    entry = (old & 0xffff_ffff_0000_0000) | (<u64>value & ~READ_ONLY) | (old & READ_ONLY);
    // Linux makes an entry edge triggered for a moment to have an EOI without a local APIC's.
    if (!(entry & LEVEL)) entry &= ~REMOTE_IRR;
  }
  setEntry(pin, entry);
  if (!(entry & LEVEL)) return;
  setDelivered(delivered() & ~(1 << pin));
  if (load<u32>(IOAPIC, IOAPIC_IRR_U32) & (1 << pin)) service(pin);
}
