// SPDX-License-Identifier: Apache-2.0
// The board every VM has: where RAM, ports and interrupt lines are, and the memory map that guests are told.
//
//   guest physical
//   0x0000_0000  RAM; 0x9fc00-0xfffff reserved: the EBDA, the VGA hole, the BIOS area with the ACPI tables
//   0xc000_0000  hole: no RAM up to 4 GiB
//   0xfec0_0000  I/O APIC
//   0xfee0_0000  local APICs
//   0xfeff_c000  four pages that KVM on Intel hosts needs for real mode
//   0x1_0000_0000  the RAM that did not fit below the hole

export const LOW_RAM_END_GPA = 0x9fc00;
/** Firmware would be here: the ACPI tables are, where a guest without other hints looks for them. */
export const BIOS_AREA_GPA = 0xe0000;
export const BIOS_AREA_SIZE_BYTES = 0x20000;
export const HIGH_RAM_GPA = 0x100000;
export const RAM_HOLE_GPA = 0xc000_0000;
export const RAM_HOLE_END_GPA = 0x1_0000_0000;
export const MEMORY_SIZE_MIN_BYTES = HIGH_RAM_GPA;

export const IOAPIC_GPA = 0xfec0_0000;
export const IOAPIC_ID = 0;
export const LAPIC_GPA = 0xfee0_0000;
/** For KVM_SET_IDENTITY_MAP_ADDR (one page) and KVM_SET_TSS_ADDR (three). */
export const KVM_IDENTITY_MAP_GPA = 0xfeff_c000;
export const KVM_TSS_GPA = 0xfeff_d000;
export const KVM_PAGES_SIZE_BYTES = 0x4000;

export interface SerialPort {
  ioBase: number;
  irq: number;
}

/** COM1 to COM4. As on a PC, the odd and the even ports share a line each. */
export const SERIAL_PORTS: readonly SerialPort[] = [
  { ioBase: 0x3f8, irq: 4 },
  { ioBase: 0x2f8, irq: 3 },
  { ioBase: 0x3e8, irq: 4 },
  { ioBase: 0x2e8, irq: 3 },
];
export const SERIAL_PORT_SIZE_BYTES = 8;

export const I8042_DATA_IO_BASE = 0x60;
export const I8042_COMMAND_IO_BASE = 0x64;
export const RTC_IO_BASE = 0x70;
export const RTC_SIZE_BYTES = 2;
export const RTC_IRQ = 8;
export const PORT_92_IO_BASE = 0x92;
export const DEBUG_EXIT_IO_BASE = 0xf4;
/** Where QEMU's firmware has it too, so that payloads written for QEMU power off. */
export const ACPI_PM_IO_BASE = 0x600;

/** The timer's line of the 8254, which reaches the I/O APIC at another pin. */
export const PIT_IRQ = 0;
export const PIT_GSI = 2;
/** ACPI's interrupt: level triggered, active high. */
export const SCI_IRQ = 9;

/** E820 type numbers; PVH and multiboot use the same. */
export const MEMORY_RAM = 1;
export const MEMORY_RESERVED = 2;

export interface MemoryRegion {
  gpa: number;
  sizeBytes: number;
  type: number;
}

/** Guest physical end of the RAM below the hole. */
export function lowRamEndGpa(memorySizeBytes: number): number {
  return Math.min(memorySizeBytes, RAM_HOLE_GPA);
}

/** The E820 map for a VM with that much RAM: sorted, without overlaps. */
export function buildMemoryMap(memorySizeBytes: number): MemoryRegion[] {
  const regions: MemoryRegion[] = [
    { gpa: 0, sizeBytes: LOW_RAM_END_GPA, type: MEMORY_RAM },
    { gpa: LOW_RAM_END_GPA, sizeBytes: HIGH_RAM_GPA - LOW_RAM_END_GPA, type: MEMORY_RESERVED },
    { gpa: HIGH_RAM_GPA, sizeBytes: lowRamEndGpa(memorySizeBytes) - HIGH_RAM_GPA, type: MEMORY_RAM },
    { gpa: KVM_IDENTITY_MAP_GPA, sizeBytes: KVM_PAGES_SIZE_BYTES, type: MEMORY_RESERVED },
    { gpa: RAM_HOLE_END_GPA, sizeBytes: memorySizeBytes - RAM_HOLE_GPA, type: MEMORY_RAM },
  ];
  return regions.filter((region) => region.sizeBytes > 0);
}
