// SPDX-License-Identifier: Apache-2.0
// The DSDT: the devices of the board that a guest cannot find by itself, and its sleep states.
// https://uefi.org/specs/ACPI/6.5/07_Power_and_Performance_Mgmt.html#sx-system-states
//
//   \_SB
//     C000 C001 …   processors; _UID is the one in the MADT
//     COM1 …        the serial ports that are configured
//     RTC
//   \_S3 \_S5       SLP_TYP for PM1a_CNT
//
// The power button is fixed hardware (FADT). There is no PCI.
import { SLP_TYP_S3, SLP_TYP_S5 } from "../../../assembly/devices/acpi-pm/layout.ts";
import { RTC_IO_BASE, RTC_IRQ, RTC_SIZE_BYTES, SERIAL_PORT_SIZE_BYTES, SERIAL_PORTS } from "../board.ts";
import {
  type Aml,
  device,
  eisaId,
  integer,
  io,
  irqNoFlags,
  name,
  pack,
  resourceTemplate,
  scope,
  string,
} from "./aml.ts";

export interface DsdtSpec {
  cpuCount: number;
  /** A null is an absent port. */
  serials: readonly (string | null)[];
}

function processor(index: number): Aml {
  const digits = index.toString(16).toUpperCase().padStart(3, "0");
  return device(`C${digits}`, name("_HID", string("ACPI0007")), name("_UID", integer(index)));
}

function serialPort(index: number): Aml {
  const { ioBase, irq } = SERIAL_PORTS[index]!;
  return device(
    `COM${index + 1}`,
    name("_HID", eisaId("PNP0501")),
    name("_UID", integer(index + 1)),
    name("_CRS", resourceTemplate(io(ioBase, SERIAL_PORT_SIZE_BYTES), irqNoFlags(irq))),
  );
}

function rtc(): Aml {
  return device(
    "RTC",
    name("_HID", eisaId("PNP0B00")),
    name("_CRS", resourceTemplate(io(RTC_IO_BASE, RTC_SIZE_BYTES), irqNoFlags(RTC_IRQ))),
  );
}

/** SLP_TYPa, SLP_TYPb (there is no PM1b), and two reserved. */
function sleepState(path: string, sleepType: number): Aml {
  return name(path, pack(integer(sleepType), integer(0), integer(0), integer(0)));
}

/** The AML of the DSDT, without the table's header. */
export function buildDsdt({ cpuCount, serials }: DsdtSpec): Aml {
  const ports = SERIAL_PORTS.flatMap((_, index) => (typeof serials[index] === "string" ? [serialPort(index)] : []));
  return [
    ...scope("\\_SB", ...Array.from({ length: cpuCount }, (_, index) => processor(index)), ...ports, rtc()),
    ...sleepState("\\_S3", SLP_TYP_S3),
    ...sleepState("\\_S5", SLP_TYP_S5),
  ];
}
