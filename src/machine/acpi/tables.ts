// SPDX-License-Identifier: Apache-2.0
// The ACPI tables of the board, as one block for the BIOS area.
// https://uefi.org/specs/ACPI/6.5/05_ACPI_Software_Programming_Model.html
//
//   0xe0000  RSDP   rev 2, on a 16-byte boundary for guests that search for it
//   0xe0040  FACS   on a 64-byte boundary; the guest leaves its S3 waking vector here
//   0xe0080  XSDT   points to FADT and MADT
//            FADT   points to FACS and DSDT
//            MADT
//            DSDT
import * as pm from "../../../assembly/devices/acpi-pm/layout.ts";
import { RTC_CENTURY_INDEX } from "../../../assembly/devices/mc146818/layout.ts";
import {
  ACPI_PM_IO_BASE,
  BIOS_AREA_GPA,
  IOAPIC_GPA,
  IOAPIC_ID,
  LAPIC_GPA,
  PIT_GSI,
  PIT_IRQ,
  SCI_IRQ,
} from "../board.ts";
import { buildDsdt, type DsdtSpec } from "./dsdt.ts";
import { TableWriter } from "./writer.ts";

export const RSDP_GPA = BIOS_AREA_GPA;
export const FACS_GPA = BIOS_AREA_GPA + 0x40;
/** u32 in the FACS: where the guest wants to wake from S3, in real mode. */
export const FACS_FIRMWARE_WAKING_VECTOR = 0x0c;
const XSDT_GPA = BIOS_AREA_GPA + 0x80;
const TABLE_ALIGNMENT_BYTES = 16;

const OEM_ID = "BATON ";
const OEM_TABLE_ID = "BATONVMM";
const OEM_REVISION = 1;
const CREATOR_ID = "BATN";

/** Part of the ACPI specification that the FADT's fields are to be read by: 6.5. */
const FADT_REVISION = 6;
const FADT_MINOR_VERSION = 5;

/** FADT flags. */
const WBINVD = 1 << 0;
const PROC_C1 = 1 << 2;
const SLP_BUTTON = 1 << 5;
const FIX_RTC = 1 << 6;
const TMR_VAL_EXT = 1 << 8;
const RESET_REG_SUP = 1 << 10;
/** SLP_BUTTON and FIX_RTC set mean that neither is fixed hardware; PWR_BUTTON clear, that the power button is. */
const FADT_FLAGS = WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP;

/** IA-PC boot architecture flags. The 8042 here only resets: without its flag no guest waits for a keyboard. */
const LEGACY_DEVICES = 1 << 0;
const VGA_NOT_PRESENT = 1 << 2;

/** Worst-case latencies that say: there is no C2, no C3. */
const P_LVL2_LAT_NONE = 101;
const P_LVL3_LAT_NONE = 1001;

/** MADT: entry types and flags. */
const MADT_REVISION = 6;
const PCAT_COMPAT = 1;
const MADT_LOCAL_APIC = 0;
const MADT_IO_APIC = 1;
const MADT_INTERRUPT_OVERRIDE = 2;
const MADT_LOCAL_APIC_NMI = 4;
const LOCAL_APIC_ENABLED = 1;
const BUS_ISA = 0;
/** MPS INTI flags: polarity in bits 0-1, trigger mode in bits 2-3. */
const INTI_CONFORMS = 0;
const INTI_ACTIVE_HIGH_LEVEL = 0b1101;
const ALL_PROCESSORS = 0xff;
const NMI_LINT = 1;

export interface AcpiTables {
  /** Guest physical address of `bytes`. */
  gpa: number;
  bytes: Uint8Array;
  rsdpGpa: number;
  /** Of the Firmware ACPI Control Structure, which holds the S3 waking vector. */
  facsGpa: number;
}

function startTable(signature: string, revision: number): TableWriter {
  return new TableWriter()
    .text(signature)
    .u32(0)
    .u8(revision)
    .u8(0)
    .text(OEM_ID)
    .text(OEM_TABLE_ID)
    .u32(OEM_REVISION)
    .text(CREATOR_ID)
    .u32(1);
}

/** Fills in the length and the checksum that `startTable` left open. */
function finishTable(writer: TableWriter): Uint8Array {
  return writer.patchU32(4, writer.sizeBytes).patchChecksum(9, 0, writer.sizeBytes).toBytes();
}

function buildRsdp(xsdtGpa: number): Uint8Array {
  const rsdpRevision1SizeBytes = 20;
  const rsdpSizeBytes = 36;
  return new TableWriter()
    .text("RSD PTR ")
    .u8(0)
    .text(OEM_ID)
    .u8(2)
    .u32(0)
    .u32(rsdpSizeBytes)
    .u64(xsdtGpa)
    .zeros(4)
    .patchChecksum(8, 0, rsdpRevision1SizeBytes)
    .patchChecksum(32, 0, rsdpSizeBytes)
    .toBytes();
}

function buildFacs(): Uint8Array {
  const facsSizeBytes = 64;
  const version = 2;
  return new TableWriter().text("FACS").u32(facsSizeBytes).zeros(24).u8(version).zeros(31).toBytes();
}

function buildXsdt(tableGpas: readonly number[]): Uint8Array {
  const writer = startTable("XSDT", 1);
  for (const gpa of tableGpas) writer.u64(gpa);
  return finishTable(writer);
}

/** A field a line, in the specification's order (table 5.9); the block's registers twice, as ports and as `X_` fields. */
function buildFadt(facsGpa: number, dsdtGpa: number): Uint8Array {
  const eventBase = ACPI_PM_IO_BASE + pm.PM1A_EVT_OFFSET;
  const controlBase = ACPI_PM_IO_BASE + pm.PM1A_CNT_OFFSET;
  const timerBase = ACPI_PM_IO_BASE + pm.PM_TMR_OFFSET;
  const gpe0Base = ACPI_PM_IO_BASE + pm.GPE0_OFFSET;
  const writer = startTable("FACP", FADT_REVISION)
    .u32(facsGpa) // FIRMWARE_CTRL; X_FIRMWARE_CTRL must be zero then
    .u32(dsdtGpa)
    .u8(0) // reserved
    .u8(0) // Preferred_PM_Profile: unspecified
    .u16(SCI_IRQ)
    .u32(0) // SMI_CMD: always in ACPI mode
    .u8(0) // ACPI_ENABLE
    .u8(0) // ACPI_DISABLE
    .u8(0) // S4BIOS_REQ
    .u8(0) // PSTATE_CNT
    .u32(eventBase)
    .u32(0) // PM1b_EVT_BLK
    .u32(controlBase)
    .u32(0) // PM1b_CNT_BLK
    .u32(0) // PM2_CNT_BLK
    .u32(timerBase)
    .u32(gpe0Base)
    .u32(0) // GPE1_BLK
    .u8(pm.PM1A_EVT_LENGTH_BYTES)
    .u8(pm.PM1A_CNT_LENGTH_BYTES)
    .u8(0) // PM2_CNT_LEN
    .u8(pm.PM_TMR_LENGTH_BYTES)
    .u8(pm.GPE0_LENGTH_BYTES)
    .u8(0) // GPE1_BLK_LEN
    .u8(0) // GPE1_BASE
    .u8(0) // CST_CNT
    .u16(P_LVL2_LAT_NONE)
    .u16(P_LVL3_LAT_NONE)
    .u16(0) // FLUSH_SIZE
    .u16(0) // FLUSH_STRIDE
    .u8(0) // DUTY_OFFSET
    .u8(0) // DUTY_WIDTH
    .u8(0) // DAY_ALRM
    .u8(0) // MON_ALRM
    .u8(RTC_CENTURY_INDEX)
    .u16(LEGACY_DEVICES | VGA_NOT_PRESENT)
    .u8(0) // reserved
    .u32(FADT_FLAGS)
    .ioPorts(ACPI_PM_IO_BASE + pm.RESET_OFFSET, 1)
    .u8(pm.RESET_VALUE)
    .u16(0) // ARM_BOOT_ARCH
    .u8(FADT_MINOR_VERSION)
    .u64(0) // X_FIRMWARE_CTRL
    .u64(dsdtGpa)
    .ioPorts(eventBase, pm.PM1A_EVT_LENGTH_BYTES, 2)
    .zeros(12) // X_PM1b_EVT_BLK
    .ioPorts(controlBase, pm.PM1A_CNT_LENGTH_BYTES)
    .zeros(12) // X_PM1b_CNT_BLK
    .zeros(12) // X_PM2_CNT_BLK
    .ioPorts(timerBase, pm.PM_TMR_LENGTH_BYTES)
    .ioPorts(gpe0Base, pm.GPE0_LENGTH_BYTES, 1)
    .zeros(12) // X_GPE1_BLK
    .zeros(12) // SLEEP_CONTROL_REG
    .zeros(12) // SLEEP_STATUS_REG
    .text("BATON\0\0\0"); // Hypervisor Vendor Identity
  return finishTable(writer);
}

function buildMadt(cpuCount: number): Uint8Array {
  const writer = startTable("APIC", MADT_REVISION).u32(LAPIC_GPA).u32(PCAT_COMPAT);
  for (let index = 0; index < cpuCount; index++) {
    writer.u8(MADT_LOCAL_APIC).u8(8).u8(index).u8(index).u32(LOCAL_APIC_ENABLED);
  }
  const firstGsi = 0;
  writer.u8(MADT_IO_APIC).u8(12).u8(IOAPIC_ID).u8(0).u32(IOAPIC_GPA).u32(firstGsi);
  const override = (irq: number, gsi: number, flags: number): TableWriter =>
    writer.u8(MADT_INTERRUPT_OVERRIDE).u8(10).u8(BUS_ISA).u8(irq).u32(gsi).u16(flags);
  override(PIT_IRQ, PIT_GSI, INTI_CONFORMS);
  override(SCI_IRQ, SCI_IRQ, INTI_ACTIVE_HIGH_LEVEL);
  writer.u8(MADT_LOCAL_APIC_NMI).u8(6).u8(ALL_PROCESSORS).u16(INTI_CONFORMS).u8(NMI_LINT);
  return finishTable(writer);
}

/** All tables, ready to be written to `gpa` in one piece. */
export function buildAcpiTables(spec: DsdtSpec): AcpiTables {
  const placed: { gpa: number; bytes: Uint8Array }[] = [];
  let nextGpa = XSDT_GPA;
  const place = (bytes: Uint8Array): number => {
    const gpa = nextGpa;
    placed.push({ gpa, bytes });
    nextGpa = Math.ceil((gpa + bytes.length) / TABLE_ALIGNMENT_BYTES) * TABLE_ALIGNMENT_BYTES;
    return gpa;
  };

  // The XSDT's size does not depend on what it points to, so it can be placed before its contents are known.
  const xsdt = buildXsdt([0, 0]);
  place(xsdt);
  const madtGpa = place(buildMadt(spec.cpuCount));
  const dsdtGpa = place(finishTable(startTable("DSDT", 2).append(buildDsdt(spec))));
  const fadtGpa = place(buildFadt(FACS_GPA, dsdtGpa));
  xsdt.set(buildXsdt([fadtGpa, madtGpa]));

  const bytes = new Uint8Array(nextGpa - BIOS_AREA_GPA);
  for (const table of [
    { gpa: RSDP_GPA, bytes: buildRsdp(XSDT_GPA) },
    { gpa: FACS_GPA, bytes: buildFacs() },
    ...placed,
  ]) {
    bytes.set(table.bytes, table.gpa - BIOS_AREA_GPA);
  }
  return { gpa: BIOS_AREA_GPA, bytes, rsdpGpa: RSDP_GPA, facsGpa: FACS_GPA };
}
